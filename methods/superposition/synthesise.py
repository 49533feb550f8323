"""Figures over all jobs: the construction's answers, its thoughts, and what breaks them."""

from __future__ import annotations

import altair as alt
import pandas as pd

from methods.superposition.figures import probe_figures
from tycho.adapter import Run

PAPERS, HIGHER = "paper's threshold", "higher threshold"
PERCENT = alt.Axis(format="%")


def synthesise(run: Run) -> None:
    for task in sorted({view.key.task for view in run.jobs if view.key.arm == "construction"}):
        views = [view for view in run.jobs if view.key.arm == "construction" and view.key.task == task]
        by_thoughts(run, task, pd.concat([view.table("by-thoughts") for view in views]))
        disturbed(run, task, pd.concat([view.table("disturbed") for view in views]))
        example(run, task, views[0].table("example"))
    probe_figures(run)


def by_thoughts(run: Run, task: str, frame: pd.DataFrame) -> None:
    means = frame.groupby(["thoughts", "offset"]).solved.mean().reset_index()
    chart = (
        alt.Chart(means)
        .mark_bar()
        .encode(
            x=alt.X("offset:O", title="thoughts, from the number of hops D", axis=alt.Axis(labelAngle=0)),
            xOffset=alt.XOffset("thoughts:N"),
            y=alt.Y("solved:Q", title="graphs solved", scale=alt.Scale(domain=[0, 1]), axis=PERCENT),
            color=alt.Color("thoughts:N", title="a thought is"),
        )
        .properties(width=340, height=180)
    )
    at = means.set_index(["thoughts", "offset"]).solved
    run.figure(
        f"by-thoughts-{task}",
        chart,
        f"With D thoughts the construction solves {at['superposed', 0]:.1%} of the graphs, with one fewer "
        f"{at['superposed', -1]:.1%}; where each thought collapses to one of its nodes, {at['one node, drawn', 0]:.1%}.",
    )


def disturbed(run: Run, task: str, frame: pd.DataFrame) -> None:
    titles = {"noise": "noise on each coordinate of a thought", "dimensions": "dimensions / nodes"}
    means = frame.groupby(["swept", "value", "threshold"])[["solved", "recovered"]].mean().reset_index()
    long = means.melt(["swept", "value", "threshold"], var_name="share", value_name="of all")
    long["share"] = long.share.map({"solved": "graphs solved", "recovered": "thoughts exact"})
    parts = []
    for swept, title in titles.items():
        scale = alt.Scale(type="symlog", constant=1e-3) if swept == "noise" else alt.Scale()
        values = sorted(long[long.swept == swept].value.unique())
        axis = alt.Axis(values=values, format=".3~g", labelAngle=-45)
        parts.append(
            alt.Chart(long[long.swept == swept])
            .mark_line(point=True)
            .encode(
                x=alt.X("value:Q", title=title, scale=scale, axis=axis),
                y=alt.Y("of all:Q", title="share", scale=alt.Scale(domain=[0, 1]), axis=PERCENT),
                color=alt.Color("threshold:N", title=None),
                strokeDash=alt.StrokeDash("share:N", title=None),
            )
            .properties(width=240, height=180)
        )
    at = means.set_index(["swept", "threshold", "value"]).solved.sort_index()
    below = means[(means.swept == "dimensions") & (means.value < 1)].solved  # under either threshold
    text = (
        f"at most {below.max():.0%} of the graphs with fewer dimensions than nodes" if len(below) else "no such sweep"
    )
    tolerated = {
        name: max([0, *(v for v, a in at["noise", name].items() if a >= 0.99)]) for name in means.threshold.unique()
    }
    says = (
        f"Superposition needs a dimension a node ({text}); it withstands noise up to "
        f"{tolerated[PAPERS]:g} with the paper's threshold and "
        f"{tolerated[HIGHER]:g} with a higher first one."
    )
    run.figure(f"disturbed-{task}", alt.hconcat(*parts), says)


def example(run: Run, task: str, frame: pd.DataFrame) -> None:
    frame = frame.assign(hops=frame.hops.map(lambda h: "–" if h < 0 else str(h)))
    order = frame.drop_duplicates("node").sort_values(["hops", "node"]).node.tolist()
    base = alt.Chart(frame).encode(
        x=alt.X("node:O", title="node (sorted by hops from the root)", sort=order, axis=alt.Axis(labelAngle=0)),
    )
    heat = base.mark_rect().encode(
        y=alt.Y("thought:O"), color=alt.Color("weight:Q", title="weight", scale=alt.Scale(scheme="blues"))
    )
    hops = base.mark_text().encode(y=alt.value(-8), text="hops:N").transform_filter(alt.datum.thought == 1)
    last = int(frame.thought.max())
    counts = [int((frame[frame.thought == k].weight > 1e-9).sum()) for k in range(1, last + 1)]
    run.figure(
        f"example-{task}",
        alt.layer(heat, hops).properties(width=420, height=110),
        f"One graph's thoughts: thought k holds the nodes within k hops ({', '.join(map(str, counts))} of them), all with "
        "the same weight. Above: hops from the root (–: no way there).",
    )
