"""A transformer whose weights are given, not trained: multi-query attention, step activations, length-1 states.

Plain functions of the weights, so that a construction on paper can be written down and run. One block is

    h = x + Σ_heads softmax(q k) v W_O        y = step(h W_1 − θ) W_2        output = y / |y|

as in the construction of Reasoning by Superposition (arXiv 2505.12514, appendix B): the feed-forward part has no skip, its
activation is the step function, and the normalisation is that of length. Heads share keys and values.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Block(NamedTuple):
    """Weights of one block of width d, with H heads of k dimensions, values of v and m hidden units.

    query [H, d, k], query_bias [H, k], key [d, k], value [d, v], output [H, v, d]; up [d, m], threshold θ, down [m, d].
    Attention scores are not divided by √k: the scale is part of the weights.
    """

    query: Tensor
    query_bias: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    up: Tensor
    threshold: float
    down: Tensor


class Cache(NamedTuple):
    """Keys and values [n, L, ·] of every block, and which of the L columns are no padding [n, L]."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor


def forward(
    blocks: tuple[Block, ...], states: Tensor, mask: Tensor, cache: Cache | None = None
) -> tuple[Tensor, Cache]:
    """Passes new columns `states` [n, T, d] (mask [n, T]) behind those in the cache: (output of the last column [n, d],
    cache with the new columns). Attention is causal."""
    whole = mask if cache is None else torch.cat([cache.mask, mask], dim=1)
    keys, values = [], []
    for number, block in enumerate(blocks):
        key, value = states @ block.key, states @ block.value
        if cache is not None:
            key, value = torch.cat([cache.keys[number], key], 1), torch.cat([cache.values[number], value], 1)
        keys.append(key)
        values.append(value)
        asking = states[:, -1:] if number == len(blocks) - 1 else states  # nobody reads other columns of the last block
        states = feed_forward(block, asking + attend(block, asking, key, value, whole))
    return states[:, -1], Cache(tuple(keys), tuple(values), whole)


def attend(block: Block, states: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """What attention adds to the last columns `states` [n, T, d] of all L columns (key, value [n, L, ·], mask [n, L])."""
    allowed = mask[:, None] & torch.ones(states.shape[1], key.shape[1], dtype=torch.bool).tril(
        key.shape[1] - states.shape[1]
    )
    total = torch.zeros_like(states)
    for query, bias, output in zip(block.query, block.query_bias, block.output, strict=True):
        scores = torch.matmul(states @ query + bias, key.transpose(1, 2)).masked_fill_(~allowed, -torch.inf)
        shares = torch.nan_to_num_(scores.softmax(dim=2))  # padding attends to nothing
        total += (shares @ value) @ output
    return total


def feed_forward(block: Block, states: Tensor) -> Tensor:
    """step(h W_1 − θ) W_2, then length 1 (zero stays zero)."""
    out = (states @ block.up >= block.threshold).to(states.dtype) @ block.down
    return out / out.norm(dim=-1, keepdim=True).clamp_min(1e-300)
