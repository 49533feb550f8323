"""The neighbours' ideas as functions: Grokfast, StableMax, orthogonal gradients, and the two networks they are tried on.

Grokfast (arXiv 2405.20233), Grokking at the Edge of Numerical Stability (arXiv 2501.04697), Progress measures for
grokking via mechanistic interpretability (arXiv 2301.05217). One network at a time, parameters as a flat dict.
Symbols: M group order, n examples, H width, d model width, A heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Parameters = dict[str, Tensor]


# --- gradients -------------------------------------------------------------------------------------------------------


def grokfast(gradients: Parameters, memory: Parameters, alpha: float = 0.98, amplify: float = 2.0) -> Parameters:
    """Grokfast-EMA: h <- alpha h + (1 - alpha) g with h = g at first; returns g + amplify h. `memory` keeps h.

    The first gradient comes back (1 + amplify) times as long. Defaults: the public README's for modular products.
    """
    for name, gradient in gradients.items():
        slow = memory.get(f"slow_{name}", gradient)
        memory[f"slow_{name}"] = alpha * slow + (1 - alpha) * gradient
    return {name: gradient + amplify * memory[f"slow_{name}"] for name, gradient in gradients.items()}


def orthogonal(gradient: Tensor, weight: Tensor) -> Tensor:
    """The part of a gradient that does not scale the weight, at the gradient's length (the ⟂Grad of 2501.04697).

    g - (w·g / w·w) w over the whole tensor, rescaled to |g|. A weight of zero leaves g as it is.
    """
    tiny = torch.finfo(gradient.dtype).tiny
    across = gradient - (weight * gradient).sum() / weight.square().sum().clamp_min(tiny) * weight
    return across * (gradient.norm() / across.norm().clamp_min(tiny))


# --- losses ----------------------------------------------------------------------------------------------------------


def stablemax_log(logits: Tensor) -> Tensor:
    """log s(x) / sum s(x) over the last axis, s(x) = x + 1 for x >= 0 and 1 / (1 - x) below (2501.04697, eq. for s).

    Grows linearly, so that one large logit does not absorb the rest in float arithmetic.
    """
    s = torch.where(logits >= 0, logits + 1, 1 / (1 - logits.clamp_max(0)))
    return s.log() - s.sum(dim=-1, keepdim=True).log()


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: logits.log_softmax(dim=-1),
    "stablemax": stablemax_log,
}


def cross_entropy(logits: Tensor, target: Tensor, kind: str = "softmax") -> Tensor:
    """Mean negative log-probability of the targets: logits [n, M], target [n]; in the logits' precision."""
    return -LOSSES[kind](logits).gather(-1, target[..., None]).mean()


# --- networks --------------------------------------------------------------------------------------------------------


def mlp_start(order: int, width: int, generator: torch.Generator) -> Parameters:
    """{"embed" [2M, H], "hidden" [H, H], "output" [H, M]}: two hidden layers without biases, PyTorch's linear start."""

    def layer(inputs: int, outputs: int) -> Tensor:
        bound = 1 / math.sqrt(inputs)
        return torch.empty(inputs, outputs).uniform_(-bound, bound, generator=generator)

    return {
        "embed": layer(2 * order, width),
        "hidden": layer(width, width),
        "output": layer(width, order),
    }


def mlp(parameters: Parameters, left: Tensor, right: Tensor) -> Tensor:
    """Logits [n, M] of relu(relu(X embed) hidden) output, X two one-hot elements (2501.04697's network)."""
    embed = parameters["embed"]
    first = torch.relu(embed[left] + embed[len(embed) // 2 + right])
    return torch.relu(first @ parameters["hidden"]) @ parameters["output"]


def transformer_start(order: int, width: int, generator: torch.Generator) -> Parameters:
    """The one-layer transformer of 2301.05217: no layer norm, MLP four times as wide, M + 1 tokens ("=" is the last).

    Weights are normal with standard deviation 1/sqrt(d), as in its code; biases are zero.
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / math.sqrt(width)

    return {
        "embed": normal(order + 1, width),
        "place": normal(3, width),
        "query": normal(width, width),
        "key": normal(width, width),
        "value": normal(width, width),
        "mix": normal(width, width),
        "inner": normal(width, 4 * width),
        "inner_bias": torch.zeros(4 * width),
        "outer": normal(4 * width, width),
        "outer_bias": torch.zeros(width),
        "output": normal(width, order),
    }


def transformer(parameters: Parameters, left: Tensor, right: Tensor, heads: int = 4) -> Tensor:
    """Logits [n, M] at "=" of the sequence (a, b, =).

    Only the last position is read and there is one layer, so its query meets three keys of which each depends on one
    token: keys and values are tables of M rows, looked up. Exact, and the causal mask hides nothing from "=".
    """
    p = parameters
    order, width = len(p["embed"]) - 1, p["embed"].shape[1]
    streams = [
        p["embed"][:order] + p["place"][0],
        p["embed"][:order] + p["place"][1],
        p["embed"][order:] + p["place"][2],
    ]
    query = (streams[2] @ p["query"]).view(heads, -1)
    keys = [(s @ p["key"]).view(len(s), heads, -1) for s in streams]
    values = [(s @ p["value"]).view(len(s), heads, -1) for s in streams]
    scores = [(k * query).sum(dim=-1) / math.sqrt(width // heads) for k in keys]  # [M, A] twice, [1, A]
    found = torch.stack([scores[0][left], scores[1][right], scores[2].expand(len(left), -1)]).softmax(dim=0)
    read = (
        found[0, ..., None] * values[0][left] + found[1, ..., None] * values[1][right] + found[2, ..., None] * values[2]
    )
    stream = streams[2] + read.flatten(1) @ p["mix"]
    stream = stream + torch.relu(stream @ p["inner"] + p["inner_bias"]) @ p["outer"] + p["outer_bias"]
    return stream @ p["output"]


NETWORKS: dict[str, tuple[Callable[..., Parameters], Callable[..., Tensor]]] = {
    "mlp": (mlp_start, mlp),
    "transformer": (transformer_start, transformer),
}
