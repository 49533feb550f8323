"""All jobs together: Figure 3's curves, the phase boundary with its fits, the sweeps."""

from __future__ import annotations

import altair as alt
import pandas as pd

from methods.grokking import phases, sweep_figures
from tycho.adapter import Run

ARMS = {
    "weight_decay": "weight decay",
    "no_weight_decay": "no weight decay",
    "weight_decay_narrow": "weight decay, narrow",
    "no_weight_decay_narrow": "no weight decay, narrow",
}


def figures(run: Run) -> None:
    phases.boundary(run)
    sweep_figures.sweeps(run)
    sweep_figures.anchors(run)
    sweep_figures.progress(run)
    frames = [view.record("metrics") for view in run.jobs if view.key.arm in ARMS]
    if not frames:
        return
    curves = pd.concat(frames, ignore_index=True).dropna(subset="step")
    curves = curves.assign(step=curves.step.astype(int), arm=curves.arm.map(ARMS), seed=curves.seed.astype(str))
    for task, found in curves.groupby("task"):
        _residual(run, str(task))
        _meter(
            run, str(task), found, "wave_share", "share of the outputs in waves of x + y",
            "Waves in x + y at the final key frequencies grow before most of the test set is right.",
        )  # fmt: skip
        _meter(
            run, str(task), found, "repulsion", "similar pairs that repel",
            "Among the 200 most similar pairs of nodes, the share whose entry of B has the sign that Theorem 6 gives.",
        )  # fmt: skip
        if found.arm.nunique() == 1:  # nothing to compare: a group whose features alone are looked at
            continue
        _accuracy(run, str(task), found)
        _meter(
            run, str(task), found, "node_cosine", "cosine of G_F with the key term, median of nodes",
            "Node by node: how far the back-propagated gradient points along the key term.",
        )  # fmt: skip
        _meter(
            run, str(task), found, "gradient_cosine", "cosine of G_F with the key term ỸỸᵀF̃",
            "At the published width the back-propagated gradient keeps pointing along the theory's key term only with weight decay.",
        )  # fmt: skip
        _meter(
            run, str(task), found, "gradient_norm", "norm of G_F",
            "At the published width the back-propagated gradient stays larger with weight decay once the training set is fitted.",
        )  # fmt: skip


def _accuracy(run: Run, task: str, curves: pd.DataFrame) -> None:
    wanted = {"train_accuracy": "training", "test_accuracy": "test"}
    frame = curves[curves.name.isin(list(wanted)) & (curves.step > 0)]
    frame = frame.assign(part=frame.name.map(wanted))[["step", "value", "arm", "seed", "part"]]
    chart = (
        alt.Chart(frame)
        .mark_line(strokeWidth=1.6, opacity=0.8)
        .encode(
            x=alt.X(
                "step:Q",
                title="epoch",
                scale=alt.Scale(type="log", nice=False),
                axis=alt.Axis(values=[1, 10, 100, 1000]),
            ),
            y=alt.Y("value:Q", title="accuracy", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%")),
            color=alt.Color("part:N", title=None, sort=list(wanted.values())),
            detail="seed:N",
        )
        .properties(width=160, height=180)
        .facet(column=alt.Column("arm:N", title=None, sort=list(ARMS.values())))
    )
    run.figure(
        f"accuracy-{task}",
        chart,
        "All fit the training set at once. Test accuracy follows later: with weight decay, or without it in a narrower network.",
    )


def _meter(run: Run, task: str, curves: pd.DataFrame, name: str, title: str, says: str) -> None:
    frame = curves[curves.name == name][["step", "value", "arm", "seed"]]
    if frame.step.nunique() < 2:  # measured at one epoch it is no curve; the records have it
        return
    chart = (
        alt.Chart(frame)
        .mark_line(point=alt.OverlayMarkDef(size=18), strokeWidth=1.6, opacity=0.8)
        .encode(
            x=alt.X("step:Q", title="epoch"),
            y=alt.Y("value:Q", title=title),
            color=alt.Color("arm:N", title=None, sort=list(ARMS.values())),
            detail="seed:N",
        )
        .properties(width=420, height=220)
    )
    run.figure(f"{name.replace('_', '-')}-{task}", chart, says)


def _residual(run: Run, task: str) -> None:
    """Thm 7: what of the targets is not explained yet, by frequency or irrep and epoch; mean over seeds."""
    views = [view for view in run.jobs if view.key.task == task and view.key.arm == "weight_decay"]
    if not views:
        return
    frame = pd.concat([view.table("residual").assign(seed=view.key.seed) for view in views])
    first = frame[frame.seed == frame.seed.min()]
    chart = (
        alt.Chart(first[["epoch", "component", "residual"]].round(3))
        .mark_rect()
        .encode(
            x=alt.X("epoch:O", title="epoch", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("component:O", title="frequency or irrep", axis=alt.Axis(values=list(range(5, 200, 5)))),
            color=alt.Color("residual:Q", title="unexplained", scale=alt.Scale(scheme="viridis", domain=[0, 1])),
        )
        .properties(width=420, height=220)
    )
    spread = frame.groupby(["seed", "epoch"]).residual.std().max()
    run.figure(
        f"residual-{task}",
        chart,
        f"Share of the targets not explained yet, by frequency or irrep, with weight decay, seed {first.seed.iloc[0]}; "
        f"over all seeds they differ by a standard deviation of at most {spread:.2f} at any epoch.",
    )
