"""A diff's frame as a whole: a line a run and metric, and which part of a difference the null does not explain."""

from __future__ import annotations

import pandas as pd

POINT = ["metric", "setting"]
# Over all parameters, as the paper counts; other metrics are means over tensors.
BY_ENTRIES = {"sparsity", "jaccard"}


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a run, metric and setting: tensors, value, expected and null (means), and above_null.

    `above_null` is the share of tensors whose value exceeds their null's, ties counting half: near 0.5 where size
    explains the metric.
    Tensors without a value (nothing moved) are left out. Sparsity and Jaccard are weighted by entries.
    """
    found = frame.dropna(subset=["value", "null"])
    rows = []
    for (run, metric, setting), group in found.groupby(["run", *POINT], sort=False):
        weight = group.entries if metric in BY_ENTRIES else pd.Series(1.0, index=group.index)
        means = {name: (group[name] * weight).sum() / weight.sum() for name in ("value", "expected", "null")}
        if group.expected.isna().any():
            means["expected"] = float("nan")
        above = ((group.value > group.null) + (group.value == group.null) / 2).mean()
        rows.append(
            {"run": run, "metric": metric, "setting": setting, "tensors": len(group), **means, "above_null": above}
        )
    return pd.DataFrame(rows, columns=["run", *POINT, "tensors", "value", "expected", "null", "above_null"])


def surviving(frame: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """second minus first by metric and setting, over the tensors both have: difference = explained + surviving.

    `explained` is the same difference of the nulls, which share each run's density and norm; `surviving` is the rest;
    `same_sign` the share of tensors whose own rest has the sign of the mean.
    """
    keys = ["tensor", *POINT]
    sides = (frame.loc[frame.run == run, [*keys, "value", "null"]] for run in (first, second))
    both = pd.merge(*sides, on=keys, suffixes=("_first", "_second")).dropna().set_index(keys)
    parts = pd.DataFrame(
        {"difference": both.value_second - both.value_first, "explained": both.null_second - both.null_first}
    )
    parts["surviving"] = parts.difference - parts.explained
    grouped = parts.groupby(level=POINT, sort=False)
    found = grouped.mean()
    found["same_sign"] = [float((rest * rest.mean() > 0).mean()) for _, rest in grouped.surviving]
    found.insert(0, "tensors", grouped.size())
    return found.reset_index()
