"""Figures of the probes: what thoughts hold, and what each layer looks at, beside the paper's tables."""

from __future__ import annotations

import altair as alt
import pandas as pd

from methods.superposition.probes import NESTED
from tycho.adapter import Run

REACHED = ("other reachable", "other frontier", "optimal")
NODES, EDGES = ("other not reachable", "distractor", *REACHED), ("not reachable", *REACHED)
SAYS = {
    "inner_product": "inner product of thought and node",
    "source_product": "inner product of thought and node as an edge's source",
    "attention": "attention to an edge, summed over heads",
}


def probe_figures(run: Run) -> None:
    for arm in ("coconut", "published_rule", "bfs", "untied"):
        views = [view for view in run.jobs if view.key.arm == arm]
        if not views:
            continue
        frame = pd.concat([view.table("probes").assign(seed=view.key.seed) for view in views])
        by = ["probe", "layer", "thought", "group"]
        means = frame.groupby(by).agg(
            mean=("mean", "mean"), low=("mean", "min"), high=("mean", "max"), paper=("paper", "mean")
        )
        means = means.reset_index()
        run.table(f"probes-{arm}", means)
        bars(run, arm, "inner_product", means[means.probe == "inner_product"])
        attention = means[means.probe == "attention"]
        for layer, mine in attention.groupby("layer"):
            bars(run, arm, "attention", mine, layer=int(layer))
        heat(run, arm, views[0].table("example"))


def bars(run: Run, arm: str, probe: str, means: pd.DataFrame, layer: int = 0) -> None:
    """Groups that leave each other out as bars, with the range over seeds; the paper's nested groups as diamonds."""
    groups = NODES if probe == "inner_product" else EDGES
    own = means[means.group.isin(groups)]
    base = alt.Chart().encode(x=alt.X("group:N", sort=list(groups), title=None, axis=alt.Axis(labelAngle=-40)))
    layers = [
        base.mark_bar(opacity=0.7).encode(y=alt.Y("mean:Q", title=SAYS[probe])),
        base.mark_rule().encode(y="low:Q", y2="high:Q"),
    ]
    beside = arm == "coconut" and means.paper.notna().any()
    if beside:
        layers.append(base.mark_point(shape="diamond", filled=True, color="#D55E00", size=60).encode(y="printed:Q"))
    names = {
        "not reachable": "not reachable",
        "other not reachable": "not reachable",
        "other frontier": "frontier",
        "optimal": "optimal",
        "other reachable": "reachable",
    }
    printed = means[means.group.isin(NESTED)].set_index(["thought", "group"]).paper
    own = own.assign(printed=[printed.get((r.thought, names.get(r.group))) for r in own.itertuples()])
    chart = (
        alt.layer(*layers)
        .properties(width=120, height=170)
        .facet(
            data=own[["thought", "group", "mean", "low", "high", "printed"]],
            column=alt.Column("thought:O", title="thought"),
        )
    )
    at = own.set_index(["thought", "group"])["mean"]
    text = "; ".join(
        f"thought {k}: " + ", ".join(f"{g} {at[k, g]:.2f}" for g in groups if (k, g) in at)
        for k in sorted(own.thought.unique())
    )
    more = (
        " Diamonds are the paper's, whose reachable includes the frontier, frontier the optimal ones, and not reachable the distractor."
        if beside
        else ""
    )
    name, says = f"{probe.replace('_', '-')}-{arm}", f"{arm}, {SAYS[probe]}"
    if layer:
        name, says = f"{name}-layer{layer}", f"{says} in layer {layer}"
    run.figure(name, chart, f"{says}, mean and range over seeds: {text}.{more}")


def heat(run: Run, arm: str, frame: pd.DataFrame) -> None:
    frame = frame.assign(hops=frame.hops.map(lambda h: "–" if h < 0 else str(h)))
    order = frame.drop_duplicates("node").sort_values(["hops", "node"]).node.tolist()
    x = alt.X("node:O", title="node (sorted by hops from the root)", sort=order, axis=alt.Axis(labelAngle=0))
    base = alt.Chart(frame).encode(x=x)
    cells = base.mark_rect().encode(
        y=alt.Y("thought:O"),
        color=alt.Color("weight:Q", title="inner product", scale=alt.Scale(scheme="redblue", domainMid=0)),
    )
    hops = base.mark_text().encode(y=alt.value(-8), text="hops:N").transform_filter(alt.datum.thought == 1)
    first = frame[frame.thought == 1].sort_values("weight").iloc[-1]
    run.figure(
        f"heat-{arm}",
        alt.layer(cells, hops).properties(width=420, height=90),
        f"{arm}: inner products of one item's thoughts with all nodes; the first thought is closest to node {first.node}, at "
        f"hops {first.hops}. Above: hops from the root (–: no way there).",
    )
