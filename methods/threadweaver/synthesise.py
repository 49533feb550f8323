"""All arms together: the table of the paper's form, threads over time, accuracy against path, reward curves."""

from __future__ import annotations

import altair as alt
import pandas as pd

from methods.threadweaver.metrics import problem_means, speedup
from tycho.adapter import JobView, Run

BASE = "sequential_more"  # what speed-ups are against
CURVES = {
    "reward": "reward",
    "correct": "share correct",
    "longest": "tokens on the critical path",
    "total": "all tokens",
}
SHOWN = (BASE, "parallel", "respawn")


def synthesise(run: Run) -> None:
    tasks = sorted({view.key.task for view in run.jobs})
    run.table("arms", pd.concat([_table(run, task) for task in tasks], ignore_index=True))
    for task in tasks:
        _timeline(run, task)
        _tradeoff(run, task)
        _learning(run, task)
        _rewards(run, task)


def _samples(run: Run, task: str) -> pd.DataFrame:
    frames = [view.record("samples") for view in run.jobs if view.key.task == task]
    frames = [frame for frame in frames if len(frame)]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _metrics(run: Run, task: str) -> pd.DataFrame:
    return pd.concat([view.record("metrics") for view in run.jobs if view.key.task == task], ignore_index=True)


# --- the table ---------------------------------------------------------------------------------------------------


def _table(run: Run, task: str) -> pd.DataFrame:
    """One row an arm and convention: accuracy, path, all tokens, and speed-ups in both ways of averaging."""
    samples, rows = _samples(run, task), []
    for (arm, variant, where), own in samples.groupby(["arm", "variant", "setting"], sort=False):
        base = samples[(samples.arm == BASE) & (samples.variant == variant) & (samples.setting == where)]
        every = _speedup(base, own)
        right = _speedup(base[base.correct], own[own.correct])
        rows.append(
            {
                "task": f"{task} {where}".strip(),
                "arm": arm,
                "tags": variant or "all on the path",
                "accuracy": own.correct.mean(),
                "critical path": own.sequential_tokens.mean(),
                "all tokens": own.generated_tokens.mean(),
                "ratio of means": every.ratio_of_means,
                "mean of ratios": every.mean_of_ratios,
                "ratio of means, correct": right.ratio_of_means,
                "largest, correct": right.largest,
            }
        )
    return pd.DataFrame(rows)


def _speedup(base: pd.DataFrame, own: pd.DataFrame):
    """Speed-up from mean paths by item and seed, which both arms answered."""
    keys = pd.concat([base, own])[["item", "seed"]].drop_duplicates().reset_index(drop=True)
    keys["problem"] = range(len(keys))
    means = []
    for frame in (base, own):
        found = frame.merge(keys, on=["item", "seed"])
        means.append(problem_means(found.sequential_tokens.to_numpy(float), found.problem, len(keys)))
    return speedup(*means)


# --- threads over time ---------------------------------------------------------------------------------------------


def timeline(traces: pd.DataFrame) -> pd.DataFrame:
    """row, start, end, thrown (decoding steps) of one trajectory's segments, in the order of its requests.

    A thread starts where the segment before it ends, a sequence where everything before it has ended.
    """
    ends: dict[int, int] = {}
    rows = []
    replaced = set(traces[traces.variant != "sequence"].parent.dropna()) - set(
        traces[traces.variant == "sequence"].segment
    )
    for row in traces.sort_values("segment").itertuples(index=False):
        start = max(ends.values(), default=0) if row.variant == "sequence" else ends[int(row.parent)]
        ends[row.segment] = start + len(row.tokens)
        rows.append((row.variant, start, ends[row.segment], row.segment in replaced))
    return pd.DataFrame(rows, columns=["row", "start", "end", "thrown"])


def _timeline(run: Run, task: str) -> None:
    """One test item under several arms, a bar a request."""
    frames, item = [], None
    for view in _views(run, task, SHOWN):
        traces = view.record("traces")
        item = item or traces.item.iloc[0]
        frames.append(timeline(traces[traces.item == item]).assign(arm=view.key.arm))
    if not frames:
        return
    frame = pd.concat(frames, ignore_index=True)
    frame["kind"] = frame["row"].str.split().str[0].where(~frame.thrown, "thread, thrown away")
    chart = (
        alt.Chart(frame)
        .mark_bar(height=12, stroke="white")
        .encode(
            x=alt.X("start:Q", title="decoding steps"),
            x2="end:Q",
            y=alt.Y("row:N", title=None),
            color=alt.Color("kind:N", title=None),
        )
        .properties(width=420, height=alt.Step(18))
        .facet(row=alt.Row("arm:N", title=None, sort=list(SHOWN), header=alt.Header(labelAngle=0, labelAlign="left")))
        .resolve_scale(y="independent")
    )
    ends = ", ".join(f"{end} ({arm})" for arm, end in frame.groupby("arm", sort=False).end.max().items())
    run.figure(
        f"timeline-{task}",
        chart,
        f"One test item, a bar a request: the last token is written after so many steps: {ends}.",
    )


# --- accuracy against path, curves ---------------------------------------------------------------------------------


def _tradeoff(run: Run, task: str) -> None:
    samples = _samples(run, task)
    plain = samples[samples.variant == ""]
    columns = {"correct": "accuracy", "sequential_tokens": "path", "generated_tokens": "total"}
    points = plain.groupby(["arm", "seed"], sort=False)[list(columns)].mean().rename(columns=columns).reset_index()
    # Arms are more than colours: a shape a family, in which the order of colours begins anew.
    points["threads"] = points.arm.str.startswith("sequential").map({True: "one thread", False: "threads"})
    chart = (
        alt.Chart(points.astype({"accuracy": float, "path": float, "total": float}))
        .mark_point(filled=True, opacity=0.8)
        .encode(
            x=alt.X("path:Q", title="tokens on the critical path, all tags on it", scale=alt.Scale(zero=False)),
            y=alt.Y("accuracy:Q", title="accuracy", axis=alt.Axis(format="%")),
            size=alt.Size("total:Q", title="all tokens", scale=alt.Scale(zero=False, range=[40, 260])),
            color=alt.Color("arm:N", title=None),
            shape=alt.Shape("threads:N", title=None, scale=alt.Scale(range=["circle", "triangle-up"])),
            tooltip=["arm", "seed", "accuracy", "path", "total"],
        )
        .properties(width=420, height=280)
    )
    best = points.groupby("arm").mean(numeric_only=True)
    text = "; ".join(f"{arm} {row.accuracy:.1%} at {row.path:.1f}" for arm, row in best.sort_values("path").iterrows())
    run.figure(f"accuracy-path-{task}", chart, f"A point a seed; means: {text} tokens on the path.")


def _learning(run: Run, task: str) -> None:
    """Validation accuracy over problems seen, each arm's own and those of the arms it went on from."""
    metrics = _metrics(run, task)
    curves = metrics[(metrics.stage == "train") & metrics.step.notna()]
    scores = curves[curves.name == "validation_accuracy"][["arm", "seed", "step", "value"]]
    if scores.empty:
        return
    chart = (
        alt.Chart(scores.astype({"step": float}))
        .mark_line(point=True)
        .encode(
            x=alt.X("step:Q", title="training steps of the arm itself"),
            y=alt.Y("value:Q", title="validation accuracy", axis=alt.Axis(format="%")),
            color=alt.Color("arm:N", title=None),
            detail="seed:N",
        )
        .properties(width=420, height=240)
    )
    ends = scores.sort_values("step").groupby(["arm", "seed"]).value.last().groupby("arm").mean()
    text = ", ".join(f"{arm} {value:.0%}" for arm, value in ends.items())
    run.figure(
        f"learning-{task}", chart, f"Validation accuracy during supervised training; at the end, over seeds: {text}."
    )


def _rewards(run: Run, task: str) -> None:
    metrics = _metrics(run, task)
    curves = metrics[(metrics.stage == "train") & metrics.step.notna() & metrics.name.isin(list(CURVES))]
    if curves.empty:
        return
    means = curves.groupby(["arm", "name", "step"]).value.mean().reset_index().astype({"step": float})
    means["name"] = means["name"].map(CURVES)
    chart = (
        alt.Chart(means)
        .mark_line()
        .encode(
            x=alt.X("step:Q", title="steps of the policy gradient"),
            y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
            color=alt.Color("arm:N", title=None),
        )
        .properties(width=220, height=160)
        .facet(facet=alt.Facet("name:N", title=None, sort=list(CURVES.values())), columns=2)
        .resolve_scale(y="independent")
    )
    last = means[means.name == CURVES["reward"]].sort_values("step").groupby("arm").value
    text = "; ".join(f"{arm} {values.iloc[0]:.3f} to {values.iloc[-1]:.3f}" for arm, values in last)
    run.figure(
        f"rewards-{task}", chart, f"Rollouts during P-GRPO, means over seeds; reward from first to last step: {text}."
    )


def _views(run: Run, task: str, arms: tuple[str, ...]) -> list[JobView]:
    """The first seed's job of each of these arms."""
    found = {}
    for view in run.jobs:
        if view.key.task == task and view.key.arm in arms:
            found.setdefault(view.key.arm, view)
    return [found[arm] for arm in arms if arm in found]
