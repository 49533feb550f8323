"""The bridge to lm-eval: a method's way of completing prompts as an lm-eval model, and items as an lm-eval task.

A method is a function of the type `Complete`. `measure` runs it inside lm-eval over items of our own; a room that offers
it to the shell has a `serve.py` with

    def load(pretrained: str, *, device: str = "cpu", **options) -> Complete

and `tycho lm-eval --model ROOM --model_args pretrained=FOLDER,... --tasks ...` finds it by looking. What `load` returns may
have more to offer, as attributes: `loglikelihood(pairs) -> [(log-probability, is greedy)]` for pairs (context,
continuation), and for chat templates `apply_chat_template(messages, add_generation_prompt) -> str` with `tokenizer_name`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from tycho.errors import TychoError, unknown

if TYPE_CHECKING:
    from tycho.tasks.common import Split


@dataclass(frozen=True)
class Options:
    """How to complete, in lm-eval's words. temperature 0: greedy. top_k 0 and top_p 1: from all tokens.

    until: strings at which a completion ends (they are not part of it). n: completions of each prompt, which then
    stand one after the other: n of the first prompt, n of the second, ...
    """

    max_gen_toks: int = 256
    until: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    n: int = 1


class Completion(NamedTuple):
    """A completion and its cost, the prompt's own pass included.

    generated_tokens: all tokens written for it, thrown-away ones too; sequential_tokens: those on the critical path;
    forward_passes: model calls it took part in; flops: analytic.
    """

    text: str
    generated_tokens: int
    sequential_tokens: int
    forward_passes: int
    flops: float


Complete = Callable[[list[str], Options], list[Completion]]


def measure(
    complete: Complete,
    items: pd.DataFrame,
    *,
    task: str,
    answer: Callable[[str], str | None],
    correct: Callable[[str, str], bool] | None = None,
    most: int,
    options: Options = Options(),
) -> pd.DataFrame:
    """Runs `complete` inside lm-eval over `items` (columns item, prompt, target) and returns one row a completion.

    answer: reads the answer out of a completion ("" or None: there is none); correct(answer, target): whether it is
    right, equality if left out; most: tokens a completion may have; options: how to sample, `n` completions an item
    among it. All prompts come to `complete` in one list, in the order of the items. The rows have the columns of
    `records.samples`; attrs["lm_eval"] has lm-eval's own accuracy and standard error (over items; an item's
    completions are averaged first), its number of items and its version. Raises TychoError on items that make no task.
    """
    from tycho.evaluation.bridge import Bridge, quiet, run_items

    _check(items, task)
    with quiet():
        return run_items(
            Bridge(complete), items, task, answer, correct or str.__eq__, replace(options, max_gen_toks=most)
        )


def make_items(prompts: Sequence[str], targets: Sequence[str]) -> pd.DataFrame:
    """Items for `measure`; an item's name is the hash of its prompt and target, so it is equal across arms and seeds."""
    rows = list(zip(prompts, targets, strict=True))
    names = [hashlib.blake2b(f"{prompt}\x1f{target}".encode(), digest_size=8).hexdigest() for prompt, target in rows]
    return pd.DataFrame(rows, columns=["prompt", "target"]).assign(item=names)[["item", "prompt", "target"]]


def common_items(task: str, n: int, split: Split = "test") -> pd.DataFrame:
    """The first n held-out items of a common task (`tycho.tasks.common`), as text of its vocabulary's words."""
    from tycho.tasks.common import ground

    found = ground(task)
    examples = found.held_out(n, split)
    prompts, answers = (
        [found.words.write(row[:length].tolist()) for row, length in zip(ids, lengths, strict=True)]
        for ids, lengths in ((examples.prompt, examples.prompt_length), (examples.answer, examples.answer_length))
    )
    return make_items(prompts, [written_answer(answer) for answer in answers])


def written_answer(text: str, mark: str = "[A]") -> str:
    """The word behind the last `mark`, as the common tasks write answers; "" where there is none."""
    words = text.rpartition(mark)[2].split() if mark in text else []
    return words[0] if words else ""


def served_rooms() -> dict[str, Path]:
    """Every room with a `serve.py`, by name. Imports none of them."""
    import methods

    found = {path.parent.name: path for place in methods.__path__ for path in Path(place).glob("[!.]*/serve.py")}
    return dict(sorted(found.items()))


def load_served(room: str, pretrained: str, *, device: str = "cpu", **options: Any) -> Complete:
    """What a room's `serve.load` returns for a trained folder (or hub id)."""
    import importlib
    import inspect

    if room not in served_rooms():
        raise unknown("served method", room, served_rooms())
    load = importlib.import_module(f"methods.{room}.serve").load
    try:
        inspect.signature(load).bind(pretrained, device=device, **options)
    except TypeError as error:
        raise TychoError(
            f"method {room!r} cannot be loaded so: {error}; {inspect.signature(load)} is wanted"
        ) from error
    return load(pretrained, device=device, **options)


def _check(items: pd.DataFrame, task: str) -> None:
    lacking = {"item", "prompt", "target"} - set(items)
    if lacking:
        raise TychoError(f"items of {task} lack the columns {sorted(lacking)}")
    if not len(items):
        raise TychoError(f"{task} has no items")
    for column in ("item", "prompt", "target"):
        wrong = [value for value in items[column] if not isinstance(value, str)]
        if wrong:
            raise TychoError(f"{task}: {column} must be text, not {wrong[0]!r}")
    if not items.item.is_unique:
        raise TychoError(f"{task} names an item twice: {items.item[items.item.duplicated()].iloc[0]}")
