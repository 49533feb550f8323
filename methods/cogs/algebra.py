"""Weights as elements of a ring, and the loss as a function of ring homomorphisms (CoGS, arXiv 2410.01779).

The network Yhat = (X W)^2 V on Z_d is written in the frequency domain. An element z [..., 3, d, q] holds, for each of
q hidden nodes j and each frequency k (w = 2 pi / d), with s = (2d)^(1/3) so that no potential carries a factor 2d:

    a_kj = z[0, k, j] = s/d sum_m W[m, j] e^(-i k m w)          first operand
    b_kj = z[1, k, j] = s/d sum_m W[d + m, j] e^(-i k m w)      second operand
    c_kj = z[2, k, j] = s/d sum_m V[j, m] e^(+i k m w)          output

Real weights are those with z[.., -k, ..] = conj z[.., k, ..]. Nodes can be appended (sum) and combined (product); both
leave an element of the same kind, and every sum potential r respects both. Leading axes are networks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def coefficients(W: Tensor, V: Tensor) -> Tensor:
    """Element z [..., 3, d, q] of real weights W [..., 2d, q] and V [..., q, d], in the units of the module's head.

    Raises ValueError where the shapes do not belong to one network.
    """
    d = V.shape[-1]
    if W.shape[-2] != 2 * d or W.shape[-1] != V.shape[-2] or W.shape[:-2] != V.shape[:-2]:
        raise ValueError(
            f"coefficients: W [..., 2d, q] and V [..., q, d] expected, got {list(W.shape)} {list(V.shape)}"
        )
    inputs = torch.fft.fft(W.unflatten(-2, (2, d)), dim=-2) / d
    outputs = torch.fft.ifft(V.transpose(-1, -2), dim=-2)
    return (2 * d) ** (1 / 3) * torch.cat([inputs, outputs.unsqueeze(-3)], dim=-3)


def weights(z: Tensor) -> tuple[Tensor, Tensor]:
    """Real W [..., 2d, q] and V [..., q, d] of an element z [..., 3, d, q]; inverse of `coefficients`.

    Raises ValueError if z is not the element of real weights (z at -k must be the conjugate of z at k).
    """
    d = z.shape[-2]
    W = torch.fft.ifft(z[..., :2, :, :], dim=-2).flatten(-3, -2) * d / (2 * d) ** (1 / 3)
    V = torch.fft.fft(z[..., 2, :, :], dim=-2).transpose(-1, -2) / (2 * d) ** (1 / 3)
    for name, value in (("W", W), ("V", V)):
        if value.numel() and value.imag.abs().max() > 1e3 * torch.finfo(z.dtype).eps * value.abs().max():
            raise ValueError(f"weights: {name} is not real; z at frequency -k must be the conjugate of z at k")
    return W.real.contiguous(), V.real.contiguous()


def remove_mean(W: Tensor) -> Tensor:
    """W [..., 2d, q] with zero mean over each operand's d elements, so that no node has a component at k = 0.

    The paper assumes this of its weights; its training code does not enforce it. It changes the network.
    """
    halves = W.unflatten(-2, (2, W.shape[-2] // 2))
    return (halves - halves.mean(dim=-2, keepdim=True)).flatten(-3, -2)


# --- The ring ----------------------------------------------------------------------------------------------------


def add(z1: Tensor, z2: Tensor) -> Tensor:
    """z1 + z2 [..., q1 + q2]: the nodes of both, side by side. Zero is the element without nodes."""
    return torch.cat([z1.expand(*_leading(z1, z2), -1), z2.expand(*_leading(z1, z2), -1)], dim=-1)


def multiply(z1: Tensor, z2: Tensor) -> Tensor:
    """z1 * z2 [..., q1 q2]: the column-wise Khatri-Rao product, node (j1, j2) = entrywise product of nodes j1 and j2.

    One is the single node with all entries 1. Commutative up to the order of the nodes, which no network function sees.
    """
    return (z1.unsqueeze(-1) * z2.unsqueeze(-2)).flatten(-2)


def _leading(z1: Tensor, z2: Tensor) -> torch.Size:
    return torch.broadcast_shapes(z1.shape[:-1], z2.shape[:-1])


# --- Sum potentials: ring homomorphisms to the complex numbers ---------------------------------------------------


def cross_potentials(z: Tensor) -> Tensor:
    """r_{k1 k2 k} = sum_j a_{k1 j} b_{k2 j} c_{k j}, [..., 3, d, q] -> [..., d, d, d] indexed (k1, k2, k)."""
    a, b, c = z.unbind(dim=-3)
    return _summed(a, b, c)


def square_potentials(z: Tensor) -> Tensor:
    """r_{p k1 k2 k} = sum_j z_{p k1 j} z_{p k2 j} c_{k j}, p = a, b: [..., 3, d, q] -> [..., 2, d, d, d]."""
    a, b, c = z.unbind(dim=-3)
    return torch.stack([_summed(a, a, c), _summed(b, b, c)], dim=-4)


def _summed(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    # one k1 at a time: all d^2 products of nodes at once would need d^2 q numbers, more than the result's d^3
    return torch.stack([(row.unsqueeze(-2) * y) @ c.transpose(-1, -2) for row in x.unbind(dim=-2)], dim=-3)


def convolved_potentials(z: Tensor) -> Tensor:
    """sum_k' r_{p, k', m - k', k} [..., 2, d, d] indexed (p, m, k), the form in which square potentials enter the loss.

    A sum over k' of products at k' and m - k' is a convolution, so this costs d^2 q instead of d^3 q.
    """
    d = z.shape[-2]
    squares = d * torch.fft.fft(torch.fft.ifft(z[..., :2, :, :], dim=-2).square(), dim=-2)
    return squares @ z[..., None, 2, :, :].transpose(-1, -2)


class Loss(NamedTuple):
    """The zero-mean squared loss on the full table, by output frequency and by the condition that would make it zero.

    Each [..., d - 1] for k = 1 .. d - 1; all of them added up are the loss.
    """

    goal: Tensor  # R_g: |1 - r_kkk|^2
    cross: Tensor  # R_c: all other r_{k1 k2 k}
    norm: Tensor  # R_n: sum_p sum_k' r_{p, k', -k', k}, constant in both operands
    star: Tensor  # R_*: sum_k' r_{p, k', m - k', k} with m != 0, a function of one operand alone

    @property
    def total(self) -> Tensor:
        """[...]"""
        return sum(part.sum(dim=-1) for part in self)


def loss(z: Tensor) -> Loss:
    """The loss identity, for z [..., 3, d, q] of real weights: exactly the mean over the d^2 pairs of
    |P (yhat - y)|^2, P removing the mean over classes. Where W has zero mean it reads, as in the paper,

        L = 1/d sum_{k != 0} [ 1 - 2 r_kkk + sum_{k1 k2} |r_{k1 k2 k}|^2
            + 1/4 |sum_p sum_k' r_{p, k', -k', k}|^2 + 1/4 sum_{m != 0} sum_p |sum_k' r_{p, k', m - k', k}|^2 ].

    Otherwise the constant of one operand times the other is a function of one operand alone, so 2 r_{m 0 k},
    2 r_{0 m k} and 2 r_{0 0 k} belong inside the squares of the last two terms. They are included: the paper's form is
    off for networks as its code trains them, this one is not. `remove_mean` brings W to the paper's form.
    """
    d = z.shape[-2]
    r = cross_potentials(z)
    single = convolved_potentials(z)
    by_a = single[..., 0, :, :] + 2 * r[..., :, 0, :]
    by_b = single[..., 1, :, :] + 2 * r[..., 0, :, :]
    constant = single.sum(dim=-3)[..., 0, :] + 2 * r[..., 0, 0, :]
    k = torch.arange(1, d)
    goal = r[..., k, k, k]
    both = _square(r[..., 1:, 1:, 1:]).sum(dim=(-3, -2))
    return Loss(
        goal=_square(1 - goal) / d,
        cross=(both - _square(goal)) / d,
        norm=_square(constant[..., 1:]) / (4 * d),
        star=(_square(by_a[..., 1:, 1:]) + _square(by_b[..., 1:, 1:])).sum(dim=-2) / (4 * d),
    )


def _square(values: Tensor) -> Tensor:
    return values.real.square() + values.imag.square()
