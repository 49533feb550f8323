"""Meters on the kept weights, and the closed forms against computations that do not use them."""

from __future__ import annotations

import altair as alt
import pandas as pd
import torch

from methods.grokking import meters, network, theory
from methods.grokking.method import data
from methods.grokking.snapshots import snapshots
from tycho.adapter import Run
from tycho.keys import setting
from tycho.tasks import groups


def trained(run: Run) -> None:
    """Fig. 3's meters over training, and when each accuracy was reached."""
    seen, _ = data(run)
    kept = snapshots(run.job.model)
    basis, component = groups.isotypic_basis(groups.group(run.key.task))
    targets = theory.one_hot(seen.target[0], int(component.numel()), torch.float32)
    late: dict[str, list[float]] = {"gradient_cosine": [], "gradient_norm": []}
    largest = {"off_diagonal_nodes": 0.0, "off_diagonal_examples": 0.0}
    for epoch, weights in run.progress(kept.items(), "meters", total=len(kept)):
        power = meters.component_power(weights["W"], basis, component)
        contributed = meters.contribution(weights["W"], weights["V"])
        live = meters.live_nodes(contributed)
        hidden = network.features(weights["W"], seen.left, seen.right, run.config.activation)[0]
        gradient = theory.backpropagated_gradient(hidden, targets, weights["V"][0])
        centred = theory.centre(hidden)
        values = {
            "gradient_norm": float(gradient.norm()),
            "gradient_cosine": float(theory.cosine(gradient, theory.key_term(hidden, targets))),
            "concentration": float(meters.live_median(meters.concentration(power), live)),
            "concentration_weighted": float(meters.weighted_mean(meters.concentration(power), contributed)),
            "live_nodes": float(live.sum()),
            "frequencies": float(meters.distinct_components(power, live)),
            "off_diagonal_nodes": float(meters.off_diagonal_ratio(centred.T @ centred)),
            "off_diagonal_examples": float(meters.off_diagonal_ratio(centred @ hidden.T)),
        }
        run.log(epoch, **values)
        if epoch >= run.config.late:
            late["gradient_cosine"].append(values["gradient_cosine"])
            late["gradient_norm"].append(values["gradient_norm"])
        largest = {name: max(value, values[name]) for name, value in largest.items()}
    for name in ("concentration", "concentration_weighted", "live_nodes", "frequencies"):
        run.metric(f"final_{name}", values[name])
    for name, value in largest.items():
        run.metric(f"largest_{name}", value)
    for name, found in late.items():
        if found:
            run.metric(f"late_{name}", sum(found) / len(found))
    _times(run)
    _spectrum(run, kept, basis, component)


def _times(run: Run) -> None:
    """Final accuracies, and the first evaluated epoch at which 99 % of the training and 95 % of the test set are right."""
    curves = run.job.record("metrics").query("stage == 'train'").pivot(index="step", columns="name", values="value")
    for part, level in (("train", 0.99), ("test", 0.95)):
        accuracy = curves[f"{part}_accuracy"]
        reached = accuracy.index[accuracy >= level]
        run.metric(f"{part}_accuracy", accuracy.iloc[-1])
        epoch = float(reached[0]) if len(reached) else float(accuracy.index[-1])
        run.metric(f"epochs_to_{part}", max(epoch, 1.0), censored=not len(reached))


def _spectrum(run: Run, kept: dict[int, dict[str, torch.Tensor]], basis: torch.Tensor, component: torch.Tensor) -> None:
    """Share of each node's power by frequency at the start and at the end, the most contributing nodes first."""
    ends = min(kept), max(kept)
    contributed = meters.contribution(kept[ends[1]]["W"], kept[ends[1]]["V"])[0]
    chosen = contributed.argsort(descending=True)[:60]
    frames = []
    for epoch in ends:
        power = meters.component_power(kept[epoch]["W"], basis, component)[0][:, chosen]
        share = (power / power.sum(dim=0))[1:]
        # Nodes stand in the order of the frequency they end with, so that both panels can be read against each other.
        if epoch == ends[0]:
            last = meters.component_power(kept[ends[1]]["W"], basis, component)[0][1:, chosen]
            order = last.argmax(dim=0).argsort(stable=True)
        frequency, node = torch.meshgrid(torch.arange(1, share.shape[0] + 1), torch.arange(len(chosen)), indexing="ij")
        frames.append(
            pd.DataFrame(
                {
                    "epoch": f"epoch {epoch}",
                    "node": node.flatten().numpy(),
                    "frequency": frequency.flatten().numpy(),
                    "share": share[:, order].flatten().double().round(decimals=3).numpy(),
                }
            )
        )
    frame = pd.concat(frames, ignore_index=True)
    run.table("spectrum", frame)
    chart = (
        alt.Chart(frame)
        .mark_rect()
        .encode(
            x=alt.X("node:O", title="hidden nodes, by final frequency", axis=alt.Axis(labels=False, ticks=False)),
            y=alt.Y("frequency:O", title="frequency", axis=alt.Axis(values=list(range(5, 200, 5)))),
            color=alt.Color(
                "share:Q", title="share of the node's power", scale=alt.Scale(scheme="viridis", domain=[0, 1])
            ),
        )
        .properties(width=170, height=200)
        .facet(column=alt.Column("epoch:N", title=None, sort=[f"epoch {epoch}" for epoch in ends]))
    )
    held = float(frame[frame.epoch == f"epoch {ends[1]}"].groupby("node").share.max().median())
    run.figure(
        "spectrum",
        chart,
        f"Every node starts as a mixture of all frequencies; the nodes that count most end with {held:.0%} of their power in one.",
    )


def closed_forms(run: Run) -> None:
    """Largest errors of eq. 4, eq. 7's gradient and Theorem 2's maxima over instances, in float64."""
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
    for name in ("Z11", "Z12", "Z23", "Z4xZ7", "S3", "D5"):
        error, alone = _maxima(groups.group(name), run.config.starts, generator)
        run.metric("maximum_energy_error", error, setting=setting(group=name))
        run.metric("maximum_mixture", alone, setting=setting(group=name))


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


def _maxima(group: groups.Group, starts: int, generator: torch.Generator) -> tuple[float, float]:
    """Ascent from random starts on the full table: the largest distance of the energy reached from a value Theorem 2
    allows, and the largest share of a node's power outside its strongest irrep (0: every maximum is one irrep)."""
    left, right, target = groups.pairs(group).unbind(dim=1)
    first = torch.randn(2 * group.order, starts, generator=generator, dtype=torch.float64)
    weights = theory.ascend(first, left, right, target, steps=1000)
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
