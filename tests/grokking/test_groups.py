"""Group axioms by brute force, characters by orthogonality and against published character tables."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tycho.tasks import groups
from tycho.tasks.groups import from_table, group

NAMES = ["Z1", "Z2", "Z12", "Z23", "Z4xZ7", "Z2xZ2xZ3", "D1", "D2", "D5", "D6", "S3", "S4"]


def quaternions() -> groups.Group:
    """Q8 = {1, i, j, k} x {+, -} from i^2 = j^2 = k^2 = ijk = -1; element = unit + 4 * (sign is minus)."""
    unit = [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]]
    minus = [[0, 0, 0, 0], [0, 1, 0, 1], [0, 1, 1, 0], [0, 0, 1, 1]]
    table = torch.empty(8, 8, dtype=torch.int64)
    for (a, s), (b, t) in itertools.product(itertools.product(range(4), range(2)), repeat=2):
        table[a + 4 * s, b + 4 * t] = unit[a][b] + 4 * ((s + t + minus[a][b]) % 2)
    return from_table("Q8", table)


@pytest.mark.parametrize("name", NAMES)
def test_named_groups_satisfy_the_axioms(name: str) -> None:
    g = group(name)
    assert torch.equal(from_table(name, g.table).table, g.table)
    every = torch.arange(g.order)
    assert torch.equal(g.table[g.identity], every)
    assert torch.equal(g.table[every, g.inverse], torch.full((g.order,), g.identity))
    assert g.is_abelian == (name[0] == "Z" or name in ("D1", "D2"))


@given(moduli=st.lists(st.integers(1, 6), min_size=1, max_size=3), data=st.data())
@settings(max_examples=40, deadline=None)
def test_cyclic_products_add_digit_by_digit(moduli: list[int], data: st.DataObject) -> None:
    g = group("x".join(map(str, moduli)))
    assert g.order == math.prod(moduli) and g.moduli == tuple(moduli)
    a, b = (data.draw(st.tuples(*[st.integers(0, m - 1) for m in moduli])) for _ in range(2))

    def number(digits: tuple[int, ...]) -> int:
        value = 0
        for digit, modulus in zip(digits, moduli, strict=True):
            value = value * modulus + digit
        return value

    assert g.table[number(a), number(b)] == number(tuple((x + y) % m for x, y, m in zip(a, b, moduli, strict=True)))


def test_symmetric_group_composes_permutations() -> None:
    letters = list(itertools.permutations(range(4)))
    table = group("S4").table
    for a, p in enumerate(letters):
        for b, q in enumerate(letters):
            assert letters[table[a, b]] == tuple(p[q[x]] for x in range(4))


def test_dihedral_group_is_made_of_rotations_and_reflections() -> None:
    n = 5
    angle = 2 * torch.pi / n

    def matrix(element: int) -> torch.Tensor:
        s, r = divmod(element, n)
        c, d = math.cos(r * angle), math.sin(r * angle)
        rotation = torch.tensor([[c, -d], [d, c]])
        return rotation @ torch.diag(torch.tensor([1.0, (-1.0) ** s]))

    table = group("D5").table
    for a, b in itertools.product(range(2 * n), repeat=2):
        assert torch.allclose(matrix(a) @ matrix(b), matrix(int(table[a, b])), atol=1e-6)


def test_broken_tables_are_refused_with_the_entry() -> None:
    table = group("Z5").table.clone()
    table[2, 3] = 7
    with pytest.raises(ValueError, match=r"not closed, 2\*3 = 7"):
        from_table("x", table)
    with pytest.raises(ValueError, match="no identity"):
        from_table("x", (torch.arange(4)[:, None] - torch.arange(4)) % 4)
    with pytest.raises(ValueError, match="element 0 has no inverse"):
        from_table("x", torch.tensor([[0, 0], [0, 1]]))
    # a loop of order 5 (Latin square with identity and two-sided inverses) that is no group
    loop = [[0, 1, 2, 3, 4], [1, 0, 3, 4, 2], [2, 4, 0, 1, 3], [3, 2, 4, 0, 1], [4, 3, 1, 2, 0]]
    with pytest.raises(ValueError, match=r"not associative, \((\d)\*(\d)\)\*(\d) = \d but \1\*\(\2\*\3\) = \d"):
        from_table("x", torch.tensor(loop))
    with pytest.raises(ValueError, match="square"):
        from_table("x", torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="integers"):
        from_table("x", torch.zeros(2, 2))


@pytest.mark.parametrize("name", ["", "A5", "Z", "D", "Z4xS3", "Z0", "S9", "4*7"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"unknown group|must be|positive"):
        group(name)


@given(n_pairs=st.integers(1, 400), seed=st.integers(0, 2**31), data=st.data())
@settings(max_examples=40, deadline=None)
def test_splits_are_exact_disjoint_nested_and_repeatable(n_pairs: int, seed: int, data: st.DataObject) -> None:
    n_train = data.draw(st.integers(1, n_pairs))
    train, test = groups.split(n_pairs, n_train, seed)
    assert len(train) == n_train
    assert torch.equal(torch.cat([train, test]).sort().values, torch.arange(n_pairs))
    assert torch.equal(train, groups.split(n_pairs, n_train, torch.Generator().manual_seed(seed))[0])
    fewer = groups.split(n_pairs, data.draw(st.integers(1, n_train)), seed)[0]
    assert torch.isin(fewer, train).all()


def test_split_refuses_impossible_sizes() -> None:
    for n_train in (0, 26):
        with pytest.raises(ValueError, match=r"n_train must be in 1\.\.25"):
            groups.split(25, n_train, 0)


def test_pairs_are_the_whole_table() -> None:
    g = group("S3")
    rows = groups.pairs(g)
    assert rows.tolist() == [[a, b, int(g.table[a, b])] for a in range(6) for b in range(6)]


@pytest.mark.parametrize("g", [*map(group, NAMES), quaternions(), group("S5")], ids=lambda g: g.name)
def test_characters_are_orthogonal_class_functions(g: groups.Group) -> None:
    chi, degrees = groups.characters(g)
    assert degrees.square().sum() == g.order
    assert torch.allclose(chi[0], torch.ones_like(chi[0]))
    gram = chi @ chi.conj().T / g.order
    assert torch.allclose(gram, torch.eye(len(chi), dtype=gram.dtype), atol=1e-10)
    conjugated = chi[:, g.table[g.table, g.inverse[:, None]]]  # chi(x g x^-1)
    assert torch.allclose(conjugated, chi[:, None].expand_as(conjugated), atol=1e-10)
    assert torch.allclose(chi[:, g.identity].real.round().long(), degrees)


def test_abelian_characters_from_the_table_alone_match_the_closed_form() -> None:
    known = group("Z2xZ6")
    chi = groups.characters(from_table("unnamed", known.table))[0]
    expected = groups.characters(known)[0]
    distance = (chi[:, None] - expected[None]).abs().amax(dim=-1)
    assert sorted(distance.argmin(dim=1).tolist()) == list(range(12)) and distance.amin(dim=1).max() < 1e-10


def test_published_character_tables() -> None:
    assert groups.characters(group("S4"))[1].tolist() == [1, 1, 2, 3, 3]
    chi = groups.characters(group("S3"))[0].real.round().long()
    fixed = [sum(p[x] == x for x in range(3)) for p in itertools.permutations(range(3))]
    assert chi[2].tolist() == [count - 1 for count in fixed]  # the standard representation
    assert groups.characters(quaternions())[1].tolist() == [1, 1, 1, 1, 2]
    assert groups.frobenius_schur(quaternions()).tolist() == [1, 1, 1, 1, -1]
    assert groups.frobenius_schur(group("Z4")).tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("g", [*map(group, NAMES), quaternions()], ids=lambda g: g.name)
def test_isotypic_projectors_decompose_functions(g: groups.Group) -> None:
    projectors, degrees = groups.isotypic_projectors(g)
    products = torch.einsum("axy,byz->abxz", projectors, projectors)
    expected = torch.einsum("ab,axz->abxz", torch.eye(len(projectors)).double(), projectors)
    assert torch.allclose(products, expected, atol=1e-10)
    assert torch.allclose(projectors.sum(dim=0), torch.eye(g.order).double(), atol=1e-10)
    ranks = projectors.diagonal(dim1=1, dim2=2).sum(dim=1).round().long()
    assert (ranks % degrees.square() == 0).all() and (ranks // degrees.square() <= 2).all()
    # two-sided: they commute with left and right translation by every element
    for translation in (g.table, g.table.T):
        for moved in translation:
            assert torch.allclose(projectors[:, moved][:, :, moved], projectors, atol=1e-10)


@pytest.mark.parametrize("name", ["Z11", "Z12", "Z4xZ7", "D5", "S4"])
def test_isotypic_basis_spans_the_projectors(name: str) -> None:
    g = group(name)
    projectors, _ = groups.isotypic_projectors(g)
    basis, component = groups.isotypic_basis(g)
    assert torch.allclose(basis.T @ basis, torch.eye(g.order).double(), atol=1e-10)
    for k, projector in enumerate(projectors):
        columns = basis[:, component == k]
        assert torch.allclose(columns @ columns.T, projector, atol=1e-9)


def test_components_of_a_cyclic_group_are_its_frequencies() -> None:
    basis, component = groups.isotypic_basis(group("Z12"))
    h = torch.arange(12).double()
    for k in range(7):
        wave = torch.cos(2 * torch.pi * k * h / 12 + 0.3)
        inside = (basis.T @ wave).square()[component == k].sum()
        assert torch.isclose(inside, wave.square().sum())
