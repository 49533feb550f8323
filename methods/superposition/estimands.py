"""What a claim measures where it is not simply a recorded metric."""

from __future__ import annotations


def thought_error(records, *, arm, task, variant, setting):
    """Largest distance of a thought's coordinates from the uniform superposition; one instance a number of thoughts."""
    metrics = records.metrics
    kept = metrics[(metrics.arm == arm) & (metrics.task == task) & (metrics.name == "thought_error")]
    return kept.rename(columns={"setting": "instance"})[["seed", "value", "instance"]]


def frontier_gap(records, *, arm, task, variant, setting):
    """How far the first thought's inner products with frontier nodes off the path stand above those with nodes out of reach."""
    metrics = records.metrics
    kept = metrics[(metrics.arm == arm) & (metrics.task == task) & (metrics.name == "inner_product")]
    wide = kept[kept.setting == "thought=1"].pivot_table(index="seed", columns="variant", values="value")
    if wide.empty:
        return kept[["seed", "value"]]
    return (wide["other frontier"] - wide["not reachable"]).rename("value").reset_index()
