"""What the report says of one direction: plain dictionaries for the templates, made from tables and the plan."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from reports.claims import Claim
from reports.collect import Collected, done_stages
from reports.estimands import SAMPLE_COLUMNS
from reports.figures import compile_figure, standalone, strip
from reports.numbers import aligned, number, over_seeds
from reports.scorecard import slug, tests_of
from tycho import records
from tycho.adapter import Method
from tycho.errors import TychoError
from tycho.files import read_json
from tycho.jobs import SYNTHESIS, Job, Plan, job_folder
from tycho.keys import JobKey

POINT = ["arm", "variant", "setting"]


def anchor(*key: object) -> str:
    """A place on a records page, from what the number is of: the same wherever it is asked for."""
    return "v-" + hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=5).hexdigest()


def value_anchor(task: str, name: str, file: str, arm: str, variant: str, setting: str) -> str:
    return anchor("value", task, name, file, arm, variant, setting)


def cost_anchor(arm: str) -> str:
    return anchor("cost", arm)


MOST_ROWS = 24  # of one metric; the rest stands in the records
MOST_GROUPS = 6  # shown at once; the rest can be opened
MOST_SAMPLES = 40  # of one arm
MOST_TABLE_ROWS = 12
LONGEST_TEXT = 700


@dataclass(frozen=True)
class Direction:
    """One method at one scale, with its part of the records."""

    plan: Plan
    method: Method
    records: Collected
    claims: list[Claim]
    problems: list[str] = field(default_factory=list)  # files that cannot be read

    @property
    def jobs(self) -> list[Job]:
        return [self.plan.jobs[key] for key in sorted(self.plan.jobs) if key.method == self.method.name]

    @property
    def arm_order(self) -> dict[str, int]:
        return {arm: place for place, arm in enumerate([SYNTHESIS, *self.method.arms])}

    def of(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame[frame["method"] == self.method.name]

    @functools.cached_property
    def finals(self) -> pd.DataFrame:
        return _finals(self)


def arms(direction: Direction) -> list[dict[str, Any]]:
    """Every arm with its role, and how many of its jobs are done."""
    statuses = direction.of(direction.records.statuses)
    found = []
    for name, arm in direction.method.arms.items():
        mine = statuses[statuses.arm == name]
        done = int((mine.state == "done").sum())
        state = f"{done} of {len(mine)} jobs" if len(mine) else f"not part of scale {direction.plan.settings.scale}"
        found.append({"name": name, "role": arm.role, "says": arm.says, "state": state, "whole": 0 < done == len(mine)})
    return found


# --- what was measured -----------------------------------------------------------------------------------------------


def metric_groups(direction: Direction) -> list[dict[str, Any]]:
    """Final metrics, one group a task and metric, a row an arm: mean and 95 % t interval over seeds.

    Metrics that a claim rests on come first, then what the samples say, then the rest.
    """
    final = direction.finals
    if final.empty:
        return []
    tested = {test.estimand for claim in direction.claims for test in tests_of(claim)}
    tasks = {task: place for place, task in enumerate(direction.method.tasks)}
    groups = []
    for (task, name, file), group in final.groupby(["task", "name", "file"], sort=True):
        order = (name not in tested, file != "samples.parquet", name, tasks.get(task, len(tasks)))
        groups.append((order, _metric_group(direction, task, name, file, group)))
    return [group for _, group in sorted(groups, key=lambda found: found[0])]


def _finals(direction: Direction) -> pd.DataFrame:
    """One value a seed of everything that ends as one number: final metrics, and means over the test samples.

    `row` is the number of the (first) row it was read from in the collected table, `count` how many rows it is made of.
    """
    metrics, samples = direction.of(direction.records.metrics), direction.of(direction.records.samples)
    columns = ["task", *POINT, "seed", "name", "value", "censored", "file", "row", "count"]
    ends = metrics[metrics["step"].isna()]
    parts = [ends.assign(file="metrics.parquet", row=ends.index, count=1)[columns]]
    test = samples[samples["split"] == "test"]
    keys = [test[part] for part in ("task", *POINT, "seed")]
    firsts = test.index.to_series().groupby(keys).min().rename("row")
    for name, column in {name: column for name, column in SAMPLE_COLUMNS.items() if name != "correct"}.items():
        values = test[column].astype("Float64")
        if values.isna().all() or (name == "score" and (values == test["correct"].astype("Float64")).all()):
            continue
        means = values.groupby(keys).agg(value="mean", count="count").join(firsts).reset_index()
        means = means.astype({"value": "float64"}).dropna(subset="value")
        parts.append(means.assign(name=name, censored=False, file="samples.parquet")[columns])
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def _metric_group(direction: Direction, task: str, name: str, file: str, group: pd.DataFrame) -> dict[str, Any]:
    rows = []
    for (arm, variant, setting), mine in group.groupby(POINT, sort=True):
        mean, low, high = over_seeds(mine["value"])
        bounds = int(mine["censored"].sum())
        if bounds:
            low = high = math.nan
        rows.append(
            {
                "arm": arm,
                "point": " · ".join(part for part in (variant, setting) if part),
                "mean": mean,
                "low": low,
                "high": high,
                "seeds": mine["seed"].nunique(),
                "bounds": bounds,
                "anchor": value_anchor(task, name, file, arm, variant, setting),
                "source": f"{file}: method={direction.method.name}, task={task}, arm={arm}"
                + "".join(f", {k}={v}" for k, v in (("variant", variant), ("setting", setting)) if v)
                + (f", name={name}" if file == "metrics.parquet" else f", mean of {SAMPLE_COLUMNS[name]}"),
            }
        )
    last = len(direction.arm_order)
    rows.sort(key=lambda row: (direction.arm_order.get(row["arm"], last), _natural(row["point"])))
    shown = rows[:MOST_ROWS]
    ends = [row[end] for row in shown for end in ("mean", "low", "high") if math.isfinite(row[end])]
    texts = aligned([(row["mean"], row["low"], row["high"]) for row in shown])
    for row, text in zip(shown, texts, strict=True):
        row["strip"] = (
            strip(row["mean"], row["low"], row["high"], min(ends), max(ends)) if len(shown) > 1 and ends else ""
        )
        row["mean"], row["low"], row["high"] = text
    return {"task": task, "name": name, "file": file, "rows": shown, "more": len(rows) - len(shown)}


def _natural(text: str) -> list[tuple[int, float, str]]:
    """Sorts M=9 before M=23."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(1, float(part), "") if place % 2 else (0, 0.0, part) for place, part in enumerate(parts)]


# --- samples, figures, tables ----------------------------------------------------------------------------------------


def sample_browsers(direction: Direction) -> list[dict[str, Any]]:
    """A few samples of every arm, right and wrong ones in equal parts where there are enough of both."""
    samples = direction.of(direction.records.samples)
    found = []
    for arm, mine in samples.groupby("arm", sort=False):
        mine = mine.sort_values(["seed", "task", "variant", "setting", "split", "item"], kind="stable")
        right, wrong = mine[mine["correct"]], mine[~mine["correct"]]
        half = MOST_SAMPLES // 2
        from_right = min(len(right), max(half, MOST_SAMPLES - len(wrong)))
        chosen = pd.concat([right.head(from_right), wrong.head(MOST_SAMPLES - from_right)]).sort_index()
        rows = [
            {
                "task": row.task,
                "seed": row.seed,
                "point": " · ".join(part for part in (row.variant, row.setting) if part),
                "item": row.item,
                "correct": bool(row.correct),
                "score": number(row.score) if row.score not in (0.0, 1.0) else "",
                **{name: _cut(getattr(row, name)) for name in ("prompt", "response", "answer", "target")},
                "tokens": "" if pd.isna(row.generated_tokens) else f"{int(row.generated_tokens):,}",
            }
            for row in chosen.itertuples()
        ]
        found.append({"arm": arm, "rows": rows, "total": len(mine), "right": len(right), "wrong": len(wrong)})
    last = len(direction.arm_order)
    return sorted(found, key=lambda browser: direction.arm_order.get(browser["arm"], last))


def _cut(text: str) -> str:
    return (
        text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} … ({len(text) - LONGEST_TEXT:,} characters more)"
    )


def figures(direction: Direction) -> list[dict[str, Any]]:
    """The synthesis' figures first, then the arms', those of one name together.

    The lowest seed's is drawn; the others lie in their jobs' folders.
    """
    places: dict[tuple[str, str, str, str], list[tuple[JobKey, Path]]] = {}
    for job in direction.jobs:
        for stage in done_stages(direction.plan, job):
            for path in sorted((job_folder(direction.plan.settings, job.key) / stage / "figures").glob("*.json")):
                places.setdefault((job.key.arm, job.key.task, stage, path.stem), []).append((job.key, path))
    order = direction.arm_order
    found: dict[tuple[bool, str], dict[str, Any]] = {}
    for (arm, task, stage, name), drawn in sorted(
        places.items(), key=lambda item: (order.get(item[0][0], len(order)), item[0])
    ):
        key, path = drawn[0]
        try:
            spec = read_json(path)
        except TychoError as error:
            direction.problems.append(str(error))
            continue
        says = str((spec.get("usermeta") or {}).get("says", ""))
        prefix = re.sub(r"[^a-z0-9]+", "-", f"{direction.method.name} {arm} {task} {stage} {name}".lower())
        across = arm == SYNTHESIS
        group = found.setdefault((not across, name), {"name": name, "across": across, "drawn": []})
        group["drawn"].append(
            {
                "arm": arm,
                "task": task,
                "says": says,
                "svg": compile_figure(spec, prefix),
                "alone": standalone(spec),
                "spec": spec,
                "file": f"figures/{prefix}",
                "job": f"{key.path}/{stage}",
                "seed": key.seed,
                "others": [k.seed for k, _ in drawn[1:]],
            }
        )
    for group in found.values():  # what all drawings of a group show is said once
        said = {figure["says"] for figure in group["drawn"]}
        group["says"] = said.pop() if len(said) == 1 else ""
        group["width"] = max(drawn_width(figure["svg"]) for figure in group["drawn"])
    return [group for _, group in sorted(found.items(), key=lambda item: item[0])]


def drawn_width(svg: str) -> int:
    """Pixels of a drawing at its own size, at which its text can be read; 0 where there is none."""
    width = re.search(r'<svg[^>]*?\swidth="(\d+)', svg)
    return int(width[1]) if width else 0


def tables(direction: Direction) -> list[dict[str, Any]]:
    """The first rows of the tables that the synthesis, or else the first job of each arm, left."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    jobs = sorted(direction.jobs, key=lambda job: (job.key.arm != SYNTHESIS, job.key))
    for job in jobs:
        for stage in done_stages(direction.plan, job):
            for path in sorted((job_folder(direction.plan.settings, job.key) / stage / "tables").glob("*.parquet")):
                if (job.key.arm, path.stem) in found:
                    continue
                try:
                    frame = records.read(path, f"delete {path.parent.parent} and run again")
                except TychoError as error:
                    direction.problems.append(str(error))
                    continue
                found[job.key.arm, path.stem] = {
                    "name": path.stem,
                    "job": f"{job.key.path}/{stage}",
                    "frame": frame,
                    "file": "tables/" + slug(f"{direction.method.name} {job.key.arm} {stage} {path.stem}") + ".csv",
                    "columns": [str(column) for column in frame.columns],
                    "rows": [
                        [_cell(value) for value in row] for row in frame.head(MOST_TABLE_ROWS).itertuples(index=False)
                    ],
                    "more": max(len(frame) - MOST_TABLE_ROWS, 0),
                }
    return list(found.values())


def _cell(value: Any) -> dict[str, Any]:
    """A table's cell as text, and whether it is a number."""
    if isinstance(value, (list, tuple, dict)) or getattr(value, "ndim", 0):
        value = value.tolist() if hasattr(value, "tolist") else value
        return {"text": _cut(json.dumps(value, default=str))[:120], "number": False}
    if pd.isna(value):
        return {"text": "–", "number": False}
    if isinstance(value, (str, bool)) or not hasattr(value, "__float__"):
        return {"text": _cut(str(value)), "number": False}
    return {"text": number(float(value), 4), "number": True}
