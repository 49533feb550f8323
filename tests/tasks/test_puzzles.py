"""4x4 Sudoku by brute force, Countdown's parser against Python's arithmetic, both rewards as written."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tycho.errors import TychoError
from tycho.tasks import puzzles


def test_there_are_288_grids_and_each_is_one():
    grids = puzzles.grids()
    assert grids.shape == (288, 16) and len({tuple(g) for g in grids}) == 288
    for grid in grids[::29]:
        cells = grid.reshape(4, 4)
        boxes = [cells[r : r + 2, c : c + 2].ravel() for r in (0, 2) for c in (0, 2)]
        assert all(sorted(part) == [1, 2, 3, 4] for part in [*cells, *cells.T, *boxes])


def test_splits_are_of_the_published_sizes_and_apart():
    parts = puzzles.split_solutions()
    assert [len(parts[name]) for name in ("train", "validation", "test")] == [160, 40, 88]
    assert sorted(np.concatenate(list(parts.values()))) == list(range(288))


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_puzzle_has_one_solution_of_its_split(split):
    made = puzzles.sudoku(60, split, np.random.default_rng(0), blanks=(6, 11))
    numbers = {tuple(puzzles.grids()[i]) for i in puzzles.split_solutions()[split]}
    for clues, solution in zip(made.clues, made.solution, strict=True):
        fitting = [g for g in puzzles.grids() if all(c in (0, x) for c, x in zip(clues, g, strict=True))]
        assert len(fitting) == 1 and tuple(fitting[0]) == tuple(solution) and tuple(solution) in numbers
        assert 6 <= int((clues == 0).sum()) <= 11
    with pytest.raises(TychoError, match="at least four clues"):
        puzzles.sudoku(1, split, np.random.default_rng(0), blanks=(6, 13))


def test_sudoku_pays_for_empty_cells_alone():
    made = puzzles.sudoku(1, "train", np.random.default_rng(1), blanks=(8, 8))
    right = made.target(0)
    assert made.reward(0, right) == 1 and made.solved(right, right)
    shown = ["9" if clue else digit for clue, digit in zip(made.clues[0], right.split(), strict=True)]
    assert made.reward(0, " ".join(shown)) == 1 and not made.solved(" ".join(shown), right)
    assert made.reward(0, "") == 0
    half = right.split()[:8]
    wanted = (made.clues[0][:8] == 0).sum() / 8
    assert made.reward(0, " ".join(half)) == pytest.approx(wanted)


NUMBER = st.integers(0, 30).map(str)
EXPRESSION = st.recursive(
    NUMBER, lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]}{t[1]}{t[2]})"), max_leaves=6
)  # fmt: skip


def python_value(text: str) -> Fraction:
    """An independent reader: two stacks, left to right."""
    values: list[Fraction] = []
    operators: list[str] = []
    for token in __import__("re").findall(r"\d+|[-+*/()]", text):
        if token.isdigit():
            values.append(Fraction(int(token)))
        elif token == ")":
            b, a, sign = values.pop(), values.pop(), operators.pop()
            values.append({"+": a + b, "-": a - b, "*": a * b}[sign] if sign != "/" else a / b)
        elif token != "(":
            operators.append(token)
    return values[0]


@given(EXPRESSION)
def test_values_are_exact(text):
    try:
        wanted = python_value(text)
    except ZeroDivisionError:
        with pytest.raises(ValueError, match="not an expression with a value"):
            puzzles.value_of(text)
        return
    assert puzzles.value_of(text) == wanted


@given(st.text(alphabet="0123456789+-*/()_abx. \n[]'\"", max_size=60))
def test_no_text_is_executed_or_raises_anything_else(text):
    try:
        assert isinstance(puzzles.value_of(text, "code"), Fraction)
    except ValueError:
        pass


@pytest.mark.parametrize("text", ["2**9**9**9", "9" * 400, "().__class__", "1 if 1 else 2", "", "1e9", "(" * 150])
def test_traps_are_refused(text):
    with pytest.raises(ValueError):
        puzzles.value_of(text, "code")


def test_the_rewards_of_paper_and_code_differ_where_they_should():
    reward = puzzles.countdown_reward
    for semantics in ("paper", "code"):
        assert reward("(3+4)*2", [2, 3, 4], 14, semantics) == 1
        assert reward("3+4+2", [2, 3, 4], 14, semantics) == 0.1
        assert reward(None, [2, 3, 4], 14, semantics) == 0
    assert (reward("hello", [2, 3, 4], 14), reward("hello", [2, 3, 4], 14, "code")) == (0, 0.1)
    assert (reward("7*2", [2, 3, 4], 14), reward("7*2", [2, 3, 4], 14, "code")) == (0, 0.1)
    assert (reward("2**3+4", [2, 3, 4], 12), reward("2**3+4", [2, 3, 4], 12, "code")) == (0, 1.0)
    assert reward("1/3*3", [1, 3, 3], 1) == 1


def test_countdown_puzzles_can_be_solved_and_splits_are_apart():
    made = {split: puzzles.countdown(25, split, seed=3) for split in ("train", "validation", "test")}
    keys = {
        split: {(tuple(sorted(n)), t) for n, t in zip(some.numbers, some.targets, strict=True)}
        for split, some in made.items()
    }
    for a, b in itertools.combinations(keys.values(), 2):
        assert not a & b
    for some in made.values():
        for row in range(25):
            assert some.reward(row, some.answers[row]) == 1 and some.solved(some.answers[row], some.target(row))


def test_the_last_tagged_answer_counts():
    assert puzzles.tagged_answer("<answer>1</answer> no <answer>\n2 </answer>") == "2"
    assert puzzles.tagged_answer("none") is None
