"""Spectra and subspaces: the perturbation theorems as properties, and each metric against an independent one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from methods.path_not_taken import geometry


def normal(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal(n: int, k: int, seed: int) -> Tensor:
    return torch.linalg.qr(normal(n, k, seed=seed))[0]


perturbed = given(
    st.integers(2, 12), st.integers(2, 12), st.floats(1e-6, 10), st.integers(0, 2**32), st.floats(0.0, 3.0)
)


def pair(rows: int, columns: int, scale: float, seed: int, decay: float) -> tuple[Tensor, Tensor]:
    """W0 with a spectrum that falls as i^-decay, and an update of any size."""
    r = min(rows, columns)
    spectrum = torch.arange(1, r + 1, dtype=torch.float64) ** -decay
    base = orthonormal(rows, r, seed) * spectrum @ orthonormal(columns, r, seed + 1).T
    return base, normal(rows, columns, seed=seed + 2, scale=scale / 10)


@perturbed
def test_weyl_mirsky_and_ky_fan(rows: int, columns: int, scale: float, seed: int, decay: float) -> None:
    base, delta = pair(rows, columns, scale, seed, decay)
    before, after, size = (torch.linalg.svdvals(matrix) for matrix in (base, base + delta, delta))
    moved = (after - before).abs()
    slack = 1e-12 * (1 + after[0])
    assert moved.max() <= size[0] + slack  # Weyl
    assert moved.square().sum() <= delta.square().sum() + slack  # Mirsky
    for k in range(1, len(before) + 1):  # Ky Fan norms
        assert abs(after[:k].sum() - before[:k].sum()) <= k * size[0] + slack


@perturbed
def test_spectral_shift_is_bounded_by_the_relative_norm(
    rows: int, columns: int, scale: float, seed: int, decay: float
) -> None:
    base, delta = pair(rows, columns, scale, seed, decay)
    shift = geometry.spectral_shift(torch.linalg.svdvals(base), torch.linalg.svdvals(base + delta))
    assert shift <= delta.norm() / base.norm() + 1e-12
    reference = scipy.linalg.svdvals((base + delta).numpy()) - scipy.linalg.svdvals(base.numpy())
    assert shift.item() == pytest.approx(np.linalg.norm(reference) / np.linalg.norm(base.numpy()), abs=1e-12)


@perturbed
def test_wedin_with_the_mixed_gap_and_its_corollary(
    rows: int, columns: int, scale: float, seed: int, decay: float
) -> None:
    """sin Theta <= |Delta|_2 / (sigma_k(W0) - sigma_{k+1}(W+)), hence <= |Delta|_2 / (gap_k - |Delta|_2)."""
    base, delta = pair(rows, columns, scale / 10, seed, decay)
    size = torch.linalg.matrix_norm(delta, 2)
    k = max(1, min(rows, columns) // 2)
    before, after = geometry.spectrum(base, k), geometry.spectrum(base + delta, k)
    assume(min(rows, columns) > k)
    gap = before.values[k - 1] - before.values[k]
    mixed = before.values[k - 1] - after.values[k]
    assume(mixed > 1e-9)
    for side in ("left", "right"):
        sine = geometry.principal_angles(getattr(before, side), getattr(after, side))[-1].sin()
        assert sine <= size / mixed + 1e-9
        if gap > size:
            assert sine <= size / (gap - size) + 1e-9


@pytest.mark.parametrize(("size", "sine"), [(0.3, 0.316), (0.45, 0.531)])
def test_wedin_as_printed_fails(size: float, sine: float) -> None:
    """Theorem 3.3 divides by the gap of W0 alone, here 1: some update of the given norm turns further than that."""
    base = torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64))
    found = 0.0
    for angle in torch.linspace(0, math.pi, 20_001).tolist():
        c, s = math.cos(angle), math.sin(angle)
        delta = size * torch.tensor([[c, s], [s, -c]], dtype=torch.float64)
        after = torch.linalg.eigh(base + delta).eigenvectors[:, 1]
        found = max(found, abs(after[1].item()))
        if found > sine - 5e-4:
            break
    assert found > size
    assert found == pytest.approx(sine, abs=1e-3)
    assert found <= size / (1 - size)


@given(st.integers(3, 20), st.integers(1, 20), st.integers(0, 2**32))
def test_angles_are_scipys(n: int, k: int, seed: int) -> None:
    k = min(k, n)
    a, b = orthonormal(n, k, seed), orthonormal(n, k, seed + 1)
    expected = scipy.linalg.subspace_angles(a.numpy(), b.numpy())[::-1]
    np.testing.assert_allclose(geometry.principal_angles(a, b).numpy(), expected, atol=1e-7)


@pytest.mark.parametrize("angle", [1e-6, 1e-4, 1e-2, 0.7, 1.5, math.pi / 2])
def test_a_known_angle_is_read_in_single_precision(angle: float) -> None:
    basis = orthonormal(50, 6, seed=3)
    turned = basis[:, :3].clone()
    turned[:, 2] = math.cos(angle) * basis[:, 2] + math.sin(angle) * basis[:, 5]
    found = geometry.principal_angles(basis[:, :3].float(), turned.float())
    assert found[2].item() == pytest.approx(angle, rel=1e-3, abs=5e-7)
    assert found[:2].max() < 1e-6


def test_angles_of_a_batch_and_of_one_space() -> None:
    a, b = torch.stack([orthonormal(9, 4, s) for s in (1, 2)]), torch.stack([orthonormal(9, 4, s) for s in (3, 4)])
    found = geometry.principal_angles(a, b)
    assert torch.allclose(found, torch.stack([geometry.principal_angles(x, y) for x, y in zip(a, b, strict=True)]))
    mixed = a[0] @ orthonormal(4, 4, seed=5)
    assert geometry.principal_angles(a[0], mixed).max() < 1e-7


@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (6, 6)])
def test_spectrum_and_reconstruction_against_numpy(shape: tuple[int, int]) -> None:
    matrix = normal(*shape, seed=4)
    found = geometry.spectrum(matrix, 3)
    left, values, right = np.linalg.svd(matrix.numpy(), full_matrices=False)
    np.testing.assert_allclose(found.values, values, atol=1e-12)
    np.testing.assert_allclose(geometry.reconstruction(found, 3), left[:, :3] * values[:3] @ right[:3], atol=1e-12)
    np.testing.assert_allclose(geometry.reconstruction(found, 1), left[:, :1] * values[:1] @ right[:1], atol=1e-12)


@pytest.mark.parametrize(("share", "expected"), [(0.1, 8), (0.001, 1), (1.0, 80), (0.25, 20)])
def test_rank_is_a_share_of_the_smaller_side(share: float, expected: int) -> None:
    assert geometry.rank(share, 80, 200) == geometry.rank(share, 200, 80) == expected


def test_rank_refuses_a_count() -> None:
    with pytest.raises(ValueError, match="share of the rank"):
        geometry.rank(16, 80, 80)


def test_principal_energy_by_projectors_and_its_ends() -> None:
    base, delta = normal(12, 8, seed=1), normal(12, 8, seed=2)
    found = geometry.spectrum(base, 3)
    projected = (found.left @ found.left.T) @ delta @ (found.right @ found.right.T)
    expected = (projected.norm() / delta.norm()) ** 2
    assert geometry.principal_energy(delta, found.left, found.right).item() == pytest.approx(expected.item())
    inside = found.left @ normal(3, 3, seed=3) @ found.right.T
    assert geometry.principal_energy(inside, found.left, found.right).item() == pytest.approx(1)
    outside = base - geometry.reconstruction(found, 3)
    assert geometry.principal_energy(outside, found.left, found.right).item() == pytest.approx(0, abs=1e-20)


def test_isotropic_energy_is_the_mean_over_gaussian_updates() -> None:
    found = geometry.spectrum(normal(12, 8, seed=1), 3)
    energies = geometry.principal_energy(normal(4000, 12, 8, seed=2), found.left, found.right)
    error = energies.std() / 4000**0.5
    assert energies.mean().item() == pytest.approx(geometry.isotropic_energy(3, 12, 8), abs=4 * error.item())


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32), st.floats(0, 2))
def test_spectral_norm_against_the_decomposition(rows: int, columns: int, seed: int, decay: float) -> None:
    base, delta = pair(max(rows, 1), max(columns, 1), 1.0, seed, decay)
    for matrix in (base + delta, (base + delta).float()):
        assert geometry.spectral_norm(matrix) == pytest.approx(torch.linalg.matrix_norm(matrix, 2).item(), rel=6e-4)


@pytest.mark.parametrize("shape", [(600, 600), (900, 200), (200, 900)])
def test_spectral_norm_of_noise_whose_largest_values_crowd(shape: tuple[int, int]) -> None:
    matrix = normal(*shape, seed=7).float()
    assert geometry.spectral_norm(matrix) == pytest.approx(torch.linalg.matrix_norm(matrix, 2).item(), rel=1e-4)


def test_spectral_norm_and_stable_rank_of_simple_matrices() -> None:
    assert geometry.spectral_norm(torch.zeros(7, 5)) == 0
    assert math.isnan(geometry.stable_rank(torch.zeros(7, 5)))
    assert geometry.stable_rank(torch.eye(9)) == pytest.approx(9, rel=1e-6)
    one = normal(9, 1, seed=1) @ normal(1, 6, seed=2)
    assert geometry.stable_rank(one) == pytest.approx(1, rel=1e-9)
    two = torch.diag(torch.tensor([3.0, 4.0, 0.0]))
    assert geometry.stable_rank(two) == pytest.approx(25 / 16, rel=1e-6)


def test_the_floor_of_single_precision_is_as_documented() -> None:
    matrix = normal(400, 400, seed=1)
    exact = torch.linalg.svdvals(matrix)
    floor = geometry.spectral_shift(exact, geometry.spectrum(matrix.float(), 1).values.double())
    assert 1e-8 < floor < 1e-6
