"""What arms cost with all they needed, what was planned for it, and the knobs they ran with."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from reports.numbers import number, seconds
from reports.sections import Direction, cost_anchor
from tycho.jobs import SYNTHESIS, Job, Plan
from tycho.keys import JobKey


def arm_costs(direction: Direction) -> list[dict[str, Any]]:
    """What every arm cost, what its ingredients cost, and both together. The synthesis counts for itself alone."""
    costs = direction.records.costs
    spent = costs.groupby(["method", "arm", "task", "seed", "stage"])[["cpu_seconds", "flops", "generated_tokens"]].sum(
        min_count=1
    )
    memory = direction.of(costs).groupby("arm")["peak_memory_mb"].max()
    by_arm: dict[str, list[Job]] = {}
    for job in direction.jobs:
        by_arm.setdefault(job.key.arm, []).append(job)
    rows = []
    for arm, jobs in sorted(
        by_arm.items(), key=lambda item: direction.arm_order.get(item[0], len(direction.arm_order))
    ):
        own = {(job.key, stage) for job in jobs for stage in job.stages}
        lent = set() if arm == SYNTHESIS else borrowed(direction.plan, jobs) - own
        mine, others = _spent(spent, own), _spent(spent, lent)
        if not mine["stages"] and not others["stages"]:
            continue
        places = {(key.method, key.arm) for key, _ in lent}
        named = sorted(
            (arm if method == direction.method.name else f"{method}/{arm}", method, arm) for method, arm in places
        )
        rows.append(
            {
                "arm": arm,
                "jobs": len(jobs),
                "cpu": seconds(mine["cpu_seconds"]),
                "ingredients": [
                    {"name": name, "method": method, "anchor": cost_anchor(arm)} for name, method, arm in named
                ],
                "borrowed": seconds(others["cpu_seconds"]) if lent else "–",
                "total": seconds(mine["cpu_seconds"] + others["cpu_seconds"]),
                "memory": number(float(memory.get(arm, math.nan))),
                "flops": number(mine["flops"] + others["flops"]) if mine["flops"] + others["flops"] else "–",
                "tokens": number(mine["generated_tokens"]) if mine["generated_tokens"] else "–",
                "anchor": cost_anchor(arm),
                "source": f"costs.parquet: method={direction.method.name}, arm={arm}"
                + (f", and {len(lent)} stages of {', '.join(name for name, *_ in named)}" if lent else ""),
            }
        )
    return rows


def borrowed(plan: Plan, jobs: Iterable[Job]) -> set[tuple[JobKey, str]]:
    """The stages of other jobs without which these could not have run."""
    found: set[tuple[JobKey, str]] = set()
    waiting = [need for job in jobs for need in job.needs.values()]
    while waiting:
        need = waiting.pop()
        other = plan.jobs[need.key]
        new = {(need.key, stage) for stage in other.stages[: other.stages.index(need.stage) + 1]} - found
        if new:
            found |= new
            waiting += other.needs.values()
    return found


def _spent(spent: pd.DataFrame, stages: set[tuple[JobKey, str]]) -> dict[str, float]:
    places = sorted((key.method, key.arm, key.task, key.seed, stage) for key, stage in stages)
    mine = spent[spent.index.isin(places)]
    return {name: float(mine[name].sum()) for name in spent.columns} | {"stages": len(mine)}


def configuration(direction: Direction) -> dict[str, Any]:
    """Knobs that all arms share, and those that tell them apart."""
    jobs = [job for job in direction.jobs if job.key.arm != SYNTHESIS]
    dumped = {f"{job.key.arm}/{job.key.task}": job.config.model_dump(mode="json") for job in jobs}
    fields = type(jobs[0].config).model_fields if jobs else {}
    shared, apart = [], []
    for name, info in fields.items():
        values = {where: json.dumps(config[name], ensure_ascii=False) for where, config in dumped.items()}
        extra = info.json_schema_extra or {}
        row = {
            "name": name,
            "says": info.description or "",
            "unit": extra.get("unit", ""),
            "stage": extra.get("stage", ""),
        }  # type: ignore[union-attr]
        if len(set(values.values())) == 1:
            shared.append(row | {"value": next(iter(values.values()))})
        else:
            groups: dict[str, list[str]] = {}
            for where, value in values.items():
                groups.setdefault(value, []).append(where)
            apart.append(row | {"values": [{"value": v, "arms": _arms_only(w, values)} for v, w in groups.items()]})
    return {"shared": shared, "apart": apart}


def _arms_only(places: list[str], every: Iterable[str]) -> str:
    """`arm` where all its tasks are named, `arm/task` otherwise."""
    names = []
    for place in places:
        arm = place.partition("/")[0]
        whole = all(other in places for other in every if other.partition("/")[0] == arm)
        names.append(arm if whole else place)
    return ", ".join(dict.fromkeys(names))


def budgets(plan: Plan, costs: pd.DataFrame) -> list[dict[str, Any]]:
    """CPU seconds measured against those planned, a row a method and one for all."""
    spent = costs.groupby("method")["cpu_seconds"].sum()
    rows = [(name, float(spent.get(name, 0.0)), plan.plans[name].cpu_seconds) for name in plan.methods]
    planned = [budget for _, _, budget in rows if budget is not None]
    if len(rows) > 1:
        rows.append(("all", sum(used for _, used, _ in rows), sum(planned) if len(planned) == len(rows) else None))
    return [
        {
            "method": name,
            "used": seconds(used),
            "budget": "–" if budget is None else seconds(budget),
            "share": None if not budget else used / budget,
        }
        for name, used, budget in rows
    ]
