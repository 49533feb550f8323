"""What changed between two result folders: verdicts, values with intervals, costs, jobs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from reports import statistics
from reports.estimands import SAMPLE_COLUMNS, seeds_text
from reports.exports import markdown_table
from reports.numbers import number, p_value, seconds, with_interval
from tycho import records
from tycho.errors import TychoError

POINT = ["method", "task", "arm", "variant", "setting", "name"]
MOST_ROWS = 40


@dataclass(frozen=True)
class Folder:
    """The tables of one scale: a results folder's, a report's `data` or kept records."""

    path: Path
    claims: pd.DataFrame
    metrics: pd.DataFrame
    samples: pd.DataFrame
    costs: pd.DataFrame
    statuses: pd.DataFrame


@dataclass(frozen=True)
class Comparison:
    """B against A; each frame holds only what differs."""

    verdicts: pd.DataFrame  # id, before, after, effect_before, effect_after
    values: pd.DataFrame  # POINT, before, after, difference, low, high, p, q, seeds, items, paired
    costs: pd.DataFrame  # method, arm, before, after, ratio, low, high
    jobs: pd.DataFrame  # job, seeds, before, after
    equal: int  # values that are the same in every seed

    @property
    def same(self) -> bool:
        """Costs aside, which never repeat."""
        return self.verdicts.empty and self.values.empty and self.jobs.empty


def open_folder(path: Path) -> Folder:
    """Raises TychoError where a table is missing."""
    names = ("claims", "metrics", "samples", "costs", "statuses")
    absent = [name for name in names if not (path / f"{name}.parquet").exists()]
    if absent:
        raise TychoError(
            f"{path} has no {absent[0]}.parquet: name a scale's folder, as in results/quick or records/standard"
        )
    return Folder(path, **{name: records.read(path / f"{name}.parquet") for name in names})


def compare(a: Folder, b: Folder) -> Comparison:
    values, equal = value_changes(a, b)
    return Comparison(verdict_changes(a, b), values, cost_changes(a, b), job_changes(a, b), equal)


def verdict_changes(a: Folder, b: Folder) -> pd.DataFrame:
    """Claims whose verdict or attribution changed, or that one side lacks."""
    columns = ["id", "effect", "low", "high", "kind"]
    both = [f.claims[columns].assign(word=_words(f.claims)) for f in (a, b)]
    merged = both[0].merge(both[1], on="id", how="outer", suffixes=("_before", "_after"))
    words = merged[["word_before", "word_after"]].fillna("not a claim")
    merged[["word_before", "word_after"]] = words
    return merged[words["word_before"] != words["word_after"]].sort_values("id").reset_index(drop=True)


def _words(claims: pd.DataFrame) -> pd.Series:
    explained = (claims["verdict"] == "supported") & (claims["attributable"] == False).fillna(False)  # noqa: E712
    return claims["verdict"].astype(object).where(~explained, "supported, not attributable")


def value_changes(a: Folder, b: Folder) -> tuple[pd.DataFrame, int]:
    """Final metrics and means over samples that differ: B − A, its 95 % interval, and how many do not differ.

    Seeds that both have are paired, items too; without a seed in common the interval is Welch's. q allows for the number
    of values compared, the equal ones among them.
    """
    mine, other = _finals(a), _finals(b)
    rows, equal = [], 0
    for key in sorted(mine.keys() & other.keys()):
        before, after = mine[key], other[key]
        if _same(before, after):
            equal += 1
            continue
        rows.append(dict(zip(POINT, key, strict=True)) | _difference(before, after))
    columns = [*POINT, "before", "after", "difference", "low", "high", "p", "seeds", "items", "paired"]
    frame = pd.DataFrame(rows, columns=columns)
    padded = np.concatenate([frame["p"].to_numpy(dtype=float), np.ones(equal)])
    return frame.assign(q=statistics.false_discovery(padded)[: len(frame)]), equal


def _finals(folder: Folder) -> dict[tuple[Any, ...], pd.DataFrame]:
    metrics, samples = folder.metrics, folder.samples
    keys = POINT[:-1]
    found = {
        key: frame[["seed", "value", "censored"]].dropna(subset="value")
        for key, frame in metrics[metrics["step"].isna()].groupby(POINT, sort=False)
    }
    test = samples[samples["split"] == "test"]
    for key, frame in test.groupby(keys, sort=False):
        for name in ("accuracy", "score", "generated_tokens", "sequential_tokens", "forward_passes", "flops"):
            column = frame[SAMPLE_COLUMNS[name]]
            values = frame.assign(value=column.astype("Float64"), censored=False).dropna(subset="value")
            if len(values) and not (name == "score" and (column == frame["correct"]).all()):
                means = values.astype({"value": "float64"}).groupby(["seed", "item"], as_index=False)
                found[*key, name] = means.agg(value=("value", "mean"), censored=("censored", "any"))
    return {key: frame for key, frame in found.items() if len(frame)}


def _same(before: pd.DataFrame, after: pd.DataFrame) -> bool:
    order = [column for column in ("seed", "item") if column in before and column in after]
    one, two = (frame.sort_values(order).reset_index(drop=True) for frame in (before, after))
    return one.equals(two)


def _difference(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, Any]:
    levels = [float(frame.groupby("seed")["value"].mean().mean()) for frame in (before, after)]
    shown = {"before": levels[0], "after": levels[1], "difference": levels[1] - levels[0]}
    if set(before["seed"]) & set(after["seed"]):
        # Unless every seed asks the same questions, items cannot be paired.
        paired = "item" not in before or set(before["item"]) & set(after["item"])
        columns = ["seed", "value", "censored", *(["item"] if "item" in before and paired else [])]
        estimate = statistics.compare(after[columns], before[columns]) if paired else None
        if estimate is None:
            one, two = (
                f.groupby("seed", as_index=False).agg(value=("value", "mean"), censored=("censored", "any"))
                for f in (before, after)
            )
            estimate = statistics.compare(two, one)
        p = min(1.0, 2 * min(estimate.mean.tail_above(0.0), estimate.mean.tail_below(0.0)))
        ends = {"difference": estimate.mean.value, "low": estimate.low, "high": estimate.high}
        return shown | ends | {"p": p, "seeds": estimate.seeds, "items": estimate.items, "paired": True}
    one, two = (frame.groupby("seed")["value"].mean() for frame in (before, after))
    unknown = {"low": -math.inf, "high": math.inf, "p": 1.0}
    if min(len(one), len(two)) > 1 and (one.std() > 0 or two.std() > 0):
        test = stats.ttest_ind(two, one, equal_var=False)
        interval = test.confidence_interval(0.95)
        unknown = {"low": float(interval.low), "high": float(interval.high), "p": float(test.pvalue)}
    return shown | unknown | {"seeds": min(len(one), len(two)), "items": 0, "paired": False}


def cost_changes(a: Folder, b: Folder) -> pd.DataFrame:
    """CPU-seconds by arm: sums, and the ratio B / A over the seeds that both ran, with its interval."""
    by = ["method", "arm"]
    sums = [f.costs.groupby(by)["cpu_seconds"].sum() for f in (a, b)]
    rows = []
    for key in sorted(set(sums[0].index) | set(sums[1].index)):
        before, after = (float(total.get(key, 0.0)) for total in sums)
        row = dict(zip(by, key, strict=True)) | {"before": before, "after": after}
        row |= {"ratio": after / before if before else math.nan, "low": math.nan, "high": math.nan}
        seeds = [f.costs[(f.costs[by] == list(key)).all(axis=1)].groupby("seed")["cpu_seconds"].sum() for f in (a, b)]
        shared = sorted(set(seeds[0].index) & set(seeds[1].index))
        if len(shared) > 1 and all((s.loc[shared] > 0).all() for s in seeds):
            one, two = (
                pd.DataFrame({"seed": shared, "value": s.loc[shared].to_numpy(), "censored": False}) for s in seeds
            )
            estimate = statistics.compare(two, one, log=True)
            row |= {"ratio": math.exp(estimate.mean.value)}
            if math.isfinite(estimate.low) and abs(estimate.low) < 700 and estimate.high < 700:
                row |= {"low": math.exp(estimate.low), "high": math.exp(estimate.high)}
        rows.append(row)
    frame = pd.DataFrame(rows, columns=[*by, "before", "after", "ratio", "low", "high"])
    return frame[frame["before"] != frame["after"]].reset_index(drop=True)


def job_changes(a: Folder, b: Folder) -> pd.DataFrame:
    """Jobs that one side lacks or that ended otherwise, the seeds of an arm together."""
    key = ["method", "arm", "task", "seed"]
    merged = a.statuses[[*key, "state"]].merge(b.statuses[[*key, "state"]], on=key, how="outer", suffixes=("_a", "_b"))
    states = merged[["state_a", "state_b"]].astype(object).fillna("not planned")
    merged[["before", "after"]] = states.to_numpy()
    changed = merged[merged["before"] != merged["after"]]
    rows = [
        {"job": "/".join(found[:3]), "seeds": seeds_text(list(group["seed"])), "before": found[3], "after": found[4]}
        for found, group in changed.groupby(["method", "arm", "task", "before", "after"], sort=True)
    ]
    return pd.DataFrame(rows, columns=["job", "seeds", "before", "after"])


def as_markdown(a: Folder, b: Folder, found: Comparison, everything: bool = False) -> str:
    """The comparison for a terminal or a pull request: what surely moved first, the rest counted."""
    parts = [f"# {a.path} → {b.path}\n"]
    if found.same:
        parts.append(f"No verdict, value or job differs ({found.equal} values are equal in every seed).\n")
    if len(found.verdicts):
        rows = [
            [row.id, row.word_before, row.word_after, _effect(row, "before"), _effect(row, "after")]
            for row in found.verdicts.itertuples()
        ]
        parts += [
            f"## Verdicts: {len(rows)} changed\n",
            markdown_table(["claim", "before", "after", "effect before", "effect after"], rows),
        ]
    if len(found.values):
        ordered = found.values.sort_values(["p", *POINT], kind="stable")
        clear = ordered[(ordered["low"] > 0) | (ordered["high"] < 0)]
        shown = ordered if everything else clear.head(MOST_ROWS)
        parts.append(
            f"## Values: {len(ordered)} of {len(ordered) + found.equal} differ, {len(clear)} clearly\n\n"
            "Clearly: the 95 % interval of after − before excludes 0; q allows for the number of values.\n"
        )
        rows = [
            [f"{r.method}/{r.arm}/{r.task}", " · ".join(p for p in (r.name, r.variant, r.setting) if p), number(r.before), number(r.after),
             "{} [{}, {}]".format(*with_interval(r.difference, r.low, r.high, signed=True)), p_value(r.p), p_value(r.q),
             f"{r.seeds}{f' × {r.items}' if r.items else ''}{'' if r.paired else ', not paired'}"]
            for r in shown.itertuples(index=False)
        ]  # fmt: skip
        if rows:
            header = ["job", "value", "before", "after", "after − before", "p", "q", "seeds × items"]
            parts.append(markdown_table(header, rows))
        if len(ordered) > len(shown):
            parts.append(f"{len(ordered) - len(shown)} more differ; `--all` shows them.\n")
    if len(found.jobs):
        parts += ["## Jobs\n", markdown_table(["job", "seeds", "before", "after"], found.jobs.to_numpy().tolist())]
    if len(found.costs):
        rows = []
        for r in found.costs.itertuples():
            ratio = "–" if math.isnan(r.ratio) else f"{number(r.ratio)} ×"
            known = "" if math.isnan(r.low) else f" [{number(r.low)}, {number(r.high)}]"
            rows.append([f"{r.method}/{r.arm}", seconds(r.before), seconds(r.after), ratio + known])
        parts += ["## CPU time\n", markdown_table(["arm", "before", "after", "after ÷ before"], rows)]
    return "\n".join(parts)


def _effect(row: Any, side: str) -> str:
    effect, low, high = (getattr(row, f"{name}_{side}") for name in ("effect", "low", "high"))
    return "–" if pd.isna(effect) else "{} [{}, {}]".format(*with_interval(effect, low, high))
