"""Grouped modular products: multiply the numbers of each group mod P, then the groups' results with each other.

    3 5 2 , 4 6 1 =   is   (3*5*2) * (4*6*1)  mod 7

The common ground of the language methods: terse and long traces of the same computation, groups that do not depend on
each other (so they can be worked on in parallel), and facts that the traces are unsure of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from tycho.lm.examples import Examples, from_padded
from tycho.lm.vocabulary import Vocabulary

Style = Literal["terse", "verbose", "rewriting"]
Order = Literal["chain", "random"]

MARKS = (",", "=", ";", "[A]")


@dataclass(frozen=True)
class Shape:
    """Up to `groups` groups of up to `numbers` numbers mod the prime `modulus`.

    With `fewest_groups` / `fewest_numbers` below these, each item draws its own numbers of groups and of members.
    """

    modulus: int = 11
    groups: int = 3
    numbers: int = 5
    fewest_groups: int | None = None
    fewest_numbers: int | None = None

    def __post_init__(self) -> None:
        modulus = self.modulus
        if modulus < 5 or any(modulus % divisor == 0 for divisor in range(2, int(modulus**0.5) + 1)):
            raise ValueError(f"modulus {modulus} is no prime above 3: a product could be 0 or its own double")
        for most, fewest in ((self.groups, self.fewest_groups), (self.numbers, self.fewest_numbers)):
            if not 1 <= (most if fewest is None else fewest) <= most:
                raise ValueError(f"{self} has no sizes to draw from: 1 <= fewest <= most")
        if self.groups * self.numbers < 2:
            raise ValueError("one number alone is no product")

    @property
    def step_groups(self) -> np.ndarray:
        """[S] the group each step belongs to; `groups` for the steps that join the results.

        Steps of different groups do not depend on each other, joins depend on all. S = groups * numbers - 1.
        """
        return np.append(np.repeat(np.arange(self.groups), self.numbers - 1), np.full(self.groups - 1, self.groups))


@dataclass(frozen=True)
class Noise:
    """Which facts a*b traces are unsure of.

    A share `hard` of all ordered pairs (chosen by `seed`) is computed wrongly with probability `wrong`, `systematic`
    of the time as twice the product, else as any other wrong number. What follows goes on from the wrong value.
    """

    hard: float = 0.0
    wrong: float = 0.45
    systematic: float = 0.7
    seed: int = 0

    def facts(self, modulus: int) -> np.ndarray:
        """[P, P] bool: the hard pairs; exactly that share of the pairs of numbers 1 .. P-1, rounded."""
        size = modulus - 1
        chosen = np.random.default_rng([self.seed, modulus]).permutation(size**2) < round(self.hard * size**2)
        table = np.zeros((modulus, modulus), dtype=bool)
        table[1:, 1:] = chosen.reshape(size, size)
        return table


@dataclass(frozen=True, eq=False)
class Products:
    """n items with one trace each. S steps in the order of `Shape.step_groups`; an item without a step has 0 there.

    numbers [n, G, M], 0 behind a group's end. left, right, result [n, S]: each step's factors and what the trace says
    they give. place [n, S]: index of the left factor in the list it is taken from; rest [n, S, max(G, M)]: that list
    afterwards, 0 behind its end. hard [n, S] bool: the trace was unsure of this fact.
    answer [n]: the true product; written [n]: the trace's.
    """

    shape: Shape
    numbers: np.ndarray
    left: np.ndarray
    right: np.ndarray
    result: np.ndarray
    place: np.ndarray
    rest: np.ndarray
    hard: np.ndarray
    answer: np.ndarray
    written: np.ndarray

    def __len__(self) -> int:
        return len(self.answer)

    def select(self, rows: np.ndarray | slice) -> Products:
        """The items of an index array, mask or slice."""
        return Products(self.shape, *(getattr(self, f.name)[rows] for f in fields(self)[1:]))


def generate(n: int, shape: Shape, seed: int, *, noise: Noise = Noise(), order: Order = "chain") -> Products:
    """n random items. chain: each list is multiplied from the left; random: any two neighbours are merged next.

    In random order the traces of one question meet different facts, so some are surer than others; in a chain all
    meet the same ones until they err. Deterministic from `seed`.
    """
    rng = np.random.default_rng([seed, 2])
    groups, numbers = shape.groups, shape.numbers
    sizes = rng.integers(shape.fewest_numbers or numbers, numbers + 1, (n, groups))
    sizes[np.arange(groups) >= rng.integers(shape.fewest_groups or groups, groups + 1, (n, 1))] = 0
    drawn = rng.integers(1, shape.modulus, (n, groups, numbers))
    return solve(np.where(np.arange(numbers) < sizes[..., None], drawn, 0), shape, rng, noise=noise, order=order)


def solve(
    numbers: np.ndarray, shape: Shape, rng: np.random.Generator, *, noise: Noise = Noise(), order: Order = "chain"
) -> Products:
    """A trace for each row of `numbers` [n, G, M] (several for one question: repeat its row)."""
    n, groups, size = numbers.shape
    width = max(groups, size)

    def multiply(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        exact = left * right % shape.modulus
        unsure = hard[left, right]
        other = (exact + rng.integers(1, shape.modulus - 1, exact.shape) - 1) % (shape.modulus - 1) + 1
        slip = np.where(rng.random(exact.shape) < noise.systematic, 2 * exact % shape.modulus, other)
        return np.where(unsure & (rng.random(exact.shape) < noise.wrong), slip, exact), unsure

    def reduce(lists: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Multiplies each list [k, m] down to one number: ([k], left right result place rest hard, each [k, m-1])."""
        steps = []
        for _ in range(lists.shape[1] - 1):
            left_over = (lists > 0).sum(axis=1)
            pairs = np.maximum(left_over - 1, 1)
            place = rng.integers(0, pairs) if order == "random" else np.zeros_like(pairs)
            at = place[:, None]
            left, right = np.take_along_axis(lists, at, 1)[:, 0], np.take_along_axis(lists, at + 1, 1)[:, 0]
            result, unsure = multiply(left, right)
            index = np.arange(lists.shape[1] - 1)
            merged = np.take_along_axis(lists, index + (index > at), axis=1)
            np.put_along_axis(merged, at, result[:, None], axis=1)
            does = left_over > 1
            lists = np.where(does[:, None], merged, lists[:, :-1])
            rest = np.pad(lists, ((0, 0), (0, width - lists.shape[1])))
            shown = [np.where(does, column, 0) for column in (left, right, result, place)]
            steps.append([*shown, rest * does[:, None], unsure & does])
        return lists[:, 0], [np.stack(column, axis=1) for column in zip(*steps, strict=True)]

    hard = noise.facts(shape.modulus)
    results, inner = reduce(numbers.reshape(n * groups, size))
    written, outer = reduce(results.reshape(n, groups))
    parts = [[column.reshape(n, -1, *column.shape[2:]) for column in part] for part in (inner, outer) if part]
    steps = [np.concatenate(columns, axis=1) for columns in zip(*parts, strict=True)]
    answer = np.ones(n, dtype=np.int64)
    for column in np.where(numbers > 0, numbers, 1).reshape(n, -1).T:
        answer = answer * column % shape.modulus
    return Products(shape, numbers, *steps, answer, written)


def vocabulary(shape: Shape, extra: Sequence[str] = ()) -> Vocabulary:
    """Marks, places `@0` .. of the rewriting style, a method's own words and the numbers 0 .. P-1."""
    places = (f"@{place}" for place in range(max(shape.groups, shape.numbers) - 1))
    return Vocabulary((*MARKS, *places, *extra, *map(str, range(shape.modulus))))


def symbols(products: Products, words: Vocabulary, style: Style) -> Examples:
    """Items as tokens. The answer is the trace's own (`written`), which noise may have led astray.

    prompt    `3 5 2 , 4 6 1 =`
    terse     a step is its result: `1`
    verbose   a step is `3 5 1 ;`, factors and result
    rewriting a step is `@0 1 2 ;`, the place merged and the list that is left
    answer    `[A] 6 <eos>`
    """
    n, groups, _ = products.numbers.shape
    first = words["0"]
    there = products.numbers > 0
    comma = np.full((n, groups, 1), words[","])
    before = there[:, :, :1] & (np.arange(groups)[:, None] > 0)
    prompt = np.concatenate([comma, first + products.numbers], axis=2).reshape(n, -1)
    kept = np.concatenate([before, there], axis=2).reshape(n, -1)
    prompt = np.concatenate([prompt, np.full((n, 1), words["="])], axis=1)
    kept = np.concatenate([kept, np.ones((n, 1), dtype=bool)], axis=1)
    done = products.result > 0
    end = np.full(done.shape, words[";"])
    if style == "terse":
        steps = first + products.result[..., None]
        steps_kept = done[..., None]
    elif style == "verbose":
        steps = np.stack([first + products.left, first + products.right, first + products.result, end], axis=2)
        steps_kept = done[..., None].repeat(4, axis=2)
    else:
        place = words["@0"] + products.place
        steps = np.concatenate([place[..., None], first + products.rest, end[..., None]], axis=2)
        steps_kept = np.concatenate([done[..., None], products.rest > 0, done[..., None]], axis=2)
    answer = np.stack([np.full(n, words["[A]"]), first + products.written, np.full(n, words.end)], axis=1)
    return from_padded(prompt, kept, steps, steps_kept, answer, words.pad)


def stream(
    shape: Shape,
    words: Vocabulary,
    style: Style,
    seed: int,
    batch: int,
    *,
    noise: Noise = Noise(),
    order: Order = "chain",
) -> Callable[[int], Examples]:
    """New items each step, the same for the same step whatever came before."""
    block = max(1, 4096 // batch)
    cached: dict[int, Examples] = {}

    def at(step: int) -> Examples:
        number, within = divmod(step, block)
        if number not in cached:
            draw = int(np.random.default_rng([seed, 1, number]).integers(2**62))
            cached.clear()
            cached[number] = symbols(generate(block * batch, shape, draw, noise=noise, order=order), words, style)
        return cached[number].select(slice(within * batch, (within + 1) * batch))

    return at
