"""Across tasks: where confidence helps as facts get noisier, and how well it tells right from wrong."""

from __future__ import annotations

import altair as alt
import pandas as pd

from methods.deepconf.tasks import CHAIN, GROUND, HARD, SUMS
from tycho.adapter import Run

RULES = ("majority", "low", "low+tau", "high", "consensus-only", "random-stop")


def synthesise(run: Run) -> None:
    views = [view for view in run.jobs if view.key.arm != "model"]
    if not views:
        return  # the model alone was asked for
    frames = [view.record("metrics").query("stage in ('evaluate', 'analyse') and step.isna()") for view in views]
    metrics = pd.concat(frames, ignore_index=True)
    metrics = metrics[metrics.setting == ""]
    metrics["task"] = metrics.task + metrics.arm.map(lambda arm: "" if arm == "rules" else f" · {arm}")
    order = [task for task in (*HARD, CHAIN, SUMS, *GROUND) if task in set(metrics.task)]
    order += sorted(set(metrics.task) - set(order))
    rows = metrics[(metrics.name == "mean_accuracy") & metrics.variant.isin(RULES)]
    rows = rows.groupby(["task", "variant"], as_index=False).value.mean()
    run.table("by-task", rows)
    chart = (
        alt.Chart(rows)
        .mark_point(filled=True, size=60)  # tasks have no order that a line could follow
        .encode(
            x=alt.X("task:N", title=None, sort=order, axis=alt.Axis(labelAngle=-30)),
            y=alt.Y("value:Q", title="accuracy", axis=alt.Axis(format="%")),
            color=alt.Color("variant:N", title=None, sort=list(RULES)),
        )
        .properties(width=420, height=240)
    )
    gains = rows.pivot(index="task", columns="variant", values="value")
    gain = (gains["low"] - gains["majority"]).reindex(order)
    text = ", ".join(f"{100 * value:+.1f}".replace("-", "−") + f" points on {task}" for task, value in gain.items())
    run.figure("difficulty", chart, f"DeepConf-low against the majority by task: {text}.")
    aucs = metrics[metrics.name == "auc"].groupby(["task", "variant"], as_index=False).value.mean()
    if len(aucs):
        chart = (
            alt.Chart(aucs)
            .mark_point(filled=True, size=60)
            .encode(
                x=alt.X("value:Q", title="AUC", scale=alt.Scale(domain=[min(0.3, aucs.value.min()), 1], nice=True)),
                y=alt.Y("task:N", title=None, sort=order),
                color=alt.Color("variant:N", title=None),
            )
            .properties(width=380, height=40 * len(order))
        )
        best = aucs.loc[aucs.value.idxmax()]
        run.figure(
            "auc",
            chart,
            f"How well a measure tells right from wrong traces of one question: at best {best.value:.2f} ({best.variant} on {best.task}); 0.5 is chance.",
        )
