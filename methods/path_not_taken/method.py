"""The adapter of The Path Not Taken: reward against labels on one base model, weight geometry beside matched noise."""

from __future__ import annotations

from typing import Literal

from tycho.adapter import Arm, Method, MethodConfig, Need, Paper, Run, knob
from tycho.keys import JobKey

REWARD = {"objective": "grpo"}
MASKED = {"principal": "top half of |W0^(k)|", "complement": "the other half", "low": "bottom half of |W0|"}
MASKED |= {"random": "a random half"}
# Pairs of the paper's Table 1 on the hub: base, tuned, how, and the percentage of entries it found unchanged. The paper names
# models; their organisations are from memory.
DISTILLED = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
KLEAR = "Kwai-Klear/Klear-Reasoner-8B-SFT"
PAIRS = {
    "r1_distill": ("Qwen/Qwen2.5-Math-1.5B", DISTILLED, "labels", 2.8),
    "deepscaler": (DISTILLED, "agentica-org/DeepScaleR-1.5B-Preview", "reward", 53.8),
    "deepcoder": (DISTILLED, "agentica-org/DeepCoder-1.5B-Preview", "reward", 45.5),
    "prorl": (DISTILLED, "nvidia/Nemotron-Research-Reasoning-Qwen-1.5B", "reward", 38.4),
    "klear_sft": ("Qwen/Qwen3-8B-Base", KLEAR, "labels", 0.6),
    "klear": (KLEAR, "Kwai-Klear/Klear-Reasoner-8B", "reward", 69.5),
    "polaris": ("Qwen/Qwen3-4B", "POLARIS-Project/Polaris-4B-Preview", "reward", 79.3),
}


class PathNotTakenConfig(MethodConfig):
    width: int = knob(128, "width of the small model", unit="channels", ge=8)
    layers: int = knob(2, "layers of the small model", ge=1)
    base_steps: int = knob(600, "steps on the prior tasks", unit="steps", ge=1)
    base_rate: float = knob(2e-3, "peak learning rate on the prior tasks", gt=0)
    base_batch: int = knob(256, "prior examples a step", ge=1)
    bits: int = knob(
        2, "mantissa bits of the grid weights count on: 7 is bfloat16; fewer keep a small model's large "
                     "updates as partly hidden as a large model's are", ge=1, le=7)  # fmt: skip
    objective: Literal["grpo", "reinforce", "fixed", "uniform", "oracle", "rejection"] = knob(
        "grpo", "what the new task is tuned by"
    )
    learning_rate: float = knob(1e-4, "step size of tuning, alike in all arms (AdamW without decay)", gt=0)
    batch: int = knob(64, "new prompts a step", ge=1)
    group: int = knob(8, "answers sampled a prompt, where answers are sampled", ge=2)
    target: float = knob(0.95, "probability of a right answer at which an arm stops", gt=0, le=1)
    most_steps: int = knob(1600, "steps after which an arm that has not reached the target is stopped", ge=1)
    evaluate_every: int = knob(50, "steps between evaluations", unit="steps", ge=1)
    repeats: int = knob(1, "tunings of one base with other orders and samples", ge=1)
    intervene: bool = knob(False, "rotate and permute the last layer's attention before tuning")
    mask: Literal["", "principal", "complement", "low", "random"] = knob("", "entries of matrices that may move")
    adapter: Literal["", "lora", "pissa"] = knob("", "tune a low-rank adapter, which is merged at the end")
    adapter_rank: int = knob(8, "its rank", ge=1)
    k: float = knob(0.1, "principal rank as a share of the smaller side", stage="analyse", gt=0, le=1)
    alpha: float = knob(
        0.3, "share of entries in the principal and the low-magnitude mask", stage="analyse", gt=0, le=1
    )
    draws: int = knob(5, "draws of the matched noise", stage="analyse", ge=1)
    # --- the real model
    model: str = knob("smollm2", "the real model: smollm2 (the installed package), a folder or a hub id")
    tuned: str = knob("", "a published tuned checkpoint of `model`; empty: tune it here")
    real_steps: int = knob(6, "tuning steps of the real model", ge=1)
    real_rate: float = knob(5e-5, "its step size (AdamW without decay)", gt=0)
    real_batch: int = knob(4, "examples or prompts a step", ge=1)
    rise: float = knob(0.1, "rise of the held-out accuracy at which its tuning stops", gt=0, le=1)
    ask_every: int = knob(3, "steps between held-out questions", unit="steps", ge=1)
    tensors: str = knob(r"layers\.(3|26)\.", "pattern of the tensors compared", stage="analyse")
    questions: int = knob(50, "held-out questions, asked before, on the way and after", ge=1)


class PathNotTaken(Method):
    name = "path_not_taken"
    title = "The Path Not Taken: reward against labels, in weights"
    says = (
        "Reinforcement learning is said to move weights sparsely and off their principal directions, unlike fine-tuning "
        "on labels; here every such metric stands beside noise of the same density and norm, which shows what size alone does."
    )
    paper = Paper("The Path Not Taken: RLVR Provably Learns Off the Principals", "2511.08567", 2025)
    Config = PathNotTakenConfig
    arms = {
        "grpo": Arm("tuned by reward: group-relative advantages", config=REWARD | {"repeats": 2}),
        "reinforce": Arm("tuned by reward: advantages without division by their spread", config={"objective": "reinforce"}),
        "sft_fixed": Arm("tuned on one fixed right answer a prompt", role="baseline", config={"objective": "fixed"}),
        "sft_uniform": Arm("tuned on all right answers alike", role="baseline", config={"objective": "uniform"}),
        "sft_oracle": Arm(
            "tuned on the base model's own distribution over right answers, the nearest one by KL",
            role="control",
            config={"objective": "oracle"},
        ),
        "sft_rejection": Arm(
            "tuned on its own samples that are right: on-policy data, no negatives",
            role="control",
            config={"objective": "rejection"},
        ),
        "grpo_intervened": Arm(
            "tuned by reward after a rotation and a permutation that keep the function",
            role="control",
            config=REWARD | {"intervene": True},
        ),
        **{
            f"mask_{name}": Arm(f"tuned by reward where only {says} may move", role="control", config=REWARD | {"mask": name})
            for name, says in MASKED.items()
        },
        "lora": Arm("tuned by reward in a low-rank adapter", role="baseline", config=REWARD | {"adapter": "lora"}),
        "pissa": Arm(
            "the same adapter started from the principal directions", config=REWARD | {"adapter": "pissa"}
        ),
        "base": Arm("the small model after its prior tasks", role="ingredient"),
        "smollm2_sft": Arm(
            "SmolLM2-135M-Instruct tuned on right answers with TRL's SFT, then compared by `tycho diff`", role="baseline"
        ),
        "smollm2_grpo": Arm("SmolLM2-135M-Instruct tuned by reward with TRL's GRPO"),
        **{
            f"published_{name}": Arm(
                f"{base} and {tuned}, tuned by {how}: the paper's Table 1 has {share} % unchanged",
                role="baseline" if how == "labels" else "method",
                config={"model": base, "tuned": tuned},
            )
            for name, (base, tuned, how, share) in PAIRS.items()
        },
    }  # fmt: skip
    tasks = {
        "residues": "arithmetic mod 31 is known; the new operation accepts any number of the right parity",
        "letters": "the real model names the last letter of a word",
    }

    def stages(self, arm: str) -> tuple[str, ...]:
        if arm == "base":
            return ("train",)
        return ("analyse",) if arm.startswith("published_") else ("train", "analyse")

    def needs(self, key: JobKey, config: PathNotTakenConfig) -> dict[str, Need]:
        if key.task != "residues" or key.arm == "base":
            return {}
        found = {"base": Need(JobKey(key.scale, self.name, "base", key.task, key.seed))}
        if config.intervene:
            found["plain"] = Need(JobKey(key.scale, self.name, "grpo", key.task, key.seed))
        return found

    def train(self, run: Run) -> None:
        from methods.path_not_taken import real, tune

        if run.key.task != "residues":
            real.train(run)
        elif run.key.arm == "base":
            tune.base(run)
        else:
            tune.tune(run)

    def analyse(self, run: Run) -> None:
        from methods.path_not_taken import analyse, real

        analyse.tuned(run) if run.key.task == "residues" else real.analyse(run)

    def synthesise(self, run: Run) -> None:
        from methods.path_not_taken.synthesise import synthesise

        synthesise(run)
