"""Claims and records in, verdicts out. One claim that cannot be judged never takes the others away."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from reports import statistics
from reports.claims import All, Claim, Compare, Exact, One, Ordered, Ratio, Side, Slope
from reports.estimands import Lookup, NotRun, Records, values
from reports.numbers import number, with_interval
from tycho.errors import one_line

SUPPORTED, CONTRADICTED, INCONCLUSIVE = "supported", "contradicted", "inconclusive"
NOT_LEARNT, NOT_RUN, SUPPRESSED = "not learnt at this scale", "not run", "suppressed"
CONTROL_OUTCOME = {SUPPORTED: "explains it away", CONTRADICTED: "ruled out"}  # anything else: "open"

DTYPES = {
    **dict.fromkeys(("id", "method", "kind", "says", "verdict", "reason"), "string"),
    **dict.fromkeys(("effect", "low", "high"), "float64"),
    "unit": "string",
    **dict.fromkeys(("p", "q"), "float64"),
    "paper": "string",
    **dict.fromkeys(("seeds", "items"), "int64"),
    "fidelity": "string",
    "attributable": "boolean",
    **dict.fromkeys(("controls", "source", "decides", "of", "than"), "string"),
    "bound": "bool",
    "parts": "string",
}


@dataclass(frozen=True)
class Outcome:
    """What became of one test."""

    kind: str
    verdict: str
    reason: str = ""
    effect: float = math.nan
    low: float = math.nan
    high: float = math.nan
    unit: str = ""
    p: float = math.nan
    against: float = math.nan  # p value for "it does not hold"
    seeds: int = 0
    items: int = 0
    of: str = ""
    than: str = ""
    bound: bool = False
    decides: str = ""
    parts: tuple[Outcome, ...] = ()


def judge(claims_by_method: Mapping[str, Sequence[Claim]], records: object, lookup: Lookup, scale: str) -> pd.DataFrame:
    """A row a claim, with verdict, effect, interval and controls.

    Args:
        claims_by_method: method -> its claims.
        records: has the frames `metrics`, `samples` and `statuses`; all methods and scales may be in them.
        lookup: (method, estimand) -> the room's own function, or None where the room has none of that name.
        scale: which records to judge. At `smoke` nothing is inferred: verdicts read `suppressed`.
    """
    rows = []
    for method, claims in claims_by_method.items():
        bench = Bench(Records.of(records, scale, method), lookup)
        rows += [{"method": method} | _row(claim, bench, scale == "smoke") for claim in claims]
    frame = pd.DataFrame(rows, columns=[*DTYPES])
    frame["q"] = statistics.false_discovery(frame["p"].to_numpy(dtype=float))  # exact tests have no p value
    return frame.astype(DTYPES)


class Bench:
    """Runs tests on the records of one method."""

    def __init__(self, records: Records, lookup: Lookup):
        self.records, self.lookup = records, lookup
        self._values: dict[tuple, pd.DataFrame] = {}

    def run(self, test: One | All) -> Outcome:
        """The outcome of a test; whatever keeps it from being judged becomes `not run` with the reason."""
        if isinstance(test, All):
            return _conjunction("all", [self.run(part) for part in test.parts])
        if isinstance(test, Ordered):
            return _conjunction("ordered", [self.run(pair) for pair in test.pairs()])
        of, than = test.fill(test.of), test.fill(getattr(test, "than", 0.0))
        label = "" if isinstance(test, Slope) else str(than) if isinstance(than, Side) else f"{than:g}"
        try:
            outcome = {Exact: self._exact, Slope: self._slope}.get(type(test), self._pair)(test, of, than)
            absent = sorted({line for side in test.sides() for line in self.records.absences(side.arm, side.task)})
            outcome = replace(outcome, reason="; ".join([*filter(None, [outcome.reason]), *absent]))
        except Exception as error:  # one malformed claim or frame must not take the report away
            reason = str(error) if isinstance(error, (NotRun, ValueError)) else one_line(error)
            outcome = Outcome(test.kind, NOT_RUN, reason)
        return replace(outcome, of=str(of), than=label)

    def values(self, side: Side, x: str | None = None) -> pd.DataFrame:
        key = (*side.model_dump().values(), x)
        if key not in self._values:
            self._values[key] = values(self.records, side, self.lookup, x)
        return self._values[key]

    def _pair(self, test: Compare | Ratio, of: Side, than: Side | float) -> Outcome:
        mine, log = self.values(of), test.scale == "log"
        estimate = statistics.compare(mine, self.values(than) if isinstance(than, Side) else than, log, test.resolution)
        return _decided(test, estimate, f"ratio of {of.estimand}" if log else of.estimand)

    def _slope(self, test: Slope, of: Side, _: float) -> Outcome:
        points = self.values(of, test.x)
        if "x" not in points:
            raise NotRun(
                f"a slope needs x: name a part of `setting`, or let estimand {of.estimand!r} return a column x"
            )
        estimate = statistics.slope(points, test.scale == "log", test.resolution)
        names = [of.estimand, test.x or "x"]
        return _decided(
            test, estimate, " per ".join(f"ln {n}" for n in names) if test.scale == "log" else " per ".join(names)
        )

    def _exact(self, test: Exact, of: Side, than: Side | float) -> Outcome:
        mine = self.values(of)
        if isinstance(than, Side):
            key = [c for c in ("seed", "item", "instance") if c in mine]
            both = mine.merge(self.values(than), on=key, suffixes=("", "_than"), how="outer")
            if both[["value", "value_than"]].isna().any(axis=None):
                raise NotRun(f"{of} and {than} were not measured on the same instances")
            errors = (both["value"] - both["value_than"]).abs()
        else:
            errors = (mine["value"] - than).abs()
        worst = float(errors.max())
        holds = worst <= test.tolerance
        misses = int((errors > test.tolerance).sum())
        reason = f"{misses} of {len(errors)} instances miss {test.tolerance:g}" if misses else ""
        return Outcome(
            "exact", SUPPORTED if holds else CONTRADICTED, reason, effect=worst, unit=f"error of {of.estimand}",
            seeds=mine["seed"].nunique(), items=len(errors), against=1.0 if holds else 0.0,
        )  # fmt: skip


def _decided(test: Compare | Ratio | Slope, estimate: statistics.Estimate, unit: str) -> Outcome:
    above, below = test.bounds()
    decision = statistics.decide(estimate, above, below)
    # exp of more than 700 does not fit a float; nor would a reader miss it.
    shown = (lambda v: math.inf if v >= 700 else math.exp(v)) if test.scale == "log" and test.kind != "slope" else float
    decides = _what_decides(estimate, above, below) if decision.verdict == INCONCLUSIVE else ""
    return Outcome(
        test.kind, decision.verdict, "; ".join(estimate.notes), shown(estimate.effect), shown(estimate.low),
        shown(estimate.high), unit, decision.p, decision.against, estimate.seeds, estimate.items,
        bound=estimate.bound, decides=decides,
    )  # fmt: skip


def _what_decides(estimate: statistics.Estimate, above: float | None, below: float | None) -> str:
    mean = estimate.mean
    if estimate.bound:
        return "a longer run: some times are only bounds"
    if mean.seed_df == 0:
        return "more seeds: one seed tells nothing of the spread between seeds"
    if not math.isfinite(mean.half_width()):
        return "state the `resolution` of the measurement: all seeds agree"
    nearest = min((bound for bound in (above, below) if bound is not None), key=lambda bound: abs(mean.value - bound))
    sd = math.sqrt(mean.seed_variance * estimate.seeds)
    needed = statistics.seeds_to_decide(mean.value, sd, nearest, mean.item_variance, estimate.seeds + 1)
    if needed is not None:
        return f"about {needed} seeds"
    if statistics.seeds_to_decide(mean.value, sd, nearest, 0.0, estimate.seeds + 1) is not None:
        return "more items or a finer measurement: seeds alone do not narrow it enough"
    return "more than 1000 seeds: the effect is too close to the margin"


def _conjunction(kind: str, parts: list[Outcome]) -> Outcome:
    """Every part must hold. The weakest part stands for the whole; a contradiction must survive Bonferroni."""
    ran = [part for part in parts if part.verdict != NOT_RUN]
    absent = [part.reason for part in parts if part.verdict == NOT_RUN]
    p = max((part.p for part in ran if not math.isnan(part.p)), default=math.nan)
    if not ran:
        return Outcome(kind, NOT_RUN, "; ".join(dict.fromkeys(absent)), parts=tuple(parts))
    worst = min(ran, key=lambda part: part.against)
    if worst.verdict == CONTRADICTED and worst.against * len(parts) < statistics.ALPHA:
        verdict, shown, reason = CONTRADICTED, worst, f"part {parts.index(worst) + 1} of {len(parts)} is contradicted"
    elif absent:
        return Outcome(kind, NOT_RUN, "; ".join(dict.fromkeys(absent)), parts=tuple(parts))
    elif all(part.verdict == SUPPORTED for part in parts):
        verdict, shown, reason = SUPPORTED, max(ran, key=lambda part: -1 if math.isnan(part.p) else part.p), ""
    else:
        shown = max((part for part in parts if part.verdict != SUPPORTED), key=lambda part: part.p)
        verdict = INCONCLUSIVE
        reason = f"part {parts.index(shown) + 1} of {len(parts)} is inconclusive"
        if shown.verdict == CONTRADICTED:
            reason = f"part {parts.index(shown) + 1} is contradicted, but not once {len(parts)} parts are allowed for"
    decides = shown.decides if verdict == INCONCLUSIVE else ""
    reason = "; ".join(filter(None, [reason, shown.reason]))
    seeds, items = min(part.seeds for part in ran), min(part.items for part in ran)
    return replace(
        shown,
        kind=kind,
        verdict=verdict,
        reason=reason,
        p=p,
        seeds=seeds,
        items=items,
        decides=decides,
        parts=tuple(parts),
    )


def _row(claim: Claim, bench: Bench, smoke: bool) -> dict[str, Any]:
    outcome = bench.run(claim.test)
    floor = claim.floor_test()
    if floor is not None and outcome.verdict != NOT_RUN:
        learnt = bench.run(floor)
        if learnt.verdict == NOT_RUN:
            outcome = replace(outcome, verdict=NOT_RUN, reason=_below(learnt), p=math.nan, decides="")
        elif learnt.verdict != SUPPORTED:
            outcome = replace(outcome, verdict=NOT_LEARNT, reason=_below(learnt), decides="")
    controls = []
    for control in claim.explains_away:
        result = bench.run(claim.control_test(control))
        said, reason = CONTROL_OUTCOME.get(result.verdict, "open") if not smoke else "open", result.reason
        if control.floor is not None and said != "open":
            learnt = bench.run(control.floor)
            if learnt.verdict != SUPPORTED:
                said, reason = "open", _below(learnt)
        controls.append(
            {"says": control.says, "arm": control.arm or result.of, "effect": result.effect, "low": result.low}
            | {"high": result.high, "unit": result.unit, "outcome": said, "reason": reason}
        )
    said = {control["outcome"] for control in controls}
    attributable = None
    if outcome.verdict == SUPPORTED and said:
        attributable = False if "explains it away" in said else None if "open" in said else True
    if smoke:
        attributable, outcome = None, _suppressed(outcome)
    row = {name: getattr(outcome, name) for name in Outcome.__dataclass_fields__ if name in DTYPES}
    parts = [{k: v for k, v in vars(part).items() if k not in ("parts", "against")} for part in outcome.parts]
    return row | {
        "id": claim.id,
        "says": claim.says,
        "fidelity": claim.fidelity,
        "attributable": attributable,
        "paper": _json(claim.paper or {}),
        "source": _json(claim.source.model_dump()),
        "controls": _json(controls),
        "parts": _json(parts),
    }


def _suppressed(outcome: Outcome) -> Outcome:
    """A smoke run shows that the plumbing works; what did not run is still said."""
    verdict = NOT_RUN if outcome.verdict == NOT_RUN else SUPPRESSED
    parts = tuple(_suppressed(part) for part in outcome.parts)
    reason = outcome.reason if verdict == NOT_RUN else ""
    return replace(outcome, verdict=verdict, reason=reason, p=math.nan, decides="", parts=parts)


def _below(learnt: Outcome) -> str:
    """Why a floor is not met."""
    if learnt.verdict == NOT_RUN:
        return f"floor: {learnt.reason}"
    if learnt.unit.startswith("error of "):  # a band around a number, not a level to be above
        name, away = learnt.unit.removeprefix("error of "), number(learnt.effect)
        return f"{learnt.of}: {name} is {away} away from {learnt.than}, more than is allowed"
    return f"{learnt.of} against its floor {learnt.than}: {_interval(learnt)}"


def _interval(outcome: Outcome) -> str:
    if outcome.kind == "exact" or math.isnan(outcome.low):  # a census has no interval
        return f"{number(outcome.effect)} {outcome.unit}"
    effect, low, high = with_interval(outcome.effect, outcome.low, outcome.high, signed=True)
    return f"{effect} [{low}, {high}] {outcome.unit}"


def _json(value: Any) -> str:
    """Strict JSON: an open end of an interval (infinite) and a number that does not exist become null."""

    def plain(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: plain(inner) for key, inner in item.items()}
        if isinstance(item, (list, tuple)):
            return [plain(inner) for inner in item]
        return None if isinstance(item, float) and not math.isfinite(item) else item

    return json.dumps(plain(value), ensure_ascii=False)
