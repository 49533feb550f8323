"""The grid on which weights are stored, and which of them a tuning visibly moved (The Path Not Taken, section 2).

Weights count as stored in bfloat16: 7 mantissa bits, neighbours 2^-8 to 2^-7 of their size apart. A small model can be
put on a coarser grid with fewer `bits`, so that its larger updates stay as partly hidden as a large model's are.
"""

from __future__ import annotations

import torch
from torch import Tensor

BITS = 7  # of bfloat16's mantissa


def cast(weights: Tensor, bits: int = BITS) -> Tensor:
    """Weights [...] rounded to the nearest value with `bits` <= 7 mantissa bits, ties to even, as bfloat16 [...]."""
    if not 1 <= bits <= BITS:
        raise ValueError(f"bits must be 1 to {BITS}, not {bits}: a finer grid than bfloat16 cannot be stored in it")
    if bits == BITS:
        return weights.to(torch.bfloat16)
    drop = 23 - bits
    code = weights.float().contiguous().view(torch.int32)
    code = code + ((1 << (drop - 1)) - 1) + ((code >> drop) & 1)
    return (code >> drop << drop).view(torch.float32).to(torch.bfloat16)


def neighbour(weights: Tensor, up: Tensor, bits: int = BITS) -> Tensor:
    """The next value of the grid, above where `up` and below elsewhere: bfloat16 [...], bool [...] -> bfloat16 [...].

    Codes of equal sign are ordered by size, so the neighbour is one step of the code away; from zero it is +-1 step.
    """
    step = 1 << (BITS - bits)
    outward = (up == (weights > 0)).to(torch.int16)
    beside = weights.view(torch.int16) + step * (2 * outward - 1)
    from_zero = step - 2**15 * (~up).to(torch.int16)
    return torch.where(weights == 0, from_zero, beside).view(torch.bfloat16)


def changed(base: Tensor, tuned: Tensor, bits: int = BITS) -> Tensor:
    """The update mask M [...]: where the stored values differ (items 1 and 3 of the paper's metrics, after casting).

    By Prop. E.3 this is the paper's probe (`unchanged`) with any eta < 2^-8. +0 and -0 are equal.
    """
    return cast(base, bits) != cast(tuned, bits)


def unchanged(base: Tensor, tuned: Tensor, eta: float = 1e-3) -> Tensor:
    """The paper's probe (Def. 2.1): |w+ - w0| <= eta max(|w0|, |w+|), entry by entry in float64 [...].

    Equal to bit equality only for values already cast: on finer weights it errs both ways.
    """
    w0, w1 = base.double(), tuned.double()
    return (w1 - w0).abs() <= eta * torch.maximum(w0.abs(), w1.abs())


def sparsity(mask: Tensor) -> float:
    """Share of entries left unchanged (Def. 2.2), from an update mask of any shape."""
    return 1 - mask.count_nonzero().item() / mask.numel()
