"""What a claim measures where it is not simply a recorded metric: one value a weight matrix of the real model."""

from __future__ import annotations

import pandas as pd


def overlap_low_by_tensor(records, *, arm, task, variant, setting) -> pd.DataFrame:
    """Matrices are the items: a single tuning of the real model still has many of them."""
    found = records.metrics.query("arm == @arm and task == @task and variant == @variant")
    found = found[found.name == "overlap_low_by_tensor"]
    return found.rename(columns={"setting": "item"})[["seed", "item", "value"]]
