"""What a claim measures where it is not simply a recorded metric."""

from __future__ import annotations


def thought_error(records, *, arm, task, variant, setting):
    """Largest distance of a thought's coordinates from the uniform superposition; one instance a number of thoughts."""
    metrics = records.metrics
    kept = metrics[(metrics.arm == arm) & (metrics.task == task) & (metrics.name == "thought_error")]
    return kept.rename(columns={"setting": "instance"})[["seed", "value", "instance"]]
