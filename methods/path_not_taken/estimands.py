"""What a claim measures where it is not simply a recorded metric."""

from __future__ import annotations

import numpy as np
import pandas as pd

# Tunings of all weights: their curves hold the update's norm.
FULL = ("grpo", "reinforce", "sft_fixed", "sft_uniform", "sft_oracle", "sft_rejection")

TARGET = 0.95  # the knob's default, which no scale changes


def overlap_low_by_tensor(records, *, arm, task, variant, setting) -> pd.DataFrame:
    """Matrices are the items: a single tuning of the real model still has many of them.

    Where fewer entries move than M_low has, both the update's and the noise's overlap may be 1: such a matrix counts as an
    item without difference. The claims' floor on how many entries move leaves few of them.
    """
    found = records.metrics.query("arm == @arm and task == @task and variant == @variant")
    found = found[found.name == "overlap_low_by_tensor"]
    return found.rename(columns={"setting": "item"})[["seed", "item", "value"]]


def forgetting_at_equal_norm(records, *, arm, task, variant, setting) -> pd.DataFrame:
    """Prior accuracy lost when |Delta|_F / |W0|_F is what the seed's shortest full tuning ends with, in every arm.

    Between two evaluations it is interpolated.
    """
    curves = {key: _curve(mine) for key, mine in _steps(records, task, variant).groupby(["seed", "arm"])}
    reach: dict[int, float] = {}
    for (seed, name), curve in curves.items():
        if name in FULL:
            reach[seed] = min(reach.get(seed, np.inf), curve.norm.max())
    rows = []
    for (seed, name), curve in curves.items():
        if name == arm and len(curve) and seed in reach:
            kept = np.interp(reach[seed], curve.norm.cummax(), curve.prior_accuracy)
            rows.append({"seed": seed, "value": curve.prior_accuracy.iloc[0] - kept})
    return pd.DataFrame(rows, columns=["seed", "value"])


def forgetting_at_target(records, *, arm, task, variant, setting) -> pd.DataFrame:
    """Prior accuracy lost where the line through the last two of new_accuracy meets the target, as in `steps_between`.

    A tuning that has not met it counts with what it has lost at its end.
    """
    found = records.metrics.query("arm == @arm and task == @task and variant == @variant")
    found = found[found.name.isin(["new_accuracy", "prior_accuracy"]) & found.step.notna()]
    rows = []
    for seed, mine in found.groupby("seed"):
        curve = mine.pivot(index="step", columns="name", values="value").sort_index()
        kept = curve.prior_accuracy.iloc[-1]
        if curve.new_accuracy.iloc[-1] >= TARGET:
            kept = np.interp(TARGET, curve.new_accuracy.iloc[-2:], curve.prior_accuracy.iloc[-2:])
        rows.append({"seed": seed, "value": curve.prior_accuracy.iloc[0] - kept})
    return pd.DataFrame(rows, columns=["seed", "value"])


def early_norm(records, *, arm, task, variant, setting) -> pd.DataFrame:
    """|Delta|_F / |W0|_F at the first evaluation behind the start, which is after as many steps in every arm."""
    found = _steps(records, task, variant).query("arm == @arm and name == 'norm' and step > 0")
    return found.sort_values("step").groupby("seed", as_index=False).first()[["seed", "value"]]


def steps_between(records, *, arm, task, variant, setting) -> pd.DataFrame:
    """`steps_to_target` between evaluations: where the line through the last two of new_accuracy meets the target.

    Where no target was met the steps are censored, as there.
    """
    found = records.metrics.query("arm == @arm and task == @task and variant == @variant")
    curves = found[(found.name == "new_accuracy") & found.step.notna()].sort_values("step")
    ends = found[found.name == "steps_to_target"].set_index("seed")
    rows = []
    for seed, curve in curves.groupby("seed"):
        steps, censored = float(ends.value[seed]), bool(ends.censored[seed])
        if not censored and len(curve) > 1:
            steps = float(np.interp(TARGET, curve.value.iloc[-2:], curve.step.iloc[-2:].astype(float)))
        rows.append({"seed": seed, "value": steps, "censored": censored})
    return pd.DataFrame(rows, columns=["seed", "value", "censored"])


def _steps(records, task: str, variant: str) -> pd.DataFrame:
    found = records.metrics
    found = found[(found.task == task) & (found.variant == variant) & found.step.notna()]
    return found[found.name.isin(["norm", "prior_accuracy"])]


def _curve(mine: pd.DataFrame) -> pd.DataFrame:
    """One tuning's evaluations in order; norm and prior_accuracy, empty where it has no norm."""
    wide = mine.pivot(index="step", columns="name", values="value").reindex(columns=["norm", "prior_accuracy"])
    return wide.dropna().sort_index()
