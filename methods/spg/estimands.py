"""What a claim measures where it is not simply a recorded metric."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd


def reward_half_way(records, *, arm, task, variant, setting) -> pd.DataFrame:
    """`train_reward` as it would be, had the training ended after half of its rollouts; as many of them averaged."""
    return _of_curve(records, arm, task, lambda means: means.iloc[(len(means) // 2 or 1) - 1])


def best_reward(records, *, arm, task, variant, setting) -> pd.DataFrame:
    """`train_reward` as it would be, had the training ended when it was highest; as many rollouts averaged."""
    return _of_curve(records, arm, task, lambda means: means.max())


def _of_curve(records, arm: str, task: str, choose: Callable[[pd.Series], float]) -> pd.DataFrame:
    """`choose` takes the rewards of rollouts, each averaged with those before it: a quarter of all, as in `train_reward`."""
    kept = records.metrics.query("arm == @arm and task == @task and name == 'reward'")
    rows = []
    for seed, curve in kept[kept.step.notna()].sort_values("step").groupby("seed"):
        means = curve.value.rolling(max(1, len(curve) // 4)).mean()
        rows.append({"seed": seed, "value": float(choose(means))})
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
