"""Meters on the weights that a network kept over training."""

from __future__ import annotations

import altair as alt
import pandas as pd
import torch

from methods.grokking import meters, network, stages, theory
from methods.grokking.method import data
from methods.grokking.snapshots import snapshots
from tycho.adapter import Run
from tycho.tasks import groups


def trained(run: Run) -> None:
    """Fig. 3's meters over training, and when each accuracy was reached."""
    seen, _ = data(run)
    kept = snapshots(run.job.model)
    group = groups.group(run.key.task)
    basis, component = groups.isotypic_basis(group)
    targets = theory.one_hot(seen.target[0], int(component.numel()), torch.float32)
    late: dict[str, list[float]] = {"gradient_cosine": [], "gradient_norm": [], "node_cosine": []}
    largest = {"off_diagonal_nodes": 0.0, "off_diagonal_examples": 0.0}
    residuals = []
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
        values |= stages.lazy(hidden, gradient, targets, live[0])
        values |= stages.turning(kept, epoch)
        values |= stages.interactive(run, epoch, hidden)
        missing = theory.residual_by_component(
            hidden @ weights["V"][0].to(hidden), targets, basis.to(hidden), component
        )
        residuals.append(pd.DataFrame({"epoch": epoch, "component": range(1, len(missing)), "residual": missing[1:]}))
        values["components_learnt"] = float((missing[1:] < 0.5).sum())
        run.log(epoch, **values)
        if epoch >= run.config.late:
            for name, found in late.items():
                found.append(values[name])
        largest = {name: max(value, values[name]) for name, value in largest.items()}
    for name in ("concentration", "concentration_weighted", "live_nodes", "frequencies"):
        run.metric(f"final_{name}", values[name])
    for name, value in largest.items():
        run.metric(f"largest_{name}", value)
    for name, found in late.items():
        if found:
            run.metric(f"late_{name}", sum(found) / len(found))
    run.table("residual", pd.concat(residuals, ignore_index=True))
    stages.times(run)
    if group.order % 2 and group.moduli == (group.order,):
        stages.progress_measures(run, {epoch: stages.table_outputs(run, both) for epoch, both in kept.items()})
    _spectrum(run, kept, basis, component)


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
