"""What a claim measures where it is not simply a recorded metric."""

from __future__ import annotations

import pandas as pd


def reward_half_way(records, *, arm, task, variant, setting) -> pd.DataFrame:
    """`train_reward` as it would be, had the training ended after half of its rollouts: their last half's mean.

    As many rollouts are averaged as in `train_reward`, a quarter of all.
    """
    kept = records.metrics.query("arm == @arm and task == @task and name == 'reward'")
    rows = []
    for seed, curve in kept[kept.step.notna()].sort_values("step").groupby("seed"):
        half, window = len(curve) // 2, max(1, len(curve) // 4)
        rows.append({"seed": seed, "value": curve.value.iloc[max(0, half - window) : max(1, half)].mean()})
    return pd.DataFrame(rows, columns=["seed", "value"])


def _instances(records, name: str, arm: str, task: str) -> pd.DataFrame:
    """A metric at every setting it was recorded for, one instance each."""
    kept = records.metrics.query("arm == @arm and task == @task and name == @name")
    return kept.rename(columns={"setting": "instance"})[["seed", "value", "instance"]]


def one_copy_gradient_error(records, *, arm, task, variant, setting):
    return _instances(records, "one_copy_gradient_error", arm, task)


def toy_gradient_error(records, *, arm, task, variant, setting):
    return _instances(records, "toy_gradient_error", arm, task)


def lower_violation(records, *, arm, task, variant, setting):
    return _instances(records, "lower_violation", arm, task)


def upper_violation(records, *, arm, task, variant, setting):
    return _instances(records, "upper_violation", arm, task)


def order_violation(records, *, arm, task, variant, setting):
    return _instances(records, "order_violation", arm, task)


def best_omega_slope(records, *, arm, task, variant, setting):
    return _instances(records, "best_omega_slope", arm, task)
