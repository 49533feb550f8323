"""Names of tasks, and which of them are answered by a model of our own."""

from __future__ import annotations

HARD = {"facts-20": 0.20, "facts-35": 0.35, "facts-50": 0.50}  # share of hard facts
CHAIN = "chain"
SUMS = "sums"


def trained_task(task: str) -> str:
    """The task whose model answers this one; "" where the model comes from elsewhere."""
    return "facts-35" if task == CHAIN else task if task in HARD else ""
