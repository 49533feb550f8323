"""The test: every model answers the same items inside lm-eval, and writes whatever codes it likes on the way."""

from __future__ import annotations

import pandas as pd

from methods.token_assorted import serve
from methods.token_assorted.train import models, problem_of
from tycho.adapter import Run
from tycho.harness import make_items, measure


def evaluate(run: Run) -> None:
    config, task = run.config, problem_of(run)
    test = task.test
    prompts = [task.text(row[:n].tolist()) for row, n in zip(test.prompt, test.prompt_length, strict=True)]
    items = make_items(prompts, [task.target(test, row) for row in range(len(test))])
    frames = []
    for where, folder in models(run):
        served = serve.load(str(folder), device=run.device)
        frame = measure(served, items, task=f"token-assorted-{run.key.task}", answer=task.read, most=config.most)
        frames.append(frame.assign(setting=where))
        for name in ("accuracy", "stderr"):
            run.metric(f"lm_eval_{name}", frame.attrs["lm_eval"][name], setting=where)
        run.count(**{name: float(frame[name].sum()) for name in ("generated_tokens", "forward_passes", "flops")})
    run.samples(pd.concat(frames, ignore_index=True))
