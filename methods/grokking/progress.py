"""Nanda's progress measures of addition modulo M, for any network's outputs over the whole table (arXiv 2301.05217).

`logits` [M, M, C]: outputs for all pairs (x, y). A network that adds modulo M by trigonometry has outputs made of
cos k(x + y) and sin k(x + y) for a few key frequencies k; these functions are orthogonal over the table.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sum_waves(order: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """[M // 2, 2, M, M]: unit functions cos k(x + y) and sin k(x + y) of pairs, k = 1 .. M // 2 (M odd)."""
    if order % 2 == 0:
        raise ValueError(f"sum_waves: the order must be odd, got {order}")
    total = (torch.arange(order)[:, None] + torch.arange(order)).to(dtype)
    angle = 2 * math.pi / order * torch.arange(1, order // 2 + 1, dtype=dtype)[:, None, None] * total
    return torch.stack([angle.cos(), angle.sin()], dim=1) * math.sqrt(2) / order


def part(logits: Tensor, frequencies: list[int]) -> Tensor:
    """[M, M, C]: the part of the outputs that is waves in x + y of these frequencies."""
    waves = sum_waves(logits.shape[0], logits.dtype)[[k - 1 for k in frequencies]]
    return torch.einsum("ksxy,ksc->xyc", waves, torch.einsum("ksxy,xyc->ksc", waves, logits))


def power(logits: Tensor) -> Tensor:
    """[M // 2] squared length of each frequency's part."""
    waves = sum_waves(logits.shape[0], logits.dtype)
    return torch.einsum("ksxy,xyc->ksc", waves, logits).square().sum(dim=(1, 2))


def visible(logits: Tensor) -> Tensor:
    """Outputs as the loss sees them: neither softmax nor the centred squared loss sees their mean over classes."""
    return logits - logits.mean(dim=-1, keepdim=True)


def wave_share(logits: Tensor, keys: list[int]) -> Tensor:
    """Share of the outputs' power over the table, each class less its mean over pairs, in waves of the key frequencies."""
    logits = visible(logits)
    return power(logits)[[k - 1 for k in keys]].sum() / (logits - logits.mean(dim=(0, 1))).square().sum()


def key_frequencies(logits: Tensor, share: float = 0.1) -> list[int]:
    """Frequencies whose part, of what the loss sees, has at least `share` of the strongest one's power.

    The paper takes those that best explain the variance of some neuron; on outputs the measure needs no neurons.
    """
    found = power(visible(logits))
    return (1 + (found >= share * found.max()).nonzero()[:, 0]).tolist()


def restricted(logits: Tensor, keys: list[int]) -> Tensor:
    """Outputs of the key frequencies' parts alone, with the mean over all pairs put back (the "trig" logits)."""
    return part(logits, keys) + logits.mean(dim=(0, 1))


def excluded(logits: Tensor, keys: list[int]) -> Tensor:
    """Outputs without the key frequencies' parts: what memorising alone gives."""
    return logits - part(logits, keys)


def gini(values: Tensor) -> Tensor:
    """Gini coefficient of non-negative values [..., a] -> [...]: 0 all equal, 1 - 1/a all in one."""
    count = values.shape[-1]
    rank = 2 * torch.arange(1, count + 1, dtype=values.dtype) - count - 1
    ordered = values.sort(dim=-1).values
    return (rank * ordered).sum(dim=-1) / (count * ordered.sum(dim=-1))


def embedding_spectrum(embedding: Tensor) -> Tensor:
    """[M // 2 + 1] norm of an embedding [M, d] at each frequency (the norm over cosine, sine and d)."""
    return torch.fft.rfft(embedding, dim=0).abs().square().sum(dim=1).sqrt()
