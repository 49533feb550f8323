"""The ring's theorems, and the classifier on what was constructed, on what was broken and on what was drawn at random."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from methods.cogs import algebra, solutions, tables
from methods.cogs.decomposition import RULES, TOLERANCE, decompose, nodes_of_order
from methods.grokking import network
from tycho.adapter import Run
from tycho.keys import setting
from tycho.tasks import groups


def measure(run: Run) -> None:
    """Largest errors over instances, at the task's group order and at two small ones."""
    generator = run.generator("instances")
    orders = sorted({5, 11, groups.group(run.key.task).order})
    for d in orders:
        _homomorphism(run, d, generator)
        _loss_identity(run, d, generator)
        _solutions(run, d, generator)
    _classifier(run, orders[-1], generator)


def network_loss(W: Tensor, V: Tensor) -> Tensor:
    """[R]: the training loss of networks W [R, 2d, q], V [R, q, d] on all pairs, by a forward pass."""
    d = V.shape[-1]
    left, right, target = groups.pairs(groups.group(f"Z{d}")).T.expand(len(W), 3, -1).unbind(dim=1)
    weight = torch.full(left.shape, 1 / d**2, dtype=W.dtype)
    return network.squared_error(network.forward(W, V, left, right), target, weight)[0]


def _homomorphism(run: Run, d: int, generator: torch.Generator) -> None:
    """Both kinds of sum potentials of sums and products of random elements, relative to their size."""
    for q1, q2 in ((1, 4), (3, 2), (6, 5)):
        z1, z2 = (torch.randn(3, d, q, generator=generator, dtype=torch.complex128) for q in (q1, q2))
        for kind, r in (("cross", algebra.cross_potentials), ("square", algebra.square_potentials)):
            point = setting(d=d, kind=kind, q=f"{q1} and {q2}")
            run.metric("sum_error", _off(r(algebra.add(z1, z2)), r(z1) + r(z2)), setting=point)
            run.metric("product_error", _off(r(algebra.multiply(z1, z2)), r(z1) * r(z2)), setting=point)


def _off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def _loss_identity(run: Run, d: int, generator: torch.Generator) -> None:
    """The loss from potentials against a forward pass, for random real weights with and without means."""
    for q in (1, 2 * d):
        W = torch.randn(4, 2 * d, q, generator=generator, dtype=torch.float64) / d**0.5
        V = torch.randn(4, q, d, generator=generator, dtype=torch.float64) / d**0.5
        for means, own in (("removed", algebra.remove_mean(W)), ("kept", W)):
            direct = network_loss(own, V)
            error = (algebra.loss(algebra.coefficients(own, V)).total - direct).abs() / direct
            run.metric("loss_identity_error", float(error.max()), setting=setting(d=d, means=means, q=q))


def _solutions(run: Run, d: int, generator: torch.Generator) -> None:
    """Loss and number of nodes of the paper's solutions with random free phases, against what the theorems say."""
    for name, solution in solutions.SOLUTIONS.items():
        if name == "memorisation":  # ours, for contrast: d^2 nodes
            continue
        drawn = torch.stack([solution.build(d, generator) for _ in range(min(run.config.instances, 460 // d))])
        point = setting(d=d, solution=name.replace(",", ""))
        error = (network_loss(*algebra.weights(drawn)) - solution.loss(d)).abs().max()
        run.metric("solution_loss_error", float(error), setting=point)
        run.metric("solution_nodes_error", drawn.shape[-1] - solution.nodes(d), setting=point)


# --- The classifier ------------------------------------------------------------------------------------------------


def between(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator, period: float) -> Tensor:
    """Phases [*shape] of random angle in [low, high] plus a random multiple of `period`."""
    turns = torch.randint(0, round(2 * math.pi / period), shape, generator=generator)
    angle = low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64) + period * turns
    return torch.polar(torch.ones_like(angle), angle)


def constructed(d: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Product -> an element [3, d, q] with that product at every frequency.

    Free phases keep away from where families meet: z_nu * z_syn is z_{nu=i} * z_syn where nu is i up to sign and third
    roots of unity, and so is z_{nu=i} * z_{syn, alpha beta} where 1, alpha, beta agree up to powers of i.
    """
    half = (len(solutions.frequencies(d)),)
    third, quarter, eighth = math.pi / 3, math.pi / 2, math.pi / 4

    def shift() -> Tensor:
        return solutions.u_phase(*(solutions.random_phase(half, generator) for _ in range(2)))

    nu = between(third / 2 + 0.25, 3 * third / 2 - 0.25, half, generator, third)
    alpha, beta = (between(at - 0.1, at + 0.1, half, generator, quarter) for at in (eighth, eighth / 2))
    return {
        "nu=i * xi": solutions.order_4(d, solutions.random_phase(half, generator), shift()),
        "nu * syn": solutions.order_6(d, nu, shift()),
        "nu=i * syn": solutions.order_6(d, torch.full(half, 1j, dtype=torch.complex128), shift()),
        "nu=i * syn_alphabeta": solutions.order_6_alpha_beta(d, alpha, beta, shift()),
    }


def disguised(z: Tensor, generator: torch.Generator, noise: float = 0.01) -> tuple[Tensor, Tensor]:
    """Weights of z as training could leave them: nodes shuffled, signs flipped, dead nodes, noise and means added."""
    W, V = algebra.weights(z)
    W = W * (torch.randint(0, 2, (W.shape[1],), generator=generator) * 2 - 1)
    dead = 0.02 * torch.randn(len(W) + V.shape[1], 40, generator=generator, dtype=W.dtype)
    W, V = torch.cat([W, dead[: len(W)]], dim=1), torch.cat([V, dead[len(W) :].T])
    order = torch.randperm(len(V), generator=generator)
    W, V = (
        x + noise * x.std() * torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in (W[:, order], V[order])
    )
    return W + 0.01 * torch.randn(1, W.shape[1], generator=generator, dtype=W.dtype), V


def _classifier(run: Run, d: int, generator: torch.Generator) -> None:
    """Shares of frequencies: constructed ones that get a wrong name, broken and unrelated ones that get any."""
    for draw in range(min(run.config.instances, 5)):
        for product, z in constructed(d, generator).items():
            point = setting(draw=draw, product=product.replace("=", " "))
            W, V = disguised(z, generator)
            table = tables.decomposition_table(algebra.coefficients(W, V)[None])
            run.metric("misnamed", float((table["product"] != product).mean()), setting=point)
            nodes = nodes_of_order(z[None], 4 if "xi" in product else 6)[2]
            node = torch.randint(0, nodes.shape[-1], (len(nodes),), generator=generator)
            turn = torch.polar(
                torch.full((len(nodes), 3), 0.3, dtype=torch.float64),
                2 * math.pi * torch.rand(len(nodes), 3, generator=generator, dtype=torch.float64),
            )
            nodes[torch.arange(len(nodes)), :, node] *= 1 + turn
            run.metric("mutants_named", _named(nodes), setting=point)
    for order in (4, 6):
        a, b = (solutions.random_phase((run.config.unrelated, order), generator) for _ in range(2))
        unrelated = torch.stack([a, b, (a * b).conj()], dim=1)
        for variant, rule in RULES.items():
            run.metric("unrelated_named", _named(unrelated, *rule), variant=variant, setting=setting(order=order))


def _named(nodes: Tensor, tolerance: float = TOLERANCE, limit: float = TOLERANCE) -> float:
    names = decompose(nodes, tolerance, limit).product
    return 1 - names.count("unknown") / len(names)
