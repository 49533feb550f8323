"""The trained network on every pair it has not seen: one sample a pair."""

from __future__ import annotations

import pandas as pd

from methods.grokking.method import data
from methods.grokking.network import forward
from methods.grokking.snapshots import last
from tycho.adapter import Run


def evaluate(run: Run) -> None:
    _, unseen = data(run)
    weights = last(run.job.model)
    answers = forward(weights["W"], weights["V"], unseen.left, unseen.right, run.config.activation).argmax(dim=2)[0]
    left, right, target = (part[0] for part in (unseen.left, unseen.right, unseen.target))
    group = run.key.task
    run.samples(
        pd.DataFrame(
            {
                "item": [f"{group}:{a}*{b}" for a, b in zip(left.tolist(), right.tolist(), strict=True)],
                "prompt": [f"{a} * {b} in {group.upper()}" for a, b in zip(left.tolist(), right.tolist(), strict=True)],
                "response": [str(answer) for answer in answers.tolist()],
                "answer": [str(answer) for answer in answers.tolist()],
                "target": [str(wanted) for wanted in target.tolist()],
                "correct": (answers == target).tolist(),
                "forward_passes": 1,
            }
        )
    )
