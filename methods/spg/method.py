"""The adapter of SPG: masked diffusion language models that learn puzzles by policy gradients, and the bounds themselves."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from tycho.adapter import Arm, Method, MethodConfig, Need, Paper, Run, knob
from tycho.keys import JobKey


class SpgConfig(MethodConfig):
    # the network and its base
    pretrained: str = knob("", "LLaDA checkpoint, a folder or hub id with @revision; empty: a small model from scratch")
    width: int = knob(64, "hidden size", ge=8)
    inner: int = knob(128, "hidden size of the gated feed-forward block", ge=8)
    layers: int = knob(3, "layers", ge=1)
    heads: int = knob(4, "attention heads", ge=1)
    base_steps: int = knob(240, "steps of masked diffusion training that make the base", ge=1)
    base_batch: int = knob(64, "examples a step of it", ge=1)
    base_rate: float = knob(3e-3, "its learning rate", gt=0)
    base_noise: float = knob(0.25, "share of its target tokens that are replaced by random ones", ge=0, lt=1)
    lora_rank: int = knob(0, "rank of the adapters; 0: all weights are trained", ge=0)
    lora_alpha: int = knob(64, "their scale times rank", ge=1)
    lora_dropout: float = knob(0.05, "their dropout", ge=0, lt=1)
    lora_targets: list[str] = knob(
        ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"], "layers that get adapters"
    )
    bf16: bool = knob(False, "whether weights are held and computed in bfloat16")
    recompute: bool = knob(False, "whether activations are computed again in the backward pass, to save memory")
    # the task
    puzzles: int = knob(4000, "training puzzles", ge=1)
    blanks: tuple[int, int] = knob((6, 11), "least and most empty cells of a Sudoku", unit="cells")
    rewards: Literal["paper", "code"] = knob(
        "paper", "whose rewards: the public code's pay 0.1 for any answer to Countdown, and read ** and //"
    )
    length: int = knob(0, "tokens of a completion; 0: the task's own (16 for a Sudoku, 8 for Countdown)", ge=0)
    block: int = knob(4, "tokens of a block of the sampler", ge=1)
    block_steps: int = knob(2, "network calls a block", ge=1)
    temperature: float = knob(1.0, "of rollouts", ge=0)
    # the policy gradient
    objective: Literal["spg", "diffu_grpo", "wd1", "unigrpo"] = knob("spg", "loss")
    negatives: Literal["mix", "eubo", "elbo", "zero"] = knob("mix", "SPG's estimate for completions below their group")
    masking: Literal["block", "random", "one_step"] = knob("block", "SPG's masks")
    published_choice: bool = knob(False, "whether blocks are chosen as in the public code, not uniformly")
    m: int = knob(2, "masked copies of a completion (SPG)", ge=1)
    beta: float = knob(1.0, "order of the upper bound", gt=0)
    omega: float = knob(0.5, "share of the upper bound in the mixture")
    p_mask: float = knob(0.15, "probability that a prompt token or one of an earlier block is masked", ge=0, lt=1)
    min_t: float = knob(0.0, "least share of a block that is masked (at least one token is)", ge=0, le=1)
    max_t: float = knob(1.0, "largest share of a block that is masked", ge=0, le=1)
    epsilon: float = knob(0.5, "clip range of ratios (diffu-GRPO, UniGRPO)", gt=0)
    kl: float = knob(0.04, "weight of the KL to the reference (diffu-GRPO, UniGRPO)", ge=0)
    reference_every: int = knob(64, "gradient steps after which the reference is renewed", ge=1)
    prompts: int = knob(8, "prompts a rollout", ge=1)
    group: int = knob(6, "completions a prompt, g", ge=2)
    mu: int = knob(4, "gradient steps a rollout, μ", ge=1)
    accumulate: int = knob(1, "parts a gradient step is computed in; divides the prompts", ge=1)
    steps: int = knob(160, "gradient steps", ge=1)
    rate: float = knob(1e-4, "learning rate, constant", gt=0)
    betas: tuple[float, float] = knob((0.9, 0.99), "AdamW's moments")
    weight_decay: float = knob(0.1, "AdamW's decay", ge=0)
    clip: float = knob(0.2, "largest gradient norm", gt=0)
    validate_every: int = knob(20, "gradient steps between validations, by which the checkpoint is chosen", ge=1)
    validation_items: int = knob(64, "puzzles of a validation", ge=1)
    # evaluation and analysis
    test_items: int = knob(200, "test puzzles", stage="evaluate", ge=2)
    sandwich_items: int = knob(24, "test puzzles whose likelihood is enumerated", stage="analyse", ge=1)
    sandwich_tokens: int = knob(6, "tokens of them that are hidden, n", stage="analyse", ge=1, le=8)
    instances: int = knob(50, "random instances of each identity", stage="analyse", ge=1)

    @model_validator(mode="after")
    def _parts_fit(self) -> SpgConfig:
        if self.prompts % self.accumulate:
            raise ValueError(f"accumulate={self.accumulate} does not divide prompts={self.prompts}")
        if self.block_steps > self.block:
            raise ValueError(f"block_steps={self.block_steps} is more than the block's {self.block} tokens")
        return self


GRPO = {"objective": "diffu_grpo", "epsilon": 0.5, "kl": 0.04}


class Spg(Method):
    name = "spg"
    title = "SPG: sandwiched policy gradient"
    says = (
        "A masked diffusion model cannot compute its likelihood, so a policy gradient maximises a lower bound of it on good "
        "completions and minimises an upper bound on bad ones."
    )
    paper = Paper("SPG: Sandwiched Policy Gradient for Masked Diffusion Language Models", "2510.09541", 2025)
    Config = SpgConfig
    arms = {
        "base": Arm("the untrained base: a short masked diffusion training on noisy targets", role="ingredient"),
        "spg_mix": Arm("SPG, negative completions by the mixture of both bounds", config={"negatives": "mix"}),
        "spg_eubo": Arm("SPG, negative completions by the upper bound", config={"negatives": "eubo"}),
        "spg_elbo": Arm("negative completions by the lower bound, too", role="baseline", config={"negatives": "elbo"}),
        "spg_no_negatives": Arm("negative completions left out", role="baseline", config={"negatives": "zero"}),
        "spg_random_masks": Arm(
            "SPG with random instead of block-wise masks", role="baseline", config={"masking": "random"}
        ),
        "spg_m4": Arm("SPG with four masked copies instead of two", config={"m": 4}),
        "diffu_grpo": Arm("d1: clipped surrogate of one-step log-probabilities", role="baseline", config=GRPO),
        "wd1": Arm("wd1: weighted one-step log-likelihoods", role="baseline", config={"objective": "wd1"}),
        "unigrpo": Arm(
            "UniGRPO: clipped surrogate on random masks of rising noise",
            role="baseline",
            config={"objective": "unigrpo", "epsilon": 0.2, "kl": 0.01, "p_mask": 0.0},
        ),
        "one_step": Arm(
            "SPG's loss on one-step masks: its gain without its bounds",
            role="control",
            config={"negatives": "elbo", "masking": "one_step"},
        ),
        "diffu_grpo_no_kl": Arm(
            "diffu-GRPO without its KL term, which SPG has not either", role="control", config=GRPO | {"kl": 0.0}
        ),
        "identities": Arm("theorems about the bounds, on random denoisers; nothing is trained"),
    }
    tasks = {
        "sudoku": "4x4 Sudoku, solutions split 200/88; reward: share of the empty cells that are right",
        "countdown": "an expression of three numbers that equals a target; reward 1, 0.1 or 0",
    }

    def stages(self, arm: str) -> tuple[str, ...]:
        if arm == "identities":
            return ("analyse",)
        return ("train", "evaluate", "analyse") if arm in ("base", "spg_mix") else ("train", "evaluate")

    def needs(self, key: JobKey, config: Any) -> dict[str, Need]:
        if key.arm in ("base", "identities"):
            return {}
        return {"base": Need(JobKey(key.scale, key.method, "base", key.task, key.seed))}

    def train(self, run: Run) -> None:
        from methods.spg.train import train

        train(run)

    def evaluate(self, run: Run) -> None:
        from methods.spg.evaluate import evaluate

        evaluate(run)

    def analyse(self, run: Run) -> None:
        from methods.spg import analyse, identities

        identities.measure(run) if run.key.arm == "identities" else analyse.measure(run)

    def synthesise(self, run: Run) -> None:
        from methods.spg.synthesise import synthesise

        synthesise(run)
