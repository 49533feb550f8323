"""P-GRPO: group-relative policy optimisation over trajectories that are many requests (arXiv 2512.07843).

r = R_correct + R_accel, with R_accel a bonus on correct answers for a short critical path: it grows with
eta = 1 - L_longest / L_total. A_i = r_i - mean of the group, without division by the standard deviation: in a group
that is all correct the division would blow the bonus up to unit variance, and speed would rule. A is shared by every
generated token of every unit.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

BONUSES = ("paper", "code", "readme")
NORMALISATIONS = ("mean", "std")


def bonus(eta: Tensor, formula: str = "paper", rho: float = 0.5, clip: float = 0.2) -> Tensor:
    """R_accel of a correct answer with acceleration ratio eta in [0, 1).

    - `paper`: min(rho eta, clip), full at eta = clip / rho = 0.4.
    - `code`: rho min(eta, clip), at most 0.1, full at eta = 0.2.
    - `readme`: rho min(L_total / L_longest - 1, clip), the same ceiling, full at eta = 1/6.
    """
    if formula == "paper":
        return (rho * eta).clamp(max=clip)
    if formula == "code":
        return rho * eta.clamp(max=clip)
    if formula == "readme":
        return rho * (eta / (1 - eta)).clamp(max=clip)
    raise ValueError(f"bonus: formula {formula!r} is none of {', '.join(BONUSES)}")


def reward(
    correct: Tensor, eta: Tensor, formula: str = "paper", *, wrong: float = 0.0, rho: float = 0.5, clip: float = 0.2
) -> Tensor:
    """1 + bonus for a correct answer, `wrong` for another: 0 in the paper, -1 in the released configuration."""
    return torch.where(correct.bool(), 1 + bonus(eta, formula, rho, clip), wrong)


def advantages(rewards: Tensor, groups: Tensor, normalise: Literal["mean", "std"] = "mean") -> Tensor:
    """A [n] of rewards [n] in groups [n] (0 … G-1, one a prompt).

    `mean` subtracts the group's mean. `std` also divides by its standard deviation (n - 1, plus 1e-6), as GRPO does. A
    group of one keeps its reward, as in the public code.
    """
    if normalise not in NORMALISATIONS:
        raise ValueError(f"advantages: normalise {normalise!r} is none of {', '.join(NORMALISATIONS)}")
    size = torch.bincount(groups)
    single = size == 1
    zeros = torch.zeros(len(size), dtype=rewards.dtype)
    mean = zeros.index_add(0, groups, rewards) / size.clamp(min=1)
    centred = rewards - torch.where(single, 0, mean)[groups]
    if normalise == "mean":
        return centred
    spread = (zeros.index_add(0, groups, centred.square()) / (size - 1).clamp(min=1)).sqrt()
    return centred / torch.where(single, 1.0, spread + 1e-6)[groups]


def loss(log_probs: Tensor, generated: Tensor, rollout: Tensor, advantage: Tensor) -> Tensor:
    """-(1 / all generated tokens) sum_i A_i sum over the units of i of log pi(completion | context).

    `log_probs` [rows, T] and `generated` [rows, T] (True on completion tokens, not on contexts or padding): a row a
    unit, or a packed tree a rollout. `rollout` [rows] names each row's entry of `advantage` [n]. Fully on-policy: one
    step a rollout, so the importance ratio is 1, no clip acts, and there is no KL term.
    """
    mask = generated.to(log_probs.dtype)
    # A context token may be -inf under the mask of a sampler; times zero it would be NaN.
    told = torch.where(generated, log_probs, 0.0).sum(dim=-1)
    return -(advantage[rollout] * told).sum() / mask.sum().clamp(min=1)


def broadcast_from_last(values: Tensor, rollout: Tensor) -> Tensor:
    """Row values [rows] replaced by the value of the last row of the same rollout, as the public code shares A."""
    last = torch.zeros(int(rollout.max()) + 1, dtype=torch.long).scatter_reduce(
        0, rollout, torch.arange(len(rollout)), "amax", include_self=False
    )
    return values[last[rollout]]
