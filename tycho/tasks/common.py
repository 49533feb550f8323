"""The common ground: tasks that all language methods run on the same base model, data and budget.

One vocabulary a task holds the special tokens of every method, so that a seed's untrained weights are the same numbers
for all of them. Training examples are a stream by step; validation and test items are fixed by the task alone, so that
every arm and seed answers the same questions.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tycho.errors import unknown

if TYPE_CHECKING:
    from torch import nn

    from tycho.lm.examples import Examples
    from tycho.lm.vocabulary import Vocabulary

CODES = 64  # latent codes a trace may be replaced by

# What each method adds to a task's own words.
THOUGHTS = ("<thought>", "</thought>", "[T]", "[PAUSE]")  # Coconut: begin, end, a thought's place; a pause
LATENTS = ("<latent>", "</latent>", *(f"<c{code}>" for code in range(CODES)))  # Token Assorted
THREADS = (
    "<Parallel>", "</Parallel>", "<Outlines>", "</Outlines>", "<Outline>", "</Outline>", "<Thread>", "</Thread>",
    "1:", "2:", "3:", "4:",
)  # fmt: skip
SPECIAL = (*THOUGHTS, *LATENTS, *THREADS)

Split = Literal["validation", "test"]

GRAPH_NODES, GRAPH_EDGES = 14, 16  # and paths of three hops: a fresh graph is hard enough for two layers
HELD_OUT = 2000  # items of a split; fewer are the first of these
GRAPH_POOL = 8000  # training graphs; names and orders are drawn anew each time
MODULUS, GROUPS, NUMBERS = 7, 3, 5

TASKS = {
    "graphs": "reachability on layered graphs, target and distractor equally deep; the trace is the path",
    "graphs-verbose": "the same graphs; the trace is a breadth-first search and then the path",
    "products": "grouped products mod 7; the trace is the running results",
    "products-verbose": "the same products; each step names its factors and their product",
}


@dataclass(frozen=True)
class Ground:
    """A task and its base model's shape."""

    name: str
    says: str
    style: str
    words: Vocabulary
    layers: int
    width: int
    heads: int
    context: int

    @property
    def is_graphs(self) -> bool:
        return self.name.startswith("graphs")

    def batches(self, seed: int, batch: int) -> Callable[[int], Examples]:
        """The training stream: examples by step, the same for the same step whatever came before."""
        from tycho.tasks import arithmetic, graph_text

        if self.is_graphs:
            return graph_text.stream(layered, self.words, self.style, seed, batch, pool=GRAPH_POOL)
        return arithmetic.stream(shape(), self.words, self.style, seed, batch)

    def held_out(self, n: int, split: Split) -> Examples:
        """The first n items of a split; the same for all arms and seeds. Raises ValueError above HELD_OUT."""
        import numpy as np

        from tycho.tasks import arithmetic, graph_text

        if n > HELD_OUT:
            raise ValueError(f"a split has {HELD_OUT} items, {n} were asked for")
        family = "graphs" if self.is_graphs else "products"  # both styles of trace ask the same questions
        seed = zlib.crc32(f"{family}/{split}".encode())
        if self.is_graphs:
            rng = np.random.default_rng([seed, 3])
            items = graph_text.symbols(layered(HELD_OUT, seed), self.words, self.style, rng)
        else:
            items = arithmetic.symbols(arithmetic.generate(HELD_OUT, shape(), seed), self.words, self.style)
        return items.select(slice(n))

    def base(self, seed: int, *, layers: int | None = None, tied: bool = True) -> nn.Module:
        """The untrained base model: `seed` is a run's seed of the axis `init`, so all methods start from it."""
        from tycho.lm.small import build

        return build(
            self.words,
            layers=layers or self.layers,
            width=self.width,
            heads=self.heads,
            context=self.context,
            tied=tied,
            seed=seed,
        )


def ground(task: str) -> Ground:
    """The common task of that name."""
    from tycho.tasks import arithmetic, graph_text

    if task not in TASKS:
        raise unknown("common task", task, TASKS)
    style = "verbose" if task.endswith("-verbose") else "terse"
    if task.startswith("graphs"):
        words, width, context = graph_text.vocabulary(GRAPH_NODES, SPECIAL), 64, 160
    else:
        words, width, context = arithmetic.vocabulary(shape(), SPECIAL), 96, 192
    return Ground(task, TASKS[task], style, words, layers=2, width=width, heads=4, context=context)


def layered(n: int, seed: int):
    """n graphs of the common task's shape."""
    from tycho.tasks import graphs

    return graphs.layered(n, seed)


def shape():
    """The common products' shape."""
    from tycho.tasks.arithmetic import Shape

    return Shape(MODULUS, GROUPS, NUMBERS)
