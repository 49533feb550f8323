"""The closed forms against computations that do not use them, in float64."""

from __future__ import annotations

import torch

from methods.grokking import meters, network, theory
from tycho.adapter import Run
from tycho.keys import setting
from tycho.tasks import groups


def measure(run: Run) -> None:
    """Largest errors of eq. 4, eq. 7's gradient, Theorem 2's maxima and Theorems 6 and 7 over instances."""
    generator = run.generator("instances")
    for order, share, width, eta in (
        (11, 0.5, 24, 0.5),
        (23, 0.4, 64, 0.067),
        (23, 0.8, 600, 1.0),
        (41, 0.4, 256, 0.2),
    ):
        point = setting(M=order, p=share, K=width, eta=eta)
        pairs = groups.pairs(groups.group(f"Z{order}"))
        rows, _ = groups.split(order**2, int(share * order**2), generator)
        left, right, target = pairs[rows].unbind(dim=1)
        weights = torch.randn(2 * order, width, generator=generator, dtype=torch.float64) / order**0.5
        features = network.features(weights[None], left[None], right[None])[0]
        targets = theory.one_hot(target, order)
        run.metric("ridge_gradient_error", _ridge_error(features, targets, eta), setting=point)
        run.metric("energy_gradient_error", _gradient_error(weights, left, right, target), setting=point)
        wrong = _repulsion_errors(features[:, :16], eta)
        run.metric("repulsion_sign_errors", wrong, setting=point)
    for name in ("Z11", "Z12", "Z23", "Z4xZ7", "S3", "D5"):
        error, alone = _maxima(groups.group(name), run.config.starts, generator)
        run.metric("maximum_energy_error", error, setting=setting(group=name))
        run.metric("maximum_mixture", alone, setting=setting(group=name))
    for name in ("Z11", "Z12", "Z23", "S3"):
        learnt = _learnt_again(groups.group(name), run.config.starts, generator)
        run.metric("learnt_again", learnt, setting=setting(group=name))


def _ridge_error(features: torch.Tensor, targets: torch.Tensor, eta: float) -> float:
    """Eq. 4 against G_F at the output layer that minimises the ridge problem, found as an augmented least-squares fit."""
    nodes, classes = features.shape[1], targets.shape[1]
    stacked = torch.cat([theory.centre(features), eta**0.5 * torch.eye(nodes, dtype=features.dtype)])
    wanted = torch.cat([theory.centre(targets), torch.zeros(nodes, classes, dtype=features.dtype)])
    output = torch.linalg.lstsq(stacked, wanted, driver="gelsd").solution
    direct = theory.backpropagated_gradient(features, targets, output)
    return float((theory.limiting_gradient(features, targets, eta) - direct).abs().max() / direct.abs().max())


def _gradient_error(weights: torch.Tensor, left: torch.Tensor, right: torch.Tensor, target: torch.Tensor) -> float:
    """The energy's gradient against automatic differentiation of eq. 7 as written, with dense Y and P1."""
    w = weights.clone().requires_grad_()
    order = len(weights) // 2
    dense = theory.centre(theory.one_hot(target, order)).T @ (w[left] + w[order + right]).square()
    (dense.square().sum() / 2).backward()
    closed = theory.energy_gradient(weights, left, right, target)
    return float((closed - w.grad).abs().max() / w.grad.abs().max())


def ascended(
    weights: torch.Tensor,
    left: torch.Tensor,
    right: torch.Tensor,
    target: torch.Tensor,
    classes: torch.Tensor | None = None,
    rest: float = 1e-9,
    steps: int = 20_000,
) -> torch.Tensor:
    """Maxima of E on the unit sphere, weights [2M, B] -> [2M, B]: ascent until the slope along it is `rest` times E.

    A node of learnt components alone is a saddle of the residual energy: E and its gradient are tiny beside it, and how long
    plain ascent takes to leave has no bound. So it is ln E that is ascended, by steps of length 0.1 at most; it has the
    same maxima, where the step is about that of `theory.ascend`. Raises RuntimeError where some start never rests.
    """
    weights = weights / weights.norm(dim=0)
    for _ in range(steps):
        gradient = theory.energy_gradient(weights, left, right, target, classes=classes)
        radial = (gradient * weights).sum(dim=0)  # 4 E, since E is of degree 4 in w
        slope = 4 * (gradient / radial - weights)
        size = slope.norm(dim=0)
        if (size <= rest).all():
            return weights
        weights = weights + slope * (0.1 / size).clamp_max(1 / 12)
        weights = weights / weights.norm(dim=0)
    raise RuntimeError(f"{int((size > rest).sum())} of {len(size)} starts still climb after {steps} steps")


def _maxima(group: groups.Group, starts: int, generator: torch.Generator) -> tuple[float, float]:
    """Ascent from random starts on the full table: the largest distance of the energy reached from a value Theorem 2
    allows, and the largest share of a node's power outside its strongest irrep (0: every maximum is one irrep)."""
    left, right, target = groups.pairs(group).unbind(dim=1)
    first = torch.randn(2 * group.order, starts, generator=generator, dtype=torch.float64)
    weights = ascended(first, left, right, target)
    reached = theory.energy(weights, left, right, target)
    kinds = {1: "real", 0: "complex", -1: "quaternionic"}
    _, degrees = groups.characters(group)
    signs = groups.frobenius_schur(group).tolist()
    allowed = {
        theory.feature_energy(group.order, degree, kinds[sign])
        for degree, sign in zip(degrees.tolist()[1:], signs[1:], strict=True)
    }
    error = (reached[:, None] - torch.tensor(sorted(allowed), dtype=torch.float64)).abs().amin(dim=1)
    basis, component = groups.isotypic_basis(group)
    power = meters.component_power(weights[None], basis, component)
    return float(error.max()), float((1 - meters.concentration(power)).max())


def _repulsion_errors(features: torch.Tensor, eta: float) -> float:
    """Thm 6: pairs of nodes whose entry of B has not the opposite sign of their similarity without the others."""
    b = theory.interaction(features, eta)
    pairs = torch.combinations(torch.arange(features.shape[1]))
    alike = torch.stack([theory.residual_similarity(features, eta, int(j), int(m)) for j, m in pairs])
    return float((b[pairs[:, 0], pairs[:, 1]].sign() != -alike.sign()).sum())


def _learnt_again(group: groups.Group, starts: int, generator: torch.Generator) -> float:
    """Thm 7: the largest share of a node's power in components already learnt, after ascent of the residual energy.

    Half of the components but the constant count as learnt, and the constant.
    """
    left, right, target = groups.pairs(group).unbind(dim=1)
    basis, component = groups.isotypic_basis(group)
    count = int(component.max()) + 1
    learnt = torch.zeros(count, dtype=torch.bool)
    learnt[0] = True
    learnt[1 + torch.randperm(count - 1, generator=generator)[: (count - 1) // 2]] = True
    columns = basis[:, ~learnt[component]]
    first = torch.randn(2 * group.order, starts, generator=generator, dtype=torch.float64)
    ended = ascended(first, left, right, target, classes=columns @ columns.T)
    power = meters.component_power(ended[None], basis, component)[0]
    return float((power[learnt].sum(dim=0) / power.sum(dim=0)).max())
