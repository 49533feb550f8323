"""The adapter of MobileLLM-R1: data mixtures from cross-domain influence, beside random and oracle ones; a model's row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from tycho.adapter import Arm, Method, MethodConfig, Need, Paper, Run, knob
from tycho.errors import TychoError
from tycho.keys import JobKey

BAD = ("noisy", "duplicated", "decoy")
SIZES = Literal["140M", "360M", "950M"]


class Stage(MethodConfig):
    """A stage of the published training. The published numbers are in scales.yaml, their sources in models.yaml."""

    name: str = knob("", "the stage's name in models.yaml")
    start: str = knob("", "the arm whose model it goes on from; empty: an untrained one")
    size: SIZES = knob("140M", "which of the published architectures")
    shape: dict[str, int] = knob({}, "changes of the architecture, for copies scaled down")
    tokenizer: str = knob("", "a folder, or owner/name@revision")
    folder: Path = knob(Path("data/mobilellm_r1"), "where each corpus has a folder of its own name")
    files: dict[str, list[str]] = knob(
        {}, "files, folders or hub://owner/name@commit/file of corpora that lie elsewhere"
    )
    mixture: dict[str, float] = knob({}, "weights of the corpora, of any sum")
    packed: bool = knob(True, "documents are joined to full sequences; else a sequence is one document")
    sequence: int = knob(2048, "length of a sequence", unit="tokens", ge=2)
    batch: int = knob(16, "sequences of one GPU in a step", ge=1)
    gpus: int = knob(128, "GPUs of the published training, whose batches are accumulated here", ge=1)
    at_once: int = knob(4, "sequences that pass through the model together", ge=1)
    steps: int = knob(1000, "training steps", unit="steps", ge=1)
    learning_rate: float = knob(4e-3, "peak learning rate", gt=0)
    warmup: int = knob(0, "steps of linear warm-up", unit="steps", ge=0)
    end: float = knob(0.0, "share of the peak rate at the end of its linear decay", ge=0, le=1)
    weight_decay: float = knob(0.1, "weight decay of AdamW", ge=0)
    clip: float = knob(1.0, "largest gradient norm; 0: none", ge=0)
    teacher: str = knob(
        "", "the loss is the divergence from this model (a folder, or owner/name@revision); empty: of the next token"
    )
    rope_theta_factor: float = knob(1.0, "what the base of the rotary positions is multiplied by before it", gt=0)
    bf16: bool = knob(True, "whether products are computed in bfloat16; weights and moments are float32")
    log_every: int = knob(50, "steps between points of the curves", unit="steps", ge=1)

    @model_validator(mode="after")
    def _fits(self) -> Stage:
        if self.batch * self.gpus % self.at_once:
            raise ValueError(f"at_once must divide the {self.batch * self.gpus} sequences of a step")
        return self


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
    # The published training, for task stages.
    stage: Stage | None = knob(None, "a stage of the published training")


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
        "pretrain_1": Arm("published pre-training, first mixture", "ingredient", {"stage": {"name": "pretrain-1"}}),
        "pretrain_2": Arm("published pre-training, second mixture", "ingredient", {"stage": {"name": "pretrain-2", "start": "pretrain_1"}}),
        "midtrain_1": Arm("published mid-training, first mixture", "ingredient", {"stage": {"name": "midtrain-1", "start": "pretrain_2"}}),
        "midtrain_2": Arm("published mid-training, second mixture", "ingredient", {"stage": {"name": "midtrain-2", "start": "midtrain_1"}}),
        "general_sft": Arm("published tuning on instructions", "ingredient", {"stage": {"name": "general-sft", "start": "midtrain_2"}}),
        "reasoning_sft": Arm("published tuning on long traces", "ingredient", {"stage": {"name": "reasoning-sft", "start": "general_sft"}}),
    }  # fmt: skip
    tasks = {
        "corpora": "six procedural corpora: sums and differences, stack programs and facts, and noisy, duplicated and random text",
        "gsm-symbolic": "word problems of reasoning-gym's gsm_symbolic, asked as GSM8K is (8-shot)",
        "gsm8k": "GSM8K's test, from a file (knob `data`)",
        "stages": "the published training on corpora from files (knob `stage`), at scale paper",
    }

    def stages(self, arm: str) -> tuple[str, ...]:
        if arm == "smollm2":
            return ("evaluate",)
        if "stage" in self.arms[arm].config:
            return ("train",)
        return ("train", "analyse") if arm == "specialists" else ("train", "evaluate")

    def needs(self, key: JobKey, config: Any) -> dict[str, Need]:
        if ("stage" in self.arms[key.arm].config) != (key.task == "stages"):
            raise TychoError(
                f"{key.arm} does not go with {key.task}: the published stages, and they alone, have the task stages"
            )
        if key.task == "stages":
            return {"start": Need(replace(key, arm=config.stage.start))} if config.stage.start else {}
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
        from methods.mobilellm_r1 import midtrain, stages, train

        if run.key.task == "stages":
            stages.train(run)
        else:
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

    def synthesis_reads(self, key: JobKey) -> bool:
        return key.task != "stages"  # a row does not wait for months of training
