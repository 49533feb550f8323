"""Decomposition of disguised solutions, of mutated ones, and against one loop over the column orders."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from methods.cogs import algebra, decomposition, solutions, tables

D = 23
HALF = (D - 1) // 2


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def between(low: float, high: float, shape: tuple[int, ...], g: torch.Generator, period: float) -> Tensor:
    """Phases of random angle in [low, high] plus a random multiple of `period`."""
    turns = torch.randint(0, round(2 * math.pi / period), shape, generator=g)
    angle = low + (high - low) * torch.rand(shape, generator=g, dtype=torch.float64) + period * turns
    return torch.polar(torch.ones_like(angle), angle)


def plain_nu(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    """nu that no third root of unity and no sign turns into i: there z_nu * z_syn would be z_{nu=i} * z_syn."""
    third = math.pi / 3
    return between(math.pi / 6 + 0.25, math.pi / 6 + third - 0.25, shape, g, third)


def alpha_beta(g: torch.Generator) -> tuple[Tensor, Tensor]:
    """alpha, beta for which z_{nu=i} * z_{syn, alpha beta} factorises in one way only.

    z_{nu=i} absorbs powers of i: 1, alpha, beta must differ modulo those, or it is z_{nu=i} * z_syn. Nor may alpha,
    beta / alpha, 1 / beta agree modulo those (as at 30 and 60 degrees), or another half of the columns fits as well.
    """
    eighth, quarter = math.pi / 4, math.pi / 2
    return tuple(between(at - 0.1, at + 0.1, (HALF,), g, quarter) for at in (eighth, eighth / 2))


def shift(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    return solutions.u_phase(solutions.random_phase(shape, g), solutions.random_phase(shape, g))


def nu_i_syn(g: torch.Generator) -> Tensor:
    return solutions.order_6(D, torch.full((HALF,), 1j, dtype=torch.complex128), shift((HALF,), g))


# what is built -> (element, the product that must be found)
BUILT = {
    "nu=i * xi": lambda g: solutions.order_4(D, solutions.random_phase((HALF,), g), shift((HALF,), g)),
    "nu * syn": lambda g: solutions.order_6(D, plain_nu((HALF,), g), shift((HALF,), g)),
    "nu=i * syn": nu_i_syn,
    "nu=i * syn_alphabeta": lambda g: solutions.order_6_alpha_beta(D, *alpha_beta(g), shift((HALF,), g)),
}


def disguise(z: Tensor, g: torch.Generator, noise: float = 0.01, dead: int = 40) -> tuple[Tensor, Tensor]:
    """Weights of z with nodes in random order and of random sign, dead nodes among them, noise and means added."""
    W, V = algebra.weights(z)
    W = W * (torch.randint(0, 2, (W.shape[-1],), generator=g) * 2 - 1)
    W = torch.cat([W, 0.02 * torch.randn(W.shape[0], dead, generator=g, dtype=W.dtype)], dim=-1)
    V = torch.cat([V, 0.02 * torch.randn(dead, V.shape[1], generator=g, dtype=V.dtype)], dim=0)
    order = torch.randperm(len(V), generator=g)
    W, V = W[:, order], V[order]
    W, V = (x + noise * x.std() * torch.randn(x.shape, generator=g, dtype=x.dtype) for x in (W, V))
    return W + 0.01 * torch.randn(1, W.shape[1], generator=g, dtype=W.dtype), V


def nodes(z: Tensor, frequency: int, order: int) -> Tensor:
    """[1, 3, order]: the nodes of one frequency of an element [3, d, q]."""
    _, at, found = decomposition.nodes_of_order(z[None], order)
    return found[at == frequency]


# --- Round trip ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("product", BUILT)
def test_every_frequency_of_disguised_solutions_is_named(product: str, dtype: torch.dtype) -> None:
    pairs = [disguise(BUILT[product](generator(seed)), generator(50 + seed)) for seed in range(6)]
    W, V = (torch.stack(parts).to(dtype) for parts in zip(*pairs, strict=True))
    table = tables.decomposition_table(algebra.coefficients(W, V))
    assert len(table) == 6 * HALF
    assert (table["product"] == product).all() and table.factorisable.all()
    assert (table.order == (4 if "xi" in product else 6)).all()
    assert 0 < table.error.max() < 0.1


def test_random_phases_are_named_by_their_family_even_where_families_meet() -> None:
    for seed in range(6):
        g = generator(seed)
        nu, alpha, beta = (solutions.random_phase((HALF,), g) for _ in range(3))
        for z, family in (
            (solutions.order_6(D, nu, shift((HALF,), g)), {"nu * syn", "nu=i * syn"}),
            (solutions.order_6_alpha_beta(D, alpha, beta, shift((HALF,), g)), {"nu=i * syn", "nu=i * syn_alphabeta"}),
        ):
            table = tables.decomposition_table(algebra.coefficients(*disguise(z, g))[None])
            assert set(table["product"]) <= family


@pytest.mark.parametrize("product", BUILT)
def test_undisguised_solutions_factorise_without_error(product: str) -> None:
    table = tables.decomposition_table(BUILT[product](generator(0))[None])
    assert (table["product"] == product).all()
    assert table.error.max() < 1e-7


def test_mixed_solutions_have_one_frequency_of_order_six() -> None:
    g = generator(7)
    z = solutions.mixed(D, plain_nu((), g), solutions.random_phase((HALF - 1,), g), 5, shift((HALF - 1,), g))
    table = tables.decomposition_table(algebra.coefficients(*disguise(z, g))[None]).set_index("frequency")
    assert table["product"].to_dict() == {k: "nu * syn" if k == 5 else "nu=i * xi" for k in range(1, HALF + 1)}


def test_factors_are_the_generators_up_to_what_the_product_leaves_free() -> None:
    """z_nu * z_syn fixes nu up to sign, third roots of unity and inversion (the halves may swap)."""
    g = generator(3)
    nu = plain_nu((HALF,), g)
    z = algebra.coefficients(*disguise(solutions.order_6(D, nu, shift((HALF,), g)), g, noise=0.0))
    found = decomposition.decompose(decomposition.nodes_of_order(z[None], 6)[2])
    power = found.first[:, 0] ** 6
    assert torch.minimum((power - nu**6).abs(), (power - nu.conj() ** 6).abs()).max() < 0.02
    assert (found.first[:, 2] + found.first[:, 0].conj() ** 2).abs().max() < 0.02


@pytest.mark.parametrize("d", [5, 101, 1001])
def test_the_live_threshold_follows_the_scale_of_the_nodes(d: int) -> None:
    z = solutions.place(algebra.multiply(solutions.z_nu(1j), solutions.z_xi(1))[None], torch.tensor([2]), d)
    weights_scale = float(z[0, 2].abs().max()) / (2 * d) ** (1 / 3)
    assert weights_scale == pytest.approx((8 * d) ** (-1 / 3))
    assert (weights_scale > 0.05) == (d < 1000)  # the public code's threshold
    table = tables.decomposition_table(z[None])
    assert table.order.tolist() == [0, 4] + [0] * ((d - 1) // 2 - 2)
    assert table["product"][1] == "nu=i * xi"


# --- Mutations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("product", BUILT)
def test_a_node_off_by_thirty_percent_is_found(product: str) -> None:
    """Each entry of one node times 1 + 0.3 e^(i theta): no order of the columns hides it."""
    g = generator(11)
    order = 4 if "xi" in product else 6
    z = BUILT[product](g)
    batch = torch.cat([nodes(z, k, order) for k in (1, 4)])
    assert decomposition.decompose(batch).factorisable.all()
    for node, turn in itertools.product(range(order), range(8)):
        theta = 2 * math.pi * torch.rand(2, 3, generator=g, dtype=torch.float64) if turn else torch.zeros(2, 3)
        mutant = batch.clone()
        mutant[..., node] *= 1 + 0.3 * torch.exp(1j * theta)
        found = decomposition.decompose(mutant)
        assert not found.factorisable.any()
        assert found.product == ["unknown", "unknown"]


def test_the_public_limit_accepts_a_node_thirty_percent_too_large() -> None:
    batch = nodes(BUILT["nu=i * xi"](generator(1)), 3, 4)
    batch[..., 2] *= 1.3
    found = decomposition.decompose(batch, limit=decomposition.PUBLIC_TOLERANCE)
    assert found.factorisable.all() and float(found.error) == pytest.approx(0.3 / 1.3 * math.sqrt(1.5), abs=1e-9)
    assert decomposition.PUBLIC_TOLERANCE * math.sqrt(1.5 * 6) == pytest.approx(0.1 * math.sqrt(3 * 6))


@pytest.mark.parametrize("order", [4, 6])
def test_unrelated_nodes_are_not_factorisable(order: int) -> None:
    batch = solutions.random_phase((200, 3, order), generator(5))
    assert decomposition.decompose(batch).factorisable.float().mean() < 0.02


def test_nodes_that_still_settle_have_a_name_at_the_wider_tolerance_only() -> None:
    """nu * syn in which a and b of one column of syn are 12 % too large and too small: it factorises without error."""
    nu, omega = torch.polar(torch.tensor(1.0), torch.tensor(0.7)).to(torch.complex128), solutions.OMEGA
    first = torch.stack([torch.ones(3), torch.stack([nu, -nu, -(nu.conj() ** 2)])], dim=1)
    one = torch.ones(3, dtype=torch.complex128)
    second = torch.stack([one, omega * torch.tensor([1.12, 1 / 1.12, 1.0]), omega.conjugate() * one], dim=1)
    nodes = (first[:, :, None] * second[:, None, :]).flatten(1)[None]
    found = {name: decomposition.decompose(nodes, *rule) for name, rule in decomposition.RULES.items()}
    assert all(one.factorisable.all() and one.error.max() < 1e-6 for one in found.values())
    names = {name: one.product for name, one in found.items()}
    assert names == {"": ["unknown"], "public limit": ["unknown"], "public limit, tolerance 0.15": ["nu * syn"]}


def test_factorisable_products_of_other_factors_stay_unknown() -> None:
    g = generator(2)
    a = solutions.random_phase((HALF,), g)
    not_opposite = solutions.u_phase(a, a * between(-1.5, 1.5, (HALF,), g, 2 * math.pi))
    tilt = solutions.z_nu(1j) * torch.tensor([[1.0, 1.0], [1.0, 1.3], [1.0, 1 / 1.3]])  # moduli not one
    others = [
        algebra.multiply(solutions.z_nu(plain_nu((HALF,), g)), solutions.z_syn(*alpha_beta(g))),
        algebra.multiply(algebra.add(solutions.ONE, not_opposite), solutions.z_syn()),
        algebra.multiply(tilt, solutions.z_xi(a)),
        algebra.multiply(tilt, solutions.z_syn())[None],
    ]
    for z in others:
        found = decomposition.decompose(z)
        assert found.factorisable.all() and set(found.product) == {"unknown"}


# --- Plain references ----------------------------------------------------------------------------------------------


def plain_factorise(columns: Tensor, permutation: tuple[int, ...]) -> tuple[float, list[complex], list[list[complex]]]:
    """error, first, second for one order of the columns [3, q] of one frequency."""
    half = columns.shape[1] // 2
    left = [columns[:, j].tolist() for j in permutation[:half]]
    right = [columns[:, j].tolist() for j in permutation[half:]]
    ratios = []
    for x, y in zip(left, right, strict=True):
        ratio = [y[p] / x[p] for p in range(3)]
        reference = ratios[0] if ratios else ratio
        if sum((ratio[p] * reference[p].conjugate()).real for p in range(2)) < 0:
            ratio = [-ratio[0], -ratio[1], ratio[2]]
        ratios.append(ratio)
    mean = [sum(ratio[p] for ratio in ratios) / half for p in range(3)]
    error = math.sqrt(sum(abs(ratio[p] - mean[p]) ** 2 for ratio in ratios for p in range(3)))
    second = [unit_product([x[p] / left[0][p] for p in range(3)]) for x in left]
    return error, unit_product(mean), second


def unit_product(column: list[complex]) -> list[complex]:
    root = (column[0] * column[1] * column[2]) ** (1 / 3)
    return [entry / root for entry in column]


@pytest.mark.parametrize("order", [4, 6])
def test_all_orders_at_once_equal_a_loop_over_them(order: int) -> None:
    g = generator(order)
    batch = torch.randn(2, 3, order, generator=g, dtype=torch.complex128)
    found = decomposition.factorise(batch)
    assert found.error.shape == (2, math.factorial(order))
    for i, columns in enumerate(batch):
        for s, permutation in enumerate(itertools.permutations(range(order))):
            error, first, second = plain_factorise(columns, permutation)
            assert found.error[i, s].item() == pytest.approx(error)
            assert found.first[i, s].tolist() == pytest.approx(first)
            assert found.second[i, s].T.flatten().tolist() == pytest.approx([x for column in second for x in column])


def test_nodes_are_gathered_by_frequency_and_order() -> None:
    g = generator(9)
    z = torch.randn(3, 3, 9, 14, generator=g, dtype=torch.complex128) * 0.4
    frequency, size = decomposition.node_frequencies(z)
    belongs = decomposition.members(z)
    seen = 0
    for r, j in itertools.product(range(3), range(14)):
        sizes = [abs(z[r, 0, k, j].item()) for k in range(1, 5)]
        assert size[r, j].item() == pytest.approx(max(sizes)) and frequency[r, j] == 1 + sizes.index(max(sizes))
        expected = [k + 1 == frequency[r, j] and max(sizes) > decomposition.LIVE for k in range(4)]
        assert belongs[r, :, j].tolist() == expected
    for order in range(1, 15):
        for r, k, columns in zip(*decomposition.nodes_of_order(z, order), strict=True):
            own = [j for j in range(14) if belongs[r, k - 1, j]]
            assert len(own) == order and torch.equal(columns, z[r, :, k, own])
            seen += 1
    assert seen == int(belongs.any(dim=-1).sum())


def test_concentration_is_the_share_of_power_at_the_frequency() -> None:
    pure = solutions.order_4(D, solutions.random_phase((HALF,), generator(0)))
    assert (decomposition.concentration(pure[None]) - 1).abs().max() < 1e-12
    W = torch.zeros(14, 1, dtype=torch.float64)
    m = torch.arange(7) * 2 * math.pi / 7
    W[:7, 0] = 3 * torch.cos(m) + 1 * torch.cos(2 * m)
    z = algebra.coefficients(W, torch.zeros(1, 7, dtype=torch.float64))
    assert decomposition.concentration(z[None]).item() == pytest.approx(0.9)


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="orders 4, 6, got 8"):
        decomposition.decompose(torch.ones(1, 3, 8, dtype=torch.complex128))
    with pytest.raises(ValueError, match=r"even number of nodes.*got 5"):
        decomposition.factorise(torch.ones(1, 3, 5, dtype=torch.complex128))
