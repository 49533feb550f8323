"""SPG's estimators and loss (arXiv 2510.09541, Eq. 2, Cor. 1, Eq. 8, Eq. 5), as the public code computes them.

Shapes: log_p [B, m, n], log π_θ(x_i | z_τ, c) of m masked copies; scored [B, m, n] bool, S_τ; lengths [B], L;
advantages [B]. n_τ = |S_τ|, t_τ = n_τ / L.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Negatives = Literal["mix", "eubo", "elbo", "zero"]
FLOOR = -1e30  # log of nothing, finite so that gradients stay so


def elbo(log_p: Tensor, scored: Tensor) -> Tensor:
    """[B] (1/m) Σ_τ (1/n_τ) Σ_{i∈S_τ} log p_τi: the lower bound a token, with w(t) = 1/t."""
    total = log_p.masked_fill(~scored, 0.0).sum(dim=2)
    return (total / scored.sum(dim=2).clamp_min(1)).mean(dim=1)


def power_means(log_p: Tensor, scored: Tensor, lengths: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """(log a_i [B, n], U [B, n]): a_i = (1/m) Σ_τ 1[i∈S_τ] p_τi^β / t_τ, and the tokens scored in any copy."""
    log_t = (scored.sum(dim=2).clamp_min(1) / lengths[:, None]).log()
    terms = (beta * log_p - log_t[..., None]).masked_fill(~scored, FLOOR)
    return terms.logsumexp(dim=1) - math.log(scored.shape[1]), scored.any(dim=1)


def eubo(log_p: Tensor, scored: Tensor, lengths: Tensor, beta: float = 1.0) -> Tensor:
    """[B] (1/|U|) Σ_{i∈U} (1/β) log a_i: the upper bound a token, without its constant. Needs β > 0."""
    log_a, union = power_means(log_p, scored, lengths, beta)
    return log_a.masked_fill(~union, 0.0).sum(dim=1) / beta / union.sum(dim=1).clamp_min(1)


def loose_eubo(log_p: Tensor, scored: Tensor, lengths: Tensor, beta: float = 1.0) -> Tensor:
    """[B] (1/|U|) Σ_{i∈U} (a_i - 1) / β: by log u ≤ u - 1, unbiased, looser (Table 14)."""
    log_a, union = power_means(log_p, scored, lengths, beta)
    return (log_a.exp() - 1).masked_fill(~union, 0.0).sum(dim=1) / beta / union.sum(dim=1).clamp_min(1)


def mix(log_p: Tensor, scored: Tensor, lengths: Tensor, beta: float = 1.0, omega: float = 0.5) -> Tensor:
    """[B] ω EUBO + (1 - ω) ELBO (Eq. 8)."""
    return omega * eubo(log_p, scored, lengths, beta) + (1 - omega) * elbo(log_p, scored)


def group_advantages(rewards: Tensor) -> Tensor:
    """rewards [groups, g] -> A = R - mean of the group (no division by its standard deviation)."""
    return rewards - rewards.mean(dim=1, keepdim=True)


def spg_loss(
    log_p: Tensor,
    scored: Tensor,
    lengths: Tensor,
    advantages: Tensor,
    *,
    negatives: Negatives = "mix",
    beta: float = 1.0,
    omega: float = 0.5,
) -> Tensor:
    """-Σ_j L_j A_j ℓ_j / Σ_j L_j, with ℓ_j the ELBO where A_j > 0 and the chosen estimate elsewhere ("zero": nothing)."""
    lower = elbo(log_p, scored)
    if negatives == "elbo":
        upper = lower
    elif negatives == "zero":
        upper = torch.zeros_like(lower)
    else:
        upper = eubo(log_p, scored, lengths, beta)
        if negatives == "mix":
            upper = omega * upper + (1 - omega) * lower
    chosen = torch.where(advantages > 0, lower, upper)
    return -(lengths * advantages * chosen).sum() / lengths.sum()
