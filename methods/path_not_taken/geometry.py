"""How an update turns and stretches a weight matrix (The Path Not Taken, arXiv 2511.08567, sections 2 and 4).

W0 [rows, columns] is the base matrix, W+ the tuned one, Delta = W+ - W0; U_k, V_k are leading singular vectors as
columns. Leading axes batch unless said otherwise.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Spectrum(NamedTuple):
    """Singular values [..., r], descending, and the leading vectors: left [..., rows, k], right [..., columns, k]."""

    values: Tensor
    left: Tensor
    right: Tensor


def spectrum(matrix: Tensor, k: int) -> Spectrum:
    """Singular values of a matrix [..., rows, columns] and its k leading vectors on either side.

    Single precision has a floor of its own: it reads a spectral shift of about 2e-7 between equal matrices.
    """
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    # Copies, so that the full factors can be freed: an exact decomposition is the peak of memory.
    return Spectrum(values, left[..., :k].clone(), right[..., :k, :].mT.clone())


def rank(share: float, rows: int, columns: int) -> int:
    """k as a share of the smaller side, at least 1."""
    if not 0 < share <= 1:
        raise ValueError(f"k is a share of the rank, above 0 and at most 1, not {share}")
    return max(1, round(share * min(rows, columns)))


def spectral_shift(base: Tensor, tuned: Tensor) -> Tensor:
    """NSS = |sigma(W+) - sigma(W0)|_2 / |sigma(W0)|_2 from sorted singular values [..., r] -> [...]; nan for W0 = 0."""
    return (tuned - base).norm(dim=-1) / base.norm(dim=-1)


def principal_angles(base: Tensor, tuned: Tensor) -> Tensor:
    """Angles theta_1 <= ... <= theta_k in radians between column spaces: orthonormal [..., n, k] twice -> [..., k].

    cos theta_i = sigma_i(U_0k^T U_+k). Small angles are read off their sine (Björck and Golub 1973): the cosine of
    1e-4 rounds to 1 in single precision.
    """
    inner = base.mT @ tuned
    cosine = torch.linalg.svdvals(inner).clamp(max=1)
    sine = torch.linalg.svdvals(tuned - base @ inner).flip(-1)[..., : cosine.shape[-1]].clamp(max=1)
    return torch.where(cosine > math.sqrt(0.5), sine.asin(), cosine.acos())


def reconstruction(found: Spectrum, k: int) -> Tensor:
    """W0^(k), the best approximation of rank k [..., rows, columns]; k at most the vectors held."""
    return (found.left[..., :k] * found.values[..., None, :k]) @ found.right[..., :k].mT


def principal_energy(delta: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """|U_k U_k^T Delta V_k V_k^T|_F^2 / |Delta|_F^2 in [0, 1]; nan for Delta = 0.

    delta [..., rows, columns], left [..., rows, k], right [..., columns, k] -> [...].
    """
    return (left.mT @ delta @ right).square().sum(dim=(-2, -1)) / delta.square().sum(dim=(-2, -1))


def isotropic_energy(k: int, rows: int, columns: int) -> float:
    """Expected `principal_energy` of an update without a preferred direction: k^2 / (rows columns)."""
    return k * k / (rows * columns)


def stable_rank(delta: Tensor) -> float:
    """|Delta|_F^2 / |Delta|_2^2 of one matrix, between 1 and its rank; nan for Delta = 0."""
    norm = spectral_norm(delta)
    return delta.norm().item() ** 2 / norm**2 if norm else math.nan


def spectral_norm(matrix: Tensor, tolerance: float = 1e-3, steps: int = 300) -> float:
    """|A|_2 of one matrix [rows, columns] by the Lanczos process on A^T A with full reorthogonalisation.

    Stops when the residual of the largest Ritz pair is below `tolerance` times its value, which bounds the relative
    error of |A|_2^2 (in practice it is about 1e-6). Costs tens of products with A instead of a decomposition.
    """
    a = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.mT
    steps = min(steps, a.shape[1])
    generator = torch.Generator().manual_seed(0)
    basis = a.new_zeros(steps + 1, a.shape[1])
    start = torch.randn(a.shape[1], generator=generator, dtype=torch.float64).to(a)
    basis[0] = start / start.norm()
    tridiagonal = torch.zeros(steps + 1, steps + 1, dtype=torch.float64)
    for j in range(steps):
        image = a.mT @ (a @ basis[j])
        tridiagonal[j, j] = (image @ basis[j]).item()
        for _ in range(2):  # once is not enough in single precision
            image -= basis[: j + 1].mT @ (basis[: j + 1] @ image)
        beta = image.norm().item()
        exhausted = beta <= 1e-6 * tridiagonal.abs().max()  # what is left is rounding
        if j % 8 == 7 or j + 1 == steps or exhausted:
            values, vectors = torch.linalg.eigh(tridiagonal[: j + 1, : j + 1])
            if beta * vectors[-1, -1].abs() <= tolerance * values[-1] or j + 1 == steps:
                break
        tridiagonal[j, j + 1] = tridiagonal[j + 1, j] = beta
        basis[j + 1] = image / beta
    return values[-1].clamp(min=0).sqrt().item()
