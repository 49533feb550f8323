"""A published model's row: lm-eval's few-shot completion, with costs. Never a reproduction of the published chat numbers."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tycho.adapter import Run
from tycho.errors import TychoError


def evaluate(run: Run) -> None:
    """Samples and scores of a model on a benchmark. The interval is Wilson's over the items that were asked."""
    from tycho.evaluation.causal import Causal
    from tycho.evaluation.command import load, read_data
    from tycho.evaluation.suite import run_benchmark

    config, task = run.config, run.key.task
    if task == "gsm8k" and config.data is None:
        raise TychoError("task gsm8k reads GSM8K's test file: give its path in the knob `data`")
    loaded = load(config.model, run.device)
    data = read_data(task, str(config.data)) if task == "gsm8k" else None
    with tempfile.TemporaryDirectory() as folder:
        score, samples = run_benchmark(
            Causal(loaded.model, loaded.tokenizer, 16), task, config.protocol, label=loaded.label, folder=Path(folder),
            data=data, limit=config.items, most=config.most, seed=run.seed("sampling") % 2**31,
        )  # fmt: skip
    run.samples(samples)
    for name in ("accuracy", "low", "high", "stderr", "items", "shots", "max_gen_toks", "capped"):
        run.metric(f"lm_eval_{name}", float(getattr(score, name)))
    run.count(
        generated_tokens=float(samples.generated_tokens.sum()),
        forward_passes=float(samples.forward_passes.sum()),
        flops=float(samples.flops.sum()),
    )
