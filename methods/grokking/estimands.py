"""What a claim measures where it is not simply a recorded metric."""

from __future__ import annotations

import pandas as pd


def _instances(records, name: str, arm: str, task: str) -> pd.DataFrame:
    """A metric at every setting it was recorded for, one instance each."""
    kept = records.metrics.query("arm == @arm and task == @task and name == @name")
    return kept.rename(columns={"setting": "instance"})[["seed", "value", "instance"]]


def ridge_gradient_error(records, *, arm, task, variant, setting):
    return _instances(records, "ridge_gradient_error", arm, task)


def energy_gradient_error(records, *, arm, task, variant, setting):
    return _instances(records, "energy_gradient_error", arm, task)


def maximum_energy_error(records, *, arm, task, variant, setting):
    return _instances(records, "maximum_energy_error", arm, task)


def maximum_mixture(records, *, arm, task, variant, setting):
    return _instances(records, "maximum_mixture", arm, task)


def repulsion_sign_errors(records, *, arm, task, variant, setting):
    return _instances(records, "repulsion_sign_errors", arm, task)


def learnt_again(records, *, arm, task, variant, setting):
    return _instances(records, "learnt_again", arm, task)


def delay_factor(records, *, arm, task, variant, setting):
    """Epochs to generalise over epochs to fit the training set; a bound where the first, or both, did not come."""
    kept = records.metrics.query("arm == @arm and task == @task and setting == @setting and step.isna()")
    test, train = (kept[kept.name == f"epochs_to_{part}"].set_index("seed") for part in ("test", "train"))
    return (test.value / train.value).rename("value").to_frame().assign(censored=test.censored).reset_index()
