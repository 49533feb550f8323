"""A pretrained model on files of trajectories and questions: the paper's setting, and anybody's own.

Trajectories are JSON lines with `prompt` and `response`, the response in canonical fork-join text. Questions come from such
a file or from a data set on the hub, pinned by its revision.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from methods.threadweaver.format import TAGS
from methods.threadweaver.metrics import Tags
from tycho.errors import TychoError, one_line

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from methods.threadweaver.packing import Packed

QUESTION, ANSWER = ("problem", "question", "prompt"), ("answer", "solution", "target")
ASKED = "{question}\n\nPlease reason step by step, and put your final answer within \\boxed{{}}.\n"
SPECIAL = [f"<{slash}{tag}>" for tag in TAGS for slash in ("", "/")]


class Subwords:
    """A Hugging Face tokenizer with the twelve tags as single tokens, as what the engine and the metrics take for words."""

    def __init__(self, tokenizer: Any) -> None:
        known = set(tokenizer.get_vocab())
        self.added = [tag for tag in SPECIAL if tag not in known]
        tokenizer.add_tokens(self.added, special_tokens=False)
        self.tokenizer = tokenizer
        self.ids = {tag: tokenizer.convert_tokens_to_ids(tag) for tag in SPECIAL}
        self.end = tokenizer.eos_token_id
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.end
        self.vocabulary = SimpleNamespace(pad=pad, tokenizer=lambda: tokenizer)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    @property
    def tags(self) -> Tags:
        return Tags(*(self.ids[tag] for tag in ("<Parallel>", "</Parallel>", "<Thread>", "</Thread>")))


def add_tags(model: nn.Module, words: Subwords) -> None:
    """Gives the model rows for the new tags, each the mean of the embeddings of the bare tag word's tokens; the table is
    padded to a multiple of 64, as published."""
    import torch

    if not words.added:
        return
    model.resize_token_embeddings(len(words.tokenizer), pad_to_multiple_of=64, mean_resizing=False)
    tables = {
        id(t.weight): t.weight for t in (model.get_input_embeddings(), model.get_output_embeddings()) if t is not None
    }
    with torch.no_grad():
        for tag in words.added:
            bare = words.encode(tag.strip("</>"))
            for table in tables.values():
                table[words.ids[tag]] = table[bare].mean(dim=0)


class Own:
    """Trajectories to train on, questions to ask; answers are boxed and compared as mathematics."""

    hard = 0.0

    def __init__(self, config: Any) -> None:
        if not config.model:
            raise TychoError("task own needs the knob `model`: a folder or hub id")
        if not Path(config.model).is_dir() and not config.revision:
            raise TychoError(f"model {config.model} is on the hub: name its commit with the knob `revision`")
        self.config = config

    @cached_property
    def words(self) -> Subwords:
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.config.model, revision=self.config.revision or None)
        except (OSError, ValueError) as error:
            raise TychoError(f"no tokenizer at {self.config.model}: {one_line(error)}") from error
        return Subwords(tokenizer)

    def base(self, seed: int) -> nn.Module:
        import torch
        from transformers import AutoModelForCausalLM

        try:
            model = AutoModelForCausalLM.from_pretrained(
                self.config.model,
                revision=self.config.revision or None,
                dtype=torch.float32,
                attn_implementation="sdpa",
            )
        except (OSError, ValueError) as error:
            raise TychoError(f"no language model at {self.config.model}: {one_line(error)}") from error
        add_tags(model, self.words)
        return model

    def trees(self, seed: int, batch: int, loss: str) -> Callable[[int, Any], list[Packed]]:
        """Packed trajectories by step, in a new order each epoch; `fork` says which are written with threads."""
        from methods.threadweaver.orchestrator import units_of
        from methods.threadweaver.packing import pack, token_units

        rows = read_rows(self.config.data)
        if not rows or not all(isinstance(row.get(key), str) for row in rows for key in ("prompt", "response")):
            raise TychoError(f"{self.config.data}: every line must have a prompt and a response")
        units = []
        for place, row in enumerate(rows):
            try:
                units.append(units_of(row["prompt"], row["response"], self.config.closing))
            except ValueError as error:
                raise TychoError(f"{self.config.data}: line {place + 1}: {one_line(error)}") from error

        def at(step: int, fork: np.ndarray) -> list[Packed]:
            found = []
            for row, threaded in zip(range(step * batch, (step + 1) * batch), fork, strict=True):
                epoch, within = divmod(row, len(units))
                chosen = units[np.random.default_rng([seed, epoch]).permutation(len(units))[within]]
                if not threaded:
                    chosen = [unit._replace(kind="sequence") for unit in chosen if unit.kind == "whole"]
                encoded = token_units(chosen, self.words.encode, self.words.end, loss)
                found.append(pack(encoded, self.config.longest, self.config.overflow))
            return found

        return at

    def questions(self, seed: int, batch: int) -> Callable[[int], list[tuple[str, str]]]:
        pairs = [_pair(row, self.config.data) for row in read_rows(self.config.data)]

        def at(step: int) -> list[tuple[str, str]]:
            chosen = np.random.default_rng([seed, step]).integers(len(pairs), size=batch)
            return [pairs[place] for place in chosen]

        return at

    def items(self, n: int, split: str) -> pd.DataFrame:
        """The first n questions of `data`: what checkpoints are chosen by, and the test where no set is named."""
        return _items(read_rows(self.config.data)[:n], self.config.data)

    def tests(self, n: int) -> list[tuple[str, pd.DataFrame, int]]:
        """By test set: its setting (`set=NAME`), at most n items, answers to each."""
        if not self.config.sets:
            return [("", self.items(n, "test"), 1)]
        return [
            (f"set={name}", _items(read_rows(one.questions, one.revision, one.split)[:n], one.questions), one.samples)
            for name, one in self.config.sets.items()
        ]

    def answer(self, text: str) -> str:
        from methods.deepconf.answers import boxed

        return boxed(text) or ""

    def right(self, answer: str, target: str) -> bool:
        from methods.deepconf.answers import equal

        return equal(answer, target)


def _items(rows: Sequence[dict[str, Any]], source: Any) -> pd.DataFrame:
    from tycho.harness import make_items

    pairs = dict(_pair(row, source) for row in rows)
    return make_items(list(pairs), list(pairs.values()))


def _pair(row: dict[str, Any], source: Any) -> tuple[str, str]:
    question = next((str(row[key]) for key in QUESTION if key in row), None)
    answer = next((str(row[key]) for key in ANSWER if key in row), None)
    if question is None or answer is None:
        raise TychoError(f"{source}: a question ({', '.join(QUESTION)}) and an answer ({', '.join(ANSWER)}) are wanted")
    return (question if "prompt" in row else ASKED.format(question=question)), answer


def read_rows(source: Any, revision: str = "", split: str = "test") -> list[dict[str, Any]]:
    """Rows of a JSON-lines file, or of a data set on the hub at a revision."""
    if source is None or not str(source):
        raise TychoError("task own needs the knob `data`: a JSON-lines file with prompt, response and answer")
    path = Path(str(source))
    if path.is_file():
        rows = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise TychoError(f"{path}: line {number} is not JSON ({one_line(error)})") from error
            if not isinstance(row, dict):
                raise TychoError(f"{path}: line {number} is no object with fields")
            rows.append(row)
        return rows
    if not revision:
        raise TychoError(f"no file {source}; a data set on the hub needs its commit (`revision` of the set)")
    from datasets import load_dataset

    try:
        return list(load_dataset(str(source), split=split, revision=revision))
    except (OSError, ValueError, RuntimeError) as error:
        raise TychoError(f"data set {source} cannot be loaded: {one_line(error)}") from error
