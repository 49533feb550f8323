"""One row of the scorecard: what the paper says, what was measured here, and what became of the claim."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote

import pandas as pd
from markupsafe import Markup

from reports import estimands
from reports.claims import All, Claim, Exact, One, Ordered, Side, Slope, arms_named
from reports.collect import Collected, lookup
from reports.estimands import NotRun
from reports.figures import forest
from reports.numbers import MINUS, aligned, number, over_seeds, p_value, with_interval
from tycho.jobs import Plan

NAN = math.nan
# What a reader meets, in this order: a verdict, and for a supported claim whether a control does as well.
STATES = {
    "supported": "supported",
    "not-attributable": "supported, not attributable",
    "contradicted": "contradicted",
    "inconclusive": "inconclusive",
    "not-learnt": "not learnt at this scale",
    "not-run": "not run",
    "not-planned": "not part of this scale",
    "suppressed": "suppressed",
}
NOT_PLANNED = "not part of this scale"
HELD = ("supported", "not-attributable")
JUDGED = (*HELD, "contradicted", "inconclusive", "not-learnt")
SLUGS = {word: slug for slug, word in STATES.items()}
# What a part or a control may leave out.
BLANK = dict.fromkeys(
    ("kind", "unit", "of", "than", "says", "arm", "reason", "outcome", "verdict"), ""
) | dict.fromkeys(("effect", "low", "high"))
RAW = ("verdict", "effect", "low", "high", "unit", "of", "than", "p", "q", "seeds", "items", "reason", "decides")
READ = {"paper": "read in the paper", "code": "read in the paper's code", "second-hand": "second-hand"}


def scorecard(
    verdicts: pd.DataFrame,
    claims: dict[str, list[Claim]],
    collected: Collected,
    plan: Plan,
    measured: estimands.Measured | None = None,
) -> list[dict[str, Any]]:
    """All rows of claims.parquet, with anchors of their own: ids that differ in signs only would share one."""
    by_id = {claim.id: claim for found in claims.values() for claim in found}
    measured = measured or estimands.Measured(collected, lookup, plan.settings.scale)
    rows = [claim_row(row, by_id.get(row["id"]), collected, plan, measured) for row in verdicts.to_dict("records")]
    taken: Counter[str] = Counter()
    for row in rows:
        taken[row["anchor"]] += 1
        if taken[row["anchor"]] > 1:
            row["anchor"] += f"-{taken[row['anchor']]}"
    return rows


def claim_row(
    row: dict[str, Any],
    claim: Claim | None,
    collected: Collected,
    plan: Plan,
    measured: estimands.Measured | None = None,
) -> dict[str, Any]:
    """One row of the scorecard from one row of claims.parquet and, for margins and levels, the claim itself."""
    measured = measured or estimands.Measured(collected, lookup, plan.settings.scale)
    aside = _aside(row, claim, collected, plan)
    state = "not-planned" if aside == NOT_PLANNED else state_of(row)
    paper, source = _loaded(row["paper"], {}), _loaded(row["source"], {})
    parts = _loaded(row["parts"], [])
    lines = [BLANK | part for part in parts] or [row]
    tests = _tests(claim, len(lines))
    bounds = [_bounds_of(test) if test is not None else (None, None) for test in tests]
    interval = _interval_text(row, bounds[0] if len(lines) == 1 else (None, None))
    measures = [_measure(line, test, tests) for line, test in zip(lines, tests, strict=True)]
    arxiv = str(source.get("arxiv", ""))
    return {
        "id": row["id"],
        "anchor": f"claim-{slug(row['id'])}",
        "method": row["method"],
        "says": row["says"],
        "state": state,
        "word": STATES[state] if row["verdict"] in SLUGS else row["verdict"],
        "held": state in HELD,
        "reason": row["reason"],
        "aside": f"scale {plan.settings.scale} leaves it out" if state == "not-planned" else aside,
        "fidelity": row["fidelity"],
        "paper": [{"arm": arm, "value": _published(value)} for arm, value in paper.items() if arm != "note"],
        "paper_note": paper.get("note", ""),
        "where": source.get("where", ""),
        "arxiv": arxiv,
        "arxiv_href": f"https://arxiv.org/abs/{quote(arxiv)}",
        "read": READ.get(source.get("read", ""), source.get("read", "")),
        "interval": interval,
        "measure": measures[_shown(row, lines)],
        "levels": _levels(claim, row, measured),
        "forests": _forests(lines, bounds, measures),
        "parts": [_part(part, measure) for part, measure in zip(parts, measures, strict=False)],
        "controls": _controls(_loaded(row["controls"], []), claim),
        "seeds": int(row["seeds"]),
        "items": int(row["items"]),
        "p": p_value(_real(row["p"])),
        "q": p_value(_real(row["q"])),
        "decides": row["decides"],
        "is_bound": bool(row["bound"]),
        "source": f"claims.parquet: id={row['id']}",
        "raw": {name: _raw(row[name]) for name in RAW if _raw(row[name])},
    }


def state_of(row: dict[str, Any]) -> str:
    if row["verdict"] == "supported" and not pd.isna(row["attributable"]) and not row["attributable"]:
        return "not-attributable"
    return SLUGS.get(str(row["verdict"]), "not-run")


def _aside(row: dict[str, Any], claim: Claim | None, collected: Collected, plan: Plan) -> str:
    """What the verdict leaves open: whether a control explains it away, or why nothing was run."""
    if row["verdict"] == "supported" and pd.isna(row["attributable"]) and _loaded(row["controls"], []):
        return "attribution open: a control is undecided"
    if row["verdict"] != "not run" or claim is None:
        return ""
    if row["method"] in plan.broken:
        return "method cannot be loaded"
    mine = collected.statuses[collected.statuses["method"] == row["method"]]
    states = {pair: set(found["state"]) for pair, found in mine.groupby(["arm", "task"])}
    named = [states.get(pair) for pair in arms_named(claim)]
    if any(found and "failed" in found for found in named):
        return "a job failed"
    if any(found is not None and found != {"done"} for found in named):
        return "a job is missing"
    # Either no such job is planned, or all are done and measure less than at a larger scale: no sweep, no such setting.
    return NOT_PLANNED


def _tests(claim: Claim | None, lines: int) -> list[One | None]:
    """The test of each line; None where there is no claim, or no part, since nothing ran."""
    test = claim.test if claim is not None else None
    tests = test.parts if isinstance(test, All) else test.pairs() if isinstance(test, Ordered) else [test]
    return list(tests) if len(tests) == lines else [None] * lines


def _shown(row: dict[str, Any], lines: list[dict[str, Any]]) -> int:
    """Which of the parts stands for the whole claim."""
    told = ("of", "than", "unit")
    alike = [place for place, line in enumerate(lines) if all(line[name] == row[name] for name in told)]
    exact = [place for place in alike if _real(lines[place]["effect"]) == _real(row["effect"])]
    return (exact or alike or [0])[0]


def _published(value: Any) -> str:
    """A paper's number as the paper has it: 97.0 stays 97.0, thousands are set apart."""
    if isinstance(value, float) and value == int(value) and abs(value) >= 100:
        value = int(value)
    text = f"{value:,}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
    return text.replace("-", MINUS)


def _bounds_of(test: One) -> tuple[float | None, float | None]:
    if isinstance(test, Exact):
        return None, test.tolerance
    above, below = (test.pairs()[0] if isinstance(test, Ordered) else test).bounds()
    if test.scale == "log" and not isinstance(test, Slope):
        above, below = (None if bound is None else math.exp(bound) for bound in (above, below))
    return above, below


def _forests(
    lines: list[dict[str, Any]], bounds: list[tuple[float | None, float | None]], measures: list[str]
) -> list[Markup]:
    """One drawing; parts that are not measured in the same unit have an axis each."""
    units: dict[str, list[int]] = {}
    for place, line in enumerate(lines):
        units.setdefault(str(line["unit"]), []).append(place)
    drawn = []
    for unit, places in units.items():
        rows = []
        for place in places:
            text = _interval_text(lines[place], bounds[place])
            says = f"{measures[place]}: {text['effect']}" + (
                f", interval {text['low']} to {text['high']}" if text["known"] else ""
            )
            rows.append((*(_real(lines[place][end]) for end in ("effect", "low", "high")), *bounds[place], says))
        drawn.append(forest(rows, log=unit.startswith("ratio of ")))
    return [drawing for drawing in drawn if drawing]


def _interval_text(row: dict[str, Any], bounds: tuple[float | None, float | None]) -> dict[str, str]:
    """Effect and interval as text; differences carry a sign, ratios a times sign."""
    ratio, exact = str(row["unit"]).startswith("ratio of "), _is_exact(row)
    ends = tuple(_real(row[end]) for end in ("effect", "low", "high"))
    effect, low, high = with_interval(*ends, signed=not (ratio or exact), bounds=bounds)
    if exact and math.isfinite(ends[0]):
        effect = number(ends[0])
    if ratio and math.isfinite(ends[0]):
        effect = f"{effect} ×"
    known = not (math.isnan(ends[1]) or math.isnan(ends[2]))
    return {"effect": effect, "low": low, "high": high, "known": known}


def _is_exact(row: dict[str, Any]) -> bool:
    """Whether the effect is a largest error; of several parts, that of the one which decides."""
    return row["kind"] == "exact" or str(row["unit"]).startswith("error of ")


def _measure(row: dict[str, Any], test: One | None = None, among: Iterable[One | None] = ()) -> str:
    """What the effect is, in words; with the task where the tests `among` which it stands have several."""
    unit, of, than = str(row["unit"]), row["of"] or "", row["than"] or ""
    name = unit.removeprefix("ratio of ")
    if test is not None and not isinstance(test, Ordered):
        sides = list(test.sides())
        tasks = [side for other in among if other is not None for side in other.sides()]
        alike = [side.model_copy(update={"estimand": ""}) for side in (tasks or sides)]
        if len({side.estimand for side in sides}) > 1:
            alike, name = sides, ""
        names = [side_name(side, alike) for side in sides]
        of, than = names[0], names[1] if len(names) > 1 else than
        if not unit:  # not run
            unit = f"error of {test.estimand}"
            name = test.estimand if len({side.estimand for side in sides}) < 2 else ""
    if _is_exact(row):
        return f"largest {unit}" + (f": {of} against {than}" if than not in ("", "0") else f": {of}")
    sign = "÷" if unit.startswith("ratio of ") or (test is not None and test.scale == "log") else "−"
    contrast = f"{of} {sign} {than}" if than else of
    return ": ".join(part for part in (name, contrast) if part)


def _levels(claim: Claim | None, row: dict[str, Any], measured: estimands.Measured) -> list[dict[str, Any]]:
    if claim is None or row["verdict"] == "not run":
        return []
    return levels(claim, lambda side: measured(row["method"], side))


def _part(part: dict[str, Any], measure: str) -> dict[str, Any]:
    state = SLUGS.get(part.get("verdict", ""), "not-run")
    told = {"measure": measure, "state": state, "word": STATES[state], "reason": part.get("reason", "")}
    return told | {"is_bound": bool(part.get("bound")), "interval": _interval_text(BLANK | part, (None, None))}


def _controls(controls: list[dict[str, Any]], claim: Claim | None) -> list[dict[str, Any]]:
    """What could explain the claim away, in words, and what became of each."""
    named = claim.explains_away if claim is not None else []
    found = []
    for place, control in enumerate(controls):
        filled = BLANK | control
        if not filled["says"]:
            way = named[place].test if place < len(named) else ""
            than = getattr(claim.test, "than", "") if claim is not None else ""
            ways = {"equivalent": "does as well", "greater": f"beats {than}, too"}
            filled["says"] = f"{filled['arm']} {ways.get(way, '')}".strip() if isinstance(way, str) else filled["arm"]
        found.append(filled | {"interval": _interval_text(filled, (None, None))})
    return found


def _loaded(text: Any, empty: Any) -> Any:
    return json.loads(text) if isinstance(text, str) and text else empty


def _raw(value: Any) -> str:
    """A cell of claims.parquet, no digit lost that tells anything."""
    if pd.isna(value):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _real(value: Any) -> float:
    return NAN if value is None or pd.isna(value) else float(value)


def tests_of(claim: Claim) -> list[Any]:
    return list(claim.test.parts) if isinstance(claim.test, All) else [claim.test]


def levels(claim: Claim, values_of: Callable[[Side], pd.DataFrame]) -> list[dict[str, str]]:
    """What each side of a claim's test measured, mean over seeds, to stand beside the paper's numbers.

    Args:
        values_of: side -> its values, a frame with seed, value and censored; raises NotRun where there are none.
    """
    sides = [s for test in tests_of(claim) if not isinstance(test, (Slope, Exact)) for s in test.sides()]
    found: dict[str, dict[str, tuple[tuple[float, float, float], str]]] = {}
    for side in sides:
        try:
            values = values_of(side)
        except NotRun:
            continue
        mark = "≥ " if values["censored"].any() else ""
        mean = over_seeds(values.groupby("seed")["value"].mean())
        found.setdefault(side.estimand or "", {})[side_name(side, sides)] = (mean, mark)
    return [
        {"arm": arm, "mean": mark + mean, "low": low, "high": high}
        for group in found.values()
        for (arm, (_, mark)), (mean, low, high) in zip(
            group.items(), aligned([row for row, _ in group.values()]), strict=True
        )
    ]


def side_name(side: Side, among: Iterable[Side]) -> str:
    """A side by its arm, with its estimand and task where those differ among the sides it stands with."""
    among = list(among)
    name = str(side)
    if len({other.estimand for other in among}) > 1:
        name += f" {side.estimand}"
    return name + (f" on {side.task}" if len({other.task for other in among}) > 1 else "")


def slug(text: object) -> str:
    """Fit for an id: small letters, digits and '-'."""
    return re.sub(r"[^a-z0-9]+", "-", str(text).lower()).strip("-") or "x"
