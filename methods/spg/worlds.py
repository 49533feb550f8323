"""A task as token tensors: prompts in, completions of n tokens out, rewards read from their text."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tycho.errors import TychoError
from tycho.lm.examples import left_padded
from tycho.lm.vocabulary import Vocabulary
from tycho.tasks import puzzles
from tycho.tasks.puzzles import Countdown, Semantics, Split, Style, Sudoku

MASK = "[MASK]"
VOCABULARIES = {
    "sudoku": Vocabulary((*"01234", MASK)),
    "countdown": Vocabulary((*"0123456789+-*/()=", MASK)),
}
LENGTHS = {"sudoku": 16, "countdown": 8}  # tokens of a terse completion


@dataclass(frozen=True)
class World:
    """A task, its tokens, and how completions end.

    never: tokens a policy gives no probability, the mask token among them. end: the token after which nothing counts;
    None: completions are always n tokens long.
    """

    task: str
    style: Style
    n: int
    mask_token: int
    never: tuple[int, ...]
    end: int | None
    pad: int
    encode: Callable[[str], list[int]]
    write: Callable[[Sequence[int]], str]
    blanks: tuple[int, int] = (6, 11)
    rewards: Semantics = "paper"

    def draw(self, n: int, split: Split, seed: int) -> Sudoku | Countdown:
        """n puzzles of a split."""
        if self.task == "sudoku":
            return puzzles.sudoku(n, split, np.random.default_rng(seed), blanks=self.blanks, style=self.style)
        largest = 9 if self.style == "terse" else 99
        return puzzles.countdown(n, split, seed % 2**31, largest=largest, style=self.style, semantics=self.rewards)

    def held_out(self, n: int, split: Split) -> Sudoku | Countdown:
        """The split's fixed items: the same for all arms and seeds."""
        return self.draw(n, split, zlib.crc32(f"{self.task}/{split}".encode()))

    def prompts(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """(ids [B, P] right-aligned, kept [B, P], or None where nothing is padded)."""
        ids, kept = left_padded([self.encode(text) for text in texts], self.pad)
        return ids, None if kept.all() else kept

    def targets(self, texts: Sequence[str]) -> Tensor:
        """[B, n] completions of reference answers, filled up with end tokens."""
        if self.style == "terse":  # each digit and sign is a word
            texts = [" ".join(re.findall(r"[-+*/()0-9]", text)) for text in texts]
        rows = [self.encode(text) for text in texts]
        long = max(map(len, rows)) + (self.end is not None)
        if long > self.n:
            raise TychoError(f"an answer of {long} tokens does not fit completions of {self.n}")
        return torch.tensor([row + [self.end or 0] * (self.n - len(row)) for row in rows])

    def lengths(self, x: Tensor) -> Tensor:
        """[B] tokens up to and including the first end token; n where there is none."""
        if self.end is None:
            return torch.full((len(x),), x.shape[1])
        ended = x == self.end
        return torch.where(ended.any(dim=1), ended.int().argmax(dim=1) + 1, x.shape[1])

    def texts(self, x: Tensor) -> list[str]:
        """What completions say before they end."""
        lengths = self.lengths(x).tolist()
        rows = [row[:length] for row, length in zip(x.tolist(), lengths, strict=True)]
        return [self.write(row[:-1] if row and row[-1] == self.end else row) for row in rows]


def terse(task: str, blanks: tuple[int, int] = (6, 11), rewards: Semantics = "paper") -> World:
    """A puzzle in words of its own small vocabulary."""
    words = VOCABULARIES[task]
    unwritten = (words.pad, words[MASK], 2) + ((words.end,) if task == "sudoku" else ())
    end = None if task == "sudoku" else words.end
    codec = words.read, words.write
    return World(task, "terse", LENGTHS[task], words[MASK], unwritten, end, words.pad, *codec, tuple(blanks), rewards)


def tagged(
    task: str, tokenizer: Any, mask_token: int, n: int, blanks: tuple[int, int] = (6, 11), rewards: Semantics = "paper"
) -> World:
    """A puzzle in English for a pretrained model, under its chat template."""

    def encode(text: str) -> list[int]:
        message = [{"role": "user", "content": text}]
        return list(
            tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=True, return_dict=False)
        )

    def write(ids: Sequence[int]) -> str:
        return tokenizer.decode(list(ids), skip_special_tokens=True)

    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    pad = end if pad is None else pad
    return World(task, "tagged", n, mask_token, (mask_token,), end, pad, encode, write, tuple(blanks), rewards)


def tokenizer_of(folder: Path) -> Any:
    """The tokenizer of a checkpoint's folder."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise TychoError(f"no tokenizer at {folder}") from error
