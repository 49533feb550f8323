"""What the room trains and asks: the common tasks, ProsQA as generated here, published files, or a user's own."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from methods.coconut.model import add_marks
from tycho.errors import TychoError
from tycho.lm import small
from tycho.lm.examples import Examples, encode
from tycho.tasks import common, published

GRAPH_NODES = 28  # the largest graph of ProsQA's generator


@dataclass(frozen=True, eq=False)
class Problem:
    """A task: the training stream by step, held-out items, and how an answer is read out of what was written."""

    tokenizer: Any
    batches: Callable[[int], Examples]
    validation: Examples
    test: Examples
    base: Callable[..., nn.Module]  # of a number of layers, None for the task's own
    read: Callable[[str], str]

    def target(self, examples: Examples, row: int) -> str:
        """The answer an item wants."""
        return self.read(self.text(examples.answer[row, : examples.answer_length[row]].tolist()))

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids, without the end token."""
        return self.tokenizer.decode([i for i in ids if i != self.tokenizer.eos_token_id], skip_special_tokens=False)


def problem(task: str, config: Any, *, data: int, order: int, init: int) -> Problem:
    """The task's problem; `data`, `order` and `init` are the run's seeds of these axes."""
    if config.model:
        return _own(config, order)
    if task in common.TASKS:
        ground = common.ground(task)
        batches = ground.batches(data, config.batch)
        held_out = ground.held_out
        words = ground.words
        shape = {"width": ground.width, "heads": ground.heads, "context": ground.context, "layers": ground.layers}
    else:
        words, batches, held_out = _prosqa(task, config, data)
        shape = {"width": config.width, "heads": config.heads, "context": config.context, "layers": 2}

    def base(layers: int | None = None) -> nn.Module:
        depth = layers or config.layers or shape["layers"]
        return small.build(words, family=config.family, seed=init, **shape | {"layers": depth})

    return Problem(
        words.tokenizer(),
        batches,
        held_out(config.validation_items, "validation"),
        held_out(config.test_items, "test"),
        base,
        _marked if "[A]" in words.words else published.final_answer,
    )


def _marked(text: str) -> str:
    from tycho.harness import written_answer

    return written_answer(text)


def symbolic_words(task: str) -> Any:
    """The vocabulary of a task of symbols."""
    from tycho.tasks import graph_text

    return common.ground(task).words if task in common.TASKS else graph_text.vocabulary(GRAPH_NODES, common.SPECIAL)


# --- ProsQA from its generator ---------------------------------------------------------------------------------------


def _prosqa(task: str, config: Any, seed: int) -> tuple[Any, Callable[[int], Examples], Callable[..., Examples]]:
    import numpy as np

    from tycho.tasks import graph_text, graphs

    make = graphs.balanced if "balanced" in task else graphs.published
    in_words = task.endswith("-words")
    if in_words:
        words = graph_text.sentence_vocabulary(common.SPECIAL)
        tokenizer = words.tokenizer()

        def write(some: graphs.Graphs, draw: int) -> Examples:
            rows = graph_text.sentences(some, draw)
            items = [published.Item(row["question"], tuple(row["steps"]), row["answer"]) for row in rows]
            return encode(tokenizer, items, newline="")

        block, cached = max(1, 256 // config.batch), {}
        pool = graphs_from(config.data) if config.data is not None else make(config.pool, seed)

        def batches(step: int) -> Examples:
            number, within = divmod(step, block)
            if number not in cached:
                rng = np.random.default_rng([seed, 1, number])
                rows = rng.integers(0, len(pool), block * config.batch)
                cached.clear()
                cached[number] = write(pool.select(rows), int(rng.integers(2**31)))
            return cached[number].select(slice(within * config.batch, (within + 1) * config.batch))
    else:
        words = graph_text.vocabulary(GRAPH_NODES, common.SPECIAL)
        pool = graphs_from(config.data) if config.data is not None else make(config.pool, seed)
        batches = graph_text.stream(lambda n, _: pool, words, "terse", seed, config.batch, pool=len(pool))

    def held_out(n: int, split: str) -> Examples:
        draw = zlib.crc32(f"{task.removesuffix('-words')}/{split}".encode())
        source = config.validation_data if split == "validation" else config.test_data
        some = make(n, draw) if source is None else graphs_from(source).select(slice(n))
        if in_words:
            return write(some, draw)
        return graph_text.symbols(some, words, "terse", np.random.default_rng([draw, 3]))

    return words, batches, held_out


def graphs_from(source: str | Path) -> Any:
    """The graphs of a published ProsQA file."""
    return published.graphs_of(published.read_prosqa(source))


# --- a user's own model and data, and the published ones ----------------------------------------------------------------


def _own(config: Any, order: int) -> Problem:
    """A pretrained model on a file of items (question, steps, answer), shuffled anew each epoch."""
    model, tokenizer = small.load(config.model, revision=config.revision or None)
    add_marks(model, tokenizer)
    items = read_items(config.data)
    validation = read_items(config.validation_data) if config.validation_data else items[-config.validation_items :]
    test = read_items(config.test_data) if config.test_data else validation
    if not config.validation_data:
        items = items[: -config.validation_items]
    if not items:
        raise TychoError(f"{config.data} leaves no item to train on after {config.validation_items} for validation")
    examples = encode(tokenizer, items)
    per_epoch = max(1, len(items) // config.batch)

    def batches(step: int) -> Examples:
        epoch, within = divmod(step, per_epoch)
        generator = torch.Generator().manual_seed((order + epoch) % 2**63)
        rows = torch.randperm(len(items), generator=generator)
        return trimmed(examples.select(rows[within * config.batch : (within + 1) * config.batch]))

    def base(layers: int | None = None) -> nn.Module:
        if layers:
            raise TychoError("a pretrained model has the layers it has: leave out the knob `depths`")
        fresh, words = small.load(config.model, revision=config.revision or None)
        add_marks(fresh, words)
        return fresh

    held = [
        encode(tokenizer, part[:n]) for part, n in ((validation, config.validation_items), (test, config.test_items))
    ]
    return Problem(tokenizer, batches, *held, base, published.final_answer)


def read_items(source: str | Path) -> list[published.Item]:
    """Coconut's JSON (question, steps, answer), or iCoT's text where the name ends in .txt."""
    read = published.read_icot_text if str(source).endswith(".txt") else published.read_reasoning
    return read(source)


def trimmed(examples: Examples) -> Examples:
    """Without the columns no row of a batch needs."""
    steps = max(int(examples.step_counts.max()), 1)
    return Examples(
        examples.prompt[:, : int(examples.prompt_length.max())],
        examples.prompt_length,
        examples.steps[:, :steps, : max(int(examples.step_length.max()), 1)],
        examples.step_length[:, :steps],
        examples.answer[:, : int(examples.answer_length.max())],
        examples.answer_length,
        examples.pad,
    )
