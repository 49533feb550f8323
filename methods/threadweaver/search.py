"""Countdown-style search as fork-join trajectories: three numbers, a target, and every way to combine two and then the third.

A thread has one pair. It tries + - * on the pair and then adds or subtracts the third number; it ends at the first hit (`!`):

    6 4 3 = 27 :   6 + 4 10 + 3 13 - 3 7 ; 6 - 4 2 + 3 5 - 3 x ; 6 * 4 24 + 3 27 !

In sequence the pairs follow each other and the search ends at its first hit; in threads all pairs are searched at once. Half
of the puzzles have no solution, so that the search must be exhausted. (Adaptive Parallel Reasoning, arXiv 2504.15466, has four
numbers and traces of a symbolic solver; this is small enough for a model of two layers.)
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from methods.threadweaver.layout import Piece
    from methods.threadweaver.packing import Packed
    from methods.threadweaver.words import Words

LARGEST = 6  # of the numbers; so a value is at most 6 * 6 + 6
MOST = LARGEST * LARGEST + LARGEST
PAIRS = ((0, 1, 2), (0, 2, 1), (1, 2, 0))  # the pair, and what is left
NONE = "none"
PARTS = {"validation": (8,), "test": (9,), "train": tuple(range(8))}  # of ten, as in `tycho.tasks.puzzles`


class Puzzle(NamedTuple):
    """Three numbers and the value to be made of them."""

    numbers: tuple[int, ...]
    target: int

    @property
    def prompt(self) -> str:
        return f"{' '.join(map(str, self.numbers))} = {self.target} :"


class Leaf(NamedTuple):
    """A second step: its sign, its value (below zero: a dead end), and the whole expression."""

    sign: str
    value: int
    expression: str


def branches(numbers: tuple[int, ...], pair: tuple[int, int, int]) -> Iterator[tuple[str, int, int, list[Leaf]]]:
    """Each first step of a pair as words, its value, the third number, and the second steps behind it."""
    a, b, c = (numbers[place] for place in pair)
    for step, value in ((f"{a} + {b}", a + b), (f"{max(a, b)} - {min(a, b)}", abs(a - b)), (f"{a} * {b}", a * b)):
        yield step, value, c, [Leaf("+", value + c, f"{step} + {c}"), Leaf("-", value - c, f"{step} - {c}")]


def thread(puzzle: Puzzle, pair: tuple[int, int, int]) -> tuple[str, str]:
    """What is written for a pair, and the solution it ends with ("" where it finds none)."""
    words = []
    for step, value, third, leaves in branches(puzzle.numbers, pair):
        words += [step, str(value)]
        for leaf in leaves:
            words += [leaf.sign, str(third), str(leaf.value) if leaf.value >= 0 else "x"]
            if leaf.value == puzzle.target:
                return " ".join([*words, "!"]), leaf.expression
        words.append(";")
    return " ".join(words), ""


def piece(puzzle: Puzzle, words: Words, *, fork: bool) -> Piece:
    """The search in token ids; in sequence (`fork` false) what follows the first hit is left out."""
    from methods.threadweaver.layout import Piece

    parts, solutions = zip(*(thread(puzzle, pair) for pair in PAIRS), strict=True)
    hits = [place for place, solution in enumerate(solutions) if solution]
    answer = solutions[hits[0]] if hits else NONE
    shown = parts if fork or not hits else parts[: hits[0] + 1]
    return Piece(
        words.encode(puzzle.prompt), [words.encode(part) for part in shown], [*words.encode(f"[A] {answer}"), words.end]
    )


@cache
def found_by_search(numbers: tuple[int, ...]) -> tuple[int, ...]:
    """Values above zero that some second step has."""
    values = {leaf.value for pair in PAIRS for *_, leaves in branches(numbers, pair) for leaf in leaves}
    return tuple(sorted(value for value in values if value > 0))


@cache
def reachable(numbers: tuple[int, ...]) -> frozenset[Fraction]:
    """Values of all expressions that use each number once with + - * / and parentheses: more than the search tries."""

    def joined(a: Fraction, b: Fraction) -> set[Fraction]:
        return {a + b, a - b, b - a, a * b, *({a / b} if b else ()), *({b / a} if a else ())}

    found: set[Fraction] = set()
    for pair in PAIRS:
        a, b, c = (Fraction(numbers[place]) for place in pair)
        found |= {value for made in joined(a, b) for value in joined(made, c)}
    return frozenset(found)


def draw(count: int, split: str, rng: np.random.Generator) -> list[Puzzle]:
    """Puzzles of a split: every other one has a solution that the search finds, the rest have none by any expression.

    A problem (its numbers in any order, and its target) is in one split by its hash: no order of a test problem is trained.
    """
    drawn: list[Puzzle] = []
    while len(drawn) < count:
        numbers = tuple(rng.integers(1, LARGEST + 1, size=3).tolist())
        if len(drawn) % 2:
            target = int(rng.integers(1, MOST + 1))
            if Fraction(target) in reachable(numbers):
                continue
        else:
            target = int(rng.choice(found_by_search(numbers)))
        if zlib.crc32(f"{sorted(numbers)} {target}".encode()) % 10 in PARTS[split]:
            drawn.append(Puzzle(numbers, target))
    return drawn


@dataclass(frozen=True)
class Search:
    """Countdown as what the room trains on and asks; the methods are those of `problems.Products`."""

    name: str = "countdown"
    context: int = 192

    @cached_property
    def words(self) -> Words:
        from methods.threadweaver.words import Words
        from tycho.lm.vocabulary import Vocabulary
        from tycho.tasks.common import THREADS

        marks = ("=", ":", ";", "!", "x", "+", "-", "*", NONE, "[A]")
        return Words(Vocabulary((*THREADS, *marks, *map(str, range(MOST + 1)))))

    def base(self, seed: int) -> nn.Module:
        """The untrained model."""
        from tycho.lm.small import build

        return build(self.words.vocabulary, layers=2, width=96, heads=4, context=self.context, seed=seed)

    def trees(self, seed: int, batch: int, loss: str = "completion") -> Callable[[int, Any], list[Packed]]:
        """Packed searches by step; `fork` [batch] says which are written with threads."""
        from methods.threadweaver.layout import Frame, packed

        frame = Frame.of(self.words)

        def at(step: int, fork: Any) -> list[Packed]:
            puzzles = draw(batch, "train", np.random.default_rng([seed, step]))
            rows = zip(puzzles, map(bool, fork), strict=True)
            return [packed(piece(one, self.words, fork=f), frame, fork=f, loss=loss) for one, f in rows]

        return at

    def questions(self, seed: int, batch: int) -> Callable[[int], list[tuple[str, str]]]:
        """(prompt, target) by step."""
        return lambda step: [
            (self._spelt(one), target(one)) for one in draw(batch, "train", np.random.default_rng([seed, step]))
        ]

    def items(self, n: int, split: str) -> pd.DataFrame:
        """item, prompt, target of the first n different puzzles of a split, the same for all arms and seeds."""
        from tycho.harness import make_items

        rng = np.random.default_rng(zlib.crc32(f"threadweaver/{self.name}/{split}".encode()))
        chosen: dict[Puzzle, None] = {}
        while len(chosen) < n:
            chosen |= dict.fromkeys(draw(2, split, rng))
        puzzles = list(chosen)[:n]
        return make_items([self._spelt(one) for one in puzzles], [target(one) for one in puzzles])

    def answer(self, text: str) -> str:
        """All that follows the last `[A]`."""
        return " ".join(text.rpartition("[A]")[2].split()) if "[A]" in text else ""

    def right(self, answer: str, target: str) -> bool:
        """Whether an answer is an expression that makes the target, or `none` where there is none."""
        from tycho.tasks.puzzles import countdown_reward

        numbers, _, value = target.partition(" = ")
        if value == NONE or answer == NONE:
            return value == answer
        return countdown_reward(answer, [int(number) for number in numbers.split()], int(value)) == 1.0

    def _spelt(self, puzzle: Puzzle) -> str:
        return self.words.decode(self.words.encode(puzzle.prompt))


def target(puzzle: Puzzle) -> str:
    """What the verifier reads: the numbers, and the value to be made or `none`."""
    numbers = " ".join(map(str, puzzle.numbers))
    return f"{numbers} = {puzzle.target if Fraction(puzzle.target) in reachable(puzzle.numbers) else NONE}"
