"""Trees filled into templates, beside the slow way: text, its units, and a tree of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.threadweaver import layout
from methods.threadweaver.format import check, is_correct
from methods.threadweaver.layout import Frame, Piece, packed, pieces
from methods.threadweaver.orchestrator import units_of
from methods.threadweaver.packing import LOSSES, pack, token_units
from methods.threadweaver.problems import RULES, problems
from methods.threadweaver.words import Words
from tycho.lm.vocabulary import Vocabulary
from tycho.tasks import arithmetic, common

WORDS = Words(Vocabulary((*common.THREADS, *arithmetic.MARKS, *map(str, range(7)))))
FRAME = Frame.of(WORDS)
tokens = st.lists(st.sampled_from([WORDS.ids[word] for word in ("0", "1", "2", ";", ",")]), min_size=1, max_size=5)
items = st.builds(
    lambda prompt, parts, rest: Piece(prompt, parts, [*rest, WORDS.end]),
    tokens, st.lists(tokens, min_size=1, max_size=4), tokens,
)  # fmt: skip


@settings(deadline=None)
@given(items, st.booleans(), st.sampled_from(LOSSES))
def test_a_filled_template_is_the_tree_of_the_machines_units(piece: Piece, fork: bool, loss: str) -> None:
    found = packed(piece, FRAME, fork=fork, loss=loss)
    prompt, response = layout.text(piece, WORDS, fork=fork)
    slow = pack(token_units(units_of(prompt, response), WORDS.encode, WORDS.end, loss))
    for name, mine, theirs in zip(found._fields, found, slow, strict=True):
        assert torch.equal(mine, theirs), name


@given(items)
def test_the_text_is_canonical_and_says_all_parts_in_their_order(piece: Piece) -> None:
    _, response = layout.text(piece, WORDS, fork=True)
    report = check(response, **RULES, need_block=len(piece.parts) > 1)
    assert not report.problems
    assert [len(block.threads) for block in report.blocks] == [len(piece.parts)] * (len(piece.parts) > 1)


@given(st.lists(st.integers(0, len(WORDS.vocabulary.tokens) - 1), max_size=30), st.text(max_size=5))
def test_ids_come_back_from_their_text_whatever_stands_before_it(ids: list[int], before: str) -> None:
    text = WORDS.decode(ids)
    assert WORDS.encode(text) == ids
    assert WORDS.encode(f"{before} {text}") == WORDS.encode(before) + ids
    if ids:
        start = WORDS.encode("<Thread>\n1:")
        assert WORDS.encode("<Thread>\n1:" + text) == start + ids


@pytest.mark.parametrize("task", ["products-verbose", "products-mixed", "products-noisy"])
def test_training_items_are_right_trajectories_of_the_questions(task: str) -> None:
    found = problems(task)
    for piece, (prompt, target) in zip(found.batches(3, 20)(5), found.questions(3, 20)(5), strict=True):
        shown, response = layout.text(piece, found.words, fork=True)
        assert found.words.encode(shown) == found.words.encode(prompt) and is_correct(response, **RULES)
        said = response.rpartition("[A]")[2].strip()
        assert found.hard or said == target
        steps = [step.split() for part in piece.parts for step in found.words.decode(part).split(";")[:-1]]
        if not found.hard:
            assert all(int(a) * int(b) % found.shape.modulus == int(c) for a, b, c in steps)


def test_held_out_items_have_true_answers_and_are_the_same_for_all() -> None:
    found = problems("products-mixed")
    items = found.items(30, "test")
    assert items.equals(found.items(50, "test").head(30)) and not items.equals(found.items(30, "validation"))
    for prompt, target in zip(items.prompt, items.target, strict=True):
        numbers = [int(word) for word in prompt.split() if word.isdigit()]
        assert str(np.prod(numbers, dtype=object) % 7) == target


def test_parts_are_the_steps_of_each_group() -> None:
    shape = arithmetic.Shape(7, 3, 4, fewest_groups=1, fewest_numbers=2)
    found = problems("products-mixed")
    words = arithmetic.vocabulary(shape, common.THREADS)
    drawn = arithmetic.generate(40, shape, 1)
    made = pieces(arithmetic.symbols(drawn, words, "verbose"), shape.step_groups.tolist())
    assert found.words.end == words.end
    for row, piece in enumerate(made):
        sizes = [int(count) for count in (drawn.numbers[row] > 0).sum(axis=1) if count]
        assert [len(part) for part in piece.parts] == [4 * (size - 1) for size in sizes]
        assert len(piece.rest) == 4 * (len(sizes) - 1) + 3
