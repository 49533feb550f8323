"""The staged curriculum: written steps give way to thoughts, from the left (arXiv 2412.06769, section 3 and its code).

Stage s drops the first s steps of the trace and puts s·c thoughts between two marks in their place:

    prompt <thought> [T]×(s·c) </thought> step_{s+1} … answer <eos>

with loss on what follows the end mark, none on prompt, marks and thoughts. Baselines and controls differ in what they drop
and in what they put there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from methods.coconut.thoughts import Marks
from tycho.lm.examples import IGNORED, Batch, Examples, join, pack

Fill = Literal["thoughts", "pauses", "nothing"]
FAR = 10**6  # more steps than any trace has


@dataclass(frozen=True)
class Stages:
    """c = `per_step` thoughts for each of the first `latent_steps` steps; then, if `remove_all`, one stage without steps.

    A latent step counts for every item, whether or not it has so many steps; dropping what is not there drops nothing.
    """

    latent_steps: int
    per_step: int = 1
    remove_all: bool = False

    @property
    def last(self) -> int:
        """The number of the final stage; the first is 0."""
        return self.latent_steps + self.remove_all

    def dropped(self, stage: Tensor) -> Tensor:
        """[n] steps that are left out."""
        return torch.where(stage > self.latent_steps, FAR, stage)

    def thoughts(self, stage: Tensor) -> Tensor:
        """[n] thoughts in their place."""
        return stage.clamp_max(self.latent_steps) * self.per_step


def stage_at(step: int, first: int, each: int, last: int) -> int:
    """The stage of training step 0, 1, …: `first` steps of stage 0, `each` of every later one, the last without end."""
    return 0 if step < first else min(last, 1 + (step - first) // each)


def mixed(stage: int, step_counts: Tensor, probability: float, rng: np.random.Generator) -> Tensor:
    """[n] a stage an item: the scheduled one, or with `probability` any of 0 … the item's number of steps."""
    counts = step_counts.numpy()
    drawn = np.where(rng.random(len(counts)) < probability, rng.integers(0, counts + 1), stage)
    return torch.from_numpy(drawn)


def compose(
    examples: Examples, skip: Tensor | int, count: Tensor | int, fill: Fill, marks: Marks, *, marked: bool = True
) -> tuple[Batch, Tensor]:
    """(batch, latent [n, L]): prompts, then `count` thoughts or pauses between marks, then the trace without `skip` steps.

    Prompts are right-aligned, so that all rows have their first thought in the same column. skip, count: a number, or one
    an item. marked: whether begin and end marks stand around them.
    """
    ids, mask = examples.prompts()
    batch = join((ids, mask), examples.continuation(skip))
    counts = torch.as_tensor(count).expand(len(ids)) * (fill != "nothing")
    return insert(batch, ids.shape[1], enclosed(counts, fill, marks, marked), examples.pad)


def insert(batch: Batch, at: int, between: tuple[Tensor, Tensor, Tensor], pad: int) -> tuple[Batch, Tensor]:
    """Puts what `enclosed` gives in front of column `at`, where every row has its continuation: (batch, latent)."""
    ids, mask, _, labels = batch
    between, kept, thinks = between
    tail = torch.cat([between, ids[:, at:]], dim=1)
    tail_mask = torch.cat([kept, mask[:, at:]], dim=1)
    tail_labels = torch.cat([torch.full_like(between, IGNORED), labels[:, at:]], dim=1)
    packed = pack(tail, tail_mask, pad)
    whole = join((ids[:, :at], mask[:, :at]), packed)
    labels = torch.cat([torch.full_like(ids[:, :at], IGNORED), pack(tail_labels, tail_mask, IGNORED)[0]], dim=1)
    latent = torch.zeros_like(whole.mask)
    latent[:, at : at + thinks.shape[1]] = thinks[:, : whole.ids.shape[1] - at]
    return whole._replace(labels=labels), latent


def enclosed(counts: Tensor, fill: Fill, marks: Marks, marked: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(ids, kept, which are thoughts) [n, W] of what stands between a prompt and its continuation, left-aligned."""
    first, most = int(marked), int(counts.max()) if len(counts) else 0
    slot = torch.arange(most + 2 * first, device=counts.device)
    inside = (slot >= first) & (slot < first + counts[:, None])
    ids = torch.where(inside, marks.pause if fill == "pauses" else marks.thought, marks.end)
    if marked:
        ids[:, 0] = marks.begin
    return ids, slot < counts[:, None] + 2 * first, inside & (fill == "thoughts")


def only_next(batch: Batch, examples: Examples, skip: Tensor | int) -> Batch:
    """The sparse rule of later work (arXiv 2505.12514): loss on the first word of the next step alone, while steps are
    left; then on the answer."""
    first = (batch.labels != IGNORED).long().cumsum(dim=1) == 1
    left = examples.step_counts > torch.as_tensor(skip)
    return batch._replace(labels=batch.labels.masked_fill(~first & left[:, None], IGNORED))


def without_tokens(examples: Examples, removed: Tensor | int) -> Batch:
    """Internalised chain of thought (iCoT, arXiv 2405.14838): the trace without its first `removed` tokens."""
    ids, mask = examples.prompts()
    trace, kept = examples.trace()
    answer = torch.arange(examples.answer.shape[1]) < examples.answer_length[:, None]
    kept &= torch.arange(trace.shape[1]) >= torch.as_tensor(removed).reshape(-1, 1)
    continuation = pack(torch.cat([trace, examples.answer], 1), torch.cat([kept, answer], 1), examples.pad)
    return join((ids, mask), continuation)


def removed_tokens(
    step: int, first: int, over: int, longest: int, n: int, smoothing: float, rng: np.random.Generator
) -> Tensor:
    """[n] trace tokens that iCoT has removed at a training step: none in the `first` steps, then one more every
    over / longest steps until `longest` are gone, plus an offset o an item with P(o) ∝ exp(-smoothing · o) (its removal
    smoothing; 0: none)."""
    scheduled = 0 if step < first else min(longest, 1 + (step - first) * longest // over)
    offset = rng.geometric(1 - np.exp(-smoothing), n) - 1 if smoothing > 0 else np.zeros(n, dtype=np.int64)
    return torch.from_numpy(scheduled + offset * (step >= first))
