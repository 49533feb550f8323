"""Puzzles with a checkable answer: 4x4 Sudoku and Countdown, with the rewards that work on diffusion language models uses.

A set of puzzles has, for each row, a prompt, a target, and two measures of a response: `reward` (what is trained on) and
`solved`. Two styles: "terse", tokens apart by spaces for small models, whose response is the answer; "tagged", English,
whose answer stands in the last <answer>…</answer>.
"""

from __future__ import annotations

import ast
import itertools
import operator
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Literal

import numpy as np

from tycho.errors import TychoError

Style = Literal["terse", "tagged"]
Split = Literal["train", "validation", "test"]
Semantics = Literal["paper", "code"]

SOLUTIONS_FOR_TRAINING, SOLUTIONS_FOR_TEST = 200, 88  # of the 288 grids, as published
SOLUTIONS_FOR_VALIDATION = 40  # taken off the 200
LONGEST = 200  # characters of an expression


def tagged_answer(response: str) -> str | None:
    """What stands in the last <answer>…</answer>; None where nothing does."""
    found = re.findall(r"<answer>(.*?)</answer>", response, flags=re.DOTALL)
    return found[-1].strip() if found else None


# --- Sudoku ----------------------------------------------------------------------------------------------------------


@cache
def grids() -> np.ndarray:
    """[288, 16] int8: all 4x4 grids with each digit 1 … 4 once a row, column and box, in lexical order."""
    rows = np.array(list(itertools.permutations(range(1, 5))), dtype=np.int8)
    stacked = np.array(list(itertools.product(range(24), repeat=4)))
    found = rows[stacked]  # [24^4, 4, 4]
    full = np.array([1, 2, 3, 4])
    columns = (np.sort(found, axis=1) == full[:, None]).all(axis=(1, 2))
    found = found[columns]
    boxes = found.reshape(-1, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 4, 4)
    found = found[(np.sort(boxes, axis=2) == full).all(axis=(1, 2))].reshape(-1, 16)
    found.setflags(write=False)
    return found


def solutions_of(clues: np.ndarray) -> np.ndarray:
    """[n, 288] bool: which grids agree with clues [n, 16] (0: empty). A puzzle is one where exactly one does."""
    empty, all_grids = clues == 0, grids()
    fits = np.ones((len(clues), len(all_grids)), dtype=bool)
    for cell in range(16):
        fits &= empty[:, cell, None] | (clues[:, cell, None] == all_grids[None, :, cell])
    return fits


@cache
def split_solutions() -> dict[str, np.ndarray]:
    """Numbers of the grids of each split: 200 to train on, 40 of them set aside for validation, and 88 to test on.

    Sizes as published; which grids they are is not, so a fixed permutation decides.
    """
    order = np.random.default_rng(zlib.crc32(b"sudoku 4x4")).permutation(len(grids()))
    learnt = SOLUTIONS_FOR_TRAINING - SOLUTIONS_FOR_VALIDATION
    return {
        "train": order[:learnt],
        "validation": order[learnt:SOLUTIONS_FOR_TRAINING],
        "test": order[SOLUTIONS_FOR_TRAINING:],
    }


def digits(answer: str | None) -> np.ndarray:
    """[16] the digits of an answer; 0 where there are fewer, cut where there are more (as in the public code)."""
    found = re.findall(r"[0-9]", answer or "")[:16]
    return np.array([int(d) for d in found] + [0] * (16 - len(found)), dtype=np.int8)


@dataclass(frozen=True, eq=False)
class Sudoku:
    """Puzzles with one solution: clues and solution [n, 16] int8, 0 for an empty cell."""

    clues: np.ndarray
    solution: np.ndarray
    style: Style = "terse"

    def __len__(self) -> int:
        return len(self.clues)

    def prompt(self, row: int) -> str:
        cells = " ".join(map(str, self.clues[row]))
        if self.style == "terse":
            return cells
        return (
            "Solve this 4x4 Sudoku. It is written row by row as 16 digits, 0 for an empty cell; every row, column and 2x2 "
            "box has each of 1, 2, 3, 4 once. Think first if you like, then give all 16 digits of the solution inside "
            f"<answer></answer>.\n{cells.replace(' ', '')}"
        )

    def target(self, row: int) -> str:
        return " ".join(map(str, self.solution[row]))

    def answer(self, response: str) -> str | None:
        return response if self.style == "terse" else tagged_answer(response)

    def reward(self, row: int, response: str) -> float:
        """Share of the empty cells that are filled rightly; what is written over clues does not count."""
        empty = self.clues[row] == 0
        return float((digits(self.answer(response)) == self.solution[row])[empty].mean())

    def solved(self, answer: str, target: str) -> bool:
        """Whether an answer is the whole grid: exactly 16 digits, all right. (The published "accuracy" is the reward.)"""
        return re.findall(r"[0-9]", answer) == target.split()


def sudoku(
    n: int, split: Split, rng: np.random.Generator, *, blanks: tuple[int, int], style: Style = "terse"
) -> Sudoku:
    """n puzzles over a split's solutions, blanks[0] … blanks[1] empty cells each (uniform, then unique ones kept)."""
    if not 1 <= blanks[0] <= blanks[1] <= 12:
        raise TychoError(
            f"{blanks[0]} to {blanks[1]} empty cells: a 4x4 Sudoku has at least one, and at least four clues"
        )
    numbers, clues, chosen = split_solutions()[split], [], []
    while sum(map(len, clues)) < n:
        solution = rng.choice(numbers, size=n)
        count = rng.integers(blanks[0], blanks[1] + 1, size=n)
        rank = rng.random((n, 16)).argsort(axis=1).argsort(axis=1)
        shown = np.where(rank < count[:, None], 0, grids()[solution]).astype(np.int8)
        unique = solutions_of(shown).sum(axis=1) == 1
        clues.append(shown[unique])
        chosen.append(solution[unique])
    return Sudoku(np.concatenate(clues)[:n], grids()[np.concatenate(chosen)[:n]], style)


# --- Countdown -------------------------------------------------------------------------------------------------------

_PLAIN = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_SIGNS = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def value_of(expression: str, semantics: Semantics = "paper") -> Fraction:
    """The exact value of integers joined by + - * / and parentheses.

    semantics "code": ** and // too, which the public code's list of characters lets through. Nothing is executed: the
    syntax tree is walked. Raises ValueError on anything else, division by zero, and powers above 4096 bits.
    """
    text = " ".join(expression.split())
    if len(text) > LONGEST or not re.fullmatch(r"[0-9+\-*/() ]+", text):
        raise ValueError(f"not an expression of integers: {expression[:40]!r}")
    try:
        return _value(ast.parse(text, mode="eval").body, semantics)
    except (SyntaxError, ZeroDivisionError, RecursionError, MemoryError) as error:
        raise ValueError(f"not an expression with a value: {text!r}") from error


def _value(node: ast.expr, semantics: Semantics) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and type(node.op) in _SIGNS:
        return _SIGNS[type(node.op)](_value(node.operand, semantics))
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, semantics), _value(node.right, semantics)
        if type(node.op) in _PLAIN:
            return _PLAIN[type(node.op)](left, right)
        if semantics == "code" and isinstance(node.op, ast.FloorDiv):
            return Fraction(left // right)
        if semantics == "code" and isinstance(node.op, ast.Pow):
            return _power(left, right)
    raise ValueError("only + - * / of integers and parentheses are read")


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if exponent.denominator != 1 or abs(exponent) * size > 4096:
        raise ValueError("a power with a broken or too large exponent")
    return base ** int(exponent)


def countdown_reward(answer: str | None, numbers: Sequence[int], target: int, semantics: Semantics = "paper") -> float:
    """1 if the answer uses exactly the given numbers and equals the target within 1e-5, else 0.1 or 0.

    paper: 0.1 where the numbers are right and the value is not. code: 0.1 for whatever else stands in the answer's tags,
    and ** and // count as operators. No answer (None): 0.
    """
    if answer is None:
        return 0.0
    consolation = 0.1 if semantics == "code" else 0.0
    try:
        value = value_of(answer, semantics)
    except ValueError:
        return consolation
    if sorted(map(int, re.findall(r"[0-9]+", answer))) != sorted(numbers):
        return consolation
    return 1.0 if abs(value - target) < Fraction(1, 100_000) else 0.1


@dataclass(frozen=True, eq=False)
class Countdown:
    """Make `targets` of all `numbers`; `answers` has one way each."""

    numbers: tuple[tuple[int, ...], ...]
    targets: tuple[int, ...]
    answers: tuple[str, ...]
    style: Style = "terse"
    semantics: Semantics = "paper"

    def __len__(self) -> int:
        return len(self.targets)

    def prompt(self, row: int) -> str:
        if self.style == "terse":  # numbers have one digit, targets two
            return f"{' '.join(map(str, self.numbers[row]))} = {' '.join(f'{self.targets[row]:02d}')}"
        return (
            f"Using each of the numbers {', '.join(map(str, self.numbers[row]))} exactly once and only + - * / and "
            f"parentheses, write an expression that equals {self.targets[row]}. Think first if you like, then give the "
            "expression inside <answer></answer>."
        )

    def target(self, row: int) -> str:
        return f"{' '.join(map(str, self.numbers[row]))} = {self.targets[row]}"

    def answer(self, response: str) -> str | None:
        return response if self.style == "terse" else tagged_answer(response)

    def reward(self, row: int, response: str) -> float:
        return countdown_reward(self.answer(response), self.numbers[row], self.targets[row], self.semantics)

    def solved(self, answer: str, target: str) -> bool:
        numbers, _, value = target.partition("=")
        return countdown_reward(answer, [int(x) for x in numbers.split()], int(value)) == 1.0


def countdown(
    n: int, split: Split, seed: int, *, largest: int = 9, style: Style = "terse", semantics: Semantics = "paper"
) -> Countdown:
    """n puzzles of three numbers 1 … largest and a target 1 … 99, drawn by reasoning-gym.

    A problem (its numbers in any order, and its target) belongs to one split by its hash: 8 of 10 to training, one each to
    validation and test. Division in the reference answers is exact.
    """
    from reasoning_gym.games.countdown import CountdownConfig, CountdownDataset

    parts = {"validation": (8,), "test": (9,)}.get(split, range(8))
    config = CountdownConfig(
        min_numbers=3, max_numbers=3, max_value=largest, min_target=1, max_target=99, seed=seed, size=2**31
    )
    drawn, numbers, targets, answers = CountdownDataset(config), [], [], []
    for index in itertools.count():
        if len(targets) == n:
            break
        entry = drawn[index]
        given, target = entry["metadata"]["numbers"], entry["metadata"]["target"]
        if zlib.crc32(f"{sorted(given)} {target}".encode()) % 10 in parts and _right(entry["answer"], given, target):
            numbers.append(tuple(given))
            targets.append(target)
            answers.append(entry["answer"])
    return Countdown(tuple(numbers), tuple(targets), tuple(answers), style, semantics)


def _right(answer: str, numbers: Sequence[int], target: int) -> bool:
    """Whether reasoning-gym's expression is one: it rounds a few broken values, and simplifies numbers away in others."""
    return countdown_reward(answer, numbers, target) == 1.0
