"""What the trajectories of one job are like: their format, their forks, and their path under each convention."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from methods.threadweaver.format import check
from methods.threadweaver.metrics import critical_path, self_parallelism
from methods.threadweaver.problems import RULES, problems
from tycho.adapter import Run


def analyse(run: Run) -> None:
    words = problems(run.key.task, run.config).words
    for where, samples in run.job.record("samples").groupby("setting"):
        _described(run, words, samples, str(where))


def _described(run: Run, words: Any, samples: pd.DataFrame, where: str) -> None:
    """What the trajectories of one test set are like."""
    plain = samples[samples.variant == ""]
    reports = [check(text, **RULES) for text in plain.response]
    codes = Counter(code for report in reports for code in {problem.code for problem in report.problems})
    for code, count in sorted(codes.items()):
        run.metric("malformed", count / len(plain), variant=code, setting=where)
    threads = [len(block.threads) for report in reports for block in report.blocks]
    paths = [critical_path(words.encode(text), words.tags) for text in plain.response]
    parallelism = self_parallelism([p.total for p in paths], [max(p.longest, 1) for p in paths])
    run.metric("well_formed", float(np.mean([not report.problems for report in reports])), setting=where)
    run.metric("activation", float(np.mean([bool(report.blocks) for report in reports])), setting=where)
    run.metric("threads_per_block", float(np.mean(threads)) if threads else 0.0, setting=where)
    run.metric("self_parallelism", float(parallelism.mean()), setting=where)
    for convention, frame in samples.groupby("variant"):
        right = frame[frame.correct]
        run.metric("latency", float(frame.sequential_tokens.mean()), variant=convention, setting=where)
        run.metric("total_tokens", float(frame.generated_tokens.mean()), variant=convention, setting=where)
        if len(right):
            run.metric("latency_correct", float(right.sequential_tokens.mean()), variant=convention, setting=where)
