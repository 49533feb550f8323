"""From records to one value a seed (and item): a room's own functions first, then columns of samples, then metrics."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from reports.claims import Side
from tycho.errors import one_line
from tycho.keys import read_setting

# Estimand name -> column of samples.
SAMPLE_COLUMNS = {
    "accuracy": "correct",
    **{c: c for c in ("correct", "score", "generated_tokens", "sequential_tokens", "forward_passes", "flops")},
}
# A room's estimand: f(records, *, arm, task, variant, setting) -> frame with seed and value, and if need be with
# item, censored, x (of a slope) or instance (of an exact test).
Estimand = Callable[..., pd.DataFrame]
Lookup = Callable[[str, str], Estimand | None]


class NotRun(Exception):
    """The data a claim needs are not there or not usable; the text says why."""


@dataclass(frozen=True)
class Records:
    """The records of one method at one scale."""

    scale: str
    method: str
    metrics: pd.DataFrame
    samples: pd.DataFrame
    statuses: pd.DataFrame

    @classmethod
    def of(cls, records: object, scale: str, method: str) -> Records:
        """`records` has the frames metrics, samples and statuses of everything that was run."""
        frames = {name: getattr(records, name) for name in ("metrics", "samples", "statuses")}
        return cls(scale, method, **{n: f[(f["scale"] == scale) & (f["method"] == method)] for n, f in frames.items()})

    def absences(self, arm: str, task: str) -> list[str]:
        """One line for each way in which planned seeds of an arm did not end well."""
        mine = self.statuses[(self.statuses["arm"] == arm) & (self.statuses["task"] == task)]
        bad = mine[mine["state"] != "done"].sort_values("seed")
        ways: dict[tuple[str, str], list[tuple[int, str]]] = {}
        for row in bad.itertuples():
            reason = row.reason if isinstance(row.reason, str) else ""
            alike = re.sub(rf"/seed{row.seed}\b", "/the same seed", reason)
            ways.setdefault((row.state, alike), []).append((row.seed, reason))
        lines = []
        for (state, alike), seeds in ways.items():
            one = len(seeds) == 1
            who = f"/seed{seeds[0][0]}" if one else f" seeds {seeds_text([seed for seed, _ in seeds])}"
            why = seeds[0][1] if one else alike
            lines.append(f"{arm}/{task}{who} {state}" + (f": {why}" if why else ""))
        return lines

    def why_absent(self, side: Side) -> str:
        mine = self.statuses[(self.statuses["arm"] == side.arm) & (self.statuses["task"] == side.task)]
        if mine.empty:
            return f"arm {side.arm!r} on task {side.task!r} is not among the jobs of scale {self.scale!r}"
        absent = self.absences(side.arm, side.task)
        if absent:
            return "; ".join(absent[:3]) + (f"; and {len(absent) - 3} more" if len(absent) > 3 else "")
        return f"{side.arm}/{side.task} ran, but recorded no {side.estimand!r}"


def seeds_text(seeds: list[int]) -> str:
    """`0 to 4, 7`."""
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ", ".join(f"{r[0]} to {r[-1]}" if len(r) > 2 else ", ".join(map(str, r)) for r in runs)


class Measured:
    """What sides of contrasts measured in one scale's records, each looked up once."""

    def __init__(self, collected: object, lookup: Lookup, scale: str):
        self._collected, self._lookup, self._scale = collected, lookup, scale
        self._records: dict[str, Records] = {}
        self._values: dict[tuple[Any, ...], pd.DataFrame | NotRun] = {}

    def __call__(self, method: str, side: Side, x: str | None = None) -> pd.DataFrame:
        """As `values`."""
        key = (method, *side.model_dump().values(), x)
        if key not in self._values:
            if method not in self._records:
                self._records[method] = Records.of(self._collected, self._scale, method)
            try:
                self._values[key] = values(self._records[method], side, self._lookup, x)
            except NotRun as error:
                self._values[key] = error
        found = self._values[key]
        if isinstance(found, NotRun):
            raise found
        return found


def values(records: Records, side: Side, lookup: Lookup, x: str | None = None) -> pd.DataFrame:
    """What one side of a contrast measured.

    Args:
        side: with task, estimand, variant and setting filled in.
        x: a name in `setting` to sweep over; the side's setting then pins the other names.
    Returns:
        frame with seed, value, censored and, where there are any, item, x and instance; all values finite.
    Raises:
        NotRun: no such data, several values where one is due, or values that are not finite.
    """
    room = lookup(records.method, side.estimand)
    if room is not None:
        try:
            frame = room(records, arm=side.arm, task=side.task, variant=side.variant, setting=side.setting)
        except Exception as error:
            raise NotRun(f"estimand {side.estimand!r} of {side.arm!r} failed: {one_line(error)}") from error
        if not isinstance(frame, pd.DataFrame) or not {"seed", "value"} <= set(frame):
            raise NotRun(f"estimand {side.estimand!r} did not return a frame with the columns seed and value")
    else:
        column = SAMPLE_COLUMNS.get(side.estimand)
        samples, metrics = records.samples, records.metrics
        if column:
            kept = samples[(samples["arm"] == side.arm) & (samples["task"] == side.task)]
            frame = kept.rename(columns={column: "value"})
            if len(kept) and not (kept["split"] == "test").any():
                raise NotRun(
                    f"{side.arm}/{side.task} has no samples of split 'test', only {sorted(set(kept['split']))}"
                )
            frame = frame[kept["split"] == "test"]
        else:
            frame = metrics[
                (metrics["arm"] == side.arm) & (metrics["task"] == side.task) & (metrics["name"] == side.estimand)
            ]
            frame = frame[frame["step"].isna()]
        if len(frame):
            frame = _at(frame, side, x)
        frame = frame[[c for c in ("seed", "item", "value", "censored", "x") if c in frame]]
    if frame.empty:
        raise NotRun(records.why_absent(side))
    return _checked(frame, side)


def _at(frame: pd.DataFrame, side: Side, x: str | None) -> pd.DataFrame:
    """The rows of a side's variant and setting; with `x`, all settings that agree with it, and x as a column."""
    variants = frame[frame["variant"] == side.variant]
    if variants.empty:
        raise NotRun(f"{side.arm}/{side.task} has no variant {side.variant!r}; there is: {_some(frame['variant'])}")
    if x is None:
        kept = variants[variants["setting"] == side.setting]
        if kept.empty:
            raise NotRun(
                f"{side.arm}/{side.task} has no setting {side.setting!r}; there is: {_some(variants['setting'])}"
            )
        return kept
    pinned = read_setting(side.setting).items()
    points = {text: read_setting(text) for text in set(variants["setting"])}
    points = {text: point for text, point in points.items() if x in point and pinned <= point.items()}
    if not points:
        raise NotRun(f"{side.arm}/{side.task} has no settings with {x!r}; there is: {_some(variants['setting'])}")
    others = {frozenset(item for item in point.items() if item[0] != x) for point in points.values()}
    if len(others) > 1:
        raise NotRun(
            f"{side.arm}/{side.task} varies more than {x!r}; pin the rest in `setting`. There is: {_some(points)}"
        )
    kept = variants[variants["setting"].isin(list(points))]
    return kept.assign(x=kept["setting"].map({text: float(point[x]) for text, point in points.items()}))


def _some(names: object) -> str:
    found = sorted(set(names))
    return ", ".join(repr(name) for name in found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")


def _checked(frame: pd.DataFrame, side: Side) -> pd.DataFrame:
    """Numbers as floats, repeats of an item averaged, anything missing or not finite refused."""
    frame = frame.assign(value=_floats(frame["value"]))
    if "censored" not in frame:
        frame = frame.assign(censored=False)
    if "x" in frame:
        frame = frame.assign(x=_floats(frame["x"]))
    for column in ("value", "x"):
        wrong = ~np.isfinite(frame[column]) if column in frame else pd.Series(False, frame.index)
        if wrong.any():
            raise NotRun(
                f"{column} of {side.estimand!r} is missing or not finite in {int(wrong.sum())} of {len(frame)} rows of "
                f"{side.arm}/{side.task} (first at seed {frame.loc[wrong, 'seed'].iloc[0]})"
            )
    key = [column for column in ("seed", "item", "x", "instance") if column in frame]
    if "item" in key:
        return frame.groupby(key, as_index=False, observed=True).agg(
            value=("value", "mean"), censored=("censored", "any")
        )
    if "instance" not in key and frame.duplicated(key).any():
        twice = frame.loc[frame.duplicated(key), "seed"].iloc[0]
        raise NotRun(f"{side.estimand!r} of {side.arm}/{side.task} has several values at seed {twice}; one is due")
    return frame[[*key, "value", "censored"]].astype({"censored": bool})


def _floats(column: pd.Series) -> np.ndarray:
    return pd.to_numeric(column, errors="coerce").to_numpy(dtype="float64", na_value=np.nan)
