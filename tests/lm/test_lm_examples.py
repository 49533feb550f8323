"""Batches against lists put together in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tycho.lm.examples import (
    IGNORED,
    Examples,
    encode,
    from_padded,
    left_padded,
    next_token_loss,
    pack,
    ragged,
)
from tycho.lm.vocabulary import Vocabulary
from tycho.tasks.published import Item

tokens = st.lists(st.integers(1, 9), max_size=4)
items = st.tuples(tokens, st.lists(tokens.filter(len), max_size=3), tokens.filter(len))


def build(rows, pad=0):
    """Examples from (prompt, steps, answer) lists, an item's steps first."""
    count = max(len(steps) for _, steps, _ in rows)
    flat = [step for _, steps, _ in rows for step in [*steps, *([[]] * (count - len(steps)))]]
    ids, lengths = ragged(flat, pad)
    prompt, answer = ragged([row[0] for row in rows], pad), ragged([row[2] for row in rows], pad)
    return Examples(*prompt, ids.view(len(rows), count, ids.shape[1]), lengths.view(len(rows), count), *answer, pad)


@settings(max_examples=80, deadline=None)
@given(st.lists(items, min_size=1, max_size=5), st.integers(0, 4), st.booleans())
def test_sequences_by_hand(rows, skip, per_item):
    examples = build(rows)
    skips = [(skip + i) % 4 if per_item else skip for i in range(len(rows))]
    batch = examples.sequences(torch.tensor(skips) if per_item else skip)
    traces, traces_kept = examples.trace(torch.tensor(skips))
    longest_prompt = max(len(row[0]) for row in rows)
    for i, (prompt, steps, answer) in enumerate(rows):
        trace = [token for step in steps[skips[i] :] for token in step]
        text = prompt + trace + answer
        gap = longest_prompt - len(prompt)
        assert batch.ids[i][batch.mask[i]].tolist() == text
        assert not batch.mask[i, :gap].any() and batch.mask[i, gap : gap + len(text)].all()
        assert batch.positions[i][batch.mask[i]].tolist() == list(range(len(text)))
        assert batch.labels[i][batch.mask[i]].tolist() == [IGNORED] * len(prompt) + trace + answer
        assert (batch.labels[i][~batch.mask[i]] == IGNORED).all() and (batch.ids[i][~batch.mask[i]] == 0).all()
        assert traces[i][traces_kept[i]].tolist() == trace
    assert batch.ids.shape[1] == longest_prompt + max(
        sum(map(len, steps[skip:])) + len(answer) for (_, steps, answer), skip in zip(rows, skips, strict=True)
    )
    assert examples.step_counts.tolist() == [len(steps) for _, steps, _ in rows]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=6),
    st.sampled_from(["left", "right"]),
)
def test_pack_keeps_the_order(kept, side):
    mask = torch.tensor(kept)
    ids = torch.arange(mask.numel()).view(mask.shape) + 1
    packed, packed_mask = pack(ids, mask, 0, side)
    assert packed.shape[1] == mask.sum(dim=1).max()
    for i in range(len(mask)):
        wanted = ids[i][mask[i]].tolist()
        padding = [0] * (packed.shape[1] - len(wanted))
        assert packed[i].tolist() == (wanted + padding if side == "left" else padding + wanted)
        assert (packed[i] > 0).tolist() == packed_mask[i].tolist()


def test_an_items_own_steps_are_skipped_not_slots():
    """Products whose groups differ in size leave slots empty between steps."""
    examples = build([([1], [[3], [4, 4], [5]], [9])])
    steps, lengths = examples.steps[:, [1, 0, 2]], examples.step_length[:, [1, 0, 2]].clone()
    lengths[:, 1] = 0
    gapped = Examples(examples.prompt, examples.prompt_length, steps, lengths, examples.answer, examples.answer_length)
    assert gapped.step_counts.tolist() == [2]
    traces = [gapped.trace(skip)[0].tolist() for skip in range(3)]
    assert traces == [[[4, 4, 5]], [[5]], [[]]]


def test_select_and_prompts():
    examples = build([([1, 2], [[3]], [4]), ([5], [], [6, 7])])
    assert examples.select(torch.tensor([1])).answer.tolist() == [[6, 7]]
    ids, mask = examples.prompts()
    assert ids.tolist() == [[1, 2], [0, 5]] and mask.tolist() == [[True, True], [False, True]]
    assert [t.tolist() for t in left_padded([[1, 2], [5]], 0)] == [ids.tolist(), mask.tolist()]


def test_from_padded_closes_gaps():
    examples = from_padded(
        np.array([[1, 2, 3]]),
        np.array([[True, False, True]]),
        np.array([[[4, 5], [6, 7]]]),
        np.array([[[False, True], [False, False]]]),
        np.array([[8, 9]]),
    )
    assert examples.prompt.tolist() == [[1, 3]] and examples.step_length.tolist() == [[1, 0]]
    assert examples.continuation()[0].tolist() == [[5, 8, 9]]


def test_text_is_written_as_coconut_writes_it():
    words = Vocabulary(("q", "a", "b", "###", "x"))
    examples = encode(words.tokenizer(), [Item("q q", ("a", " ", "b a"), "x"), Item("q", (), "x x")])
    assert words.write(examples.sequences().ids[0].tolist()) == "q q a b a ### x <eos>"
    assert examples.step_counts.tolist() == [2, 0]
    assert words.write(examples.sequences().ids[1].tolist()) == "<pad> q ### x x <eos> <pad> <pad>"
    assert words.write(examples.sequences(1).ids[0].tolist()) == "q q b a ### x <eos>"


def test_loss_by_its_formula():
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 5)
    labels = torch.tensor([[IGNORED, IGNORED, 3, 1], [IGNORED, 2, IGNORED, 4]])
    terms = [logits[0, 1, 3], logits[0, 2, 1], logits[1, 0, 2], logits[1, 2, 4]]
    rows = [logits[0, 1], logits[0, 2], logits[1, 0], logits[1, 2]]
    expected = sum(
        math.log(sum(math.exp(v) for v in row.tolist())) - term.item() for row, term in zip(rows, terms, strict=True)
    )
    assert next_token_loss(logits, labels).item() == pytest.approx(expected / 4, abs=1e-6)
