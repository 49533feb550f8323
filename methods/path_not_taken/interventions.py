"""Changes of basis that leave a transformer's function alone (The Path Not Taken, section 2.3: rotate and permute).

Matrices as in torch.nn.Linear, [out, in], heads one after the other: value [Hkv d, model], output [model, Hq d], with
d the head's size and Hq a multiple of Hkv (grouped queries). Only what lies between two matrices moves, so a tuning
meets the same function with its large and small entries elsewhere.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Attention(NamedTuple):
    """One layer's projections; biases [out] or None. The output's bias takes no part."""

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    query_bias: Tensor | None = None
    key_bias: Tensor | None = None
    value_bias: Tensor | None = None


def haar(size: int, generator: torch.Generator) -> Tensor:
    """A random rotation or reflection [d, d] from the uniform (Haar) distribution, float64."""
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()  # without the signs QR's convention would bias it


def hadamard(size: int, generator: torch.Generator) -> Tensor:
    """A Hadamard rotation [d, d] with random column signs, float64: every entry +-1/sqrt(d). d is a power of two."""
    if size & (size - 1):
        raise ValueError(f"a Hadamard rotation needs a power of two, not {size}: use haar")
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], dim=1), torch.cat([matrix, -matrix], dim=1)])
    signs = torch.randint(0, 2, (size,), generator=generator, dtype=torch.float64) * 2 - 1
    return matrix * signs / size**0.5


def rotate(attention: Attention, rotation: Tensor) -> Attention:
    """Turns every head's values by an orthogonal R [d, d] and turns them back in the output.

    Value rows of a head: R^T V; output columns of a head: O R, so that O R R^T V x = O V x: attention weights mix
    positions, not a head's coordinates.
    """
    size = len(rotation)
    value, output = attention.value.to(rotation), attention.output.to(rotation)
    turned = (rotation.T @ value.view(-1, size, value.shape[1])).reshape(value.shape)
    back = (output.view(output.shape[0], -1, size) @ rotation).reshape(output.shape)
    bias = attention.value_bias
    bias = None if bias is None else (bias.to(rotation).view(-1, size) @ rotation).reshape(-1)
    return attention._replace(value=turned, output=back, value_bias=bias)


def permute(attention: Attention, order: Tensor, size: int) -> Attention:
    """Puts key and value head order[j] in place j, [Hkv], with its group of queries and their output columns.

    `size` is d. Exact in any precision: entries only change places.
    """
    group = attention.query.shape[0] // attention.key.shape[0]
    within = torch.arange(size)
    few = (order[:, None] * size + within).reshape(-1)
    queries = (order[:, None] * group + torch.arange(group)).reshape(-1)
    many = (queries[:, None] * size + within).reshape(-1)
    return Attention(
        query=attention.query[many],
        key=attention.key[few],
        value=attention.value[few],
        output=attention.output[:, many],
        query_bias=None if attention.query_bias is None else attention.query_bias[many],
        key_bias=None if attention.key_bias is None else attention.key_bias[few],
        value_bias=None if attention.value_bias is None else attention.value_bias[few],
    )
