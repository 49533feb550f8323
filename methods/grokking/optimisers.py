"""Optimisers on stacked parameters {"W" [R, 2M, K], "V" [R, K, M]}, with a learning rate and decay for each network.

State is a flat dict of tensors (keys such as "W.mean"), ready for a safetensors checkpoint. Steps work in place.
Rates are floats or tensors that broadcast, [R, 1, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim.adam import adam as functional_adam

Rate = float | Tensor

# Quintic x -> a x + b x^3 + c x^5, other coefficients at each step, so that five steps bring [0.003, 1] into [0.97, 1.15].
NEWTON_SCHULZ = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


def _adam(
    parameters: dict[str, Tensor],
    gradients: dict[str, Tensor],
    state: dict[str, Tensor],
    rate: Rate,
    decay: Rate,
    betas: tuple[float, float],
    epsilon: float,
    decoupled: bool = False,
) -> None:
    """PyTorch's fused kernel, which passes once over memory; one call for all networks of equal rate and decay."""
    state["steps"] = state.get("steps", torch.tensor(0)) + 1
    moments = [f"{name}.{part}" for part in ("mean", "square") for name in parameters]
    for key in moments:
        if key not in state:
            state[key] = torch.zeros_like(parameters[key.split(".")[0]])
    count = len(next(iter(parameters.values())))
    for (one, shrink), chosen in _alike(rate, decay, count).items():
        parts = [
            [tensors[name][r] for name in names for r in chosen]
            for tensors, names in (
                (parameters, parameters),
                (gradients, parameters),
                (state, moments[: len(parameters)]),
                (state, moments[len(parameters) :]),
            )
        ]
        before = [torch.full((), float(state["steps"] - 1), device=part.device) for part in parts[0]]
        functional_adam(
            *parts, [], before, fused=True, amsgrad=False, beta1=betas[0], beta2=betas[1], lr=one, weight_decay=shrink,
            eps=epsilon, maximize=False, decoupled_weight_decay=decoupled,
        )  # fmt: skip


def _alike(rate: Rate, decay: Rate, count: int) -> dict[tuple[float, float], list[slice | int]]:
    """Networks by rate and decay: indices, or all at once where there is one pair."""
    if not isinstance(rate, Tensor) and not isinstance(decay, Tensor):
        return {(rate, decay): [slice(None)]}
    pairs = zip(*(torch.as_tensor(v).flatten().expand(count).tolist() for v in (rate, decay)), strict=True)
    found: dict[tuple[float, float], list[slice | int]] = {}
    for r, pair in enumerate(pairs):
        found.setdefault(pair, []).append(r)
    return found if len(found) > 1 else {pair: [slice(None)] for pair in found}


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
    _adam(parameters, gradients, state, rate, decay, betas, epsilon)


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
    _adam(parameters, gradients, state, rate, decay, betas, epsilon, decoupled=True)


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
    _adam({"V": parameters["V"]}, gradients, state, rate, decay, betas, epsilon)
    mean = state.setdefault("W.mean", torch.zeros_like(parameters["W"]))
    mean.lerp_(gradients["W"], 1 - momentum)
    parameters["W"].mul_(1 - rate * decay).sub_(orthogonalise(mean) * rate)


OPTIMISERS: dict[str, Callable[..., None]] = {"adam": adam, "adamw": adamw, "sgd": sgd, "muon": muon}
