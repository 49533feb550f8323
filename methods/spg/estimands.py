"""What a claim measures where it is not simply a recorded metric: a metric at every setting, one instance each."""

from __future__ import annotations

import pandas as pd


def _instances(records, name: str, arm: str, task: str) -> pd.DataFrame:
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
