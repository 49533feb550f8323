"""Vocabularies of symbolic tasks, and their word-level Hugging Face tokenizers.

Produced tokens come first, read-only ones (the edges of a graph, one token an edge) last, so that a model's output
layer can stop at `produced`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from tycho.errors import unknown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, END, UNKNOWN = "<pad>", "<eos>", "<unk>"


@dataclass(frozen=True)
class Vocabulary:
    """Words a model may write, and optionally the edges `s>t` between `nodes` node words that it only reads.

    Ids: 0 <pad>, 1 <eos>, 2 <unk>, then `words`, then the nodes "0" .. "nodes-1", then the edges by source and target.
    Words stand apart by spaces; each character of `isolate` is a word of its own wherever it stands (sentences: ".?").
    """

    words: tuple[str, ...]
    nodes: int = 0
    isolate: str = ""
    ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        tokens = self.tokens
        if len(set(tokens)) < len(tokens):
            raise ValueError(
                f"a vocabulary lists a word twice: {sorted(t for t in set(tokens) if tokens.count(t) > 1)}"
            )
        object.__setattr__(self, "ids", {token: number for number, token in enumerate(tokens)})

    @cached_property
    def tokens(self) -> list[str]:
        """All tokens in the order of their ids."""
        numbers = [str(node) for node in range(self.nodes)]
        edges = [f"{source}>{target}" for source in numbers for target in numbers]
        return [PAD, END, UNKNOWN, *self.words, *numbers, *edges]

    def __len__(self) -> int:
        return self.produced + self.nodes**2

    @property
    def produced(self) -> int:
        """Number of tokens a model may write: ids below it."""
        return 3 + len(self.words) + self.nodes

    @property
    def pad(self) -> int:
        return 0

    @property
    def end(self) -> int:
        return 1

    def __getitem__(self, word: str) -> int:
        if word not in self.ids:
            raise unknown("word", word, self.ids)
        return self.ids[word]

    def node(self, number: np.ndarray) -> np.ndarray:
        """Ids of node numbers."""
        return self.produced - self.nodes + number

    def edge(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Ids of edges between node numbers."""
        return self.produced + self.nodes * source + target

    def read(self, text: str) -> list[int]:
        """Ids of a text's words."""
        for mark in self.isolate:
            text = text.replace(mark, f" {mark} ")
        return [self[word] for word in text.split()]

    def write(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        return " ".join(self.tokens[i] for i in ids)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The same mapping as a Hugging Face tokenizer, which adds nothing by itself and knows <unk> for other words.

        Text -> ids -> text keeps the words, not the spaces around isolated characters.
        """
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        tokenizer = Tokenizer(models.WordLevel(dict(self.ids), unk_token=UNKNOWN))
        splitters = [pre_tokenizers.WhitespaceSplit()]
        if self.isolate:
            marks = Regex("[" + "".join(f"\\{mark}" for mark in self.isolate) + "]")
            splitters.append(pre_tokenizers.Split(marks, "isolated"))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splitters)
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token=PAD,
            eos_token=END,
            unk_token=UNKNOWN,
            padding_side="left",
            clean_up_tokenization_spaces=False,
        )
