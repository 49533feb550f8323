"""Names of tasks, and which of them are answered by a model of our own."""

from __future__ import annotations

from tycho.tasks.common import TASKS as COMMON

HARD = {"facts-20": 0.20, "facts-35": 0.35, "facts-50": 0.50}  # share of hard facts
CHAIN = "chain"
SUMS = "sums"
GROUND = tuple(task for task in COMMON if task.endswith("-verbose"))  # answered by Coconut's `cot` model

# What the common ground shows of the rules: the page has a row for each.
ON_GROUND = ("pass@1", "majority", "majority at equal tokens", "consensus-only", "lowest@10", "low", "low+tau", "high")


def trained_task(task: str) -> str:
    """The task whose model answers this one; "" where the model comes from elsewhere."""
    return "facts-35" if task == CHAIN else task if task in HARD else ""
