"""What a claim measures where it is not simply a recorded metric."""

from __future__ import annotations

import math

import pandas as pd

from tycho.keys import read_setting


def _of(frame: pd.DataFrame, **wanted: str) -> pd.DataFrame:
    """The rows whose columns have these values."""
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    return frame


def _instances(metric: str):
    """A metric at every setting it was recorded for, one instance each."""

    def estimand(records, *, arm, task, variant, setting):
        kept = _of(records.metrics, arm=arm, task=task, name=metric)
        return kept.rename(columns={"setting": "instance"})[["seed", "value", "instance"]]

    return estimand


sum_error = _instances("sum_error")
product_error = _instances("product_error")
loss_identity_error = _instances("loss_identity_error")
solution_loss_error = _instances("solution_loss_error")
solution_nodes_error = _instances("solution_nodes_error")
misnamed = _instances("misnamed")
mutants_named = _instances("mutants_named")


def _frequencies(records, arm, task, variant, setting) -> pd.DataFrame:
    """One row a network and frequency; an empty setting is the end of the arm's own training."""
    kept = _of(records.samples, arm=arm, task=task, variant=variant, split="frequency")
    if not setting:
        points = {text: read_setting(text) for text in kept.setting.unique()}
        plain = {text: int(point["epochs"]) for text, point in points.items() if len(point) == 1}
        setting = max(plain, key=plain.get, default="")
    return kept[kept.setting == setting]


def explained(records, *, arm, task, variant, setting):
    """Frequencies whose live nodes are a product that the theory names, of all frequencies."""
    found = _frequencies(records, arm, task, variant, setting)
    return found.assign(value=found.correct)[["seed", "item", "value"]]


def order_4_or_6(records, *, arm, task, variant, setting):
    """Frequencies with four or six live nodes, of all frequencies."""
    found = _frequencies(records, arm, task, variant, setting)
    return found.assign(value=found.answer.isin(["4", "6"]))[["seed", "item", "value"]]


def order_4_is_nu_i_xi(records, *, arm, task, variant, setting):
    """Frequencies that are z_{nu=i} * z_xi, of those with four live nodes."""
    found = _of(_frequencies(records, arm, task, variant, setting), answer="4")
    return found.assign(value=found.response == "nu=i * xi")[["seed", "item", "value"]]


def _swept(records, metric, knob, arm, task, variant, setting) -> pd.DataFrame:
    """A metric over a sweep of `knob`, the rest as in `setting`; x is the knob. Empty where nothing was swept."""
    metrics = _of(records.metrics, arm=arm, task=task, variant=variant)
    pinned = read_setting(setting)
    points = {text: read_setting(text) for text in metrics.setting.unique()}
    chosen = [t for t, point in points.items() if pinned.items() <= point.items() and set(point) <= {*pinned, knob}]
    x = _of(metrics, name=knob)[["seed", "setting", "value"]].rename(columns={"value": "x"})
    found = _of(metrics[metrics.setting.isin(chosen if len(chosen) > 1 else [])], name=metric)
    return found.merge(x, on=["seed", "setting"])[["seed", "value", "x"]]


def order_4_by_weight_decay(records, *, arm, task, variant, setting):
    """Share of order 4 over log10 of the weight decay."""
    found = _swept(records, "order_4", "weight_decay", arm, task, variant, setting)
    return found.assign(x=[math.log10(x) for x in found.x])


def mean_order_by_width(records, *, arm, task, variant, setting):
    """Live nodes per frequency over log2 of the width."""
    found = _swept(records, "mean_order", "width", arm, task, variant, setting)
    return found.assign(x=[math.log2(x) for x in found.x])
