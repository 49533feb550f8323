"""Closed-form solutions: their losses through the ring and through an independent forward pass of the network."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from methods.cogs import algebra, solutions
from methods.cogs.solutions import SOLUTIONS
from methods.grokking import network

EXACT = 1e-12


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def phases(*shape: int, seed: int = 0) -> Tensor:
    return solutions.random_phase(shape, generator(seed))


def forward_loss(z: Tensor) -> Tensor:
    """[R] for z [R, 3, d, q]: the training loss of the network on the full table."""
    W, V = algebra.weights(z)
    networks, d = len(z), z.shape[-2]
    left, right = torch.cartesian_prod(torch.arange(d), torch.arange(d)).T.expand(networks, 2, -1).unbind(dim=1)
    weight = torch.full(left.shape, 1 / d**2, dtype=torch.float64)
    return network.squared_error(network.forward(W, V, left, right), (left + right) % d, weight)[0]


def monomials(z: Tensor) -> dict[str, Tensor]:
    """The potentials of an element [3, q] at one frequency that appear in the loss, by name; ~ is the conjugate."""
    a, b, c = z
    return {
        "abc": (a * b * c).sum(),
        "~abc": (a.conj() * b * c).sum(),
        "a~bc": (a * b.conj() * c).sum(),
        "~a~bc": (a.conj() * b.conj() * c).sum(),
        "aac": (a * a * c).sum(),
        "bbc": (b * b * c).sum(),
        "~a~ac": (a.conj() ** 2 * c).sum(),
        "~b~bc": (b.conj() ** 2 * c).sum(),
        "a~ac": (a * a.conj() * c).sum(),
        "b~bc": (b * b.conj() * c).sum(),
    }


nu, xi = phases(1, seed=1)[0], phases(1, seed=2)[0]
ns, xs = nu.conj() ** 2, xi.conj() ** 2
TABLE = {
    "z_nu": (solutions.z_nu(nu), [2, 1 + ns, 1 + ns, 1 + ns**2, 0, 0, 1 - ns**2, 1 - ns**2, 1 - ns, 1 - ns]),
    "z_nu=i": (solutions.z_nu(1j), [2, 0, 0, 2, 0, 0, 0, 0, 2, 2]),
    "z_xi": (
        solutions.z_xi(xi),
        [2, 1 + xs, 1 - xi**2, 0, 1 + 1j * xi**2, 1 - 1j * xs, 1 + 1j * xs, 1 - 1j * xi**2, 1 + 1j, 1 + 1j],
    ),
    "z_syn": (solutions.z_syn(), [3, 0, 0, 0, 3, 3, 0, 0, 0, 0]),
}


@pytest.mark.parametrize("name", TABLE)
def test_potentials_of_the_generators_are_those_of_the_table(name: str) -> None:
    z, expected = TABLE[name]
    found = list(monomials(z).values())
    assert [complex(value) for value in found] == pytest.approx([complex(value) for value in expected], abs=EXACT)


@pytest.mark.parametrize(
    "node",
    [
        solutions.u_nu(phases(50)),
        solutions.u_xi(phases(50)),
        solutions.u_syn(phases(50)),
        solutions.u_syn(phases(50), solutions.OMEGA.conjugate()),
        solutions.u_phase(phases(50), phases(50, seed=1)),
    ],
)
def test_generators_are_unimodular_with_product_one(node: Tensor) -> None:
    assert node.shape == (50, 3, 1)
    assert (node.abs() - 1).abs().max() < EXACT
    assert (node.prod(dim=-2) - 1).abs().max() < EXACT


@pytest.mark.parametrize("d", [3, 5, 7, 23, 31])
@pytest.mark.parametrize("name", SOLUTIONS)
def test_loss_and_size_of_every_solution(name: str, d: int) -> None:
    family = SOLUTIONS[name]
    if name == "memorisation" and d > 23:
        return
    z = torch.stack([family.build(d, generator(seed)) for seed in range(3)])
    assert z.shape == (3, 3, d, family.nodes(d))
    assert (algebra.loss(z).total - family.loss(d)).abs().max() < EXACT
    assert (forward_loss(z) - family.loss(d)).abs().max() < EXACT


def test_known_values() -> None:
    assert SOLUTIONS["order 3"].loss(23) == pytest.approx(0.478261, abs=1e-6)
    assert SOLUTIONS["order 4"].loss(23) == pytest.approx(1.913043, abs=1e-6)
    assert SOLUTIONS["order 4/6"].nodes(23) == 46
    assert solutions.node_scale(23, 4) == pytest.approx(0.1758, abs=5e-5)
    assert solutions.node_scale(23, 6) == pytest.approx(0.1536, abs=5e-5)


@pytest.mark.parametrize("d", [7, 71])
@pytest.mark.parametrize("special", [1, 2, 3])
def test_mixed_solution_for_every_special_frequency_and_many_networks(d: int, special: int) -> None:
    others = (d - 3) // 2
    z = solutions.mixed(d, phases(2, seed=3), phases(2, others, seed=4), special)
    assert z.shape == (2, 3, d, 2 * d)
    assert algebra.loss(z).total.abs().max() < EXACT


def test_without_its_compensation_the_mixed_solution_loses_the_constant_of_the_others() -> None:
    d = 11
    z = solutions.mixed(d, phases(), phases(4), special=2)
    own = torch.tensor([2, d - 2])
    kept = z[2, own, :6].clone()
    z[2, :, :6] = 0
    z[2, own, :6] = kept
    parts = algebra.loss(z)
    assert float(parts.total) == pytest.approx(2 * (d - 3) / d, abs=EXACT)
    assert float(parts.norm.sum()) == pytest.approx(2 * (d - 3) / d, abs=EXACT)


def test_where_the_loss_of_the_imperfect_solutions_sits() -> None:
    four, three = algebra.loss(solutions.order_4(23, phases(11))), algebra.loss(solutions.syn_only(23))
    assert float(four.norm.sum()) == pytest.approx(2 * 22 / 23, abs=EXACT)
    assert max(float(part.sum()) for part in (four.goal, four.cross, four.star)) < EXACT
    assert float(three.star.sum()) == pytest.approx(22 / 46, abs=EXACT)
    assert max(float(part.sum()) for part in (three.goal, three.cross, three.norm)) < EXACT


def test_wrong_generators_do_not_solve_it() -> None:
    d, half = 11, 5
    k = solutions.frequencies(d)
    wrong = {
        "nu, not i, with xi": algebra.multiply(solutions.z_nu(phases(half)), solutions.z_xi(phases(half, seed=1))),
        "nu, not i, with syn_alphabeta": algebra.multiply(
            solutions.z_nu(phases(half)), solutions.z_syn(phases(half, seed=1), phases(half, seed=2))
        ),
        "one third root only": algebra.multiply(
            solutions.z_nu(phases(half)),
            algebra.add(algebra.add(solutions.ONE, solutions.u_syn()), solutions.u_syn()),
        ),
    }
    for z in wrong.values():
        placed = solutions.place(z, k, d)
        parts = algebra.loss(placed)
        assert float(parts.cross.sum() + parts.star.sum()) > 0.1


def test_place_scales_to_unit_gain_at_the_node_scale() -> None:
    d, at = 13, torch.tensor([2, 5])
    z = solutions.place(torch.stack([solutions.z_nu(1j), solutions.z_nu(nu)]), at, d)
    r = algebra.cross_potentials(z)
    k = torch.arange(d)
    expected = torch.zeros(d, dtype=torch.complex128)
    expected[[2, 5, 8, 11]] = 1
    assert (r[k, k, k] - expected).abs().max() < EXACT
    W, _ = algebra.weights(z)
    cosine = 2 * solutions.node_scale(d, 2) * torch.cos(2 * math.pi * 2 / d * torch.arange(d, dtype=torch.float64))
    assert (W[:d, 0] - cosine).abs().max() < EXACT


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="odd and at least 3, got 22"):
        solutions.order_4(22, phases(10))
    with pytest.raises(ValueError, match=r"special must be one of 1 \.\. 5, got 6"):
        solutions.mixed(11, phases(), phases(4), special=6)
