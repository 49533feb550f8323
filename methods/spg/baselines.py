"""The losses SPG is compared with, each over a group's completions and with A = R - group mean.

Shapes: log_p, old, reference [B, n], log-probabilities of the same tokens under the same masks by the policy, the policy
that sampled, and a reference; scored [B, n] bool; advantages [B].
"""

from __future__ import annotations

import torch
from torch import Tensor


def clipped(log_p: Tensor, old: Tensor, advantages: Tensor, epsilon: float) -> Tensor:
    """[B, n] min(ρ A, clip(ρ, 1 - ε, 1 + ε) A), ρ = exp(log_p - old), token by token."""
    ratio = (log_p - old).exp()
    weight = advantages[:, None]
    return torch.minimum(ratio * weight, ratio.clamp(1 - epsilon, 1 + epsilon) * weight)


def k3(log_p: Tensor, reference: Tensor) -> Tensor:
    """[B, n] exp(r - p) - (r - p) - 1 ≥ 0: an unbiased estimate of KL(policy, reference)."""
    gap = reference - log_p
    return gap.exp() - gap - 1


def diffu_grpo_loss(
    log_p: Tensor, old: Tensor, reference: Tensor, scored: Tensor, advantages: Tensor, *, epsilon: float, kl: float
) -> Tensor:
    """d1 (arXiv 2504.12216): clipped surrogate and KL of one-step log-probabilities, averaged over all tokens."""
    value = clipped(log_p, old, advantages, epsilon) - kl * k3(log_p, reference)
    return -value.masked_fill(~scored, 0.0).sum() / scored.sum()


def unigrpo_loss(
    log_p: Tensor, old: Tensor, reference: Tensor, scored: Tensor, advantages: Tensor, *, epsilon: float, kl: float
) -> Tensor:
    """UniGRPO (arXiv 2505.15809): the same on randomly masked tokens, averaged within each completion first."""
    value = clipped(log_p, old, advantages, epsilon) - kl * k3(log_p, reference)
    return -(value.masked_fill(~scored, 0.0).sum(dim=1) / scored.sum(dim=1).clamp_min(1)).mean()


def wd1_loss(log_p: Tensor, scored: Tensor, advantages: Tensor, g: int) -> Tensor:
    """wd1 (arXiv 2507.08838): Σ_j (softmax(-A)_j - softmax(A)_j) s_j over each group, mean over groups.

    s_j = Σ_i log π_i of the one-step estimate; there is no ratio to an old policy.
    """
    s = log_p.masked_fill(~scored, 0.0).sum(dim=1).view(-1, g)
    a = advantages.view(-1, g)
    return (((-a).softmax(dim=1) - a.softmax(dim=1)) * s).sum(dim=1).mean()


def structured_noise(step: int, mu: int, batch: int, generator: torch.Generator) -> Tensor:
    """[batch, 1] shares of hidden tokens at inner update `step` of μ: (step + u) / μ, u ~ U(0, 1], so the updates together
    cover all noise levels evenly, rising."""
    return (step + 1 - torch.rand(batch, 1, generator=generator)) / mu
