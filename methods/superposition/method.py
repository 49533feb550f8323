"""The adapter of Reasoning by Superposition: the construction, and probes of trained continuous thoughts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tycho.adapter import Arm, Method, MethodConfig, Need, Paper, Run, knob
from tycho.errors import TychoError
from tycho.keys import JobKey

SPARSE: dict[str, Any] = {"dense": False}


class SuperpositionConfig(MethodConfig):
    # What makes a trained arm.
    tied: bool = knob(True, "whether the output layer is the input embedding")
    dense: bool = knob(True, "loss on all that is left of the path; else on the next node alone, as the paper trains")
    labels: Literal["path", "breadth_first"] = knob("path", "the next node: of a shortest path, or any at that hop")
    # The recipe of Coconut on the same task.
    latent_steps: int = knob(3, "steps that become thoughts", unit="steps", ge=1)
    first_steps: int = knob(600, "training steps of stage 0", unit="steps", ge=0)
    stage_steps: int = knob(500, "training steps of every later stage but the last", unit="steps", ge=1)
    mix: float = knob(0.1, "probability that an item is trained at any stage instead of the scheduled one", ge=0, le=1)
    steps: int = knob(4000, "training steps", unit="steps", ge=1)
    batch: int = knob(64, "examples a step", ge=1)
    learning_rate: float = knob(2e-3, "peak learning rate", gt=0)
    warmup: int = knob(100, "steps of linear warm-up", unit="steps", ge=0)
    hold: float = knob(0.6, "share of the steps at the peak rate before it decays to zero", ge=0, le=1)
    decay: Literal["constant", "linear", "cosine"] = knob("linear", "how the rate decays")
    weight_decay: float = knob(0.01, "weight decay of AdamW", ge=0)
    beta2: float = knob(0.95, "AdamW's second moment decay", ge=0, lt=1)
    clip: float = knob(1.0, "largest gradient norm; 0: none", ge=0)
    validation_items: int = knob(300, "items that checkpoints are chosen by", unit="items", ge=1)
    validate_every: int = knob(200, "steps between validations", unit="steps", ge=1)
    stop_after: int = knob(2, "validations in a row without a mistake after which a training ends", ge=1)
    log_every: int = knob(20, "steps between points of the curves", unit="steps", ge=1)
    most: int = knob(16, "tokens a completion may have", unit="tokens", ge=1)
    test_items: int = knob(500, "items of the test of trained arms", unit="items", stage="evaluate", ge=1)
    probed: int = knob(500, "test items that trained models are probed with", unit="items", stage="analyse", ge=1)
    # The construction.
    graphs: int = knob(500, "graphs that the construction is asked about", stage="analyse", ge=1)
    disturbed: int = knob(100, "of these, those of the sweeps of noise and dimensions", stage="analyse", ge=1)
    noise: list[float] = knob(
        [0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3],
        "standard deviations of the noise on a thought's coordinates (a thought has length 1)", stage="analyse",
    )  # fmt: skip
    dimensions: list[float] = knob(
        [0.25, 0.5, 0.75, 0.9, 1.0, 2.0],
        "dimensions of node embeddings, as shares of the number of nodes",
        stage="analyse",
    )
    draws: int = knob(5, "draws of embeddings with fewer dimensions than nodes", stage="analyse", ge=1)
    data: Path | None = knob(None, "a published file of ProsQA items, for task prosqa", stage="analyse")


class Superposition(Method):
    name = "superposition"
    title = "Reasoning by Superposition"
    says = (
        "A continuous thought can hold all nodes that a search has reached at once, so a two-layer transformer decides "
        "reachability in as many thoughts as the target is hops away."
    )
    paper = Paper(
        "Reasoning by Superposition: A Theoretical Perspective on Chain of Continuous Thought", "2505.12514", 2025
    )
    Config = SuperpositionConfig
    arms = {
        "construction": Arm("the paper's two-layer transformer, its weights written down; nothing is trained"),
        "coconut": Arm("probes of the checkpoints that the room coconut trains"),
        "published_rule": Arm(
            "trained as in the paper: each stage has one label, the next node of a shortest path", config=SPARSE
        ),
        "bfs": Arm(
            "trained on any node of the next hop instead of one that leads to the target",
            config={**SPARSE, "labels": "breadth_first"},
        ),
        "untied": Arm(
            "Coconut's training with an output layer of its own, so that the inner product is not the logit",
            "control",
            {"tied": False},
        ),
    }
    tasks = {
        "graphs": "the common task's graphs: 14 nodes, 16 edges, three hops",
        "published": "graphs of ProsQA's generator: about 23 nodes and 36 edges, three to six hops",
        "prosqa": "graphs of a published ProsQA file (knob `data`)",
    }

    def stages(self, arm: str) -> tuple[str, ...]:
        return ("analyse",) if arm in ("construction", "coconut") else ("train", "evaluate", "analyse")

    def needs(self, key: JobKey, config: SuperpositionConfig) -> dict[str, Need]:
        if key.arm != "construction" and key.task != "graphs":
            raise TychoError(f"trained models are probed on the task graphs, not on {key.task}")
        if key.arm != "coconut":
            return {}
        return {"coconut": Need(JobKey(key.scale, "coconut", "coconut", "graphs", key.seed))}

    def train(self, run: Run) -> None:
        from methods.superposition.train import train

        train(run)

    def evaluate(self, run: Run) -> None:
        from methods.superposition.evaluate import evaluate

        evaluate(run)

    def analyse(self, run: Run) -> None:
        from methods.superposition import measure, probe_run

        measure.measure(run) if run.key.arm == "construction" else probe_run.analyse(run)

    def synthesise(self, run: Run) -> None:
        from methods.superposition.synthesise import synthesise

        synthesise(run)
