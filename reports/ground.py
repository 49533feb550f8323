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
from tycho.jobs import Plan
from tycho.tasks.common import TASKS

POINT = ["task", "method", "arm", "variant", "setting"]
# What may be spent to answer one question, and what an arm costs as a whole.
SPENT = {
    "generated_tokens": "generated tokens",
    "sequential_tokens": "critical-path tokens",
    "forward_passes": "forward passes",
    "flops": "FLOPs",
}
TOTAL = {"cpu": "CPU-seconds, all in"}
FAMILIES = {"graphs": "reachability", "products": "grouped products"}


def common_ground(plan: Plan, samples: pd.DataFrame, costs: pd.DataFrame) -> dict[str, Any] | None:
    """Rows a task and arm, and the figures; nothing where fewer than two arms ran on a common task."""
    test = samples[(samples["split"] == "test") & samples["task"].isin(list(TASKS))]
    if test[["method", "arm"]].drop_duplicates().shape[0] < 2:
        return None
    table = measured(plan, test, costs)
    tasks = [
        {"name": task, "says": TASKS[task], "rows": rows_of(table[table["task"] == task])}
        for task in TASKS
        if (table["task"] == task).any()
    ]
    return {"tasks": tasks, "figures": figures(table), "spent": list(SPENT.values())}


def measured(plan: Plan, test: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """A row a point of `POINT`: accuracy with its interval over seeds, means of what was spent, cost with ingredients.

    `dominated`: another row of the same task is at least as accurate with no more critical-path tokens and no more
    generated ones, and better in one of the three.
    """
    numbers = test.assign(correct=test["correct"].astype(float), **{c: test[c].astype("Float64") for c in SPENT})
    by_seed = numbers.groupby([*POINT, "seed"])[["correct", *SPENT]].mean().reset_index()
    rows = []
    for point, mine in by_seed.groupby(POINT, sort=False):
        mean, low, high = over_seeds(mine["correct"].astype(float))
        where = dict(zip(POINT, point, strict=True))
        spent = {column: float(mine[column].astype("Float64").mean()) for column in SPENT if mine[column].notna().all()}
        rows.append(
            where
            | {"mean": mean, "low": low, "high": high, "seeds": int(mine["seed"].nunique())}
            | {column: spent.get(column, math.nan) for column in SPENT}
            | {"cpu": _cpu(plan, costs, where["method"], where["arm"], where["task"])}
        )
    table = pd.DataFrame(rows)
    table["dominated"] = [_dominated(row, table[table["task"] == row.task]) for row in table.itertuples()]
    return table


def _cpu(plan: Plan, costs: pd.DataFrame, method: str, arm: str, task: str) -> float:
    """CPU-seconds a seed of an arm on a task, all its stages and all it needed."""
    jobs = [job for key, job in plan.jobs.items() if (key.method, key.arm, key.task) == (method, arm, task)]
    stages = {(job.key, stage) for job in jobs for stage in job.stages} | borrowed(plan, jobs)
    places = {(key.method, key.arm, key.task, key.seed, stage) for key, stage in stages}
    index = pd.MultiIndex.from_frame(costs[["method", "arm", "task", "seed", "stage"]])
    return float(costs["cpu_seconds"][index.isin(list(places))].sum()) / max(len(jobs), 1)


def _dominated(row: Any, others: pd.DataFrame) -> bool:
    axes = ["generated_tokens", "sequential_tokens"]
    mine = [getattr(row, axis) for axis in axes]
    if any(math.isnan(value) for value in mine):
        return False
    no_worse = (others["mean"] >= row.mean) & (others[axes] <= mine).all(axis=1)
    better = (others["mean"] > row.mean) | (others[axes] < mine).any(axis=1)
    return bool((no_worse & better).any())


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A task's rows for the page, the most accurate first."""
    ordered = table.sort_values(["mean", "sequential_tokens"], ascending=[False, True])
    texts = aligned([(100 * r.mean, 100 * r.low, 100 * r.high) for r in ordered.itertuples()])
    return [
        {
            "method": row.method,
            "arm": row.arm,
            "point": " · ".join(part for part in (row.variant, row.setting) if part),
            "accuracy": text,
            "known": not math.isnan(row.low),
            "seeds": row.seeds,
            "spent": ["–" if math.isnan(getattr(row, c)) else number(getattr(row, c)) for c in SPENT],
            "cpu": seconds(row.cpu),
            "dominated": row.dominated,
            "anchor": value_anchor(row.task, "accuracy", "samples.parquet", row.arm, row.variant, row.setting),
            "cost_anchor": cost_anchor(row.arm),
            "source": f"samples.parquet: method={row.method}, arm={row.arm}, task={row.task}"
            + "".join(f", {part}={getattr(row, part)}" for part in ("variant", "setting") if getattr(row, part)),
        }
        for row, text in zip(ordered.itertuples(), texts, strict=True)
    ]


def figures(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Accuracy against each cost, a drawing a family of tasks."""
    found = []
    axes = SPENT | TOTAL
    shown = table.assign(family=table["task"].str.partition("-")[0], name=table["method"] + " · " + table["arm"])
    for family, words in FAMILIES.items():
        mine = shown[shown["family"] == family]
        if mine.empty:
            continue
        for axis in ("generated_tokens", "sequential_tokens", "flops", "cpu"):
            drawn = mine.dropna(subset=[axis])
            if len(drawn) > 1:
                spec = _pareto(drawn, axis, axes[axis]).to_dict()
                says = f"Accuracy against {axes[axis]} on {words}; dominated points are faint, lines are 95 % intervals over seeds."
                spec |= {"usermeta": {"says": says}}
                figure = compile_figure(spec, f"ground-{family}-{axis.replace('_', '-')}")
                name = f"ground-{family}-{axis.replace('_', '-')}"
                found.append(
                    {"svg": figure, "alone": standalone(spec), "spec": spec, "file": f"figures/{name}"}
                    | {"says": says, "family": words}
                )
    return found


def _pareto(frame: pd.DataFrame, axis: str, title: str) -> alt.LayerChart:
    frame = frame.assign(faint=frame["dominated"].map({True: 0.25, False: 1.0}), x=frame[axis].astype(float))
    frame = frame.assign(
        low=frame["low"].fillna(frame["mean"]).clip(0, 1), high=frame["high"].fillna(frame["mean"]).clip(0, 1)
    )
    columns = ["task", "name", "variant", "setting", "x", "mean", "low", "high", "faint"]
    base = alt.Chart(frame[columns]).encode(
        x=alt.X("x:Q", title=title, scale=alt.Scale(type="log", nice=False, padding=14)),
        color=alt.Color("name:N", title=None, legend=alt.Legend(columns=1)),
        opacity=alt.Opacity("faint:Q", scale=None, legend=None),
    )
    dots = base.mark_point(filled=True, size=60).encode(
        y=alt.Y("mean:Q", title="accuracy", scale=alt.Scale(zero=False), axis=alt.Axis(format="%")),
        shape=alt.Shape("task:N", title=None),
    )
    lines = base.mark_rule(strokeWidth=1.2).encode(y=alt.Y("low:Q", title="accuracy"), y2="high:Q")
    return alt.layer(lines, dots).properties(width=330, height=230)
