"""What the room trains on and asks: the common products, products of mixed sizes, noisy products, Countdown, files."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tycho.errors import unknown

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from methods.threadweaver.layout import Piece
    from methods.threadweaver.packing import Packed
    from methods.threadweaver.words import Words
    from tycho.tasks.arithmetic import Shape

TASKS = ("products-verbose", "products-mixed", "products-noisy", "countdown", "own")
MODULUS = 7
RULES = {"spacing": "canonical", "empty_threads": False}  # of the format: what the records call well-formed


@dataclass(frozen=True)
class Products:
    """A family of grouped products. `hard`: share of facts that traces are unsure of, in random order of steps."""

    name: str
    shape: Shape
    context: int
    hard: float = 0.0

    @cached_property
    def words(self) -> Words:
        from methods.threadweaver.words import Words
        from tycho.tasks import arithmetic, common

        if self.name in common.TASKS:
            return Words(common.ground(self.name).words)
        return Words(arithmetic.vocabulary(self.shape, common.THREADS))

    @property
    def style(self) -> str:
        return "rewriting" if self.hard else "verbose"

    def base(self, seed: int) -> nn.Module:
        """The untrained model: on the common task the one that all methods start from."""
        from tycho.lm.small import build
        from tycho.tasks import common

        if self.name in common.TASKS:
            return common.ground(self.name).base(seed)
        return build(self.words.vocabulary, layers=2, width=96, heads=4, context=self.context, seed=seed)

    def batches(self, seed: int, batch: int) -> Callable[[int], list[Piece]]:
        """The training stream: new items by step, the same for the same step whatever came before."""
        from methods.threadweaver.layout import pieces
        from tycho.tasks import arithmetic, common

        if self.name in common.TASKS:
            stream = common.ground(self.name).batches(seed, batch)
        else:
            noise = arithmetic.Noise(self.hard)
            order = "random" if self.hard else "chain"
            stream = arithmetic.stream(
                self.shape, self.words.vocabulary, self.style, seed, batch, noise=noise, order=order
            )
        groups = self.shape.step_groups.tolist()
        return lambda step: pieces(stream(step), groups)

    def trees(self, seed: int, batch: int, loss: str = "completion") -> Callable[[int, Any], list[Packed]]:
        """Packed items by step; `fork` [batch] says which are written with threads where they can be."""
        from methods.threadweaver.layout import Frame, packed

        stream, frame = self.batches(seed, batch), Frame.of(self.words)
        return lambda step, fork: [
            packed(piece, frame, fork=bool(f), loss=loss) for piece, f in zip(stream(step), fork, strict=True)
        ]

    def answer(self, text: str) -> str:
        from tycho.harness import written_answer

        return written_answer(text)

    def right(self, answer: str, target: str) -> bool:
        return answer == target

    def questions(self, seed: int, batch: int) -> Callable[[int], list[tuple[str, str]]]:
        """(prompt, target) by step: the same stream without its traces."""
        stream, decode = self.batches(seed, batch), self.words.vocabulary.write
        return lambda step: [(decode(piece.prompt), self._target(piece)) for piece in stream(step)]

    def _target(self, piece: Piece) -> str:
        """The true product, which a noisy trace may miss."""
        product, names = 1, self.words.vocabulary.tokens
        for token in piece.prompt:
            product = product * int(names[token]) % self.shape.modulus if names[token].isdigit() else product
        return str(product)

    def items(self, n: int, split: str) -> pd.DataFrame:
        """item, prompt, target of the first n held-out items, the same for all arms and seeds. Of mixed sizes fewer than n:
        there are few small ones, and each is asked once."""
        from tycho import harness
        from tycho.tasks import arithmetic, common

        if self.name in common.TASKS:
            return harness.common_items(self.name, n, split)  # type: ignore[arg-type]
        seed = zlib.crc32(f"threadweaver/{self.name}/{split}".encode())
        drawn = arithmetic.generate(common.HELD_OUT, self.shape, seed).select(slice(n))
        examples = arithmetic.symbols(drawn, self.words.vocabulary, self.style)
        prompts = [
            self.words.vocabulary.write(row[:length].tolist())
            for row, length in zip(examples.prompt, examples.prompt_length, strict=True)
        ]
        items = harness.make_items(prompts, [str(answer) for answer in drawn.answer])
        return items.drop_duplicates("item", ignore_index=True)


def tests(task: Any, n: int) -> list[tuple[str, pd.DataFrame, int]]:
    """Settings with their test items and the number of answers to each; most tasks have one."""
    return task.tests(n) if hasattr(task, "tests") else [("", task.items(n, "test"), 1)]


def problems(task: str, config: Any = None) -> Any:
    """The problems of that name; `own` reads its model and files from the config."""
    from tycho.tasks import common
    from tycho.tasks.arithmetic import Shape

    if task == "products-verbose":
        return Products(task, common.shape(), common.ground(task).context)
    if task == "products-mixed":
        return Products(task, Shape(MODULUS, 4, 6, fewest_groups=1, fewest_numbers=2), 256)
    if task == "products-noisy":
        return Products(task, Shape(13, 3, 5), 256, hard=0.35)
    if task == "countdown":
        from methods.threadweaver.search import Search

        return Search()
    if task == "own":
        from methods.threadweaver.own import Own

        return Own(config)
    raise unknown("task of threadweaver", task, TASKS)
