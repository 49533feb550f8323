"""The test of a trained arm: it answers the common task's items inside lm-eval, as Coconut's arms do."""

from __future__ import annotations

from methods.coconut.model import Thinker
from methods.coconut.serve import Served
from tycho.adapter import Run
from tycho.harness import common_items, measure, written_answer


def evaluate(run: Run) -> None:
    config = run.config
    served = Served(Thinker.load(run.job.model, device=run.device))
    items = common_items(run.key.task, config.test_items)
    frame = measure(served, items, task=f"superposition-{run.key.task}", answer=written_answer, most=config.most)
    for name in ("accuracy", "stderr"):
        run.metric(f"lm_eval_{name}", frame.attrs["lm_eval"][name])
    run.count(**{name: float(frame[name].sum()) for name in ("generated_tokens", "forward_passes", "flops")})
    run.samples(frame)
