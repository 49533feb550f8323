"""Stacked functional optimisers against torch.optim and the polar factor from an SVD."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from methods.grokking import optimisers

RATES, DECAYS = (1e-3, 5e-3, 2e-2), (0.0, 1e-2, 0.3)


def problem() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "W": torch.randn(3, 6, 9, generator=generator, dtype=torch.float64),
        "V": torch.randn(3, 9, 3, generator=generator, dtype=torch.float64),
    }


def loss(W: Tensor, V: Tensor) -> Tensor:
    """A non-convex function of both, with bounded gradients, that treats every network alike."""
    return ((W.sin() @ V.sin()).sin() * torch.arange(1, 4)).sum()


def gradients(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    loss(**leaves).backward()
    return {name: leaf.grad for name, leaf in leaves.items()}


@pytest.mark.parametrize(
    ("name", "reference", "options"),
    [
        ("adam", torch.optim.Adam, {}),
        ("adamw", torch.optim.AdamW, {}),
        ("sgd", torch.optim.SGD, {"momentum": 0.9}),
    ],
)
def test_fifty_steps_match_torch(name: str, reference: type, options: dict[str, float]) -> None:
    parameters, state = problem(), {}
    rate = torch.tensor(RATES).double()[:, None, None]
    decay = torch.tensor(DECAYS).double()[:, None, None]
    for _ in range(50):
        optimisers.OPTIMISERS[name](parameters, gradients(parameters), state, rate, decay)
    for r in range(3):
        single = {k: torch.nn.Parameter(v[r : r + 1].clone()) for k, v in problem().items()}
        optimiser = reference(single.values(), lr=RATES[r], weight_decay=DECAYS[r], **options)
        for _ in range(50):
            optimiser.zero_grad()
            loss(**single).backward()
            optimiser.step()
        for key, value in single.items():
            assert torch.allclose(parameters[key][r], value[0].detach(), rtol=0, atol=1e-6)
    assert all(isinstance(value, Tensor) for value in state.values())


def test_newton_schulz_approaches_the_polar_factor() -> None:
    generator = torch.Generator().manual_seed(1)
    for shape in ((2, 8, 20), (2, 20, 8), (1, 12, 12)):
        left, _, right = torch.linalg.svd(torch.randn(*shape, generator=generator).double(), full_matrices=False)
        values = torch.logspace(-1, 0, min(shape[1:])).double()
        polar = left @ right
        found = optimisers.orthogonalise(left @ torch.diag(values) @ right)
        assert found.shape == shape
        # singular vectors are kept exactly, singular values come close to 1
        inner = left.transpose(1, 2) @ found @ right.transpose(1, 2)
        assert torch.allclose(inner, torch.diag_embed(inner.diagonal(dim1=1, dim2=2)), atol=1e-9)
        assert (inner.diagonal(dim1=1, dim2=2) - 1).abs().max() < 0.15
        assert torch.linalg.matrix_norm(found - polar, ord=2).max() < 0.15
        assert torch.allclose(optimisers.orthogonalise(1e4 * polar), optimisers.orthogonalise(polar), atol=1e-6)


def test_muon_steps_along_the_polar_factor_of_the_averaged_gradient() -> None:
    parameters, state = problem(), {}
    before, first = problem(), gradients(problem())
    rate = torch.tensor(RATES).double()[:, None, None]
    decay = torch.tensor(DECAYS).double()[:, None, None]
    optimisers.muon(parameters, first, state, rate, decay)
    moved = (1 - rate * decay) * before["W"] - parameters["W"]
    assert torch.allclose(moved, rate * optimisers.orthogonalise(first["W"]), atol=1e-6)
    second = gradients(parameters)
    middle = parameters["W"].clone()
    optimisers.muon(parameters, second, state, rate, decay)
    mean = 0.99 * 0.01 * first["W"] + 0.01 * second["W"]
    moved = (1 - rate * decay) * middle - parameters["W"]
    assert torch.allclose(moved, rate * optimisers.orthogonalise(mean), atol=1e-6)
    adam_state, other = {}, {"V": before["V"].clone()}
    optimisers.adam(other, {"V": first["V"]}, adam_state, rate, decay)
    optimisers.adam(other, {"V": second["V"]}, adam_state, rate, decay)
    assert torch.allclose(parameters["V"], other["V"], atol=1e-12)
