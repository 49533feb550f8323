"""Which tokens of a completion are hidden when its likelihood is estimated; every draw comes from the given generator.

Notation: B completions of L_j real tokens (up to and including the first end token) among n positions, m masked copies of
each, NB = n / block blocks. All functions are vectorised over B × m.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Masks(NamedTuple):
    """hidden [B, m, n]: positions that hold the mask token; scored [B, m, n]: the real tokens among them, S_τ;
    prompt [B, m, P]: hidden prompt tokens."""

    hidden: Tensor
    scored: Tensor
    prompt: Tensor


def block_masks(
    lengths: Tensor,
    n: int,
    prompt: int,
    *,
    block: int,
    m: int,
    generator: torch.Generator,
    p_mask: float = 0.15,
    min_t: float = 0.0,
    max_t: float = 1.0,
    published_choice: bool = False,
) -> Masks:
    """Block-wise masking (SPG, section 3.3), as a semi-autoregressive sampler sees completions.

    Of the chosen block k ~ Uniform{max(⌊ℓ·min_t⌋, 1) … min(⌊ℓ·max_t⌋, ℓ)} of its ℓ real tokens are hidden, all later
    blocks and all behind the end, and each earlier and each prompt token with probability p_mask.
    """
    b = (published_blocks if published_choice else blocks)(lengths, n // block, block, m, generator)
    position = torch.arange(n)
    real = position < lengths[:, None, None]
    start = (b * block)[..., None]
    inside = (position >= start) & (position < start + block) & real
    size = inside.sum(dim=2)
    least = (size * min_t).floor().clamp_min(1)
    most = torch.minimum((size * max_t).floor(), size).clamp_min(1)
    k = least + (torch.rand(size.shape, generator=generator) * (most - least + 1)).floor()
    hidden = first_of(inside, k, generator) | (position >= start + block) | ~real
    noise = torch.rand(*size.shape, n + prompt, generator=generator) < p_mask
    hidden = hidden | (noise[..., :n] & (position < start))
    return Masks(hidden, hidden & real, noise[..., n:])


def random_masks(
    lengths: Tensor,
    n: int,
    prompt: int,
    *,
    m: int,
    generator: torch.Generator,
    p_mask: float = 0.15,
    share: Tensor | None = None,
) -> Masks:
    """k random tokens of the L real ones: k ~ Uniform{1 … L}, or ⌈share · L⌉ with share [B, m] in (0, 1]."""
    real = (torch.arange(n) < lengths[:, None, None]).expand(-1, m, -1)
    size = lengths[:, None].expand(-1, m)
    if share is None:
        share = 1 - torch.rand(size.shape, generator=generator)  # in (0, 1]
    k = (share * size).ceil().clamp_min(1)
    hidden = first_of(real, k, generator)
    noise = torch.rand(*size.shape, prompt, generator=generator) < p_mask
    return Masks(hidden | ~real, hidden, noise)


def one_step_masks(
    lengths: Tensor, n: int, prompt: int, *, m: int, generator: torch.Generator, p_mask: float = 0.15
) -> Masks:
    """d1's estimate: the whole completion is hidden, and each prompt token with probability p_mask."""
    real = (torch.arange(n) < lengths[:, None, None]).expand(-1, m, -1)
    noise = torch.rand(len(lengths), m, prompt, generator=generator) < p_mask
    return Masks(torch.ones_like(real), real, noise)


def blocks(lengths: Tensor, count: int, block: int, m: int, generator: torch.Generator) -> Tensor:
    """[B, m] blocks with real tokens, uniform, none twice before each has been taken."""
    filled = (lengths + block - 1) // block
    order = torch.rand(len(lengths), count, generator=generator)
    order = order.masked_fill(torch.arange(count) >= filled[:, None], 2.0).argsort(dim=1)
    return order.gather(1, torch.arange(m) % filled[:, None])


def published_blocks(lengths: Tensor, count: int, block: int, m: int, generator: torch.Generator) -> Tensor:
    """[B, m] as in the public code: a permutation of all blocks modulo the filled ones. Neither uniform nor without
    repeats where the filled ones do not divide the count."""
    filled = (lengths + block - 1) // block
    order = torch.rand(len(lengths), count, generator=generator).argsort(dim=1)
    return (order % filled[:, None])[:, torch.arange(m) % count]


def first_of(candidates: Tensor, k: Tensor, generator: torch.Generator) -> Tensor:
    """k [...] random ones of the candidates [..., n]."""
    order = torch.rand(candidates.shape, generator=generator).masked_fill_(~candidates, 2.0).argsort(dim=-1)
    first = torch.arange(candidates.shape[-1]).expand(order.shape) < k[..., None]
    return candidates & torch.zeros_like(candidates).scatter_(-1, order, first)


def apply(x: Tensor, hidden: Tensor, mask_token: int) -> Tensor:
    """[B, m, n] copies of x [B, n] with the hidden tokens masked."""
    return x[:, None].expand(hidden.shape).masked_fill(hidden, mask_token)
