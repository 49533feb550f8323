"""The adapter of Token Assorted: a VQ-VAE's codes as an ingredient, and language models that differ in what they replace."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from tycho.adapter import Arm, Method, MethodConfig, Need, Paper, Run, knob
from tycho.errors import TychoError
from tycho.keys import JobKey
from tycho.tasks.common import CODES, TASKS


class TokenAssortedConfig(MethodConfig):
    # What makes an arm.
    replacement: Literal["random_left", "nothing", "no_trace", "everything", "growing", "random_places"] = knob(
        "random_left", "which chunks of a trace become codes"
    )
    start: str = knob("", "the arm whose model the training goes on from; empty: the base model")
    # The codes.
    chunk: int = knob(4, "trace tokens of one code (L)", unit="tokens", ge=1)
    codebook: int = knob(64, "codes", ge=1)
    sweep: list[int] = knob([], "other sizes of the codebook, trained besides", unit="codes")
    maxima: list[int] = knob(
        [0, 4, 8, 10, 12, 14, 16],
        "choices of the largest number of replaced chunks (the paper's, in chunks)",
        unit="chunks",
    )
    vq_width: int = knob(48, "width of the VQ-VAE", ge=1)
    vq_steps: int = knob(1000, "training steps of the VQ-VAE", unit="steps", ge=1)
    vq_rate: float = knob(2e-3, "peak learning rate of the VQ-VAE", gt=0)
    # The recipe, the same for all arms.
    steps: int = knob(600, "training steps", unit="steps", ge=1)
    batch: int = knob(32, "examples a step", ge=1)
    learning_rate: float = knob(1e-3, "peak learning rate", gt=0)
    warmup: int = knob(100, "steps of linear warm-up", unit="steps", ge=0)
    hold: float = knob(0.6, "share of the steps at the peak rate before it decays to zero", ge=0, le=1)
    decay: Literal["constant", "linear", "cosine"] = knob("linear", "how the rate decays")
    weight_decay: float = knob(0.01, "weight decay of AdamW", ge=0)
    beta2: float = knob(0.95, "AdamW's second moment decay", ge=0, lt=1)
    clip: float = knob(1.0, "largest gradient norm; 0: none", ge=0)
    # The model and the data.
    layers: int | None = knob(None, "layers; left out: the task's own number", ge=1)
    family: Literal["gpt2", "llama"] = knob("gpt2", "learned positions, or rotary ones")
    model: str = knob("", "a pretrained model to train, a folder or hub id; goes with `data`")
    revision: str = knob("", "its commit on the hub")
    data: Path | str | None = knob(None, "items (question, steps, answer) to train on, a file; goes with `model`")
    validation_data: Path | str | None = knob(None, "such items for validation; left out: the last ones of `data`")
    test_data: Path | str | None = knob(None, "such items for the test; left out: the validation's")
    # Choice of the checkpoint, evaluation.
    validation_items: int = knob(200, "items that checkpoints are chosen by", unit="items", ge=1)
    validate_every: int = knob(50, "steps between validations", unit="steps", ge=1)
    stop_after: int = knob(2, "validations in a row without a mistake after which a training ends", ge=1)
    log_every: int = knob(20, "steps between points of the curves", unit="steps", ge=1)
    most: int = knob(80, "tokens a completion may have", unit="tokens", ge=1)
    test_items: int = knob(500, "items of the test", unit="items", stage="evaluate", ge=1)

    @field_validator("data", "validation_data", "test_data", mode="before")
    @classmethod
    def _local(cls, source: Any) -> Any:
        """A local file as a path, since a job's digest covers the contents of those."""
        return (
            Path(source) if isinstance(source, str) and source and not source.startswith("hub://") else source or None
        )


class TokenAssorted(Method):
    name = "token_assorted"
    title = "Token Assorted"
    says = (
        "The first part of a written trace is replaced by discrete latent codes of a VQ-VAE, a random number of them, and the "
        "language model learns to write the mixture: codes first, text after."
    )
    paper = Paper(
        "Token Assorted: Mixing Latent and Text Tokens for Improved Language Model Reasoning", "2502.03275", 2025
    )
    Config = TokenAssortedConfig
    arms = {
        "latent": Arm(
            "codes for a random part of the trace, from the left; trained from the base model", config={"sweep": []}
        ),
        "cot": Arm(
            "chain of thought, the model of Coconut's arm of that name (own training on task own)",
            "baseline",
            {"replacement": "nothing", "sweep": []},
        ),
        "sol_only": Arm("the answer right after the question", "baseline", {"replacement": "no_trace", "sweep": []}),
        "latent_tuned": Arm(
            "as latent, but from the CoT-trained model: what the ablation compares with", config={"start": "cot"}
        ),
        "all_replace": Arm(
            "every chunk replaced, from the CoT-trained model", "control", {"replacement": "everything", "start": "cot"}
        ),
        "curriculum_replace": Arm(
            "a part that grows to everything in the first half, from the CoT-trained model",
            "control",
            {"replacement": "growing", "start": "cot"},
        ),
        "poisson_replace": Arm(
            "as many chunks as latent_tuned, at random places, from the CoT-trained model",
            "control",
            {"replacement": "random_places", "start": "cot"},
        ),
        "codes": Arm("the VQ-VAE that turns chunks of a trace into codes", "ingredient"),
    }
    tasks = {**TASKS, "own": "a pretrained model on a file of questions, steps and answers (knobs `model` and `data`)"}

    def stages(self, arm: str) -> tuple[str, ...]:
        return ("train", "analyse") if arm == "codes" else ("train", "evaluate", "analyse")

    def needs(self, key: JobKey, config: TokenAssortedConfig) -> dict[str, Need]:
        if key.task in TASKS and max(config.codebook, *config.sweep, 1) > CODES:
            raise TychoError(f"the common vocabularies hold {CODES} codes: choose codebooks up to that")
        if (key.task == "own") != bool(config.model and config.data is not None):
            raise TychoError(
                "task own takes the knobs `model` (a folder or hub id) and `data` (a file), other tasks neither"
            )

        def other(arm: str) -> Need:
            return Need(JobKey(key.scale, self.name, arm, key.task, key.seed))

        if key.arm == "cot" and key.task in TASKS:  # the same training, done once for both rooms
            return {"cot": Need(JobKey(key.scale, "coconut", "cot", key.task, key.seed))}
        found = {"start": other(config.start)} if config.start and key.arm != "codes" else {}
        if key.arm != "codes" and config.replacement not in ("nothing", "no_trace"):
            found["codes"] = other("codes")
        return found

    def train(self, run: Run) -> None:
        from methods.token_assorted.train import train

        train(run)

    def evaluate(self, run: Run) -> None:
        from methods.token_assorted.evaluate import evaluate

        evaluate(run)

    def analyse(self, run: Run) -> None:
        from methods.token_assorted.analyse import analyse

        analyse(run)

    def synthesise(self, run: Run) -> None:
        from methods.token_assorted.synthesise import synthesise

        synthesise(run)
