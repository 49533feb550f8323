"""The adapter of DeepConf: a pool of traces of one model, every voting rule over it, and the online rule on a live engine."""

from __future__ import annotations

from typing import Any

from methods.deepconf.published import MODELS, SETS, Model
from methods.deepconf.tasks import GROUND
from tycho.adapter import Arm, Method, MethodConfig, Need, Paper, Run, knob
from tycho.keys import JobKey


class DeepConfConfig(MethodConfig):
    steps: int = knob(500, "training steps of the symbolic model", ge=1)
    modulus: int = knob(19, "prime that the products are taken by", ge=5)
    batch: int = knob(64, "examples a step", ge=1)
    learning_rate: float = knob(3e-3, "peak learning rate, cosine decay", gt=0)
    beta2: float = knob(0.95, "AdamW's second moment decay", ge=0, lt=1)
    width: int = knob(96, "hidden width", ge=8)
    layers: int = knob(2, "layers", ge=1)
    wrong: float = knob(0.45, "how often a trace gets a hard fact wrong", ge=0, le=1)
    model: str = knob("", "who answers: smollm2, a server's URL, a folder or a hub id", stage="evaluate")
    revision: str = knob("", "the hub's commit of `model`", stage="evaluate")
    served: str = knob("", "the model's name at a server that serves several", stage="evaluate")
    effort: str = knob("", "reasoning effort that requests ask a server for", stage="evaluate")
    system: str = knob("", "system message to a server's model", stage="evaluate")
    asked: str = knob("", "what stands behind every question of a published set", stage="evaluate")
    data: str = knob("", "questions of a published set: FILE.jsonl or hub://owner/name@commit/file", stage="evaluate")
    answers: str = knob("boxed", "how a text states its answer: boxed, hashes, letter, number, last_line", stage="evaluate")  # fmt: skip
    questions: int = knob(100, "questions", stage="evaluate", ge=1)
    pool: int = knob(128, "traces sampled a question", unit="traces", stage="evaluate", ge=2)
    budget: int = knob(96, "traces a rule may use, K or B of the paper", unit="traces", stage="evaluate", ge=2)
    budgets: list[int] = knob([], "further budgets, for accuracy against budget", unit="traces", stage="evaluate")
    resamples: int = knob(8, "working sets drawn from the pool", stage="evaluate", ge=1)
    warmup: int = knob(16, "warm-up traces N_init", unit="traces", stage="evaluate", ge=1)
    window: int = knob(6, "tokens of a confidence group", unit="tokens", stage="evaluate", ge=1)
    windows: list[int] = knob([1, 3, 12], "further windows, for the ablation", unit="tokens", stage="evaluate")
    k: int = knob(20, "log-probs a token's confidence averages", stage="evaluate", ge=1)
    tau: float = knob(0.95, "consensus at which the adaptive rule ends a question", stage="evaluate", gt=0, le=1)
    temperature: float = knob(1.0, "sampling temperature", stage="evaluate", gt=0)
    top_p: float = knob(0.95, "nucleus sampling", stage="evaluate", gt=0, le=1)
    top_k: int = knob(0, "top-k sampling; 0: off", stage="evaluate", ge=0)
    most: int = knob(50, "tokens a trace may have", unit="tokens", stage="evaluate", ge=1)
    rows: int = knob(256, "traces decoded together", stage="evaluate", ge=1)
    live: int = knob(20, "questions that the online rule also runs on the live engine", stage="evaluate", ge=0)
    keep_traces: bool = knob(False, "save the pool as a trace file (tables/pool.parquet)", stage="evaluate")


def answered_by(model: Model) -> Arm:
    """The rules over a published model's traces."""
    return Arm(
        f"the rules over traces of {model.served} behind a server (scale paper)",
        config={
            "served": model.served, "temperature": model.temperature, "top_p": model.top_p, "top_k": model.top_k,
            "most": model.most, "effort": model.effort,
        },
    )  # fmt: skip


class DeepConf(Method):
    name = "deepconf"
    title = "DeepConf: deep think with confidence"
    says = (
        "A trace whose model is unsure over a stretch of tokens is more often wrong; so votes are filtered and weighted by "
        "local confidence, and unsure traces are stopped while they are written."
    )
    paper = Paper("Deep Think with Confidence", "2508.15260", 2025)
    Config = DeepConfConfig
    arms = {
        "model": Arm("the model that is trained on traces with noisy facts", role="ingredient"),
        "rules": Arm("all voting and stopping rules, controls among them, over one pool of traces, and a live run"),
        **{name: answered_by(model) for name, model in MODELS.items()},
    }
    tasks = {
        "facts-20": "products of seven numbers mod a prime, merged in any order; 20 % of the facts are noisy in training",
        "facts-35": "the same with 35 % noisy facts",
        "facts-50": "the same with 50 % noisy facts",
        "chain": "as facts-35, always merged from the left: all traces of a question meet the same facts until they err",
        "sums": "sums of two one-digit numbers by SmolLM2-135M-Instruct, after four solved examples",
        **{task: f"the common ground, {task}, answered by Coconut's chain-of-thought model" for task in GROUND},
        **{name: questions.says for name, questions in SETS.items()},
    }

    def stages(self, arm: str) -> tuple[str, ...]:
        return ("train",) if arm == "model" else ("evaluate", "analyse")

    def needs(self, key: JobKey, config: Any) -> dict[str, Need]:
        from methods.deepconf.tasks import trained_task

        task = trained_task(key.task)
        if key.arm != "model" and key.task in GROUND:
            return {"model": Need(JobKey(key.scale, "coconut", "cot", key.task, key.seed))}
        if key.arm == "model" or not task:
            return {}
        return {"model": Need(JobKey(key.scale, key.method, "model", task, key.seed))}

    def train(self, run: Run) -> None:
        from methods.deepconf.train import train

        train(run)

    def evaluate(self, run: Run) -> None:
        from methods.deepconf.evaluate import evaluate

        evaluate(run)

    def analyse(self, run: Run) -> None:
        from methods.deepconf.analyse import analyse

        analyse(run)

    def synthesise(self, run: Run) -> None:
        from methods.deepconf.synthesise import synthesise

        synthesise(run)
