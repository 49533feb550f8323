"""Both arms and all seeds in one picture."""

from __future__ import annotations

import altair as alt
import pandas as pd

from tycho.adapter import Run

ARMS = {
    "weight_decay": "weight decay",
    "no_weight_decay": "no weight decay",
    "no_weight_decay_narrow": "no weight decay, narrow",
}


def figures(run: Run) -> None:
    frames = [view.record("metrics") for view in run.jobs if view.key.arm in ARMS]
    curves = pd.concat(frames, ignore_index=True).dropna(subset="step")
    curves = curves.assign(step=curves.step.astype(int), arm=curves.arm.map(ARMS), seed=curves.seed.astype(str))
    for task, found in curves.groupby("task"):
        _accuracy(run, str(task), found)
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
        .properties(width=210, height=180)
        .facet(column=alt.Column("arm:N", title=None, sort=list(ARMS.values())))
    )
    run.figure(
        f"accuracy-{task}",
        chart,
        "All fit the training set at once. Test accuracy follows later: with weight decay, or without it in a narrower network.",
    )


def _meter(run: Run, task: str, curves: pd.DataFrame, name: str, title: str, says: str) -> None:
    frame = curves[curves.name == name][["step", "value", "arm", "seed"]]
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
