"""The test: every arm answers the same items inside lm-eval, at its own number of thoughts and at forced ones."""

from __future__ import annotations

import pandas as pd

from methods.coconut.model import Thinker
from methods.coconut.serve import Served
from methods.coconut.train import point, problem_of
from tycho.adapter import Run
from tycho.harness import make_items, measure
from tycho.keys import setting


def evaluate(run: Run) -> None:
    config, task = run.config, problem_of(run)
    test = task.test
    prompts = [task.text(row[:n].tolist()) for row, n in zip(test.prompt, test.prompt_length, strict=True)]
    items = make_items(prompts, [task.target(test, row) for row in range(len(test))])
    frames = []
    for layers in [None, *config.depths]:
        thinker = Thinker.load(run.job.model / point(layers), device=run.device)
        swept = {} if layers is None else {"layers": layers}
        for count in [None, *config.forced]:
            where = setting(**swept, **({} if count is None else {"thoughts": count}))
            served = Served(thinker, thoughts=count)
            frame = measure(served, items, task=f"coconut-{run.key.task}", answer=task.read, most=config.most)
            frames.append(frame.assign(setting=where))
            for name in ("accuracy", "stderr"):
                run.metric(f"lm_eval_{name}", frame.attrs["lm_eval"][name], setting=where)
            run.count(
                generated_tokens=float(frame.generated_tokens.sum()),
                forward_passes=float(frame.forward_passes.sum()),
                flops=float(frame.flops.sum()),
            )
    run.samples(pd.concat(frames, ignore_index=True))
