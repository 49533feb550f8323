"""SPG's masks and bounds, vectorised over batch x m, against the loop over completions and masked copies.

    OMP_NUM_THREADS=1 python -m benchmarks.spg_bounds

The loop does per completion and copy what the public trainer's loop does: choose a block, hide its tokens, sum log-probabilities.
Both sides' estimates of the same masks are compared before any time is printed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from methods.spg import bounds, masking

BETA, P_MASK = 1.5, 0.15


def loop_masks(lengths: Tensor, n: int, prompt: int, block: int, m: int, generator: torch.Generator) -> masking.Masks:
    """Block-wise masks, one copy at a time."""
    hidden = torch.zeros(len(lengths), m, n, dtype=torch.bool)
    hidden_prompt = torch.zeros(len(lengths), m, prompt, dtype=torch.bool)
    for j, length in enumerate(lengths.tolist()):
        filled = -(-length // block)
        chosen = torch.randperm(filled, generator=generator).tolist()
        for tau in range(m):
            start = chosen[tau % filled] * block
            size = min(block, length - start)
            k = int(torch.randint(1, size + 1, (1,), generator=generator))
            noise = torch.rand(n + prompt, generator=generator) < P_MASK
            hidden[j, tau, :start] = noise[:start]
            hidden[j, tau, start + torch.randperm(size, generator=generator)[:k]] = True
            hidden[j, tau, min(start + block, length) :] = True
            hidden_prompt[j, tau] = noise[n:]
    real = torch.arange(n) < lengths[:, None, None]
    return masking.Masks(hidden, hidden & real, hidden_prompt)


def loop_mix(log_p: Tensor, scored: Tensor, lengths: Tensor) -> Tensor:
    """(EUBO + ELBO) / 2, one completion and copy at a time."""
    found = []
    for rows, marks, length in zip(log_p, scored, lengths.tolist(), strict=True):
        lower, raised = [], torch.zeros(rows.shape[1])
        for row, mark in zip(rows, marks, strict=True):
            lower.append(row[mark].mean())
            raised = raised + torch.where(mark, (BETA * row).exp() / (mark.sum() / length), torch.zeros(()))
        a = raised[marks.any(dim=0)] / len(rows)
        found.append((a.log().mean() / BETA + torch.stack(lower).mean()) / 2)
    return torch.stack(found)


def best_of(repeats: int, work: Callable[..., Any], *arguments: Any) -> float:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work(*arguments)
        times.append(time.process_time() - start)
    return min(times)


def both(kind: str, lengths: Tensor, n: int, prompt: int, block: int, m: int, log_p: Tensor) -> Tensor:
    """Masks, then the gradient of Mix."""
    generator = torch.Generator().manual_seed(0)
    if kind == "loop":
        masks = loop_masks(lengths, n, prompt, block, m, generator)
        value = loop_mix(log_p, masks.scored, lengths)
    else:
        masks = masking.block_masks(lengths, n, prompt, block=block, m=m, generator=generator, p_mask=P_MASK)
        value = bounds.mix(log_p, masks.scored, lengths, BETA, 0.5)
    return torch.autograd.grad(value.sum(), log_p)[0]


def main() -> None:
    torch.set_num_threads(1)
    for batch, m, n, prompt, block in (
        (48, 2, 16, 16, 4),
        (96, 4, 16, 16, 4),
        (6, 2, 256, 128, 32),
        (96, 2, 256, 128, 32),
    ):
        generator = torch.Generator().manual_seed(1)
        lengths = torch.randint(n // 2, n + 1, (batch,), generator=generator)
        log_p = -3 * torch.rand(batch, m, n, generator=generator) - 0.01
        scored = loop_masks(lengths, n, prompt, block, m, generator).scored
        assert torch.allclose(
            loop_mix(log_p, scored, lengths), bounds.mix(log_p, scored, lengths, BETA, 0.5), atol=1e-4
        )
        assert math.isfinite(float(log_p.sum()))
        log_p.requires_grad_()
        case = (lengths, n, prompt, block, m, log_p)
        slow, fast = best_of(3, both, "loop", *case), best_of(10, both, "vectorised", *case)
        print(
            f"batch {batch}, m={m}, n={n}: loop {1e3 * slow:.1f} ms, vectorised {1e3 * fast:.2f} ms, ratio {slow / fast:.0f}"
        )


if __name__ == "__main__":
    main()
