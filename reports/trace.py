"""Where a number comes from: the values of single seeds that it was made of, and the rows of the records they stand in.

Every number of the report leads to an anchor of a page made here, a page a direction.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from reports.claims import All, Claim, Side, Slope
from reports.estimands import Measured, NotRun
from reports.sections import POINT, Direction, cost_anchor, value_anchor

MOST_ROW_NUMBERS = 12
MOST_INSTANCES = 12  # values of one seed that are not averaged (an exact test's instances, a slope's points)


def records_page(direction: Direction, rows: list[dict[str, Any]], measured: Measured) -> dict[str, Any]:
    """What the template of a records page takes; `rows` are the scorecard's."""
    by_id = {claim.id: claim for claim in direction.claims}
    mine = [row for row in rows if row["method"] == direction.method.name]
    return {
        "claims": [row | {"tests": claim_tests(by_id.get(row["id"]), direction.method.name, measured)} for row in mine],
        "values": final_values(direction),
        "costs": cost_rows(direction),
    }


def claim_tests(claim: Claim | None, method: str, measured: Measured) -> list[dict[str, Any]]:
    """The claim's test, its floor and its controls, each with what its sides measured, a row a seed."""
    if claim is None:
        return []
    named = [("The test", claim.test), ("Its floor", claim.floor_test())]
    for control in claim.explains_away:
        named += [(f"Control: {control.says or control.arm}", claim.control_test(control))]
        named += [("The control's floor", control.floor)]
    found = []
    for says, test in named:
        for part in [] if test is None else test.parts if isinstance(test, All) else [test]:
            table = _by_seed(part, method, measured)
            if table["rows"]:
                found.append(table | {"says": f"{says.rstrip('.')} ({part.kind})"})
    return found


def _by_seed(test: Any, method: str, measured: Measured) -> dict[str, Any]:
    sides = list(test.sides())
    cells: list[dict[int, str]] = []
    for side in sides:
        try:
            values = measured(method, side, test.x if isinstance(test, Slope) else None)
        except NotRun:
            cells.append({})
            continue
        cells.append({int(seed): _shown(mine) for seed, mine in values.groupby("seed")})
    seeds = sorted(set().union(*cells)) if cells else []
    rows = [{"seed": seed, "cells": [cell.get(seed, "–") for cell in cells]} for seed in seeds]
    return {"columns": [_side_text(side) for side in sides], "rows": rows}


def _shown(values: pd.DataFrame) -> str:
    """A seed's value; where it has several that are not averaged, the first of them."""
    at_least = "≥ " if values["censored"].any() else ""
    if "x" in values:
        points = [f"{at_least}{v:.6g} at {x:g}" for x, v in zip(values["x"], values["value"], strict=True)]
        return "; ".join(points[:MOST_INSTANCES]) + (" …" if len(points) > MOST_INSTANCES else "")
    if "instance" in values:
        return f"{values['value'].abs().max():.6g} at worst of {len(values)}"
    items = f", mean of {len(values)} items" if len(values) > 1 else ""
    return f"{at_least}{values['value'].mean():.6g}{items}"


def _side_text(side: Side) -> str:
    return f"{side} · {side.estimand} · {side.task}"


def final_values(direction: Direction) -> list[dict[str, Any]]:
    """Every final value, a row a point, with its seeds and the numbers of its rows in the collected tables."""
    final = direction.finals
    found = []
    last = len(direction.arm_order)
    for (task, name, file), group in final.groupby(["task", "name", "file"], sort=True):
        rows = []
        for (arm, variant, setting), mine in group.groupby(POINT, sort=True):
            mine = mine.sort_values("seed")
            places = [int(place) for place in mine["row"].dropna()]
            rows.append(
                {
                    "anchor": value_anchor(task, name, file, arm, variant, setting),
                    "arm": arm,
                    "point": " · ".join(part for part in (variant, setting) if part),
                    "values": [
                        f"{seed}: {'≥ ' if censored else ''}{value:.6g}"
                        for seed, value, censored in zip(mine["seed"], mine["value"], mine["censored"], strict=True)
                    ],
                    "rows": _rows_text(places, int(mine["count"].sum())),
                }
            )
        rows.sort(key=lambda row: (direction.arm_order.get(row["arm"], last), row["point"]))
        found.append({"task": task, "name": name, "file": file, "rows": rows})
    return found


def _rows_text(places: list[int], count: int) -> str:
    """`12, 40, 61`, or for means over many rows `600 rows from 1200 on`."""
    if count == len(places):
        more = " …" if len(places) > MOST_ROW_NUMBERS else ""
        return ", ".join(map(str, places[:MOST_ROW_NUMBERS])) + more
    return f"{count:,} rows, the first of each seed: " + ", ".join(map(str, places[:MOST_ROW_NUMBERS]))


def cost_rows(direction: Direction) -> list[dict[str, Any]]:
    costs = direction.of(direction.records.costs)
    last = len(direction.arm_order)
    found = []
    for arm, mine in sorted(costs.groupby("arm"), key=lambda item: direction.arm_order.get(item[0], last)):
        rows = [
            {
                "place": int(row.Index),
                "task": row.task,
                "seed": int(row.seed),
                "stage": row.stage,
                "cpu": f"{row.cpu_seconds:.6g}",
                "wall": f"{row.wall_seconds:.6g}",
                "memory": f"{row.peak_memory_mb:.6g}",
                "flops": "–" if pd.isna(row.flops) else f"{row.flops:.6g}",
                "tokens": "–" if pd.isna(row.generated_tokens) else f"{int(row.generated_tokens):,}",
                "device": row.device,
            }
            for row in mine.itertuples()
        ]
        found.append({"arm": arm, "anchor": cost_anchor(str(arm)), "rows": rows})
    return found
