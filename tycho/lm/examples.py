"""Examples of reasoning tasks as token tensors: a prompt, the steps of a trace, an answer.

Every language method reads this one form, whatever the task: chain of thought writes all steps, No-CoT none, Coconut
drops the first few, Token Assorted replaces them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    import numpy as np

IGNORED = -100  # label of positions without loss


class Batch(NamedTuple):
    """Sequences to train on, all [n, L] int64 but `mask`, bool.

    labels: the token itself where it is to be predicted (from the position before it), else IGNORED.
    """

    ids: Tensor
    mask: Tensor
    positions: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Examples:
    """n examples of up to S steps; int64, each sequence left-aligned and padded with `pad`.

    prompt [n, P], prompt_length [n]; steps [n, S, T], step_length [n, S] (0: no such step); answer [n, A] with its
    end token, answer_length [n].
    """

    prompt: Tensor
    prompt_length: Tensor
    steps: Tensor
    step_length: Tensor
    answer: Tensor
    answer_length: Tensor
    pad: int = 0

    def __len__(self) -> int:
        return len(self.prompt)

    def select(self, rows: Tensor | slice) -> Examples:
        """The examples of an index tensor, mask or slice."""
        return Examples(*(getattr(self, f.name)[rows] for f in fields(self)[:-1]), self.pad)

    def to(self, device: str | torch.device) -> Examples:
        """The same examples on a device."""
        return Examples(*(getattr(self, f.name).to(device) for f in fields(self)[:-1]), self.pad)

    @property
    def step_counts(self) -> Tensor:
        """[n] number of steps."""
        return (self.step_length > 0).sum(dim=1)

    def prompts(self) -> tuple[Tensor, Tensor]:
        """(ids, mask) [n, P], right-aligned, as generation wants them."""
        return pack(self.prompt, _within(self.prompt_length, self.prompt.shape[1]), self.pad, side="right")

    def trace(self, skip: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """(ids, mask) [n, C], left-aligned: the steps one after the other without each item's first `skip`."""
        return pack(self.steps.flatten(1), self._kept_steps(skip), self.pad)

    def continuation(self, skip: int | Tensor = 0) -> tuple[Tensor, Tensor]:
        """(ids, mask) [n, C], left-aligned: what is to be written after the prompt, the trace and then the answer."""
        ids = torch.cat([self.steps.flatten(1), self.answer], dim=1)
        mask = torch.cat([self._kept_steps(skip), _within(self.answer_length, self.answer.shape[1])], dim=1)
        return pack(ids, mask, self.pad)

    def sequences(self, skip: int | Tensor = 0) -> Batch:
        """Prompts and continuations joined, loss on the continuation."""
        return join(self.prompts(), self.continuation(skip))

    def _kept_steps(self, skip: int | Tensor) -> Tensor:
        skip = torch.as_tensor(skip, device=self.steps.device).reshape(-1, 1)
        kept = (self.step_length > 0).long().cumsum(dim=1) > skip  # counts an item's own steps, gaps between them not
        return (_within(self.step_length, self.steps.shape[2]) & kept[..., None]).flatten(1)


def join(prompt: tuple[Tensor, Tensor], continuation: tuple[Tensor, Tensor]) -> Batch:
    """(ids, mask) right-aligned, then (ids, mask) left-aligned: one sequence a row with loss on the second part."""
    ids = torch.cat([prompt[0], continuation[0]], dim=1)
    mask = torch.cat([prompt[1], continuation[1]], dim=1)
    labels = torch.cat(
        [torch.full_like(prompt[0], IGNORED), continuation[0].masked_fill(~continuation[1], IGNORED)], dim=1
    )
    return Batch(ids, mask, positions_of(mask), labels)


def positions_of(mask: Tensor) -> Tensor:
    """[n, L] positions that count kept tokens only; 0 where there is none yet."""
    return (mask.long().cumsum(dim=1) - 1).clamp_min(0)


def pack(ids: Tensor, mask: Tensor, pad: int, side: str = "left") -> tuple[Tensor, Tensor]:
    """Moves each row's kept tokens together to one side and cuts what no row needs: (ids, mask) [n, longest]."""
    lengths = mask.sum(dim=1)
    width = int(lengths.max()) if len(lengths) else 0
    kept = _within(lengths, width)
    if side == "right":
        kept = kept.flip(1)
    packed = ids.new_full(kept.shape, pad)
    packed[kept] = ids[mask]  # both row by row, left to right
    return packed, kept


def _within(lengths: Tensor, width: int) -> Tensor:
    return torch.arange(width, device=lengths.device) < lengths[..., None]


def from_padded(
    prompt: np.ndarray,
    prompt_kept: np.ndarray,
    steps: np.ndarray,
    steps_kept: np.ndarray,
    answer: np.ndarray,
    pad: int = 0,
) -> Examples:
    """Examples from numpy arrays with gaps: prompt [n, P'], steps [n, S, T'] with bool masks of what is kept; answer [n, A]."""
    n, count, _ = steps.shape
    prompt, kept = pack(torch.as_tensor(prompt), torch.as_tensor(prompt_kept), pad)
    rows, rows_kept = pack(torch.as_tensor(steps).flatten(0, 1), torch.as_tensor(steps_kept).flatten(0, 1), pad)
    answer = torch.as_tensor(answer)
    return Examples(
        prompt,
        kept.sum(dim=1),
        rows.view(n, count, -1),
        rows_kept.sum(dim=1).view(n, count),
        answer,
        torch.full((n,), answer.shape[1]),
        pad,
    )


def encode(tokenizer: Any, items: Sequence[Any], *, mark: str = "### ", newline: str = "\n") -> Examples:
    """Text items (with `question`, `steps`, `answer`) as Coconut writes them: question, one step a line, "### " answer.

    Each piece is tokenised by itself; the answer ends with the tokenizer's end token. Empty steps (a quirk of the
    published GSM8K) are left out. pad: the tokenizer's pad token, or its end token where it has none.
    """

    kept = [[step for step in item.steps if step.strip()] for item in items]
    texts = [item.question + newline for item in items] + [mark + item.answer for item in items]
    texts += [step + newline for row in kept for step in row]
    # One call for all pieces: a fast tokenizer costs more by the call than by the text.
    pieces = iter(tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else [])
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    prompts = [next(pieces) for _ in items]
    answers = [[*next(pieces), tokenizer.eos_token_id] for _ in items]
    steps = [[next(pieces) for _ in row] for row in kept]
    count = max(map(len, steps), default=0)
    flat = [step for item in steps for step in [*item, *([[]] * (count - len(item)))]]
    prompt, answer, rows = (ragged(lists, pad) for lists in (prompts, answers, flat))
    return Examples(*prompt, rows[0].view(len(items), count, -1), rows[1].view(len(items), count), *answer, pad)


def ragged(lists: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """(ids [n, longest] left-aligned, lengths [n]) of token lists."""
    lengths = torch.tensor([len(row) for row in lists], dtype=torch.long)
    width = int(lengths.max()) if len(lists) else 0
    ids = torch.tensor([[*row, *([pad] * (width - len(row)))] for row in lists], dtype=torch.long)
    return ids.view(len(lists), width), lengths


def left_padded(lists: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """(ids, mask) [n, longest] right-aligned: token lists as prompts for generation."""
    ids, lengths = ragged(lists, pad)
    return pack(ids, _within(lengths, ids.shape[1]), pad, side="right")


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over labelled positions: logits [n, L, V] at i predict labels [n, L] at i + 1."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED)
