"""What a claim measures where it is not simply a recorded metric or a column of the samples."""

from __future__ import annotations


def value_gap(records, *, arm, task, variant, setting):
    """By how much nodes of one group have more value than those of another, within an item; items that have both."""
    samples = records.samples
    kept = samples[(samples.arm == arm) & (samples.task == task) & (samples.split == "values")]
    kept = kept[(kept.variant == variant) & (kept.setting == setting)]
    return kept.rename(columns={"score": "value"})[["seed", "item", "value"]]
