"""The experiment's little world: arithmetic mod P that a model knows, and a new task with many right answers.

A prompt is four tokens, `op a b =`, its answer one number. Known are +, *, - and max; the new operation ? accepts any
number of the parity of a + b, so a policy may keep its old habits among the right answers or not. That freedom is what
tuning by reward and tuning on labels can use differently.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tycho.lm.vocabulary import Vocabulary

MODULUS = 31
KNOWN = ("+", "*", "-", "max")
NEW = "?"
WORDS = Vocabulary((*KNOWN, NEW, "=", *map(str, range(MODULUS))))
FIRST = WORDS["0"]  # number r is token FIRST + r


class Known(NamedTuple):
    """Every pair under every known operation: prompts [4 P^2, 4] and answers [4 P^2], token ids."""

    prompts: Tensor
    answers: Tensor


class New(NamedTuple):
    """Pairs under the new operation: prompts [n, 4] and which tokens are right, correct [n, V] bool."""

    prompts: Tensor
    correct: Tensor


def known() -> Known:
    """The prior tasks, in full."""
    a, b = _pairs()
    results = {"+": (a + b) % MODULUS, "*": a * b % MODULUS, "-": (a - b) % MODULUS, "max": torch.maximum(a, b)}
    prompts = torch.cat([_prompts(op, a, b) for op in KNOWN])
    return Known(prompts, torch.cat([FIRST + results[op] for op in KNOWN]))


def new(parts: tuple[int, ...], generator: torch.Generator) -> list[New]:
    """Disjoint random sets of new prompts of the given sizes."""
    a, b = _pairs()
    prompts = _prompts(NEW, a, b)
    numbers = torch.arange(MODULUS)
    correct = torch.zeros(len(a), len(WORDS), dtype=torch.bool)
    correct[:, FIRST:] = (a + b)[:, None] % 2 == numbers % 2
    rows = torch.randperm(len(a), generator=generator)
    if sum(parts) > len(rows):
        raise ValueError(f"there are {len(rows)} new prompts, {sum(parts)} were asked for")
    return [New(prompts[chosen], correct[chosen]) for chosen in rows[: sum(parts)].split(list(parts))]


def _pairs() -> tuple[Tensor, Tensor]:
    number = torch.arange(MODULUS)
    a, b = torch.meshgrid(number, number, indexing="ij")
    return a.flatten(), b.flatten()


def _prompts(op: str, a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([torch.full_like(a, WORDS[op]), FIRST + a, FIRST + b, torch.full_like(a, WORDS["="])], dim=1)
