"""Trained weights taken apart into the generators of the ring (CoGS, arXiv 2410.01779).

After training, a hidden node is either dead or lives at one frequency. The q live nodes of a frequency, its order, form
a matrix [3, q] of rows a, b, c. It is a product of a 2-column and a (q/2)-column element if its columns split into two
halves with second half = (one column) * first half. A node is free to change the sign of its a and b together: the
network squares them. Input is an element z [R, 3, d, q] of `algebra.coefficients`, R networks; W needs no zero mean.
"""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from methods.cogs.solutions import OMEGA

# |a| of a live node in the units of the ring, where it is 4^(-1/3) at order 4: in those of the weights 0.4 (8d)^(-1/3).
# The public code's fixed 0.05 loses all nodes at large d.
LIVE = 0.4 * 4 ** (-1 / 3)
TOLERANCE = 0.1  # of entries of modulus one
PUBLIC_TOLERANCE = 0.1 * math.sqrt(2)  # the public code's limit of the factorisation error, see `factorisable`

# What counts as a named product, by variant of the records: tolerance of the factors' entries, limit of the factorisation
# error. The last is there to show how much hangs on the tolerance.
RULES = {
    "": (TOLERANCE, TOLERANCE),
    "public limit": (TOLERANCE, PUBLIC_TOLERANCE),
    "public limit, tolerance 0.15": (0.15, PUBLIC_TOLERANCE),
}


def node_frequencies(z: Tensor) -> tuple[Tensor, Tensor]:
    """Frequency of each node in 1 .. (d-1)/2, the largest |a_k|, and that |a_k|: [R, 3, d, q] -> int64, float [R, q].

    The constant k = 0 and, for even d, k = d/2 are left out.
    """
    size, index = z[..., 0, 1 : (z.shape[-2] + 1) // 2, :].abs().max(dim=-2)
    return index + 1, size


def concentration(z: Tensor) -> Tensor:
    """Share of the power of a node's W that is at its frequency: [R, 3, d, q] -> [R, q]; 1 for a pure cosine."""
    power = (z[..., :2, :, :].real.square() + z[..., :2, :, :].imag.square()).sum(dim=-3)
    at = node_frequencies(z)[0].unsqueeze(-2)
    return 2 * power.gather(-2, at).squeeze(-2) / power.sum(dim=-2)


def members(z: Tensor, live: float = LIVE) -> Tensor:
    """Live nodes of each frequency: [R, 3, d, q] -> bool [R, (d-1)/2, q]. Their number is the frequency's order."""
    frequency, size = node_frequencies(z)
    k = torch.arange(1, (z.shape[-2] + 1) // 2)
    return (frequency.unsqueeze(-2) == k[:, None]) & (size > live).unsqueeze(-2)


def nodes_of_order(z: Tensor, order: int, live: float = LIVE) -> tuple[Tensor, Tensor, Tensor]:
    """All frequencies with exactly `order` live nodes: [R, 3, d, q] -> network [G], frequency [G], nodes [G, 3, order].

    nodes[g] are the columns (a, b, c) at the frequency.
    """
    belongs = members(z, live)
    network, index = (belongs.sum(dim=-1) == order).nonzero(as_tuple=True)
    columns = belongs[network, index].nonzero()[:, 1].view(len(network), order)
    frequency = index + 1
    return network, frequency, z[network[:, None], :, frequency[:, None], columns].transpose(-1, -2)


# --- Splitting the nodes of one frequency ------------------------------------------------------------------------


@cache
def permutations(order: int) -> Tensor:
    """All orders of the columns, int64 [order!, order]: who is in the first half, who pairs with whom, who is first."""
    return torch.tensor(list(itertools.permutations(range(order))))


class Factors(NamedTuple):
    """nodes ~ (common column) * (1, first) * second, for G frequencies and S orders of the columns."""

    error: Tensor  # [G, S] Frobenius distance of the sign-aligned ratios (second half / first half) from their mean
    first: Tensor  # [G, S, 3] mean ratio, scaled to abc = 1
    second: Tensor  # [G, S, 3, q/2] first half / its first column, each scaled to abc = 1


def factorise(nodes: Tensor) -> Factors:
    """Factors of nodes [G, 3, q] for every order of the columns at once. Raises ValueError for odd q and q < 4.

    The sign of each ratio's (a, b) is turned to the side of the first ratio's; c does not see the sign.
    """
    order = nodes.shape[-1]
    if order < 4 or order % 2:
        raise ValueError(f"factorise: only an even number of nodes, at least 4, splits into halves; got {order}")
    columns = nodes[:, :, permutations(order)].movedim(1, 2)
    left, right = columns.unflatten(-1, (2, order // 2)).unbind(dim=-2)
    ratio = right / left
    along = (ratio[..., :2, :] * ratio[..., :2, :1].conj()).real.sum(dim=-2, keepdim=True)
    ratio[..., :2, :] *= torch.where(along < 0, -1.0, 1.0)
    mean = ratio.mean(dim=-1)
    error = (ratio - mean.unsqueeze(-1)).abs().square().sum(dim=(-2, -1)).sqrt()
    return Factors(error, _unit_product(mean.unsqueeze(-1)).squeeze(-1), _unit_product(left / left[..., :1]))


def _unit_product(columns: Tensor) -> Tensor:
    """Columns [..., 3, q] divided by the principal cube root of abc; NaN, which no label matches, where abc = 0."""
    product = columns.prod(dim=-2, keepdim=True)
    return columns / torch.polar(product.abs() ** (1 / 3), product.angle() / 3)


def factorisable(error: Tensor, order: int, tolerance: float = TOLERANCE) -> Tensor:
    """error <= tolerance sqrt(3 q / 2): the 3 q/2 ratio entries are off by less than the tolerance, root mean square.

    The public code has 0.1 sqrt(3q), that is `PUBLIC_TOLERANCE`. It accepts four nodes of which one is 30 % too large
    (error 0.3 / 1.3 * sqrt(3/2) = 0.283 against 0.346, ours 0.245).
    """
    return error <= tolerance * math.sqrt(1.5 * order)


# --- Naming the factors ------------------------------------------------------------------------------------------


def _near(value: Tensor, target: Tensor | complex, tolerance: float) -> Tensor:
    return (value - target).abs() <= tolerance


def _unimodular(columns: Tensor, tolerance: float) -> Tensor:
    """Whether a, b and c of a column all have modulus one: [..., 3, q] -> [..., q]."""
    return ((columns.abs() - 1).abs() <= tolerance).all(dim=-2)


def pair_labels(column: Tensor, tolerance: float = TOLERANCE) -> dict[str, Tensor]:
    """Which two-column elements (1, column) could be: column [..., 3] with abc = 1 -> bool [...] for nu=i, nu and xi.

    With abc = 1 and moduli 1, c = +-i already makes it a u_xi (or its inverse), and a + b = 0 a u_nu. Labels overlap:
    nu=i is a nu, and so is the u_xi with xi = sqrt(i).
    """
    a, b, c = column.unbind(dim=-1)
    unit = _unimodular(column.unsqueeze(-1), tolerance).squeeze(-1)
    imaginary = _near(a, 1j, tolerance) | _near(a, -1j, tolerance)
    return {
        "nu=i": unit & _near(c, 1, tolerance) & imaginary,
        "nu": unit & ((a + b).abs() <= tolerance),
        "xi": unit & (_near(c, 1j, tolerance) | _near(c, -1j, tolerance)),
    }


def triple_labels(columns: Tensor, tolerance: float = TOLERANCE) -> dict[str, Tensor]:
    """Which three-column elements (1, u, v) could be: columns [..., 3, 3] with abc = 1 -> bool [...] for syn and
    syn_alphabeta.

    syn_alphabeta: c is omega and conj(omega) in either order. syn: a and b equal c too, up to the sign of (a, b).
    """
    c = columns[..., 2, 1:]
    omega = torch.where(c.imag > 0, OMEGA, OMEGA.conjugate())
    opposite = c[..., 0].imag * c[..., 1].imag < 0
    unit = _unimodular(columns, tolerance).all(dim=-1)
    alphabeta = unit & opposite & _near(c, omega, tolerance).all(dim=-1)
    ab = columns[..., :2, 1:] * omega.conj().unsqueeze(-2)
    ab = ab * torch.where(ab.real.sum(dim=-2, keepdim=True) < 0, -1.0, 1.0)
    return {"syn": alphabeta & _near(ab, 1, tolerance).all(dim=-1).all(dim=-1), "syn_alphabeta": alphabeta}


# The products of the theory, the narrower first; z_{nu=i} z_syn equals z_nu z_syn for nu = i omega.
PRODUCTS = {
    4: (("nu=i", "xi"),),
    6: (("nu=i", "syn"), ("nu", "syn"), ("nu=i", "syn_alphabeta")),
}


class Decomposition(NamedTuple):
    """For G frequencies, the name and the order of columns that was chosen."""

    product: list[str]  # [G] such as "nu * syn", or "unknown"
    error: Tensor  # [G]
    factorisable: Tensor  # bool [G]
    first: Tensor  # [G, 3]
    second: Tensor  # [G, 3, q/2]


def decompose(nodes: Tensor, tolerance: float = TOLERANCE, limit: float = TOLERANCE) -> Decomposition:
    """Factorise and name the nodes [G, 3, q] of G frequencies, q = 4 or 6; all of them, all orders of columns at once.

    A frequency is named by the first of `PRODUCTS` that any order of its columns with an error within the `limit`
    matches (see `factorisable`; `tolerance` is that of the labels). Factorisation in the ring is not unique, z_syn
    times u_syn being z_syn, so that the order of least error alone would depend on rounding. Of those that match, or of
    all where none does, that of least error is reported. Raises ValueError for orders other than 4 and 6.
    """
    order = nodes.shape[-1]
    if order not in PRODUCTS:
        raise ValueError(f"decompose: products are known for orders {', '.join(map(str, PRODUCTS))}, got {order}")
    factors = factorise(nodes)
    splits_well = factorisable(factors.error, order, limit)
    one = pair_labels(factors.first, tolerance)
    other = pair_labels(factors.second[..., 1], tolerance) if order == 4 else triple_labels(factors.second, tolerance)
    matches = torch.stack([splits_well & one[left] & other[right] for left, right in PRODUCTS[order]])
    # [products + 1, G, S]: the last "product", unknown, admits everything, so that each frequency has a name
    matches = torch.cat([matches, torch.ones_like(matches[:1])])
    name = matches.any(dim=-1).int().argmax(dim=0)
    each = torch.arange(len(nodes))
    chosen = torch.where(matches[name, each], factors.error, math.inf).argmin(dim=-1)
    names = [" * ".join(product) for product in PRODUCTS[order]] + ["unknown"]
    return Decomposition(
        product=[names[i] for i in name.tolist()],
        error=factors.error[each, chosen],
        factorisable=splits_well[each, chosen],
        first=factors.first[each, chosen],
        second=factors.second[each, chosen],
    )
