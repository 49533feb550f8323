"""The two-layer network of the paper, Yhat = sigma(X W) V, for R networks at once.

Provable Scaling Laws of Feature Emergence (arXiv 2509.21519), section 2. X holds two one-hot elements a row, so X W is
a sum of two rows of W and is looked up, never multiplied. Everything carries a leading axis R (seeds, training sizes,
learning rates trained together); network r sees only its own slice, so a sweep equals its single runs up to rounding.
Shapes: M group order, K hidden nodes, n examples; W [R, 2M, K], V [R, K, M].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

BLOCK = 2**19  # floats of hidden activity at a time: 2 MB, so that blocks stay in cache and their memory is reused


class Examples(NamedTuple):
    """Examples of R networks, each [R, n]. `weight` is 1/n_r on the n_r examples of network r, 0 on padding."""

    left: Tensor
    right: Tensor
    target: Tensor
    weight: Tensor


def examples(pairs: Tensor, rows: Sequence[Tensor], dtype: torch.dtype = torch.float32) -> Examples:
    """Pick `rows[r]` (int64 [n_r], n_r may differ) of the table `pairs` [P, 3] = (h1, h2, target) for network r."""
    size = max(len(chosen) for chosen in rows)
    if min(len(chosen) for chosen in rows) == 0:
        raise ValueError("examples: every network needs at least one row")
    picked = torch.zeros(len(rows), size, 3, dtype=torch.int64)
    weight = torch.zeros(len(rows), size, dtype=dtype)
    for r, chosen in enumerate(rows):
        picked[r, : len(chosen)] = pairs[chosen]
        weight[r, : len(chosen)] = 1 / len(chosen)
    return Examples(*picked.unbind(dim=-1), weight)


def initialise(
    order: int,
    hidden: int,
    generators: Sequence[torch.Generator],
    output_scale: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """{"W" [R, 2M, K], "V" [R, K, M]} as PyTorch initialises two bias-free linear layers: W ~ U(+-1/sqrt(2M)),
    V ~ U(+-1/sqrt(K)) times `output_scale` (0 is the paper's zero-init). One generator a network."""

    def layer(generator: torch.Generator, inputs: int, outputs: int) -> Tensor:
        bound = 1 / math.sqrt(inputs)
        return torch.empty(outputs, inputs, dtype=dtype).uniform_(-bound, bound, generator=generator).T

    drawn = [(layer(g, 2 * order, hidden), layer(g, hidden, order)) for g in generators]
    return {
        "W": torch.stack([w for w, _ in drawn]).contiguous(),
        "V": torch.stack([v for _, v in drawn]).contiguous() * output_scale,
    }


def _silu_slope(h: Tensor) -> Tensor:
    gate = torch.sigmoid(h)
    return gate * (1 + h * (1 - gate))


# name -> (sigma, sigma')
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "square": (lambda h: h * h, lambda h: 2 * h),
    "relu": (torch.relu, lambda h: (h > 0).to(h.dtype)),
    "relu_square": (lambda h: torch.relu(h).square(), lambda h: 2 * torch.relu(h)),
    "silu": (torch.nn.functional.silu, _silu_slope),
}


def preactivations(W: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """X W [R, n, K]: row `left` of the first half of W plus row `right` of the second half."""
    networks, inputs, hidden = W.shape
    first = inputs * torch.arange(networks, device=W.device)[:, None]
    index = torch.stack([left + first, right + first + inputs // 2], dim=-1)
    summed = embedding_bag(index.reshape(-1, 2), W.reshape(networks * inputs, hidden), mode="sum")
    return summed.view(*left.shape, hidden)


def features(W: Tensor, left: Tensor, right: Tensor, activation: str = "square") -> Tensor:
    """F = sigma(X W) [R, n, K]."""
    return ACTIVATIONS[activation][0](preactivations(W, left, right))


def _blocks(networks: int, examples: int, hidden: int) -> Iterator[tuple[slice, slice]]:
    """Cover [networks, examples] with blocks of at most BLOCK hidden activities (one example at least)."""
    rows = max(1, min(examples, BLOCK // hidden))
    several = max(1, BLOCK // (rows * hidden))
    for r in range(0, networks, several):
        for i in range(0, examples, rows):
            yield slice(r, r + several), slice(i, i + rows)


def forward(W: Tensor, V: Tensor, left: Tensor, right: Tensor, activation: str = "square") -> Tensor:
    """Yhat = sigma(X W) V [R, n, M]."""
    outputs = V.new_empty(*left.shape, V.shape[2])
    for r, i in _blocks(*left.shape, V.shape[1]):
        torch.bmm(features(W[r], left[r, i], right[r, i], activation), V[r], out=outputs[r, i])
    return outputs


def backward(
    W: Tensor, V: Tensor, left: Tensor, right: Tensor, error: Tensor, activation: str = "square"
) -> dict[str, Tensor]:
    """Gradients {"W" [R, 2M, K], "V" [R, K, M]} from the gradient `error` [R, n, M] with respect to Yhat.

    Hidden activities are computed a second time: cheaper than keeping n*K numbers, which no cache holds.
    """
    networks, inputs, hidden = W.shape
    sigma, slope = ACTIVATIONS[activation]
    dW = torch.zeros_like(W)
    dV = V.new_zeros(networks, V.shape[2], hidden)
    for r, i in _blocks(*left.shape, hidden):
        h = preactivations(W[r], left[r, i], right[r, i])
        back = error[r, i]
        dV[r].baddbmm_(back.transpose(1, 2), sigma(h))
        flow = torch.bmm(back, V[r].transpose(1, 2)).mul_(slope(h)).view(-1, hidden)
        first = inputs * torch.arange(len(h), device=W.device)[:, None]
        into = dW[r].view(-1, hidden)
        into.index_add_(0, (left[r, i] + first).flatten(), flow)
        into.index_add_(0, (right[r, i] + first + inputs // 2).flatten(), flow)
    return {"W": dW, "V": dV.transpose(1, 2).contiguous()}


def step_flops(examples: int, hidden: int, order: int) -> int:
    """FLOPs of the matrix products of one forward and one backward pass of one network: three products of n·K·M."""
    return 6 * examples * hidden * order


def squared_error(outputs: Tensor, target: Tensor, weight: Tensor, centre: str = "classes") -> tuple[Tensor, Tensor]:
    """Zero-mean squared loss: (value [R], gradient with respect to the outputs [R, n, M]).

    centre="classes", the public code: mean over examples of |P (yhat - y)|^2, P removing the mean over the M classes;
    1 - 1/M at zero output. centre="samples", the paper's eq. 1: J = 1/2 |P1 (Y - Yhat)|_F^2, P1 removing the mean
    over the n examples. Exactly n/2 * (classes) - J = n/2 |mean over examples|^2 - M/2 |mean over classes|^2 of
    E = Y - Yhat, so they agree up to the factor n/2 where E has zero mean both ways; weight decay of the code's loss
    acts as a ridge of n * wd / 2 in the paper's formulas.
    """
    real = weight[..., None]
    error = outputs.clone()
    error.scatter_add_(2, target[..., None], error.new_full((1, 1, 1), -1).expand(*target.shape, 1))
    if centre == "classes":
        error -= error.mean(dim=2, keepdim=True)
        value = (error.square() * real).sum(dim=(1, 2))
        return value, error.mul_(2 * real)
    if centre == "samples":
        error = (error - (error * real).sum(dim=1, keepdim=True)) * (real > 0)
        return error.square().sum(dim=(1, 2)) / 2, error
    raise ValueError(f"squared_error: centre must be 'classes' or 'samples', got {centre!r}")


def accuracy(outputs: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """[R] share of examples whose largest output is the target."""
    return ((outputs.argmax(dim=2) == target) * weight).sum(dim=1)
