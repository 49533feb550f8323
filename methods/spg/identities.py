"""The bounds' theorems on random denoisers, against formulas and enumerations that do not use them."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from methods.spg import bounds, exact
from tycho.adapter import Run
from tycho.keys import setting

TOKENS = (2, 3, 4, 5, 6)
BETAS = (1.0, 1.5, 2.0)
OMEGAS = [i / 20 for i in range(-10, 31)]


def measure(run: Run) -> None:
    generator = run.generator("instances")
    for beta in BETAS:
        errors = [gradient_difference(beta, generator) for _ in range(run.config.instances)]
        run.metric("one_copy_gradient_error", max(errors), setting=setting(beta=beta))
        run.metric("toy_gradient_error", max(toy_error(beta, generator) for _ in range(run.config.instances)),
                   setting=setting(beta=beta))  # fmt: skip
    for n in TOKENS:
        tables = random_tables(run.config.instances, n, generator)
        likelihood, lower = exact.log_likelihood(tables), exact.elbo(tables)
        run.metric("lower_violation", above(lower, likelihood), setting=setting(n=n))
        for beta in (*BETAS, float(n)):
            upper = exact.eubo(tables, beta) + exact.constant(n, beta)
            run.metric("upper_violation", above(likelihood, upper), setting=setting(n=n, beta=beta))
        rising = [lower, *(exact.eubo(tables, beta) for beta in (1.0, 1.5, 2.0, 4.0))]
        worst = max(above(a, b) for a, b in itertools.pairwise(rising))
        run.metric("order_violation", worst, setting=setting(n=n))
    for n in TOKENS[1:5]:
        run.metric("best_omega_slope", max(omega_slope(n, generator) for _ in range(run.config.instances)),
                   setting=setting(n=n))  # fmt: skip


def random_tables(instances: int, n: int, generator: torch.Generator) -> Tensor:
    """[instances, 2^n, n] log-probabilities of denoisers whose conditionals need not fit together, some of them sure."""
    spread = 3 * torch.rand(instances, 1, 1, generator=generator, dtype=torch.float64)
    logits = spread * torch.randn(instances, 2**n, n, generator=generator, dtype=torch.float64)
    return torch.nn.functional.logsigmoid(logits)


def above(lower: Tensor, upper: Tensor) -> float:
    """By how much, at most, what should be below is above."""
    return float((lower - upper).clamp_min(0).max())


def gradient_difference(beta: float, generator: torch.Generator) -> float:
    """With one masked copy: largest difference of the gradients of EUBO and ELBO by log p, over the largest entry."""
    log_p = -torch.rand(4, 1, 8, generator=generator, dtype=torch.float64)
    log_p.requires_grad_()
    scored = torch.rand(4, 1, 8, generator=generator) < 0.5
    scored[:, :, 0] = True
    lengths = torch.full((4,), 8)
    gradients = [
        torch.autograd.grad(bound.sum(), log_p)[0]
        for bound in (bounds.elbo(log_p, scored), bounds.eubo(log_p, scored, lengths, beta))
    ]
    return float((gradients[0] - gradients[1]).abs().max() / gradients[0].abs().max())


def toy_error(beta: float, generator: torch.Generator) -> float:
    """App. E.3: two tokens, of the first a = π(A|MA) and b = π(A|MM). Its shares of the bounds are (ln a + ln b)/2 and
    (1/β) ln((a^β + b^β)/2), so ∂ELBO/∂a = 1/(2a) and ∂EUBO/∂a = a^(β-1) / (a^β + b^β).

    Largest relative error of the enumerated bounds' gradients, by automatic differentiation.
    """
    a, b = (torch.rand(2, generator=generator, dtype=torch.float64) * 0.9 + 0.05).requires_grad_().unbind()
    other = torch.full_like(a, -1.0)  # of the second token, and of what is not read
    rows = [(b.log(), other), (other, other), (a.log(), other), (other, other)]  # visible: none, first, second, both
    table = torch.stack([torch.stack(row) for row in rows])
    bounds_of = exact.elbo(table), exact.eubo(table, beta)
    found = [torch.autograd.grad(bound, a, retain_graph=True)[0] for bound in bounds_of]
    wanted = [1 / (2 * a), a ** (beta - 1) / (a**beta + b**beta)]
    return max(float(((f - w).abs() / w).detach()) for f, w in zip(found, wanted, strict=True))


def omega_slope(n: int, generator: torch.Generator) -> float:
    """|dVar/dω| at the closed form of ω*, for a random coordinate (Prop. 1).

    With the gap G = U - L the mixture is L + ω G, and the slope of its variance, 2 Cov(L, G) + 2ω Var(G), is a difference of two
    terms, given here as a share of what either is at most. Over Var(G), and from the bounds themselves, rounding looked like a
    slope where the denoiser was nearly sure.
    """
    table = random_tables(1, n, generator)[0]
    scores = torch.randn(2**n, n, generator=generator, dtype=torch.float64)
    q, lower, upper = exact.gradient_terms(table, scores, 1.0)
    gap = upper - lower
    omega = exact.best_omega(q, lower, upper).clone().requires_grad_()
    (slope,) = torch.autograd.grad(exact.variance(q, lower + omega * gap), omega)
    scale = 2 * (exact.variance(q, lower) * exact.variance(q, gap)).sqrt()
    return float(slope.abs() / scale.clamp_min(1e-300))


def curve(table: Tensor, scores: Tensor, beta: float) -> list[tuple[float, float]]:
    """(ω, variance of Mix's one-draw gradient over that of ELBO's) along one coordinate."""
    q, lower, upper = exact.gradient_terms(table, scores, beta)
    base = float(exact.variance(q, lower))
    if not math.isfinite(base) or base <= 0:
        return []
    return [(w, float(exact.variance(q, (1 - w) * lower + w * upper)) / base) for w in OMEGAS]
