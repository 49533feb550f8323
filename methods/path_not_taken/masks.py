"""Which entries of a matrix moved, against which were large, small or moved in other runs (The Path Not Taken, sec. 2).

Masks are boolean [rows, columns]. Fractions are met up to ties: every entry as large (small) as the last one chosen is
chosen too, so that a mask follows its weights when these are permuted. Take a random mask's expectation from
`density`, not from alpha: on the bf16 grid ties are common.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def largest(values: Tensor, share: float) -> Tensor:
    """Mask [...] of the top `share` of |values|, ties included."""
    size = values.abs()
    return size >= order_statistic(size, size.numel() - _count(share, size.numel()) + 1)


def smallest(values: Tensor, share: float) -> Tensor:
    """Mask [...] of the bottom `share` of |values|, ties included. Of W0 this is M_low."""
    size = values.abs()
    return size <= order_statistic(size, _count(share, size.numel()))


def principal(reconstruction: Tensor, alpha: float) -> Tensor:
    """M_princ: the top alpha of |W0^(k)|, the rank-k approximation of W0 (as LIFT, arXiv 2506.00772)."""
    return largest(reconstruction, alpha)


def moved_most(delta: Tensor, share: float) -> Tensor:
    """The top `share` of |Delta| [...], without entries that did not move at all: no threshold on visibility."""
    size = delta.abs()
    moved = size[size > 0]
    wanted = _count(share, delta.numel())
    if wanted >= moved.numel():
        return size > 0
    return size >= order_statistic(moved, moved.numel() - wanted + 1)


def density(mask: Tensor) -> float:
    """Share of entries in a mask; what any random mask is expected to overlap with it."""
    return mask.count_nonzero().item() / mask.numel()


def overlap(reference: Tensor, mask: Tensor) -> float:
    """|M_ref and M| / |M|: the share of the update mask that lies in a reference mask; nan if nothing moved."""
    return ratio((reference & mask).count_nonzero().item(), mask.count_nonzero().item())


def jaccard(a: Tensor, b: Tensor) -> float:
    """|A and B| / |A or B|; nan if both are empty."""
    return ratio((a & b).count_nonzero().item(), (a | b).count_nonzero().item())


def independent_jaccard(p: float, q: float) -> float:
    """Jaccard of independent Bernoulli masks of densities p and q: pq / (p + q - pq)."""
    return ratio(p * q, p + q - p * q)


def consensus(masks: Sequence[Tensor] | Tensor) -> Tensor:
    """C_ij, the share of runs in which an entry moved: masks [runs, rows, columns] -> float32 [rows, columns]."""
    return sum(mask.float() for mask in masks) / len(masks)


def row_share(mask: Tensor) -> Tensor:
    """rho_i = mean_j M_ij [rows], the paper's row ratio."""
    return mask.float().mean(dim=1)


def column_share(mask: Tensor) -> Tensor:
    """kappa_j = mean_i M_ij [columns], the paper's column ratio."""
    return mask.float().mean(dim=0)


def stripes(share: Tensor) -> float:
    """Share of a mask's variance that lies between its rows (or columns): Var_i(rho_i) / (d (1 - d)), in [0, 1].

    From the share moved of every row (or column); d is their mean, the density. 1 for pure stripes; nan where all or
    none moved.
    """
    share = share.cpu().double()  # not every device has double precision
    d = share.mean()
    return ratio(share.var(correction=0).item(), (d * (1 - d)).item())


def random_stripes(lines: int, length: int) -> float:
    """Expected `stripes` of a random mask with `lines` rows of `length` entries and any fixed number of ones.

    A row's count is hypergeometric, which gives (lines - 1) / (lines length - 1) exactly.
    """
    return ratio(lines - 1, lines * length - 1)


def order_statistic(values: Tensor, k: int) -> Tensor:
    """The k-th smallest (from 1) of finite values [...], as a scalar tensor; bfloat16 must not be negative."""
    if values.dtype == torch.bfloat16:  # few values, in the order of their codes: count them
        at_most = torch.bincount(values.flatten().view(torch.int16), minlength=2**15).cumsum(0)
        return (at_most < k).sum().to(torch.int16).view(torch.bfloat16)
    if values.device.type == "cpu":  # several times as fast as torch's selection
        return torch.from_numpy(np.partition(values.numpy(), k - 1, axis=None)[k - 1 : k])[0]
    return values.flatten().kthvalue(k).values


def _count(share: float, entries: int) -> int:
    if not 0 < share <= 1:
        raise ValueError(f"a share of entries is above 0 and at most 1, not {share}")
    return max(1, round(share * entries))


def ratio(part: float, whole: float) -> float:
    """A share, nan where there is nothing to share."""
    return part / whole if whole else math.nan
