"""All arms together: accuracy beside tokens, accuracy by the number of thoughts, what a thought holds."""

from __future__ import annotations

import altair as alt
import pandas as pd

from methods.coconut.published import TABLE_1
from methods.coconut.values import CLASSES
from tycho.adapter import Run
from tycho.keys import read_setting

PERCENT = alt.Axis(format="%")
OWN_LAYERS = 2  # of the common tasks, where the sweep is run


def synthesise(run: Run) -> None:
    metrics = pd.concat([view.record("metrics") for view in run.jobs], ignore_index=True)
    metrics = metrics[metrics.step.isna() & (metrics.stage == "analyse")]
    if metrics.empty:
        return
    for part in ("thoughts", "layers"):
        found = [read_setting(text).get(part) for text in metrics.setting]
        metrics[part] = pd.Series(found, index=metrics.index, dtype="object").astype("Float64")
    for task, found in metrics.groupby("task"):
        plain = found[found.layers.isna()]
        _table(run, str(task), plain)
        _tokens(run, str(task), plain)
        _forced(run, str(task), plain)
        _values(run, str(task), plain)
        _depths(run, str(task), found)


def _depths(run: Run, task: str, found: pd.DataFrame) -> None:
    """Accuracy by the number of layers, for the arms that were trained at several."""
    swept = found[(found.name == "accuracy") & found.thoughts.isna() & found.layers.notna()]
    if swept.empty:
        return
    own = found[(found.name == "accuracy") & (found.setting == "") & found.arm.isin(swept.arm.unique())]
    frame = pd.concat([swept, own.assign(layers=own.layers.fillna(OWN_LAYERS))])
    frame = frame.groupby(["arm", "layers"]).value.agg(["mean", "min", "max"]).reset_index()
    frame["layers"] = frame["layers"].astype(int)
    base = alt.Chart(frame).encode(
        x=alt.X("layers:O", axis=alt.Axis(labelAngle=0)), color=alt.Color("arm:N", title=None)
    )
    chart = alt.layer(
        base.mark_line(point=True).encode(
            y=alt.Y("mean:Q", title="accuracy", axis=PERCENT, scale=alt.Scale(domain=[0, 1]))
        ),
        base.mark_rule(opacity=0.4).encode(y="min:Q", y2="max:Q"),
    )
    text = "; ".join(
        f"{arm} " + ", ".join(f"{r.layers}: {r.mean:.0%}" for r in mine.itertuples())
        for arm, mine in frame.groupby("arm")
    )
    run.figure(
        f"depth-{task}", chart.properties(width=320, height=220), f"{task}: accuracy by the number of layers ({text})."
    )


def _means(found: pd.DataFrame, *by: str) -> pd.DataFrame:
    """Mean over seeds of each metric, one column a metric."""
    wide = found.pivot_table(index=[*by, "seed"], columns="name", values="value").reset_index()
    wide.columns.name = None
    return wide.groupby(list(by)).mean(numeric_only=True).reset_index()


def _table(run: Run, task: str, found: pd.DataFrame) -> None:
    """Each arm at its own number of thoughts, beside the paper's Table 1 where it has the task."""
    own = found[(found.setting == "") & (found.variant == "")]
    if own.empty:
        return
    rows = _means(own, "arm").drop(columns="seed", errors="ignore")
    spread = own[own.name == "accuracy"].groupby("arm").value.agg(["sem", "count"])
    rows = rows.merge(
        spread.rename(columns={"sem": "±", "count": "seeds"}), left_on="arm", right_index=True, how="left"
    )
    if task.startswith("prosqa"):
        rows["paper (ProsQA)"] = [TABLE_1["prosqa"].get(arm, (None, None))[0] for arm in rows.arm]
    run.table(f"arms-{task}", rows)


def _tokens(run: Run, task: str, found: pd.DataFrame) -> None:
    """Accuracy against generated tokens: an arm's own number of thoughts, and the forced ones as a line."""
    shown = found[found.name.isin(["accuracy", "generated_tokens"]) & (found.variant == "")]
    if len(shown[["arm", "setting"]].drop_duplicates()) < 2:
        return  # a single point compares nothing
    frame = _means(shown, "arm", "setting").assign(
        thoughts=lambda f: [read_setting(s).get("thoughts", "") for s in f.setting]
    )
    frame = frame.sort_values(["arm", "generated_tokens"])
    base = alt.Chart(frame).encode(
        x=alt.X("generated_tokens:Q", title="tokens generated, thoughts among them"),
        y=alt.Y("accuracy:Q", title="accuracy", axis=PERCENT, scale=alt.Scale(domain=[0, 1])),
        color=alt.Color("arm:N", title=None),
    )
    line = (
        base.transform_filter(alt.datum.thoughts != "")
        .mark_line(strokeWidth=1, opacity=0.6)
        .encode(order="generated_tokens:Q")
    )
    points = base.mark_point(filled=True, size=60).encode(
        shape=alt.condition(alt.datum.thoughts == "", alt.value("circle"), alt.value("diamond")),
        tooltip=["arm", "thoughts", "generated_tokens", "accuracy"],
    )
    own = frame[frame.setting == ""]
    text = ", ".join(f"{r.arm} {r.accuracy:.0%} at {r.generated_tokens:.1f}" for r in own.itertuples())
    run.figure(
        f"tokens-{task}",
        alt.layer(line, points).properties(width=380, height=240),
        f"{task}, mean over seeds: {text} tokens. Diamonds are forced numbers of thoughts.",
    )


def _forced(run: Run, task: str, found: pd.DataFrame) -> None:
    """Accuracy by the number of thoughts a model is made to think."""
    frame = found[(found.name == "accuracy") & found.thoughts.notna() & (found.variant == "")]
    if frame.empty:
        return
    frame = frame.groupby(["arm", "thoughts"]).value.agg(["mean", "min", "max"]).reset_index()
    frame["thoughts"] = frame["thoughts"].astype(int)
    base = alt.Chart(frame).encode(
        x=alt.X("thoughts:O", title="thoughts (or pauses) before words", axis=alt.Axis(labelAngle=0)),
        color=alt.Color("arm:N", title=None),
    )
    chart = alt.layer(
        base.mark_line(point=True).encode(
            y=alt.Y("mean:Q", title="accuracy", axis=PERCENT, scale=alt.Scale(domain=[0, 1]))
        ),
        base.mark_rule(opacity=0.4).encode(y="min:Q", y2="max:Q"),
    )
    mine = frame[frame.arm == "coconut"].sort_values("thoughts")
    text = ", ".join(f"{r.thoughts}: {r.mean:.0%}" for r in mine.itertuples()) if len(mine) else "see the curves"
    run.figure(
        f"forced-{task}", chart.properties(width=320, height=220),
        f"{task}: accuracy of Coconut by the number of thoughts it is made to think, the rest in words ({text}); bars span the seeds.",
    )  # fmt: skip


def _values(run: Run, task: str, found: pd.DataFrame) -> None:
    """The value a thought gives to nodes, by class, and how much its best three hold."""
    frame = found[found.name == "value"]
    if frame.empty:
        return
    frame = frame.groupby(["thoughts", "variant"]).value.mean().reset_index()
    frame["thoughts"] = frame["thoughts"].astype(int)
    bars = (
        alt.Chart(frame)
        .mark_bar()
        .encode(
            x=alt.X("variant:N", title=None, sort=list(CLASSES), axis=alt.Axis(labelAngle=-40)),
            y=alt.Y("value:Q", title="value of a node"),
            color=alt.Color("variant:N", title=None, sort=list(CLASSES), legend=None),
        )
        .properties(width=110, height=180)
        .facet(column=alt.Column("thoughts:O", title="thoughts"))
    )
    first = frame[frame.thoughts == frame.thoughts.min()].set_index("variant").value
    text = ", ".join(f"{name} {first[name]:.2f}" for name in CLASSES if name in first)
    run.figure(
        f"value-{task}", bars, f"{task}: probability of a node as the next step, by what the node is; with none thought: {text}."
    )  # fmt: skip
    best = found[found.name == "cumulative_value"].groupby(["thoughts", "variant"]).value.mean().unstack("variant")
    if len(best):
        run.table(f"parallel-{task}", best.reset_index().astype(float))
