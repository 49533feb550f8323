"""The adapter of ThreadWeaver: traces or fork-join trees, self-training and P-GRPO, from one sequential model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tycho.adapter import Arm, Method, MethodConfig, Need, Paper, Run, knob
from tycho.keys import JobKey


class TestSet(BaseModel):
    """Questions to be asked: a JSON-lines file, or a data set on the hub, and how often each is answered."""

    model_config = ConfigDict(extra="forbid")

    questions: str
    revision: str = ""
    split: str = "test"
    samples: int = Field(1, ge=1)


class ThreadWeaverConfig(MethodConfig):
    # What makes an arm.
    kind: Literal["sft", "self", "rl", "none"] = knob(
        "sft", "trained on given trajectories, on its own ones, by reinforcement, or not at all"
    )
    form: Literal["plain", "fork"] = knob("fork", "given trajectories in sequence, or with threads")
    start: str = knob("", "the arm whose model the training goes on from; empty: the untrained model")
    budget: Literal["first", "more", "both", "extra"] = knob(
        "more", "which share of the given problems an arm sees (extra: as many steps as self-training, further ones)"
    )
    normalise: Literal["mean", "std"] = knob("mean", "advantages: centred, or divided by the group's spread too")
    rl_mode: Literal["fork", "plain"] = knob("fork", "rollouts of the state machine, or decoded in sequence")
    respawn: Literal["none", "confidence", "random"] = knob(
        "none", "which threads are stopped and started again", stage="evaluate"
    )
    against: str = knob("", "the arm whose decoding is timed in turns with that of `start`", stage="evaluate")
    # Budgets.
    first_steps: int = knob(1000, "training steps of the sequential model", unit="steps", ge=1)
    more_steps: int = knob(300, "training steps of the arms that go on from it", unit="steps", ge=1)
    self_prompts: int = knob(1000, "problems that the model rolls out once for self-training", unit="problems", ge=1)
    self_steps: int = knob(60, "training steps on the rollouts that are kept", unit="steps", ge=1)
    rl_steps: int = knob(40, "steps of P-GRPO", unit="steps", ge=1)
    # The recipe of supervised training, the same for all arms.
    batch: int = knob(32, "problems a step", ge=1)
    learning_rate: float = knob(2e-3, "peak learning rate from the untrained model", gt=0)
    more_rate: float = knob(1e-3, "peak learning rate of arms that go on from a trained one", gt=0)
    warmup: int = knob(50, "steps of linear warm-up", unit="steps", ge=0)
    forked: float = knob(1.0, "share of the problems that can be split which are written with threads", ge=0, le=1)
    loss: Literal["completion", "hybrid", "everything"] = knob(
        "completion", "what is learnt of a tree: what the machine generates (paper), the whole text too, or all of it"
    )
    closing: Literal["orchestrator", "model"] = knob(
        "orchestrator", "who closes a block: the state machine (paper) or the model (public code)"
    )
    # A model that does not fit one GPU.
    processes: int = knob(1, "processes that share a training on given trajectories, a GPU each (task own)", ge=1)
    bf16: bool = knob(False, "these multiply in bfloat16, under weights in float32")
    # P-GRPO.
    rl_prompts: int = knob(16, "prompts a step", ge=1)
    rl_rollouts: int = knob(8, "rollouts of each prompt", ge=1)
    rl_rate: float = knob(1e-4, "learning rate", gt=0)
    rl_warmup: int = knob(5, "steps of linear warm-up", unit="steps", ge=0)
    bonus: Literal["paper", "code", "readme"] = knob("paper", "which of the three formulas of the speed bonus")
    rho: float = knob(0.5, "weight of the speed bonus", ge=0)
    rho_clip: float = knob(0.2, "its ceiling", ge=0)
    wrong: float = knob(0.0, "reward of a wrong answer: 0 (paper) or -1 (released run)")
    # A pretrained model and files of one's own (task own).
    model: str = knob("", "a pretrained model to start from, a folder or hub id")
    revision: str = knob("", "its commit on the hub")
    data: Path | None = knob(None, "JSON lines to train on: prompt, response (canonical fork-join text), answer")
    sets: dict[str, TestSet] = knob({}, "test sets by name; none: the questions of `data`", stage="evaluate")
    longest: int | None = knob(None, "tokens that a packed trajectory may have", unit="tokens", ge=1)
    overflow: Literal["refuse", "cut"] = knob("refuse", "what happens to a longer one")
    # Choice of the checkpoint.
    validation_items: int = knob(200, "items that checkpoints are chosen by", unit="items", ge=1)
    validate_every: int = knob(100, "steps between validations", unit="steps", ge=1)
    stop_after: int = knob(
        2, "validations in a row without a mistake after which a supervised training ends", unit="validations", ge=1
    )
    log_every: int = knob(20, "steps between points of the curves", unit="steps", ge=1)
    # Evaluation.
    most: int = knob(72, "tokens a request may write", unit="tokens", ge=1)
    temperature: float = knob(1.0, "sampling temperature at the test and at validation (the paper's)", ge=0)
    test_items: int = knob(500, "items of the test", unit="items", stage="evaluate", ge=1)
    window: int = knob(6, "tokens of a confidence group", unit="tokens", stage="evaluate", ge=1)
    top: int = knob(5, "most likely tokens that a confidence is over", unit="tokens", stage="evaluate", ge=1)
    eta: float = knob(90.0, "percentage of warm-up threads above the bar", stage="evaluate", gt=0, lt=100)
    warmup_items: int = knob(100, "validation items whose threads set the bar", stage="evaluate", ge=1)
    together: list[int] = knob(
        [1, 32], "items decoded together when decodings are timed", unit="items", stage="evaluate"
    )
    turns: int = knob(3, "how often each decoding is timed", stage="evaluate", ge=1)
    respawns: int = knob(1, "how often a thread may be started again", stage="evaluate", ge=1)


FROM_PARALLEL: dict[str, Any] = {"kind": "none", "start": "parallel"}


class ThreadWeaver(Method):
    name = "threadweaver"
    title = "ThreadWeaver: adaptive threading"
    says = (
        "A language model plans parts of its reasoning that do not depend on each other, writes them as parallel threads "
        "which an orchestrator joins, and so needs a shorter critical path for the same answer."
    )
    paper = Paper(
        "ThreadWeaver: Adaptive Threading for Efficient Parallel Reasoning in Language Models", "2512.07843", 2025
    )
    Config = ThreadWeaverConfig
    arms = {
        "sequential": Arm("whole traces, from the untrained model", "baseline", {"form": "plain", "budget": "first"}),
        "sequential_more": Arm(
            "goes on from `sequential` with the same problems as `parallel`",
            "baseline",
            {"form": "plain", "start": "sequential"},
        ),
        "parallel": Arm("goes on from `sequential` on packed fork-join trees", config={"start": "sequential"}),
        "scratch": Arm(
            "fork-join trees from the untrained model, all problems of `sequential` and `parallel`",
            "control",
            {"budget": "both"},
        ),
        "self_trained": Arm(
            "`parallel`, then trained on its own well-formed and correct rollouts",
            config={"kind": "self", "start": "parallel"},
        ),
        "parallel_more": Arm(
            "`parallel`, then as many steps on given trajectories as `self_trained` has on its own",
            "control",
            {"start": "parallel", "budget": "extra"},
        ),
        "sequential_extra": Arm(
            "`sequential_more`, then as many steps on further traces as `self_trained` has on its own",
            "baseline",
            {"form": "plain", "start": "sequential_more", "budget": "extra"},
        ),
        "p_grpo": Arm("`self_trained`, then P-GRPO", config={"kind": "rl", "start": "self_trained"}),
        "p_grpo_std": Arm(
            "the same with advantages divided by the group's standard deviation",
            "control",
            {"kind": "rl", "start": "self_trained", "normalise": "std"},
        ),
        "sequential_rl": Arm(
            "`sequential_extra`, then the same policy gradient without threads",
            "baseline",
            {"kind": "rl", "start": "sequential_extra", "rl_mode": "plain"},
        ),
        "respawn": Arm(
            "`parallel`; threads of low group confidence (DeepConf) are stopped and started again",
            config={**FROM_PARALLEL, "respawn": "confidence"},
        ),
        "respawn_random": Arm(
            "`parallel`; as large a share of the threads, chosen at random, is started again",
            "control",
            {**FROM_PARALLEL, "respawn": "random"},
        ),
        "wall_clock": Arm(
            "`sequential_more` and `parallel` decode the same items in turns, in one process: seconds beside the path",
            config={**FROM_PARALLEL, "against": "sequential_more"},
        ),
    }
    tasks = {
        "products-verbose": "grouped products mod 7, three groups of equal size (common ground)",
        "products-mixed": "one to four groups of two to six numbers: forking does not always pay",
        "products-noisy": "grouped products mod 13 in random order, a third of the facts unsure",
        "countdown": "search for an expression of three numbers that makes a target; half of the puzzles have none",
        "own": "a pretrained model on files of trajectories and questions (knobs `model`, `data`, `sets`)",
    }

    def stages(self, arm: str) -> tuple[str, ...]:
        about = self.arms[arm].config
        if about.get("against"):
            return ("evaluate",)
        return ("evaluate", "analyse") if about.get("kind") == "none" else ("train", "evaluate", "analyse")

    def needs(self, key: JobKey, config: Any) -> dict[str, Need]:
        others = {"start": config.start, "against": config.against}
        return {
            name: Need(JobKey(key.scale, key.method, arm, key.task, key.seed)) for name, arm in others.items() if arm
        }

    def train(self, run: Run) -> None:
        from methods.threadweaver import shares
        from methods.threadweaver.train import train

        shares.train(run) if run.config.processes > 1 else train(run)

    def evaluate(self, run: Run) -> None:
        from methods.threadweaver.evaluate import evaluate

        evaluate(run)

    def analyse(self, run: Run) -> None:
        from methods.threadweaver.analyse import analyse

        analyse(run)

    def synthesise(self, run: Run) -> None:
        from methods.threadweaver.synthesise import synthesise

        synthesise(run)
