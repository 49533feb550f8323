"""Likelihood and bounds of a masked diffusion model by enumeration of all masks, for a handful of tokens.

A completion x of n tokens has a table [..., 2^n, n]: log π_θ(x_i | z) for every set of visible tokens (bit i of the row's
number: token i is visible) and every hidden i; other entries are not read. In continuous time a masked diffusion model
unmasks one token at a time in uniformly random order, so its likelihood is a mean over n! orders, which a sum over sets
gives; its ELBO and EUBO are sums over sets as well. Nothing is assumed of the network: its conditionals need not fit
together. All in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def visible(n: int) -> Tensor:
    """[2^n, n] bool: whether token i is visible in set s."""
    return (torch.arange(2**n)[:, None] >> torch.arange(n)) & 1 == 1


def weights(n: int) -> Tensor:
    """[2^n, n] probability that, in a random order, exactly the set's tokens stand before i; 0 where i is among them.

    |s|! (n - |s| - 1)! / n!, which is ∫ w(t) t^|M| (1 - t)^(n - |M|) dt for the hidden set M and w(t) = 1/t.
    """
    seen = visible(n)
    size = seen.sum(dim=1)
    table = [math.factorial(k) * math.factorial(n - k - 1) / math.factorial(n) for k in range(n)] + [0.0]
    return torch.tensor(table, dtype=torch.float64)[size][:, None] * ~seen


def log_likelihood(table: Tensor) -> Tensor:
    """[...] log π_θ(x | c) = log of the mean over orders σ of Π_k π(x_σk | x_σ<k)."""
    n = table.shape[-1]
    reached: dict[int, Tensor] = {0: torch.zeros(table.shape[:-2], dtype=table.dtype)}
    for s in range(1, 2**n):  # sets in numerical order: all subsets of s come before it
        last = [i for i in range(n) if s >> i & 1]
        ways = [reached[s ^ 1 << i] + table[..., s ^ 1 << i, i] for i in last]
        reached[s] = torch.stack(ways).logsumexp(dim=0) - math.log(n - len(last) + 1)
    return reached[2**n - 1]


def elbo(table: Tensor) -> Tensor:
    """[...] Eq. 2."""
    w = weights(table.shape[-1])
    return (w * table.masked_fill(w == 0, 0.0)).sum(dim=(-2, -1))


def eubo(table: Tensor, beta: float) -> Tensor:
    """[...] Cor. 1 without its constant: Σ_i (1/β) log E[w 1[i hidden] π_i^β]."""
    w = weights(table.shape[-1])
    return ((beta * table).masked_fill(w == 0, 0.0) + w.log()).logsumexp(dim=-2).sum(dim=-1) / beta


def constant(n: int, beta: float) -> float:
    """C of Cor. 1, (1/β) log E_q[q(path)^-n], where paths are the n! orders, all alike; 0 where β ≥ n (Hölder).

    The paper's chain of T steps has more paths, and its constant grows with T without limit; one token a step is its
    tightest reading.
    """
    return 0.0 if beta >= n else n / beta * math.lgamma(n + 1)


def scaled_eubo(table: Tensor, beta: float) -> Tensor:
    """[...] (β/n) EUBO(β) for 1 ≤ β ≤ n: an upper bound that needs no constant (ours).

    log π ≤ EUBO(n) by Hölder, and π ≤ 1 gives E[π^n] ≤ E[π^β] for each token.
    """
    return beta / table.shape[-1] * eubo(table, beta)


def conditionals(denoise: Callable[[Tensor], Tensor], x: Tensor, positions: Tensor, mask_token: int) -> Tensor:
    """[2^n, n] table of the tokens at `positions` [n] of one completion x [N], the others of which are always visible.

    denoise: [2^n, N] ids -> log-probabilities [2^n, N, V].
    """
    n = len(positions)
    z = x.expand(2**n, -1).clone()
    z[:, positions] = x[positions].masked_fill(~visible(n), mask_token)
    log_p = denoise(z)[:, positions].double()
    return log_p.gather(2, x[positions].expand(2**n, n)[..., None])[..., 0]


# --- The variance of Mix's gradient (Prop. 1) ------------------------------------------------------------------------


def gradient_terms(table: Tensor, scores: Tensor, beta: float) -> tuple[Tensor, Tensor, Tensor]:
    """(q [2^n], lower [2^n], upper [2^n]): probability of a mask and its one-draw gradients of ELBO and EUBO (Eq. 9).

    scores [2^n, n]: ∂ log π(x_i | z) along one coordinate of θ. Of n tokens k ~ Uniform{1 … n} are hidden, w = n/k (with
    t ~ U(0, 1) and w = 1/t the variance would be infinite). The coefficients are w and ρ = w π^β / E[w π^β].
    """
    n = table.shape[-1]
    hidden = ~visible(n)
    k = hidden.sum(dim=1)
    sizes = torch.tensor([math.inf] + [n * math.comb(n, j) for j in range(1, n + 1)], dtype=torch.float64)
    q, w = 1 / sizes[k], (n / k.clamp_min(1)).double()[:, None] * hidden
    raised = w * (beta * table).exp().masked_fill(~hidden, 0.0)
    rho = raised / (q[:, None] * raised).sum(dim=0)
    scores = scores.masked_fill(~hidden, 0.0)
    return q, (w * scores).sum(dim=1), (rho * scores).sum(dim=1)


def variance(q: Tensor, values: Tensor) -> Tensor:
    """[...] variance of values [..., 2^n] under q [2^n]."""
    centred = values - (q * values).sum(dim=-1, keepdim=True)
    return (q * centred**2).sum(dim=-1)


def best_omega(q: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """ω* = -Cov(lower, upper - lower) / Var(upper - lower): where the variance of (1 - ω) lower + ω upper is least."""
    gap = upper - lower
    centred = lower - (q * lower).sum(dim=-1, keepdim=True)
    return -(q * centred * gap).sum(dim=-1) / variance(q, gap)
