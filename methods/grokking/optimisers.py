"""Optimisers on stacked parameters {"W" [R, 2M, K], "V" [R, K, M]}, with a learning rate and decay for each network.

State is a flat dict of tensors (keys such as "W.mean"), ready for a safetensors checkpoint. Steps work in place.
Rates are floats or tensors that broadcast, [R, 1, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Rate = float | Tensor

# Quintic x -> a x + b x^3 + c x^5, other coefficients at each step, so that five steps bring [0.003, 1] into [0.97, 1.15].
NEWTON_SCHULZ = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


def _moments(name: str, parameter: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    for key in (f"{name}.mean", f"{name}.square"):
        if key not in state:
            state[key] = torch.zeros_like(parameter)
    return state[f"{name}.mean"], state[f"{name}.square"]


def _adam_one(
    name: str,
    parameter: Tensor,
    gradient: Tensor,
    state: dict[str, Tensor],
    rate: Rate,
    betas: tuple[float, float],
    epsilon: float,
) -> None:
    steps = int(state["steps"])
    mean, square = _moments(name, parameter, state)
    mean.lerp_(gradient, 1 - betas[0])
    square.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
    size = square.sqrt().div_((1 - betas[1] ** steps) ** 0.5).add_(epsilon)
    parameter.sub_((mean / size).mul_(rate / (1 - betas[0] ** steps)))


def _count(state: dict[str, Tensor]) -> None:
    state["steps"] = state.get("steps", torch.tensor(0)) + 1


def adam(
    parameters: dict[str, Tensor],
    gradients: dict[str, Tensor],
    state: dict[str, Tensor],
    rate: Rate,
    decay: Rate = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
) -> None:
    """Adam with coupled L2, as `torch.optim.Adam(weight_decay=decay)`: the decay is part of the gradient."""
    _count(state)
    for name, parameter in parameters.items():
        _adam_one(name, parameter, gradients[name] + decay * parameter, state, rate, betas, epsilon)


def adamw(
    parameters: dict[str, Tensor],
    gradients: dict[str, Tensor],
    state: dict[str, Tensor],
    rate: Rate,
    decay: Rate = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
) -> None:
    """Adam with decoupled decay, as `torch.optim.AdamW`: parameters shrink by 1 - rate*decay before the step."""
    _count(state)
    for name, parameter in parameters.items():
        parameter.mul_(1 - rate * decay)
        _adam_one(name, parameter, gradients[name], state, rate, betas, epsilon)


def sgd(
    parameters: dict[str, Tensor],
    gradients: dict[str, Tensor],
    state: dict[str, Tensor],
    rate: Rate,
    decay: Rate = 0.0,
    momentum: float = 0.9,
) -> None:
    """Heavy-ball momentum with coupled L2, as `torch.optim.SGD(momentum=..., weight_decay=...)`."""
    for name, parameter in parameters.items():
        gradient = gradients[name] + decay * parameter
        key = f"{name}.mean"
        state[key] = state[key].mul_(momentum).add_(gradient) if key in state else gradient
        parameter.sub_(state[key] * rate)


def orthogonalise(matrix: Tensor) -> Tensor:
    """Approximate polar factor U V^T of each matrix [..., a, b] = U S V^T by five Newton-Schulz steps.

    Singular values above 0.3 % of the Frobenius norm end between 0.97 and 1.15; smaller ones stay short.
    """
    wide = matrix.shape[-2] <= matrix.shape[-1]
    x = matrix if wide else matrix.transpose(-1, -2)
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for a, b, c in NEWTON_SCHULZ:
        gram = x @ x.transpose(-1, -2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.transpose(-1, -2)


def muon(
    parameters: dict[str, Tensor],
    gradients: dict[str, Tensor],
    state: dict[str, Tensor],
    rate: Rate,
    decay: Rate = 0.0,
    momentum: float = 0.99,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
) -> None:
    """The paper's Muon (section 6, Thm 8; public code): Muon on W, Adam with coupled L2 on V.

    W: mean <- momentum*mean + (1-momentum)*gradient; W <- (1 - rate*decay) W - rate * orthogonalise(mean). No
    Nesterov term, no rescaling by the matrix's shape.
    """
    _count(state)
    gradient = gradients["V"] + decay * parameters["V"]
    _adam_one("V", parameters["V"], gradient, state, rate, betas, epsilon)
    mean = state.setdefault("W.mean", torch.zeros_like(parameters["W"]))
    mean.lerp_(gradients["W"], 1 - momentum)
    parameters["W"].mul_(1 - rate * decay).sub_(orthogonalise(mean) * rate)


OPTIMISERS: dict[str, Callable[..., None]] = {"adam": adam, "adamw": adamw, "sgd": sgd, "muon": muon}
