"""The adapter of Coconut: one training for all arms, which differ in what they drop of a trace and put in its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator, model_validator

from tycho.adapter import Arm, Method, MethodConfig, Need, Paper, Run, knob
from tycho.errors import TychoError
from tycho.keys import JobKey
from tycho.tasks.common import TASKS


class CoconutConfig(MethodConfig):
    # What makes an arm.
    schedule: Literal["stages", "last", "trace", "no_trace", "tokens"] = knob(
        "stages", "the curriculum, its last stage alone, the whole trace, no trace, or token by token (iCoT)"
    )
    fill: Literal["thoughts", "pauses", "nothing"] = knob("thoughts", "what stands in the place of dropped steps")
    marks: bool = knob(False, "whether begin and end marks stand around them, as in the paper")
    start: str = knob("", "the arm whose model the training goes on from; empty: the base model")
    start_steps: int = knob(0, "training steps that arm has had, which count as this one's", unit="steps", ge=0)
    # The curriculum.
    latent_steps: int = knob(3, "steps of the trace that become thoughts: stages 1 to this", unit="steps", ge=0)
    per_step: int = knob(1, "thoughts in the place of one step (c)", ge=1)
    remove_all: bool = knob(False, "one more stage, in which all steps are dropped")
    first_steps: int = knob(500, "training steps of stage 0", unit="steps", ge=0)
    stage_steps: int = knob(300, "training steps of every later stage but the last", unit="steps", ge=1)
    mix: float = knob(0.0, "probability that an item is trained at any stage instead of the scheduled one", ge=0, le=1)
    dense: bool = knob(True, "loss on all that is left of the trace; else on the next word alone")
    smoothing: float = knob(4.0, "iCoT's removal smoothing: more tokens are removed with P(o) ∝ exp(-this · o)", ge=0)
    reset_optimizer: bool = knob(False, "whether the optimizer forgets its moments when a stage begins")
    # The recipe, the same for all arms.
    steps: int = knob(2000, "training steps", unit="steps", ge=1)
    batch: int = knob(64, "examples a step", ge=1)
    learning_rate: float = knob(2e-3, "peak learning rate", gt=0)
    warmup: int = knob(100, "steps of linear warm-up", unit="steps", ge=0)
    hold: float = knob(0.5, "share of the steps at the peak rate before it decays to zero", ge=0, le=1)
    decay: Literal["constant", "linear", "cosine"] = knob("linear", "how the rate decays")
    weight_decay: float = knob(0.01, "weight decay of AdamW", ge=0)
    beta2: float = knob(0.999, "AdamW's second moment decay", ge=0, lt=1)
    clip: float = knob(1.0, "largest gradient norm; 0: none", ge=0)
    # The model and the data.
    layers: int | None = knob(None, "layers; left out: the task's own number", ge=1)
    depths: list[int] = knob([], "numbers of layers to train besides: a sweep", unit="layers")
    width: int = knob(64, "width, on tasks that are not common ground", ge=8)
    heads: int = knob(4, "attention heads, on tasks that are not common ground", ge=1)
    context: int = knob(160, "positions, on tasks that are not common ground", unit="tokens", ge=8)
    family: Literal["gpt2", "llama"] = knob("gpt2", "learned positions, or rotary ones")
    pool: int = knob(17_886, "training graphs of ProsQA (the published number)", ge=1)
    model: str = knob("", "a pretrained model to train, a folder or hub id; goes with `data`")
    revision: str = knob("", "its commit on the hub")
    data: Path | str | None = knob(
        None, "items (question, steps, answer) to train on: a file, or hub://owner/name@commit/file; goes with `model`"
    )
    validation_data: Path | str | None = knob(None, "such items for validation; left out: the last ones of `data`")
    test_data: Path | str | None = knob(None, "such items for the test; left out: the validation's")
    # Choice of the checkpoint, evaluation.
    validation_items: int = knob(200, "items that checkpoints are chosen by", unit="items", ge=1)
    validate_every: int = knob(200, "steps between validations", unit="steps", ge=1)
    stop_after: int = knob(2, "validations in a row without a mistake after which a training ends", ge=1)
    log_every: int = knob(20, "steps between points of the curves", unit="steps", ge=1)
    most: int = knob(64, "tokens a completion may have", unit="tokens", ge=1)
    test_items: int = knob(500, "items of the test", unit="items", stage="evaluate", ge=1)
    forced: list[int] = knob(
        [], "numbers of thoughts that the model is made to think at the test, besides its own", stage="evaluate"
    )

    @field_validator("data", "validation_data", "test_data", mode="before")
    @classmethod
    def _local(cls, source: Any) -> Any:
        """A local file as a path, since a job's digest covers the contents of those."""
        return (
            Path(source) if isinstance(source, str) and source and not source.startswith("hub://") else source or None
        )

    @model_validator(mode="after")
    def _fits(self) -> CoconutConfig:
        if self.steps <= self.start_steps:
            raise ValueError(f"steps counts all steps, so it must be more than start_steps ({self.start_steps})")
        return self


PLAIN: dict[str, Any] = {"fill": "nothing", "marks": False, "mix": 0.0, "start": "", "start_steps": 0}
ONE_DEPTH: dict[str, Any] = {"depths": [], "forced": []}


class Coconut(Method):
    name = "coconut"
    title = "Coconut: chain of continuous thought"
    says = (
        "A language model reasons without words: its last hidden state is fed back as the next input, and a curriculum "
        "replaces the written steps of a trace by such thoughts, one after the other."
    )
    paper = Paper("Training Large Language Models to Reason in a Continuous Latent Space", "2412.06769", 2024)
    Config = CoconutConfig
    arms = {
        "coconut": Arm("continuous thoughts under the staged curriculum"),
        "cot": Arm(
            "chain of thought: the whole trace is written", "baseline", {"schedule": "trace", **PLAIN, "forced": []}
        ),
        "no_cot": Arm(
            "the answer right after the question", "baseline", {"schedule": "no_trace", **PLAIN, **ONE_DEPTH}
        ),
        "icot": Arm(
            "internalised chain of thought: the trace is removed token by token, nothing stands in its place",
            "baseline",
            {"schedule": "tokens", **PLAIN, **ONE_DEPTH},
        ),
        "no_curriculum": Arm(
            "the last stage alone, from the start",
            "control",
            {"schedule": "last", "mix": 0.0, "start": "", "start_steps": 0, **ONE_DEPTH},
        ),
        "pause_as_thought": Arm(
            "the same curriculum with a learnt pause token in the place of each thought", "control", {"fill": "pauses"}
        ),
        "no_thought": Arm(
            "the same curriculum with nothing in the place of dropped steps",
            "control",
            {"fill": "nothing", "marks": False, **ONE_DEPTH},
        ),
        "shortcut": Arm("answers that never read which node is asked about; nothing is trained", "control"),
    }
    tasks = {
        **TASKS,
        "prosqa": "ProsQA's generator, one token an edge; the published questions, 93 % of which depth alone answers",
        "prosqa-balanced": "the same graphs, asked so that nothing but the root tells the candidates apart",
        "prosqa-words": "ProsQA as sentences",
        "prosqa-balanced-words": "the balanced questions as sentences",
        "gsm8k": "GSM8K with iCoT's equations as steps, for a pretrained model",
        "prontoqa": "ProntoQA with five hops, for a pretrained model",
        "own": "a pretrained model on a file of questions, steps and answers (knobs `model` and `data`)",
    }

    def stages(self, arm: str) -> tuple[str, ...]:
        return ("analyse",) if arm == "shortcut" else ("train", "evaluate", "analyse")

    def needs(self, key: JobKey, config: CoconutConfig) -> dict[str, Need]:
        graphs = key.task in ("graphs", "graphs-verbose", "prosqa", "prosqa-balanced")
        if config.model and (graphs or key.task in TASKS):
            raise TychoError(f"{key.task} is for small models from scratch: with `model` and `data`, take the task own")
        if config.data is not None and key.task in TASKS:
            raise TychoError(f"{key.task} is generated and takes no `data`: take the task own, or prosqa")
        if not (config.model and config.data is not None) and (
            config.model or key.task in ("gsm8k", "prontoqa", "own")
        ):
            raise TychoError(f"{key.task} takes the knobs `model` (a folder or hub id) and `data` (a file of items)")
        if key.arm == "shortcut" and not graphs:
            raise TychoError(f"the shortcuts are for graphs in symbols, not for {key.task}")
        if not config.start:
            return {}
        return {"start": Need(replace(key, arm=config.start))}

    def train(self, run: Run) -> None:
        from methods.coconut.train import train

        train(run)

    def evaluate(self, run: Run) -> None:
        from methods.coconut.evaluate import evaluate

        evaluate(run)

    def analyse(self, run: Run) -> None:
        from methods.coconut.analyse import analyse

        analyse(run)

    def synthesise(self, run: Run) -> None:
        from methods.coconut.synthesise import synthesise

        synthesise(run)
