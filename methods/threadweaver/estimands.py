"""What a claim measures where it is not simply a recorded metric or a column of the samples."""

from __future__ import annotations

import pandas as pd


def _samples(records, arm, task, variant) -> pd.DataFrame:
    frame = records.samples
    return frame[(frame.arm == arm) & (frame.task == task) & (frame.variant == variant) & (frame.split == "test")]


def speedup_by_item(records, *, arm, task, variant, setting):
    """Path of `sequential_more` over the arm's own, item by item: the paper's mean of ratios."""
    own = _samples(records, arm, task, variant)[["seed", "item", "sequential_tokens"]]
    base = _samples(records, "sequential_more", task, variant)[["seed", "item", "sequential_tokens"]]
    both = own.merge(base, on=["seed", "item"], suffixes=("", "_base"))
    return both.assign(value=both.sequential_tokens_base / both.sequential_tokens.clip(lower=1))[
        ["seed", "item", "value"]
    ]


def latency_correct(records, *, arm, task, variant, setting):
    """Tokens on the critical path of right answers only."""
    found = _samples(records, arm, task, variant)
    found = found[found.correct]
    return found.assign(value=found.sequential_tokens.astype(float))[["seed", "item", "value"]]


def well_formed(records, *, arm, task, variant, setting):
    """Whether a response obeys the format, threads that say nothing among the faults."""
    from methods.threadweaver.format import is_correct
    from methods.threadweaver.problems import RULES

    found = _samples(records, arm, task, variant)
    return found.assign(value=[float(is_correct(text, **RULES)) for text in found.response])[["seed", "item", "value"]]


def forked(records, *, arm, task, variant, setting):
    """Whether a response has a block."""
    found = _samples(records, arm, task, variant)
    return found.assign(value=found.response.str.contains("<Parallel>", regex=False).astype(float))[
        ["seed", "item", "value"]
    ]
