"""Pictures in the complex plane: nodes as they were trained, and the generators they factor into."""

from __future__ import annotations

import math

import altair as alt
import pandas as pd

from methods.cogs.published import WRITTEN
from tycho.adapter import Run


def generators(run: Run, task: str, frame: pd.DataFrame) -> None:
    """The factors of every named frequency in the complex plane; no figure where none is named."""
    frame = frame[frame.arm == "trained"].drop(columns="arm").round(4)
    if frame.empty:
        return
    frame = frame.assign(product=frame["product"].map(WRITTEN), factor=frame.factor + " factor")
    ring = [{"part": "circle", "real": math.cos(t / 30 * math.pi), "imaginary": math.sin(t / 30 * math.pi), "turn": t} for t in range(61)]  # fmt: skip
    rings = frame[["product", "factor"]].drop_duplicates().merge(pd.DataFrame(ring), how="cross")
    axis = {"title": None, "scale": alt.Scale(domain=[-1.35, 1.35]), "axis": alt.Axis(values=[-1, 0, 1])}
    base = alt.Chart().encode(x=alt.X("real:Q", **axis), y=alt.Y("imaginary:Q", **axis))
    circle = base.mark_line(strokeWidth=0.7, opacity=0.5, color="gray").encode(order="turn:Q")
    points = base.mark_point(size=30, filled=False).encode(
        color=alt.Color("part:N", title="entry"), shape=alt.Shape("part:N", title="entry")
    )
    chart = (
        alt.layer(
            circle.transform_filter(alt.datum.part == "circle"), points.transform_filter(alt.datum.part != "circle")
        )
        .properties(width=120, height=120)
        .facet(
            data=pd.concat([frame, rings], ignore_index=True),
            column=alt.Column("product:N", title=None, sort=list(WRITTEN.values())),
            row=alt.Row("factor:N", title=None),
        )
    )
    counts = frame[(frame.factor == "first factor") & (frame.part == "c")].groupby("product").size()
    text = ", ".join(f"{counts[name]} {name}" for name in WRITTEN.values() if name in counts)
    fours = frame[(frame["product"] == WRITTEN["nu=i * xi"]) & (frame.part == "c") & (frame.factor == "second factor")]
    off = (fours.real**2 + (fours.imaginary.abs() - 1) ** 2).max() ** 0.5
    says = f"The factors of all named frequencies at the end ({text}), entries a, b, c of each column."
    if len(fours):
        says += f" In {WRITTEN['nu=i * xi']}, c of the second factor lies at ±i (at most {off:.1g} off); a = ξ is free."
    run.figure(f"generators-{task}", chart, says)


def nodes(run: Run, task: str, frame: pd.DataFrame) -> None:
    """a, b and c of every live node of one network at its frequency, as trained; no figure where none is live."""
    frame = frame[frame.arm == "trained"]
    if frame.empty:
        return
    frame = frame[frame.seed == frame.seed.min()]
    spread = frame.groupby(["order", "part"]).modulus.agg(["mean", "std"])
    frame = frame.assign(order=frame.order.astype(str) + " nodes")
    axis = {"title": None, "axis": alt.Axis(tickCount=3)}
    chart = (
        alt.Chart(frame[["part", "order", "frequency", "real", "imaginary"]].round(4))
        .mark_point(size=22, filled=True, opacity=0.7)
        .encode(
            x=alt.X("real:Q", **axis),
            y=alt.Y("imaginary:Q", **axis),
            color=alt.Color("order:N", title="live nodes of the frequency"),
            tooltip=["frequency:Q", "order:N"],
        )
        .properties(width=170, height=170)
        .facet(column=alt.Column("part:N", title=None))
        .resolve_scale(x="independent", y="independent")
    )
    sizes = [
        f"{spread.loc[(order, 'a'), 'mean']:.3f} ± {spread.loc[(order, 'a'), 'std']:.3f} with {order} nodes"
        for order in (4, 6)
        if (order, "a") in spread.index
    ]
    text = f"; |a| is {', '.join(sizes)}" if sizes else ""
    run.figure(
        f"nodes-{task}",
        chart,
        f"Coefficients a, b, c of one network's live nodes at their frequencies, in the units of the ring{text}.",
    )
