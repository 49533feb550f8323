"""The common ground: all language methods on the tasks they share, accuracy against every kind of cost."""

from __future__ import annotations

import math
from typing import Any

import altair as alt
import pandas as pd

from reports.costs import borrowed
from reports.figures import compile_figure, standalone
from reports.numbers import aligned, number, over_seeds, seconds
from reports.sections import cost_anchor, value_anchor
from tycho.drawing import names_beside
from tycho.jobs import Plan
from tycho.tasks.common import TASKS

UNKNOWN = (math.nan, math.nan, math.nan)
POINT = ["task", "method", "arm", "variant", "setting"]
# What may be spent to answer one question, and what an arm costs as a whole.
SPENT = {
    "generated_tokens": "generated tokens",
    "sequential_tokens": "critical-path tokens",
    "forward_passes": "forward passes",
    "flops": "FLOPs",
}
# What a seed of an arm costs: training with every ingredient, all stages with every ingredient, memory at its highest.
WHOLE = {"training": "CPU, training", "cpu": "CPU, all in", "memory": "Peak memory"}
TOTAL = {"cpu": "CPU-seconds, all in"}
FAMILIES = {"graphs": "reachability", "products": "grouped products"}


def common_ground(
    plan: Plan, samples: pd.DataFrame, costs: pd.DataFrame, metrics: pd.DataFrame
) -> dict[str, Any] | None:
    """Rows a task and arm, and the figures; nothing where fewer than two arms ran on a common task."""
    test = samples[(samples["split"] == "test") & samples["task"].isin(list(TASKS))]
    # Arms that train nothing, like weights set by hand, do not start from the same weights and learn from no data.
    untrained = {key[:3] for key, trains in _trains(plan).items() if not trains}
    keys = pd.MultiIndex.from_frame(test[["method", "arm", "task"]])
    test = test[~keys.isin(list(untrained))] if untrained else test
    if test[["method", "arm"]].drop_duplicates().shape[0] < 2:
        return None
    table = measured(plan, test, costs, swept(metrics))
    tasks = [
        {"name": task, "says": TASKS[task], "rows": rows_of(table[table["task"] == task])}
        for task in TASKS
        if (table["task"] == task).any()
    ]
    return {"tasks": tasks, "figures": figures(table), "spent": [*SPENT.values(), *WHOLE.values()]}


def _trains(plan: Plan) -> dict[tuple[str, str, str], bool]:
    """Whether an arm on a task has a training anywhere behind it."""
    found: dict[tuple[str, str, str], bool] = {}
    for key, job in plan.jobs.items():
        place = (key.method, key.arm, key.task)
        if key.task in TASKS and not found.get(place):
            found[place] = "train" in job.stages or any(stage == "train" for _, stage in borrowed(plan, [job]))
    return found


def swept(metrics: pd.DataFrame) -> set[tuple[str, str, str]]:
    """Arms whose jobs train several models each, as a sweep over depths does: curves under several settings."""
    curves = metrics[(metrics["stage"] == "train") & metrics["step"].notna()]
    models = curves.groupby(["method", "arm", "task"])["setting"].nunique()
    return set(models.index[models > 1])


def measured(
    plan: Plan, test: pd.DataFrame, costs: pd.DataFrame, sweeps: set[tuple[str, str, str]] = frozenset()
) -> pd.DataFrame:
    """A row a point of `POINT`: accuracy with its interval over seeds, means of what was spent, cost with ingredients.

    What a job of `sweeps` cost is not known by model. `shared`: the row's own model is one of several of its job;
    `at_most`: so is this, or an ingredient.
    `dominated`: another row of the same task is at least as accurate with no more critical-path tokens and no more
    generated ones, and better in one of the three.
    """
    numbers = test.assign(correct=test["correct"].astype(float), **{c: test[c].astype("Float64") for c in SPENT})
    by_seed = numbers.groupby([*POINT, "seed"])[["correct", *SPENT]].mean().reset_index()
    rows = []
    spends = _spends(costs)
    whole: dict[tuple[str, str, str], dict[str, tuple[float, float, float]]] = {}
    for point, mine in by_seed.groupby(POINT, sort=False):
        where = dict(zip(POINT, point, strict=True))
        job = (where["method"], where["arm"], where["task"])
        if job not in whole:
            whole[job] = _whole(plan, spends, *job)
        known = {column: mine[column].notna().all() for column in SPENT}
        spans = {c: over_seeds(mine[c].astype(float)) if known[c] else UNKNOWN for c in SPENT} | whole[job]
        mean, low, high = over_seeds(mine["correct"].astype(float))
        rows.append(
            where
            | {"mean": mean, "low": low, "high": high, "seeds": int(mine["seed"].nunique())}
            | {column: span[0] for column, span in spans.items()}
            | {"spans": spans, "shared": job in sweeps, "at_most": job in sweeps or _borrows(plan, sweeps, *job)}
        )
    table = pd.DataFrame(rows)
    table["dominated"] = dominated(table, ["generated_tokens", "sequential_tokens"])
    return table


def dominated(table: pd.DataFrame, axes: list[str]) -> list[bool]:
    """Whether another row of the same task is no less accurate with no more of any of `axes`, and better in one of all these."""
    return [_dominated(row, table[table["task"] == row.task], axes) for row in table.itertuples()]


def _spends(costs: pd.DataFrame) -> dict[tuple[Any, ...], tuple[float, float]]:
    """CPU-seconds and peak memory by (method, arm, task, seed, stage)."""
    keys = costs[["method", "arm", "task", "seed", "stage"]].itertuples(index=False, name=None)
    memory = costs["peak_memory_mb"] if "peak_memory_mb" in costs else [math.nan] * len(costs)
    found: dict[tuple[Any, ...], tuple[float, float]] = {}
    for key, cpu, peak in zip(keys, costs["cpu_seconds"], memory, strict=True):
        before = found.get(key, (0.0, 0.0))
        found[key] = (before[0] + float(cpu), max(before[1], float(peak)))
    return found


def _whole(plan: Plan, spends: dict[tuple[Any, ...], tuple[float, float]], method: str, arm: str, task: str) -> Any:
    """What a seed of an arm costs with all it needed, each with its interval over seeds."""
    seeds: dict[str, list[float]] = {name: [] for name in WHOLE}
    for key, job in plan.jobs.items():
        if (key.method, key.arm, key.task) != (method, arm, task):
            continue
        stages = {(key, stage) for stage in job.stages} | borrowed(plan, [job])
        spent = [(stage, spends.get((k.method, k.arm, k.task, k.seed, stage))) for k, stage in stages]
        if any(found for _, found in spent):
            seeds["cpu"].append(sum(found[0] for _, found in spent if found))
            seeds["training"].append(sum(found[0] for stage, found in spent if found and stage == "train"))
            own = [spends[place] for stage in job.stages if (place := (method, arm, task, key.seed, stage)) in spends]
            seeds["memory"].append(max((peak for _, peak in own), default=math.nan))
    return {name: over_seeds(values) for name, values in seeds.items()}


def _borrows(plan: Plan, sweeps: set[tuple[str, str, str]], method: str, arm: str, task: str) -> bool:
    """Whether an ingredient of an arm comes from a job of `sweeps`."""
    mine = [job for key, job in plan.jobs.items() if (key.method, key.arm, key.task) == (method, arm, task)]
    return any((key.method, key.arm, key.task) in sweeps for key, _ in borrowed(plan, mine))


def _dominated(row: Any, others: pd.DataFrame, axes: list[str]) -> bool:
    mine = [getattr(row, axis) for axis in axes]
    if any(math.isnan(value) for value in mine):
        return False
    no_worse = (others["mean"] >= row.mean) & (others[axes] <= mine).all(axis=1)
    better = (others["mean"] > row.mean) | (others[axes] < mine).any(axis=1)
    return bool((no_worse & better).any())


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A task's rows for the page, the most accurate first."""
    ordered = table.sort_values(["mean", "sequential_tokens"], ascending=[False, True])
    # An interval of Student's may reach beyond what a share can be; shown is what is possible.
    ends = [(100 * r.mean, max(100 * r.low, 0.0), min(100 * r.high, 100.0)) for r in ordered.itertuples()]
    known = [not math.isnan(r.low) for r in ordered.itertuples()]
    texts = aligned([e if k else (e[0], math.nan, math.nan) for e, k in zip(ends, known, strict=True)])
    return [
        {
            "method": row.method,
            "arm": row.arm,
            "point": " · ".join(part for part in (row.variant, row.setting) if part),
            "accuracy": text,
            "known": not math.isnan(row.low),
            "seeds": row.seeds,
            "spent": [_amount(name, row.spans[name], row.at_most and name in WHOLE) for name in (*SPENT, *WHOLE)],
            "dominated": row.dominated,
            "anchor": value_anchor(row.task, "accuracy", "samples.parquet", row.arm, row.variant, row.setting),
            "cost_anchor": cost_anchor(row.arm),
            "source": f"samples.parquet: method={row.method}, arm={row.arm}, task={row.task}"
            + "".join(f", {part}={getattr(row, part)}" for part in ("variant", "setting") if getattr(row, part)),
        }
        for row, text in zip(ordered.itertuples(), texts, strict=True)
    ]


def _amount(name: str, span: tuple[float, float, float], at_most: bool) -> dict[str, Any]:
    """A cost as text, its interval where seeds differ by more than a hundredth; `at_most`: it is a bound."""
    mean, low, high = span
    say = {"training": seconds, "cpu": seconds, "memory": lambda mb: f"{number(mb)} MB"}.get(name, number)
    if math.isnan(mean):
        return {"mean": "–", "range": "", "whole": name in WHOLE}
    differ = not math.isnan(low) and high - mean > 0.01 * mean
    return {
        "mean": f"{'≤ ' if at_most else ''}{say(mean)}",
        "range": f"[{say(max(low, 0.0))}, {say(high)}]" if differ else "",
        "whole": name in WHOLE,
    }


def figures(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Accuracy against each cost, a drawing a family of tasks."""
    found = []
    axes = SPENT | TOTAL
    shown = table.assign(family=table["task"].str.partition("-")[0])
    # A colour a direction, the same in all drawings: arms are too many to be told apart.
    methods = sorted(table["method"].unique())
    for family, words in FAMILIES.items():
        mine = shown[shown["family"] == family]
        if mine.empty:
            continue
        for axis in ("generated_tokens", "sequential_tokens", "flops", "cpu"):
            drawn = mine[~mine["shared"]] if axis in WHOLE else mine
            drawn = drawn.dropna(subset=[axis])
            if len(drawn) > 1:
                spec = _pareto(drawn, axis, axes[axis], methods).to_dict()
                says = (
                    f"Accuracy against {axes[axis]} on {words}, a colour a direction: faint where another point of the task is no"
                    " less accurate for no more of them, named where none is; lines are 95 % intervals over seeds."
                )
                spec |= {"usermeta": {"says": says}}
                figure = compile_figure(spec, f"ground-{family}-{axis.replace('_', '-')}")
                name = f"ground-{family}-{axis.replace('_', '-')}"
                found.append(
                    {"svg": figure, "alone": standalone(spec), "spec": spec, "file": f"figures/{name}"}
                    | {"says": says, "family": words}
                )
    return found


def _pareto(frame: pd.DataFrame, axis: str, title: str, methods: list[str]) -> alt.LayerChart:
    frame = frame.assign(x=frame[axis].astype(float))
    frame = frame.assign(faint=[0.25 if worse else 1.0 for worse in dominated(frame, ["x"])])
    frame = frame.assign(
        low=frame["low"].fillna(frame["mean"]).clip(0, 1), high=frame["high"].fillna(frame["mean"]).clip(0, 1)
    )
    axis_format = "~s" if axis == "flops" else "~g"
    columns = ["task", "method", "arm", "variant", "setting", "x", "mean", "low", "high", "faint"]
    base = alt.Chart(frame[columns]).encode(
        x=alt.X(
            "x:Q", title=title, scale=alt.Scale(type="log", nice=False, padding=14), axis=alt.Axis(format=axis_format)
        ),
        color=alt.Color("method:N", title=None, scale=alt.Scale(domain=methods), legend=alt.Legend(columns=1)),
        opacity=alt.Opacity("faint:Q", scale=None, legend=None),
    )
    dots = base.mark_point(filled=True, size=60).encode(
        y=alt.Y("mean:Q", title="accuracy", scale=alt.Scale(zero=False), axis=alt.Axis(format="%")),
        shape=alt.Shape("task:N", title=None),
        tooltip=["arm", "variant", "setting"],  # beside what is drawn
    )
    lines = base.mark_rule(strokeWidth=1.2).encode(y=alt.Y("low:Q", title="accuracy"), y2="high:Q")
    names = names_beside(frame[frame["faint"] == 1.0], "x", "mean", "arm", of=frame, log=True)
    return alt.layer(lines, dots, *names).properties(width=380, height=250)
