"""Countdown-style search: threads against brute force, answers against the puzzles' own verifier, splits that do not leak."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from methods.threadweaver import layout
from methods.threadweaver.format import check
from methods.threadweaver.orchestrator import units_of
from methods.threadweaver.packing import pack, token_units
from methods.threadweaver.problems import RULES, problems
from methods.threadweaver.search import (
    LARGEST,
    MOST,
    NONE,
    PAIRS,
    Puzzle,
    draw,
    found_by_search,
    piece,
    reachable,
    target,
    thread,
)
from tycho.tasks.puzzles import countdown_reward, value_of

TASK = problems("countdown")
numbers = st.tuples(*[st.integers(1, LARGEST)] * 3)
puzzles = st.builds(Puzzle, numbers, st.integers(1, MOST))


@given(puzzles)
def test_a_search_finds_a_right_expression_or_every_one_of_them_fails(puzzle: Puzzle) -> None:
    """Brute force over the same steps; that a found expression is right is the verifier's word."""
    found = [solution for pair in PAIRS if (solution := thread(puzzle, pair)[1])]
    for solution in found:
        assert countdown_reward(solution, puzzle.numbers, puzzle.target) == 1
    steps = {
        value_of(f"({a} {first} {b}) {second} {c}")
        for a, b, c in itertools.permutations(puzzle.numbers)
        for first in "+-*"
        for second in "+-"
        if first != "-" or a >= b
    }
    assert bool(found) == (puzzle.target in steps)
    assert set(found_by_search(puzzle.numbers)) == {int(value) for value in steps if value > 0}


@given(numbers)
def test_what_no_expression_makes_is_none_by_brute_force(chosen: tuple[int, ...]) -> None:
    made = set()
    for a, b, c in itertools.permutations(chosen):
        for first, second in itertools.product("+-*/", repeat=2):
            for text in (f"({a} {first} {b}) {second} {c}", f"{a} {first} ({b} {second} {c})"):
                try:
                    made.add(value_of(text))
                except ValueError:  # by zero
                    continue
    assert made == reachable(chosen)


@given(puzzles)
def test_trajectories_are_well_formed_right_and_the_sequence_ends_at_its_first_hit(puzzle: Puzzle) -> None:
    goal = target(puzzle)
    plain, forked = (
        layout.text(piece(puzzle, TASK.words, fork=fork), TASK.words, fork=fork)[1] for fork in (False, True)
    )
    report = check(forked, **RULES, need_block=True)
    assert not report.problems and [len(block.threads) for block in report.blocks] == [3]
    answers = {TASK.answer(text) for text in (plain, forked)}
    assert len(answers) == 1
    if goal.endswith(NONE) or answers != {NONE}:  # a puzzle that needs more than the search tries is never asked
        assert TASK.right(answers.pop(), goal)
    assert plain.count("!") <= 1 and plain.count("!") == min(forked.count("!"), 1)
    assert 2 not in TASK.words.encode(forked)  # nothing is unknown


def test_trees_are_the_machines_units() -> None:
    fork = np.array([True, False, True])
    rows = draw(3, "train", np.random.default_rng([4, 2]))
    for tree, puzzle, forked in zip(TASK.trees(4, 3)(2, fork), rows, fork, strict=True):
        prompt, response = layout.text(piece(puzzle, TASK.words, fork=bool(forked)), TASK.words, fork=bool(forked))
        slow = pack(token_units(units_of(prompt, response), TASK.words.encode, TASK.words.end))
        assert tree.tokens.tolist() == slow.tokens.tolist() and tree.parent.tolist() == slow.parent.tolist()
        assert int(tree.position.max()) < TASK.context


def test_no_order_of_a_test_problem_is_trained_and_about_half_have_no_solution() -> None:
    seen = {}
    for split in ("train", "validation", "test"):
        drawn = draw(300, split, np.random.default_rng(0))
        assert sum(target(one).endswith(NONE) for one in drawn) == 150
        seen[split] = {(tuple(sorted(one.numbers)), one.target) for one in drawn}
    assert not (seen["train"] & seen["test"] or seen["train"] & seen["validation"] or seen["test"] & seen["validation"])
    items = TASK.items(200, "test")
    assert items.item.nunique() == 200 and items.equals(TASK.items(200, "test"))
    assert 0.3 < items.target.str.endswith(NONE).mean() < 0.7


@pytest.mark.parametrize(
    ("answer", "goal", "right"),
    [
        ("6 * 4 + 3", "6 4 3 = 27", True), ("3 + 4 * 6", "6 4 3 = 27", True), ("none", "6 4 3 = 27", False),
        ("6 * 4", "6 4 3 = 24", False), ("none", "6 4 3 = none", True), ("6 * 4 + 3", "6 4 3 = none", False),
        ("", "6 4 3 = none", False), ("6 *", "6 4 3 = 27", False),
    ],
)  # fmt: skip
def test_answers(answer: str, goal: str, right: bool) -> None:
    assert TASK.right(answer, goal) is right
    assert TASK.answer(f"! [A] {answer}") == answer and TASK.answer("6 + 4") == ""
