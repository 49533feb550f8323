"""What the synthetic rooms share: arms whose accuracy and length are knobs, and whose samples are drawn, not computed."""

from __future__ import annotations

import math
from statistics import NormalDist

import pandas as pd

from tycho.adapter import Method, MethodConfig, knob


class Config(MethodConfig):
    steps: int = knob(60, "training steps", unit="steps", ge=1)
    width: int = knob(64, "model width", unit="features")
    crash: bool = knob(False, "training raises")
    accuracy: float = knob(0.8, "share of right answers", stage="evaluate", ge=0, le=1)
    tokens: float = knob(40.0, "mean length of an answer", unit="tokens", stage="evaluate")
    spread: float = knob(0.015, "standard deviation of the accuracy between seeds", stage="evaluate")
    items: int = knob(200, "examples", stage="evaluate", ge=1)
    colour: str = knob("viridis", "colour scheme of the map", stage="analyse")


class Drawn(Method):
    """Curves that rise to the arm's accuracy, samples right with that probability."""

    Config = Config

    def train(self, run):
        rng = run.rng("noise")
        for step in range(0, run.config.steps, 3):
            if run.config.crash and step > 20:
                raise RuntimeError("loss is not finite at step 21: lower the learning rate (it was 0.3)")
            level = run.config.accuracy * (1 - math.exp(-4 * step / run.config.steps))
            run.log(step, accuracy_while_training=level + 0.02 * rng.standard_normal())
        run.count(flops=6e9 * run.config.steps * run.config.width)

    def evaluate(self, run):
        config, rng, data = run.config, run.rng("evaluate"), run.rng("data")
        share = min(max(config.accuracy + config.spread * rng.standard_normal(), 0.001), 0.999)
        hard = data.standard_normal(config.items)  # what makes an item hard is hard for every arm
        starts = data.integers(2, 9, (config.items, 3))
        right = 0.8 * hard + 0.6 * rng.standard_normal(config.items) < NormalDist().inv_cdf(share)
        length = rng.poisson(config.tokens, config.items) + 1
        rows = []
        for item, (a, b, c) in enumerate(starts):
            target = (a * b + c) % 23
            answer = target if right[item] else (target + 1 + item % 5) % 23
            rows.append(
                {
                    "item": f"{item:04x}",
                    "prompt": f"({a} * {b} + {c}) mod 23 = ?",
                    "response": f"{a} * {b} = {a * b}; {a * b} + {c} = {a * b + c}; so it is {answer}",
                    "answer": str(answer),
                    "target": str(target),
                    "correct": bool(right[item]),
                    "generated_tokens": int(length[item]),
                    "sequential_tokens": int(length[item] * 0.7) + 1,
                    "forward_passes": int(length[item]),
                    "flops": 2.4e6 * float(length[item]),
                }
            )
        run.samples(pd.DataFrame(rows))
        run.count(generated_tokens=int(length.sum()))

    def analyse(self, run):
        import altair as alt

        rng = run.rng("map")
        curve = run.job.record("metrics").dropna(subset="step")[["step", "value"]].astype({"step": "int64"})
        chart = (
            alt.Chart(curve)
            .mark_line(clip=True)
            .encode(x=alt.X("step:Q", title="training step"), y=alt.Y("value:Q", title="accuracy while training"))
        )
        run.figure("curve", chart, "The curve flattens well before the end of training.")
        cells = [(row, column, float(rng.random() + (row == column))) for row in range(8) for column in range(8)]
        frame = pd.DataFrame(cells, columns=["thought", "node", "weight"])
        run.table("weights", frame)
        chart = (
            alt.Chart(frame)
            .mark_rect()
            .encode(x="node:O", y="thought:O", color=alt.Color("weight:Q", scale=alt.Scale(scheme=run.config.colour)))
        )
        run.figure("map", chart.properties(width=alt.Step(22), height=alt.Step(22)), "The weight lies on the diagonal.")
        run.metric("diagonal_share", float(frame[frame.thought == frame.node].weight.sum() / frame.weight.sum()))


def comparison(run):
    """A figure across arms: accuracy against tokens, a point a seed."""
    import altair as alt

    rows = [
        {
            "arm": view.key.arm,
            "seed": view.key.seed,
            "accuracy": samples.correct.mean(),
            "tokens": samples.generated_tokens.mean(),
        }
        for view in run.jobs
        if len(samples := view.record("samples"))
    ]
    frame = pd.DataFrame(rows)
    chart = (
        alt.Chart(frame)
        .mark_point(size=60, clip=True)
        .encode(
            x=alt.X("tokens:Q", title="generated tokens"),
            y=alt.Y("accuracy:Q", scale=alt.Scale(zero=False)),
            color=alt.Color("arm:N", title=None),
            shape=alt.Shape("arm:N", title=None),
        )
    )
    run.figure(
        "tradeoff",
        chart.properties(width=420, height=260),
        "Points up and to the left are better; seeds lie close together.",
    )
    run.table("points", frame)
    run.metric("arms", frame.arm.nunique())
