"""A method that learns nothing and leaves every kind of record: for testing the house."""

from __future__ import annotations

import os
import signal
import time

import pandas as pd

from tycho.adapter import Arm, Method, MethodConfig, Need, Paper, knob
from tycho.keys import JobKey


class Config(MethodConfig):
    steps: int = knob(20, "training steps", unit="steps", ge=1)
    slope: float = knob(1.0, "what the curve gains a step")
    seconds: float = knob(0.0, "how long a step takes", unit="s")
    crash_at: int = knob(-1, "step at which training raises; -1: never")
    die_at: int = knob(-1, "step at which the process kills itself, once; -1: never")
    items: int = knob(8, "examples", stage="evaluate", ge=1)
    colour: str = knob("red", "what the analysis says", stage="analyse")


class Toy(Method):
    name = "toy"
    title = "Toy"
    says = "A curve that rises by a slope and some noise."
    paper = Paper("A toy", "2501.00001", 2025)
    Config = Config
    arms = {
        "steep": Arm("the steep curve", config={"slope": 2.0}),
        "flat": Arm("no slope", role="control", config={"slope": 0.0}),
        "tuned": Arm("starts from the base", role="method"),
        "base": Arm("what `tuned` starts from", role="ingredient"),
    }
    tasks = {"line": "a straight line"}

    def needs(self, key: JobKey, config: Config) -> dict[str, Need]:
        if key.arm == "tuned":
            return {"base": Need(JobKey(key.scale, "toy", "base", key.task, key.seed))}
        return {}

    def train(self, run):
        import torch
        from safetensors.torch import save_file

        generator = run.generator("noise")
        level, start = torch.zeros(1, dtype=torch.float64), 0
        restored = run.restore()
        if restored:
            start, state = restored
            level = state["level"]
            generator.set_state(state["generator"])
        for step in run.progress(range(start, run.config.steps), total=run.config.steps, start=start):
            if step == run.config.crash_at:
                raise RuntimeError("the toy was told to crash")
            if step == run.config.die_at and not restored:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(run.config.seconds)
            level = level + run.config.slope + 0.1 * torch.randn(1, generator=generator, dtype=torch.float64)
            run.log(step, level=float(level))
            run.checkpoint(step + 1, lambda level=level: {"level": level, "generator": generator.get_state()})
        run.metric("final_level", float(level))
        run.save_model(lambda folder: save_file({"level": level}, folder / "model.safetensors"))
        run.count(flops=run.config.steps)

    def evaluate(self, run):
        level = run.job.record("metrics").query("name == 'final_level'").value.iloc[0]
        rng = run.rng("data")
        truth = rng.random(run.config.items) * 40
        run.samples(
            pd.DataFrame(
                {
                    "item": [f"item{i}" for i in range(run.config.items)],
                    "prompt": [f"is it above {t:.1f}? <b>bold</b>" for t in truth],
                    "response": f"{level:.1f}",
                    "target": "yes",
                    "correct": level > truth,
                    "generated_tokens": 3,
                }
            )
        )

    def analyse(self, run):
        import altair as alt

        from . import analyse

        run.metric("colours", analyse.count(run.config.colour))
        curve = run.job.record("metrics").query("name == 'level'")[["step", "value"]].astype({"step": "int64"})
        run.table("curve", curve)
        run.figure("curve", alt.Chart(curve).mark_line().encode(x="step:Q", y="value:Q"), "The level rises.")

    def synthesise(self, run):
        levels = [view.record("metrics").query("name == 'final_level'").value.iloc[0] for view in run.jobs]
        run.metric("highest", max(levels))
