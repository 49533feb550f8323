"""The null: matched in density and norm, Gaussian for a Gaussian, and with the signature it is known to have."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.path_not_taken import geometry, lattice, masks, nulls


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def size(base: Tensor, tuned: Tensor) -> tuple[int, float]:
    return int((base != tuned).sum()), (tuned.float() - base.float()).norm().item()


def power_law(n: int, seed: int) -> Tensor:
    """Weights of standard deviation 0.02 with singular values i^-0.7."""
    left, right = (torch.linalg.qr(normal(n, n, seed=seed + i))[0] for i in range(2))
    matrix = left * torch.arange(1, n + 1).float().pow(-0.7) @ right
    return 0.02 * matrix / matrix.std()


BASE = (0.02 * normal(400, 300, seed=0)).bfloat16()
SHAPES = {
    "gaussian": normal(400, 300, seed=1),
    "striped": normal(400, 300, seed=1) * normal(400, 1, seed=2).exp(),
    "heavy": normal(400, 300, seed=1).pow(3),
    "even": 0.7 * normal(400, 300, seed=1).sign() + 0.3 * normal(400, 300, seed=2),
    "low rank": normal(400, 3, seed=1) @ normal(3, 300, seed=2),
}


@pytest.mark.parametrize("step", [3e-6, 2e-5, 2e-4, 3e-3])
@pytest.mark.parametrize("kind", SHAPES)
def test_density_and_norm_are_the_updates(kind: str, step: float) -> None:
    tuned = lattice.cast(BASE + step * SHAPES[kind])
    moved, norm = size(BASE, tuned)
    null = nulls.matched(BASE, moved, norm, seeded(5))
    found_moved, found_norm = size(BASE, null.weights)
    assert found_moved == pytest.approx(moved, abs=2)
    assert found_norm == pytest.approx(norm, rel=5e-3)


@pytest.mark.parametrize("step", [3e-6, 2e-5, 2e-4, 3e-3])
def test_a_gaussian_update_gets_a_gaussian_null(step: float) -> None:
    base = (0.02 * normal(1000, 1000, seed=0)).bfloat16()
    tuned = lattice.cast(base + step * normal(1000, 1000, seed=1))
    assert nulls.matched(base, *size(base, tuned), seeded(5)).shape == pytest.approx(1, abs=0.05)


def test_heavier_and_more_even_updates_get_their_tails() -> None:
    found = {}
    for kind in ("gaussian", "striped", "heavy", "even"):
        tuned = lattice.cast(BASE + 2e-4 * SHAPES[kind])
        found[kind] = nulls.matched(BASE, *size(BASE, tuned), seeded(5)).shape
    assert found["even"] < 0.6 < found["gaussian"] < 1.2 < found["striped"] < found["heavy"]
    assert found["heavy"] == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize("bits", [3, 5])
def test_a_coarser_grid_is_matched_on_that_grid(bits: int) -> None:
    base = lattice.cast(BASE, bits)
    tuned = lattice.cast(base + 1e-3 * SHAPES["gaussian"], bits)
    moved, norm = size(base, tuned)
    null = nulls.matched(base, moved, norm, seeded(5), bits).weights
    assert torch.equal(lattice.cast(null, bits), null)
    assert size(base, null) == (pytest.approx(moved, abs=2), pytest.approx(norm, rel=5e-3))


def test_sizes_no_noise_can_have_get_the_nearest() -> None:
    moved = BASE.numel() // 2
    least, most = (nulls.matched(BASE, moved, norm, seeded(5)) for norm in (1e-9, 1e9))
    assert (least.shape, most.shape) == nulls.SHAPES
    assert size(BASE, least.weights)[0] == pytest.approx(moved, abs=2)


def test_nothing_moved_and_everything_moved() -> None:
    assert torch.equal(nulls.matched(BASE, 0, 0.0, seeded(5)).weights, BASE)
    null = nulls.matched(BASE, BASE.numel(), 1e3, seeded(5)).weights
    assert size(BASE, null) == (BASE.numel(), pytest.approx(1e3, rel=5e-3))


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 60), st.integers(0, 2**32), st.floats(1e-4, 1.0))
def test_tiny_and_odd_tensors_are_moved_by_the_count_asked_for(n: int, seed: int, share: float) -> None:
    base = lattice.cast(normal(n, seed=seed) * (normal(n, seed=seed + 1) > 0))  # with zeros of both signs
    moved = max(1, round(share * n))
    null = nulls.matched(base, moved, 0.1 * moved**0.5, seeded(seed)).weights
    assert size(base, null)[0] == moved
    assert null.isfinite().all()


def test_one_seed_one_null() -> None:
    moved, norm = 30_000, 1e-2
    first, again, other = (nulls.matched(BASE, moved, norm, seeded(seed)).weights for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("bits", [4, 7])
@pytest.mark.parametrize("sigma", [1e-5, 1e-4, 1e-3])
def test_visible_share_is_the_mean_of_many_draws(sigma: float, bits: int) -> None:
    base = lattice.cast(BASE, bits)
    drawn = [lattice.changed(base, base + sigma * normal(*BASE.shape, seed=s), bits).float().mean() for s in range(9)]
    shares = torch.stack(drawn)
    error = shares.std().item() / 3
    assert nulls.visible_share(base, sigma, bits) == pytest.approx(shares.mean().item(), abs=4 * error)


def test_the_plain_gaussian_has_the_scale_whose_expected_density_is_asked_for() -> None:
    sigma = 3e-5
    moved = round(nulls.visible_share(BASE, sigma) * BASE.numel())
    null = nulls.gaussian(BASE, moved, seeded(1)).weights
    _, norm = size(BASE, null)
    expected = size(BASE, lattice.cast(BASE + sigma * normal(*BASE.shape, seed=2)))[1]
    assert norm == pytest.approx(expected, rel=0.02)


def test_a_null_has_no_direction() -> None:
    """Its energy in the principal subspace is the isotropic one, whichever entries it moves, and its signs balance."""
    base = (0.02 * normal(300, 200, seed=0)).bfloat16()
    tuned = lattice.cast(base + 2e-5 * normal(300, 1, seed=1) @ normal(1, 200, seed=2))
    found = geometry.spectrum(base.float(), 20)
    energies, means = [], []
    for seed in range(40):
        delta = nulls.matched(base, *size(base, tuned), seeded(seed)).weights.float() - base.float()
        energies.append(geometry.principal_energy(delta, found.left, found.right).item())
        means.append(delta[delta != 0].sign().mean().item())
    energies, means = torch.tensor(energies), torch.tensor(means)
    expected = geometry.isotropic_energy(20, 300, 200)
    assert energies.mean().item() == pytest.approx(expected, abs=4 * energies.std().item() / 40**0.5)
    assert means.mean().item() == pytest.approx(0, abs=4 * means.std().item() / 40**0.5)


# The magnitude-only control of the fact sheet (n = 512, alpha = 30 %, k = 10 %): what size alone does to the metrics.
KNOWN = [
    # density, Ov(M_low), Ov(M_princ) for Gaussian and for power-law weights
    (0.93, 0.318, 0.294, 0.280),
    (0.46, 0.550, 0.244, 0.099),
    (0.28, 0.750, 0.226, 0.032),
    (0.10, 0.990, 0.218, 0.004),
]


@pytest.mark.parametrize("weights", ["gaussian", "power law"])
def test_size_alone_produces_the_published_signature(weights: str) -> None:
    base = lattice.cast(0.02 * normal(512, 512, seed=0) if weights == "gaussian" else power_law(512, seed=0))
    principal = masks.principal(geometry.reconstruction(geometry.spectrum(base.float(), 51), 51), 0.3)
    low = masks.smallest(base, 0.3)
    for density, in_low, in_gaussian, in_power_law in KNOWN:
        null = nulls.gaussian(base, round(density * base.numel()), seeded(1)).weights
        mask = lattice.changed(base, null)
        expected = in_gaussian if weights == "gaussian" else in_power_law
        assert masks.overlap(low, mask) == pytest.approx(in_low, abs=0.015)
        assert masks.overlap(principal, mask) == pytest.approx(expected, abs=0.025)


@pytest.mark.parametrize("sigma", [2e-5, 5e-5, 1e-4])
def test_two_nulls_agree_far_more_than_independent_masks(sigma: float) -> None:
    """J = sum p^2 / (2 sum p - sum p^2) with p_ij the chance that entry ij shows: small entries show in every draw."""
    base = lattice.cast(0.02 * normal(512, 512, seed=0))
    up = torch.ones_like(base, dtype=torch.bool)
    distances = [(lattice.neighbour(base, side).double() - base.double()).abs() / 2 for side in (up, ~up)]
    p = sum(torch.distributions.Normal(0.0, sigma).cdf(-distance) for distance in distances)
    expected = (p.square().sum() / (2 * p.sum() - p.square().sum())).item()
    density = p.mean().item()
    moved = round(density * base.numel())
    a, b = (lattice.changed(base, nulls.gaussian(base, moved, seeded(s)).weights) for s in (1, 2))
    assert masks.jaccard(a, b) == pytest.approx(expected, abs=5e-3)
    assert expected > masks.independent_jaccard(density, density) + 0.08


def test_the_entry_that_shows_first_by_hand() -> None:
    """One of three moves: the one whose half gap over |g| is least, and by one step."""
    base = torch.tensor([1.0, 0.01, 8.0]).bfloat16()
    null = nulls.gaussian(base, 1, seeded(3)).weights
    g = torch.randn(3, generator=seeded(3))
    near = lattice.neighbour(base, g > 0)
    first = ((near.float() - base.float()).abs() / g.abs()).argmin().item()
    expected = base.clone()
    expected[first] = near[first]
    assert torch.equal(null, expected)
