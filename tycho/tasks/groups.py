"""Finite groups as Cayley tables, and the task "predict the product of two elements".

Elements are the integers 0 .. M-1. Everything downstream (splits, irreducible representations, features) needs the
table alone, so a group can come from a name (`group("Z4xZ7")`) or from any table (`from_table`).
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Group:
    """A finite group of order M.

    table [M, M] int64: `table[a, b]` is the product a*b. `moduli`: the cyclic factors when the group was built as a
    product of cyclic groups (elements are then mixed-radix numbers, last factor fastest), else empty.
    """

    name: str
    table: Tensor
    moduli: tuple[int, ...] = ()

    @property
    def order(self) -> int:
        return self.table.shape[0]

    @cached_property
    def identity(self) -> int:
        return int((self.table == torch.arange(self.order)).all(dim=1).nonzero()[0, 0])

    @cached_property
    def inverse(self) -> Tensor:
        """[M] int64, `inverse[a]` * a = identity."""
        return (self.table == self.identity).int().argmax(dim=1)

    @cached_property
    def is_abelian(self) -> bool:
        return bool((self.table == self.table.T).all())


def from_table(name: str, table: Tensor) -> Group:
    """A group from its Cayley table [M, M] (any integer dtype), checked against all four axioms.

    Raises ValueError naming the first entry that breaks closure, identity, inverses or associativity. O(M^3) time,
    O(M^2) memory.
    """
    table = torch.as_tensor(table)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or not table.shape[0]:
        raise ValueError(f"group {name!r}: the Cayley table must be square and not empty, got {tuple(table.shape)}")
    if table.is_floating_point() or table.is_complex() or table.dtype == torch.bool:
        raise ValueError(f"group {name!r}: the Cayley table must hold integers, got {table.dtype}")
    table = table.to(torch.int64)
    order = table.shape[0]
    outside = ((table < 0) | (table >= order)).nonzero()
    if len(outside):
        a, b = outside[0].tolist()
        raise ValueError(f"group {name!r}: not closed, {a}*{b} = {int(table[a, b])} is not in 0..{order - 1}")
    elements = torch.arange(order)
    neutral = ((table == elements).all(dim=1) & (elements == table.T).all(dim=1)).nonzero().flatten()
    if not len(neutral):
        raise ValueError(f"group {name!r}: no identity, no element e has e*a = a*e = a for all a")
    identity = int(neutral[0])
    lacking = (~((table == identity) & (identity == table.T)).any(dim=1)).nonzero().flatten()
    if len(lacking):
        raise ValueError(f"group {name!r}: element {int(lacking[0])} has no inverse (identity is {identity})")
    for a in range(order):
        left, right = table[table[a]], table[a][table]  # (a*b)*c and a*(b*c), both [b, c]
        broken = (left != right).nonzero()
        if len(broken):
            b, c = broken[0].tolist()
            raise ValueError(
                f"group {name!r}: not associative, ({a}*{b})*{c} = {int(left[b, c])} but {a}*({b}*{c}) = {int(right[b, c])}"
            )
    return Group(name, table)


def cyclic_product(*moduli: int) -> Group:
    """Z_m1 x Z_m2 x ... ; element = mixed-radix number with the last factor fastest."""
    if not moduli or min(moduli) < 1:
        raise ValueError(f"cyclic factors must be positive integers, got {moduli}")
    digits = torch.cartesian_prod(*[torch.arange(m) for m in moduli]).reshape(-1, len(moduli))
    total = (digits[:, None] + digits[None]) % torch.tensor(moduli)
    radix = torch.tensor([math.prod(moduli[i + 1 :]) for i in range(len(moduli))])
    return Group("x".join(f"Z{m}" for m in moduli), (total * radix).sum(dim=-1), tuple(moduli))


def dihedral(n: int) -> Group:
    """D_n, the 2n symmetries of an n-gon: element s*n + r is (rotation by r) after (reflection)^s."""
    if n < 1:
        raise ValueError(f"dihedral group D{n}: n must be at least 1")
    s, r = torch.arange(2 * n) // n, torch.arange(2 * n) % n
    sign = 1 - 2 * s[:, None]
    return Group(f"D{n}", (s[:, None] + s[None]) % 2 * n + (r[:, None] + sign * r[None]) % n)


def symmetric(n: int) -> Group:
    """S_n: permutations of n letters in lexicographic order; (a*b)(x) = a(b(x))."""
    if not 1 <= n <= 5:
        raise ValueError(f"symmetric group S{n}: n must be 1 to 5 (S6 would have 720 elements)")
    permutations = torch.tensor(list(itertools.permutations(range(n))))
    weights = n ** torch.arange(n)
    composed = (permutations[:, permutations] * weights).sum(dim=-1)
    codes = (permutations * weights).sum(dim=-1)
    lookup = torch.empty(int(codes.max()) + 1, dtype=torch.int64)
    lookup[codes] = torch.arange(len(codes))
    return Group(f"S{n}", lookup[composed])


def group(name: str) -> Group:
    """Parse "Z71", "Z4xZ7" (or "4x7"), "D5", "S3". Raises ValueError for anything else."""
    text = name.strip().upper()
    if re.fullmatch(r"Z?\d+(XZ?\d+)*", text):
        return cyclic_product(*[int(part.strip("Z")) for part in text.split("X")])
    if found := re.fullmatch(r"([DS])(\d+)", text):
        return (dihedral if found[1] == "D" else symmetric)(int(found[2]))
    near = difflib.get_close_matches(text, ["Z71", "Z4XZ7", "D5", "S3", "S4"], n=1, cutoff=0.0)[0].replace("X", "x")
    raise ValueError(f"unknown group {name!r}: use Zn, a product such as Z4xZ7, Dn or Sn (nearest example: {near})")


def pairs(group: Group) -> Tensor:
    """All M^2 examples [M^2, 3] int64, rows (h1, h2, h1*h2) in row-major order of (h1, h2)."""
    index = torch.arange(group.order**2)
    return torch.stack([index // group.order, index % group.order, group.table.flatten()], dim=1)


def split(n_pairs: int, n_train: int, seed: int | torch.Generator) -> tuple[Tensor, Tensor]:
    """Random (train, test) row numbers, sorted, without overlap; exactly `n_train` in the first.

    A seed gives the same split on every platform; smaller training sets are subsets of larger ones of one seed.
    """
    if not 0 < n_train <= n_pairs:
        raise ValueError(f"n_train must be in 1..{n_pairs} (all pairs), got {n_train}")
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(n_pairs, generator=generator)
    return shuffled[:n_train].sort().values, shuffled[n_train:].sort().values


def conjugacy_classes(group: Group) -> Tensor:
    """[M] int64 class number of each element; classes are numbered by their smallest element, the identity's is 0."""
    conjugates = group.table[group.table, group.inverse[:, None]]  # [x, g] = x g x^-1
    smallest = conjugates.min(dim=0).values
    smallest[group.identity] = -1
    return torch.unique(smallest, return_inverse=True)[1]


def characters(group: Group) -> tuple[Tensor, Tensor]:
    """Irreducible characters: (chi [C, M] complex128, degrees [C] int64), sorted by degree, the trivial one first.

    Products of cyclic groups use the closed form, so row k of Z_M is exp(2 pi i k h / M) (mixed radix for products).
    Other groups: Burnside's method. With a_ij^k = #{(x, y) in C_i x C_j : xy = z_k}, the central characters
    omega_j = |C_j| chi(C_j) / d are the simultaneous eigenvectors of the class matrices; one random combination of
    them separates all. d^2 = M / sum_j |omega_j|^2 / |C_j|.
    """
    order = group.order
    if group.moduli:
        digits = torch.cartesian_prod(*[torch.arange(m) for m in group.moduli]).reshape(order, -1)
        turns = digits[:, None] * digits[None] / torch.tensor(group.moduli, dtype=torch.float64)
        angle = 2 * torch.pi * (turns.sum(dim=-1) % 1)
        return torch.polar(torch.ones_like(angle), angle), torch.ones(order, dtype=torch.int64)
    label = conjugacy_classes(group)
    sizes = torch.bincount(label)
    count = len(sizes)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(count, generator=generator, dtype=torch.float64)
    # N[j, k] = sum_i weight_i a_ij^k, by summing over all (x, y) and dividing by |C_k|
    combined = torch.zeros(count, count, dtype=torch.float64)
    place = label[None, :].expand(order, order) * count + label[group.table]
    combined.view(-1).index_add_(0, place.flatten(), weight[label][:, None].expand(order, order).flatten())
    combined /= sizes
    scale = sizes.double().sqrt()  # makes the matrix normal, hence its eigenvectors well conditioned
    vectors = torch.linalg.eig(combined * scale[None] / scale[:, None])[1] * scale[:, None]
    omega = (vectors / vectors[0]).T  # omega at the class of the identity is 1
    degrees = (order / (omega.abs().square() / sizes).sum(dim=1)).sqrt()
    chi = (degrees[:, None] * omega / sizes)[:, label]
    degrees = degrees.round().to(torch.int64)
    trivial = (chi - 1).abs().amax(dim=1) < 1e-6
    position = torch.argsort(degrees * 2 - trivial.int(), stable=True)
    return chi[position], degrees[position]


def frobenius_schur(group: Group) -> Tensor:
    """[C] int64 in {1: real, 0: complex, -1: quaternionic}: the mean of chi(g^2), in the order of `characters`."""
    squares = group.table.diagonal()
    return characters(group)[0][:, squares].mean(dim=1).real.round().to(torch.int64)


def isotypic_projectors(group: Group) -> tuple[Tensor, Tensor]:
    """Real isotypic projectors of functions on the group: (P [C', M, M] float64, degrees [C'] int64).

    P_k[x, y] = (d_k / M) conj chi_k(x y^-1); a complex character and its conjugate are merged, so that every P_k is
    real and symmetric and sum_k P_k = I. For Z_M component k is frequency k, k = 0 .. M//2.
    """
    chi, degrees = characters(group)
    partner = (chi[:, None] - chi[None].conj()).abs().amax(dim=-1).argmin(dim=1)
    index = torch.arange(len(chi))
    keep = index <= partner
    quotient = group.table[:, group.inverse]  # [x, y] = x y^-1
    real = chi.real * torch.where(partner == index, 1.0, 2.0)[:, None] * degrees[:, None] / group.order
    return real[keep][:, quotient], degrees[keep]


def isotypic_basis(group: Group) -> tuple[Tensor, Tensor]:
    """An orthonormal basis of functions on the group adapted to the components of `isotypic_projectors`.

    Returns (basis [M, M] float64, one function a column; component [M] int64, the component of each column). The
    power of f in component k is sum over its columns of <basis, f>^2. For Z_M: constant, cosines and sines.
    """
    projectors, _ = isotypic_projectors(group)
    values, basis = torch.linalg.eigh(torch.einsum("k,kxy->xy", torch.arange(len(projectors)).double(), projectors))
    return basis, values.round().to(torch.int64)
