"""Meters against FFTs, loops and constructed networks whose readings are known."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.grokking import meters
from tycho.tasks.groups import group, isotypic_basis

BASIS, COMPONENT = isotypic_basis(group("Z12"))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_power_matches_the_fast_fourier_transform() -> None:
    W = random(2, 24, 5)
    spectrum = torch.fft.rfft(W.view(2, 2, 12, 5), dim=2).abs().square().sum(dim=1) / 12
    spectrum[:, 1:6] *= 2  # frequencies k and -k
    found = meters.component_power(W, BASIS, COMPONENT)
    assert torch.allclose(found, spectrum, atol=1e-10)
    assert torch.allclose(found.sum(dim=1), W.square().sum(dim=1))


def waves(frequencies: list[int], offset: float = 0.0) -> Tensor:
    """W [1, 24, K] with one pure frequency a node, plus a constant."""
    h = torch.arange(12).double()[:, None]
    angle = 2 * torch.pi * h * torch.tensor(frequencies).double() / 12
    return torch.cat([torch.cos(angle) + offset, torch.cos(angle + 1.0) + offset])[None]


def test_concentration_is_one_for_a_pure_wave_and_counts_the_constant_against_it() -> None:
    pure = meters.concentration(meters.component_power(waves([1, 2, 5]), BASIS, COMPONENT))
    assert torch.allclose(pure, torch.ones(1, 3).double())
    shifted = meters.concentration(meters.component_power(waves([1, 2, 5], offset=1.0), BASIS, COMPONENT))
    assert torch.allclose(shifted, torch.full((1, 3), 1 / 3).double())  # |cos|^2 = M/2 against M
    assert not meters.concentration(torch.zeros(1, 7, 3)).any()


def test_live_nodes_and_distinct_components() -> None:
    W = torch.cat([waves([1, 1, 4, 5]), waves([2, 2, 3, 1])])
    V = torch.ones(2, 4, 12).double()
    V[0, 3] = V[1, :2] = 1e-6
    contributed = meters.contribution(W, V)
    assert torch.allclose(contributed[0, 0], W[0, :, 0].square().sum() * 12**0.5)
    live = meters.live_nodes(contributed)
    assert live.tolist() == [[True, True, True, False], [False, False, True, True]]
    power = meters.component_power(W, BASIS, COMPONENT)
    assert meters.distinct_components(power, live).tolist() == [2, 2]
    assert meters.distinct_components(power, torch.ones(2, 4, dtype=torch.bool)).tolist() == [3, 3]


def test_weighted_mean_and_live_median() -> None:
    values, weights = torch.tensor([[1.0, 2.0, 9.0, 5.0]]), torch.tensor([[1.0, 1.0, 0.0, 2.0]])
    assert meters.weighted_mean(values, weights) == 13 / 4
    assert meters.live_median(values, torch.tensor([[True, True, False, True]])) == 2


def test_off_diagonal_ratio_against_loops() -> None:
    gram = random(2, 6, 6)
    for r in range(2):
        off = [abs(float(gram[r, i, j])) for i in range(6) for j in range(6) if i != j]
        on = [abs(float(gram[r, i, i])) for i in range(6)]
        assert abs(meters.off_diagonal_ratio(gram)[r] - (sum(off) / 30) / (sum(on) / 6)) < 1e-12


def test_distance_from_exchangeable_against_least_squares() -> None:
    gram = random(6, 6)
    gram = gram + gram.T
    design = torch.stack([torch.eye(6).double().flatten(), torch.ones(36).double()], dim=1)
    fit = design @ torch.linalg.lstsq(design, gram.flatten()[:, None]).solution
    expected = (gram.flatten() - fit[:, 0]).norm() / gram.norm()
    assert torch.allclose(meters.distance_from_exchangeable(gram), expected)
    assert meters.distance_from_exchangeable(3 * torch.eye(6).double() + 2) < 1e-7


def test_turning() -> None:
    a, step = random(2, 3, 4), random(2, 3, 4, seed=1)
    assert torch.allclose(meters.turning(a, a + step, a + 3 * step), torch.zeros(2).double(), atol=1e-12)
    assert torch.allclose(meters.turning(a, a + step, a), torch.full((2,), 2.0).double())
    later = random(2, 3, 4, seed=2)
    expected = 1 - torch.nn.functional.cosine_similarity(step.flatten(1), (later - a - step).flatten(1))
    assert torch.allclose(meters.turning(a, a + step, later), expected)
