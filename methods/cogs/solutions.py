"""Generators of the ring and closed-form solutions composed of them (CoGS, arXiv 2410.01779).

Generators live at one frequency: a node is a column (a, b, c) with |a| = |b| = |c| = 1 and abc = 1, an element is
[..., 3, q]. A sum potential of a product is the product of the sum potentials, so one factor that makes a potential
vanish is enough. What is left after each factor, of the potentials that enter the loss at one frequency (~ is the
conjugate):

    factor     R_g: abc   R_c: ~abc, a~bc    R_c: ~a~bc   R_*: aac, bbc        R_*: ~a~ac, ~b~bc    R_n: a~ac, b~bc
    z_nu       2          1+~nu^2            1+~nu^4      0                    1-~nu^4              1-~nu^2
    z_{nu=i}   2          0                  2            0                    0                    2
    z_xi       2          1+~xi^2, 1-xi^2    0            1+i xi^2, 1-i~xi^2   1+i~xi^2, 1-i xi^2   1+i
    z_syn      3          0                  0            3                    0                    0

u_xi and z_{syn, alpha beta} are taken from what the public code's classifier accepts; the losses below confirm them.
`memorisation` is ours, for contrast. Every solution is returned in the ring, z [..., 3, d, q] (see `algebra`);
`algebra.weights` makes it a network. The order d is odd: an even one has the frequency d/2, its own conjugate.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from methods.cogs.algebra import add, multiply

OMEGA = cmath.exp(2j * math.pi / 3)


def column(*entries: Tensor | complex) -> Tensor:
    """One node [..., 3, 1] from its entries a, b, c: tensors that broadcast, or numbers."""
    tensors = [torch.as_tensor(entry, dtype=torch.complex128) for entry in entries]
    return torch.stack(torch.broadcast_tensors(*tensors), dim=-1).unsqueeze(-1)


ONE = column(1, 1, 1)


def u_nu(nu: Tensor | complex) -> Tensor:
    """(nu, -nu, -conj(nu)^2), |nu| = 1 of shape [...] -> [..., 3, 1]."""
    nu = torch.as_tensor(nu, dtype=torch.complex128)
    return column(nu, -nu, -(nu.conj() ** 2))


def u_xi(xi: Tensor | complex) -> Tensor:
    """(xi, -i conj(xi), i), |xi| = 1 of shape [...] -> [..., 3, 1]."""
    xi = torch.as_tensor(xi, dtype=torch.complex128)
    return column(xi, -1j * xi.conj(), 1j)


def u_syn(alpha: Tensor | complex = 1, omega: complex = OMEGA) -> Tensor:
    """omega (alpha, conj(alpha), 1), omega a primitive third root of unity, |alpha| = 1 [...] -> [..., 3, 1]."""
    alpha = torch.as_tensor(alpha, dtype=torch.complex128)
    return omega * column(alpha, alpha.conj(), 1)


def u_phase(alpha: Tensor | complex, beta: Tensor | complex) -> Tensor:
    """(alpha, beta, conj(alpha beta)) [..., 3, 1]: a shift of both operands. It is a unit of the ring: times it, a
    solution is again one, since potentials only turn by phases and abc stays."""
    alpha, beta = (torch.as_tensor(value, dtype=torch.complex128) for value in (alpha, beta))
    return column(alpha, beta, (alpha * beta).conj())


def z_nu(nu: Tensor | complex) -> Tensor:
    """1 + u_nu [..., 3, 2]."""
    return add(ONE, u_nu(nu))


def z_xi(xi: Tensor | complex) -> Tensor:
    """1 + u_xi [..., 3, 2]."""
    return add(ONE, u_xi(xi))


def z_syn(alpha: Tensor | complex = 1, beta: Tensor | complex = 1) -> Tensor:
    """z_{syn, alpha beta} = 1 + omega (alpha, conj(alpha), 1) + conj(omega) (beta, conj(beta), 1) [..., 3, 3].

    z_syn itself for alpha = beta = 1.
    """
    return add(add(ONE, u_syn(alpha)), u_syn(beta, OMEGA.conjugate()))


# --- From generators at single frequencies to networks -----------------------------------------------------------


def frequencies(d: int) -> Tensor:
    """1 .. (d - 1) / 2: one of each conjugate pair. Raises ValueError for even d."""
    if d < 3 or d % 2 == 0:
        raise ValueError(f"the order d of Z_d must be odd and at least 3, got {d}")
    return torch.arange(1, (d + 1) // 2)


def place(z: Tensor, at: Tensor, d: int) -> Tensor:
    """The sum over f of element z[..., f, :, :] placed at frequency at[f]: [..., F, 3, q], [F] -> [..., 3, d, F q].

    The conjugate goes to -at[f], zero everywhere else, and r_{kkk} = 1 if all q nodes have abc = 1: the node scale is
    q^(-1/3), that is |a| = (2 d q)^(-1/3) in the units of the weights.
    """
    count, q = len(at), z.shape[-1]
    placed = z.new_zeros(*z.shape[:-3], count, 3, d, q)
    each = torch.arange(count)
    placed[..., each, :, at, :] = z.movedim(-3, 0) * q ** (-1 / 3)
    placed[..., each, :, d - at, :] = z.movedim(-3, 0).conj() * q ** (-1 / 3)
    return placed.movedim(-4, -2).flatten(-2)


def order_6(d: int, nu: Tensor, phase: Tensor = ONE) -> Tensor:
    """z_nu * z_syn at every frequency, 3(d - 1) nodes: loss 0 for all nu [..., (d - 1)/2].

    phase: `u_phase` for each frequency, [..., (d - 1)/2, 3, 1].
    """
    return place(multiply(multiply(z_nu(nu), z_syn()), phase), frequencies(d), d)


def order_6_alpha_beta(d: int, alpha: Tensor, beta: Tensor, phase: Tensor = ONE) -> Tensor:
    """z_{nu=i} * z_{syn, alpha beta} at every frequency, 3(d - 1) nodes: loss 0 for all phases [..., (d - 1)/2]."""
    return place(multiply(multiply(z_nu(1j), z_syn(alpha, beta)), phase), frequencies(d), d)


def order_4(d: int, xi: Tensor, phase: Tensor = ONE) -> Tensor:
    """z_{nu=i} * z_xi at every frequency, 2(d - 1) nodes: loss 2(d - 1)/d for all xi [..., (d - 1)/2], all in R_n."""
    return place(multiply(multiply(z_nu(1j), z_xi(xi)), phase), frequencies(d), d)


def syn_only(d: int) -> Tensor:
    """z_syn at every frequency, 3(d - 1)/2 nodes: loss (d - 1)/(2d), all in R_* (the potentials aac and bbc)."""
    return place(z_syn().expand(len(frequencies(d)), -1, -1), frequencies(d), d)


def mixed(d: int, nu: Tensor, xi: Tensor, special: int = 1, phase: Tensor = ONE) -> Tensor:
    """z_{F4/6}: z_nu * z_syn at the frequency `special`, z_{nu=i} * z_xi at the others, exactly 2d nodes: loss 0.

    nu [...]; xi [..., (d - 3)/2]; phase [..., (d - 3)/2, 3, 1] for the others. The constant that R_n leaves at each
    other frequency k is taken away by the six special nodes, which get the same output coefficient there,
    -sum_j (|a_j|^2 + |b_j|^2) c_kj / sum_{special j} (|a_j|^2 + |b_j|^2): their other potentials at k are products of
    this number with sums of ab, conj(a)b, aa, bb over z_nu * z_syn, which vanish.
    """
    if special not in frequencies(d):
        raise ValueError(f"mixed: special must be one of 1 .. {(d - 1) // 2}, got {special}")
    at = torch.tensor([k for k in frequencies(d).tolist() if k != special], dtype=torch.int64)
    fours = place(multiply(multiply(z_nu(1j), z_xi(xi)), phase), at, d)
    six = place(multiply(z_nu(nu), z_syn()).unsqueeze(-3), torch.tensor([special]), d)
    six = six.expand(*fours.shape[:-1], 6).clone()
    constant = (fours[..., :2, :, :].abs().square().sum(dim=(-3, -2)).unsqueeze(-2) * fours[..., 2, :, :]).sum(dim=-1)
    size = six[..., :2, :, :].abs().square().sum(dim=(-3, -2, -1))
    six[..., 2, :, :] -= (constant / size.unsqueeze(-1)).unsqueeze(-1)
    return add(six, fours)


def memorisation(d: int) -> Tensor:
    """One node for each pair (m1, m2), d^2 nodes of all frequencies: loss 0. The product of an element that picks the
    first operand, (conj(chi), 1, chi) for the d characters chi, and one that picks the second, (1, conj(chi), chi)."""
    m, k = torch.arange(d, dtype=torch.float64), torch.arange(d, dtype=torch.float64)
    chi = torch.exp(2j * math.pi / d * k[:, None] * m)
    ones = torch.ones_like(chi)
    z = multiply(torch.stack([chi.conj(), ones, chi]), torch.stack([ones, chi.conj(), chi])) * d ** (-2 / 3)
    z[:, 0] = 0
    return z


def node_scale(d: int, q: int) -> float:
    """|a| = |b| = |c| of the q nodes of one frequency in the units of the weights, (2 d q)^(-1/3).

    A node's weights are cosines of twice this amplitude.
    """
    return (2 * d * q) ** (-1 / 3)


# --- The list, for those who want to check all of them -----------------------------------------------------------


class Solution(NamedTuple):
    """A family of closed-form solutions: `build` draws one from its free phases, `loss` and `nodes` are theorems."""

    says: str
    build: Callable[[int, torch.Generator], Tensor]
    loss: Callable[[int], float]
    nodes: Callable[[int], int]


def random_phase(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform on the unit circle, complex128 of `shape`."""
    angle = 2 * math.pi * torch.rand(shape, generator=generator, dtype=torch.float64)
    return torch.polar(torch.ones_like(angle), angle)


def _shift(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return u_phase(random_phase(shape, generator), random_phase(shape, generator))


def _half(d: int) -> tuple[int]:
    return (len(frequencies(d)),)


def _others(d: int) -> tuple[int]:
    return (len(frequencies(d)) - 1,)


SOLUTIONS: dict[str, Solution] = {
    "order 6": Solution(
        "z_nu * z_syn at every frequency",
        lambda d, g: order_6(d, random_phase(_half(d), g), _shift(_half(d), g)),
        lambda d: 0.0,
        lambda d: 3 * (d - 1),
    ),
    "order 6, alpha beta": Solution(
        "z_{nu=i} * z_{syn, alpha beta} at every frequency",
        lambda d, g: order_6_alpha_beta(d, random_phase(_half(d), g), random_phase(_half(d), g), _shift(_half(d), g)),
        lambda d: 0.0,
        lambda d: 3 * (d - 1),
    ),
    "order 4": Solution(
        "z_{nu=i} * z_xi at every frequency",
        lambda d, g: order_4(d, random_phase(_half(d), g), _shift(_half(d), g)),
        lambda d: 2 * (d - 1) / d,
        lambda d: 2 * (d - 1),
    ),
    "order 3": Solution(
        "z_syn at every frequency", lambda d, g: syn_only(d), lambda d: (d - 1) / (2 * d), lambda d: 3 * (d - 1) // 2
    ),
    "order 4/6": Solution(
        "z_nu * z_syn at one frequency, z_{nu=i} * z_xi at the others",
        lambda d, g: mixed(
            d,
            random_phase((), g),
            random_phase(_others(d), g),
            int(torch.randint(1, len(frequencies(d)) + 1, (), generator=g)),
            _shift(_others(d), g),
        ),
        lambda d: 0.0,
        lambda d: 2 * d,
    ),
    "memorisation": Solution(
        "one node for each pair of operands", lambda d, g: memorisation(d), lambda d: 0.0, lambda d: d**2
    ),
}
