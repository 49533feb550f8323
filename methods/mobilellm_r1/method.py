"""The adapter of MobileLLM-R1: data mixtures from cross-domain influence, beside random and oracle ones; a model's row."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tycho.adapter import Arm, Method, MethodConfig, Need, Paper, Run, knob
from tycho.keys import JobKey

BAD = ("noisy", "duplicated", "decoy")


class MobileLLMConfig(MethodConfig):
    # What makes an arm.
    mix: Literal["uniform", "influence", "random", "oracle", "clean", "leave_one_out", "specialists"] = knob(
        "uniform", "where the mixture comes from"
    )
    drop: Literal["", "none", "influence", "random"] = knob(
        "", "mid-training: which samples are dropped; empty: none is"
    )
    # The networks.
    layers: int = knob(2, "layers", ge=1)
    width: int = knob(48, "hidden size", ge=8)
    inner: int = knob(128, "hidden size of the feed-forward block", ge=8)
    steps: int = knob(600, "training steps", unit="steps", ge=1)
    batch: int = knob(24, "documents a step", ge=1)
    learning_rate: float = knob(4e-3, "peak learning rate", gt=0)
    weight_decay: float = knob(0.1, "weight decay of AdamW", ge=0)
    # Influence.
    reading: Literal["unit", "raw", "own-unit", "own-raw"] = knob(
        "unit", "how influences are put on one scale: probing gradients at unit length or as they are; of each "
        "capability's own specialist or of all",
    )  # fmt: skip
    checkpoints: int = knob(10, "checkpoints of each specialist that influence is taken at", ge=1)
    probed: int = knob(96, "documents of each probing set", ge=1)
    sampled: int = knob(128, "documents of each corpus whose influence is computed", ge=1)
    random_mixes: int = knob(3, "random mixtures a seed (Dirichlet, all weights alike likely)", ge=1)
    validated: int = knob(192, "validation documents of each capability that the oracle chooses by", ge=1)
    # Mid-training.
    pool: int = knob(2400, "documents of the uniform mixture that mid-training chooses from, a round", ge=1)
    rounds: int = knob(2, "rounds of choosing and training", ge=1)
    mid_steps: int = knob(50, "training steps a round", unit="steps", ge=1)
    mid_rate: float = knob(1e-3, "its learning rate", gt=0)
    # Test.
    test_items: int = knob(200, "test documents of each capability", stage="evaluate", ge=1)
    # The real model's row.
    model: str = knob("smollm2", "a model for lm-eval: smollm2, a folder, or owner/name@revision")
    protocol: Literal["completion", "chat"] = knob("completion", "how it is asked", stage="evaluate")
    items: int = knob(100, "questions it is asked", stage="evaluate", ge=1)
    most: int = knob(96, "tokens an answer may have", unit="tokens", stage="evaluate", ge=1)
    data: Path | None = knob(None, "GSM8K's test file, for task gsm8k", stage="evaluate")


class MobileLLMR1(Method):
    name = "mobilellm_r1"
    title = "MobileLLM-R1: data mixtures by influence"
    says = (
        "Small models learn to reason from few, well chosen tokens: corpora are weighted by the first-order influence of "
        "their samples on capability-probing sets, and samples without positive influence are dropped later."
    )
    paper = Paper(
        "MobileLLM-R1: Exploring the Limits of Sub-Billion Language Model Reasoners with Open Training Recipes",
        "2509.24945",
        2025,
    )
    Config = MobileLLMConfig
    arms = {
        "specialists": Arm("one model a domain, and what each corpus's samples do for each capability", "ingredient", {"mix": "specialists"}),
        "uniform": Arm("all corpora alike", "baseline", {"mix": "uniform"}),
        "influence": Arm("weights from the positive parts of influence: all specialists, unit probing gradients", config={"mix": "influence"}),
        "influence_raw": Arm("the same from each capability's own specialist, gradients as they are", config={"mix": "influence", "reading": "own-raw"}),
        "random": Arm("random weights, several mixtures a seed", "control", {"mix": "random"}),
        "clean": Arm("the three right corpora alike: bad ones dropped, nothing weighed", "control", {"mix": "clean"}),
        "oracle": Arm("the best of a grid of mixtures by validation loss; the grid's cost counts", "control", {"mix": "oracle"}),
        "leave_one_out": Arm("all corpora but one, one after the other", "baseline", {"mix": "leave_one_out"}),
        "mid_influence": Arm("goes on from `uniform`; samples without positive influence are dropped", config={"drop": "influence"}),
        "mid_random": Arm("goes on from `uniform`; as many samples of each round are dropped at random", "control", {"drop": "random"}),
        "mid_none": Arm("goes on from `uniform` on all samples", "baseline", {"drop": "none"}),
        "smollm2": Arm("SmolLM2-135M-Instruct under lm-eval, few-shot completion", "baseline"),
    }  # fmt: skip
    tasks = {
        "corpora": "six procedural corpora: sums and differences, stack programs and facts, and noisy, duplicated and random text",
        "gsm-symbolic": "word problems of reasoning-gym's gsm_symbolic, asked as GSM8K is (8-shot)",
        "gsm8k": "GSM8K's test, from a file (knob `data`)",
    }

    def stages(self, arm: str) -> tuple[str, ...]:
        if arm == "smollm2":
            return ("evaluate",)
        return ("train", "analyse") if arm == "specialists" else ("train", "evaluate")

    def needs(self, key: JobKey, config: Any) -> dict[str, Need]:
        if key.task != "corpora":
            return {}
        wanted = {"influence": "specialists"} if config.mix == "influence" else {}
        if config.drop:
            wanted = {"start": "uniform"} | ({"sizes": "mid_influence"} if config.drop == "random" else {})
        return {
            name: Need(
                JobKey(key.scale, key.method, arm, key.task, key.seed), "analyse" if arm == "specialists" else "train"
            )
            for name, arm in wanted.items()
        }

    def train(self, run: Run) -> None:
        from methods.mobilellm_r1 import midtrain, train

        midtrain.midtrain(run) if run.config.drop else train.pretrain(run)

    def evaluate(self, run: Run) -> None:
        from methods.mobilellm_r1 import evaluate, evaluation

        evaluate.evaluate(run) if run.key.task == "corpora" else evaluation.evaluate(run)

    def analyse(self, run: Run) -> None:
        from methods.mobilellm_r1.analyse import specialists

        specialists(run)

    def synthesise(self, run: Run) -> None:
        from methods.mobilellm_r1.synthesise import synthesise

        synthesise(run)
