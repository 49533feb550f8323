"""Training of every arm: on traces or packed fork-join trees, on the model's own best rollouts, or by P-GRPO.

One loop (`tycho.lm.training.Trainer`) for all; arms differ in the batch and in the loss. Budgets are counted in
problems; the tokens that were passed in are counted beside them, since a packed tree holds more of them than a trace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from methods.threadweaver import grpo, packing
from methods.threadweaver.metrics import critical_path
from methods.threadweaver.orchestrator import Rollout
from methods.threadweaver.packing import Packed
from methods.threadweaver.problems import RULES, problems
from methods.threadweaver.selftrain import keep
from methods.threadweaver.serve import Weaver
from methods.threadweaver.words import Words
from tycho.adapter import Run
from tycho.errors import TychoError
from tycho.harness import Options
from tycho.lm import small
from tycho.lm.flops import training_flops
from tycho.lm.training import Recipe, Trainer

LONG = 4096  # tokens of a row from which on its mask stays an interval a token
TILED = "tree"


def train(run: Run) -> None:
    config, task = run.config, problems(run.key.task, run.config)
    model = start(run, task).to(run.device)
    counted = {"problems": 0.0, "tokens": 0.0, "flops": 0.0}
    if config.kind == "rl":
        batches, loss = prompts(run, task), PolicyGradient(run, task, counted)
        recipe = Recipe(
            config.rl_steps, config.rl_rate, config.rl_warmup, "constant", weight_decay=0.0, betas=(0.9, 0.95)
        )
    else:
        batches = (
            own_rollouts(run, task, model, counted) if config.kind == "self" else teacher(run, task, model, counted)
        )
        loss = likelihood
        recipe = supervised(config, span(config)[1] if batches else 0)
    weaver = Weaver(model, task.words, config.most, config.closing)
    validation = task.items(config.validation_items, "validation")
    trainer = Trainer(
        model,
        batches or (lambda step: None),
        loss,
        recipe,
        validate=None if config.kind == "rl" else lambda _: accuracy(weaver, task, validation, config.temperature),
        validate_every=config.validate_every,
    )
    perfect, restored = 0, run.restore()
    if restored:
        trainer.restore(restored[1]["trainer"])
        counted.update(restored[1]["counted"])
        perfect = restored[1]["perfect"]
    for point in run.progress(trainer, "steps", total=recipe.steps, start=trainer.step):
        logged = getattr(loss, "logged", {})
        if logged or point.step % config.log_every == 0 or point.score is not None:
            run.log(point.step, loss=point.loss, norm=point.norm, **counted, **logged)
        if point.score is not None:
            run.log(point.step, validation_accuracy=point.score)
            perfect = perfect + 1 if point.score == 1 else 0
        if perfect >= config.stop_after:
            break
        state = {"counted": counted, "perfect": perfect}
        run.checkpoint(point.step, lambda state=state: {"trainer": trainer.state(), **state})
    run.metric("chosen_step", trainer.keep_best())
    run.metric("steps", trainer.step)
    for name in ("problems", "tokens"):
        run.metric(f"trained_{name}", counted[name])
    run.count(flops=counted["flops"])
    run.save_model(lambda folder: small.save(model, task.words.vocabulary.tokenizer(), folder))


def supervised(config: Any, steps: int, **more: Any) -> Recipe:
    rate = config.more_rate if config.start else config.learning_rate
    return Recipe(steps, rate, config.warmup, "cosine", floor=0.1, betas=(0.9, 0.95), **more)


def start(run: Any, task: Any) -> nn.Module:
    model = small.load(run.inputs["start"].model)[0] if run.config.start else task.base(run.seed("init"))
    model.set_attn_implementation("sdpa")  # under a tree's mask it takes an eighth less time than "eager"
    if run.device == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory
        must_fit(sum(p.numel() for p in model.parameters()), memory, run.config.processes)
    return model


def must_fit(parameters: int, memory: int, processes: int = 1) -> None:
    """Raises TychoError where float32 weights, gradients and AdamW's two moments alone exceed a GPU's memory (bytes).

    Of several processes each holds its share, and the whole weights too while it validates.
    """
    needed = 16 * parameters / processes + 4 * parameters * (processes > 1)
    if needed > memory:
        raise TychoError(
            f"{parameters / 1e9:.1f} billion parameters need {needed / 1e9:.0f} GB for weights, gradients and moments over"
            f" {processes} GPU{'s' * (processes > 1)}, this GPU has {memory / 1e9:.0f}: name a smaller `model`, or more"
            " `processes` where it is given trajectories (docs/paper-scale.md)"
        )


# --- on given trajectories -------------------------------------------------------------------------------------------


def teacher(run: Run, task: Any, model: nn.Module, counted: dict[str, float]) -> Callable[[int], Packed]:
    """Batches of new problems by step, as rows."""
    stream = forks(run, task, model, counted)
    return lambda step: packing.batch(stream(step), task.words.vocabulary.pad)


def forks(run: Any, task: Any, model: nn.Module, counted: dict[str, float]) -> Callable[[int], list[Packed]]:
    """Trees of new problems by step, written as the arm's form asks. Arms that go on from another see new ones."""
    config = run.config
    stream = task.trees(run.seed("data"), config.batch, config.loss)
    first, _ = span(config)

    def at(step: int) -> list[Packed]:
        rng = np.random.default_rng([run.seed("order"), first + step])
        forked = (rng.random(config.batch) < config.forked) & (config.form == "fork")
        trees = stream(first + step, forked)
        count(counted, model, trees, len(trees))
        return trees

    return at


def count(counted: dict[str, float], model: nn.Module, trees: Sequence[Packed], asked: int) -> None:
    """Adds a batch of trees to the budget: problems, tokens that are passed in, FLOPs of both passes."""
    counted["problems"] += asked
    for rows in trees:
        counted["tokens"] += len(rows.tokens)
        counted["flops"] += float(training_flops(model.config, len(rows.tokens)))


def likelihood(model: nn.Module, rows: Packed) -> Tensor:
    """Mean negative log-likelihood of what a batch of trees learns."""
    return packing.loss(logits(model, rows), on(rows, model))


def logits(model: nn.Module, rows: Packed) -> Tensor:
    """Next-token logits [B, N, V] of trees [B, N] under their own mask and positions. Long rows have no mask of N x N."""
    rows = on(rows, model)
    if rows.tokens.shape[-1] >= LONG:
        model.set_attn_implementation(TILED)
        found = model(input_ids=rows.tokens, position_ids=rows.position, last=rows.last, use_cache=False).logits
        model.set_attn_implementation("sdpa")
        return found
    seen = packing.ancestor_mask(rows.last)[:, None]
    mask = torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, torch.finfo(torch.float32).min)
    return model(input_ids=rows.tokens, attention_mask=mask, position_ids=rows.position, use_cache=False).logits


def tiled(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: None, *, last: Tensor, **_: Any
) -> tuple[Tensor, None]:
    """Attention of transformers' models, [B, H, N, D] to [B, N, H, D], by `packing.tree_attention`, row by row."""
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    rows = [packing.tree_attention(*row) for row in zip(query, key, value, last, strict=True)]
    return torch.stack(rows).transpose(1, 2), None


AttentionInterface.register(TILED, tiled)


def on(rows: Packed, model: nn.Module) -> Packed:
    device = next(model.parameters()).device
    return rows if rows.tokens.device == device else Packed(*(field.to(device) for field in rows))


def accuracy(weaver: Weaver, task: Any, items: Any, temperature: float) -> float:
    """Share of trajectories with the right answer, sampled as at the test."""
    return float(np.mean(are_right(weaver, task, items, temperature)))


def are_right(weaver: Weaver, task: Any, items: Any, temperature: float) -> list[bool]:
    """Whether the answer to each item is right."""
    rollouts = weaver.roll(list(items.prompt), Options(temperature=temperature))
    return [task.right(task.answer(r.text), t) for r, t in zip(rollouts, items.target, strict=True)]


# --- on the model's own trajectories ---------------------------------------------------------------------------------


def prompts(
    run: Run, task: Any, first: int = 1 << 20, size: int | None = None
) -> Callable[[int], list[tuple[str, str]]]:
    """(prompt, target) of problems that no supervised step has shown, by step."""
    config = run.config
    stream = task.questions(run.seed("data"), size or config.rl_prompts)
    return lambda step: stream(first + step)


def own_rollouts(run: Run, task: Any, model: nn.Module, counted: dict[str, float]) -> Callable[[int], Packed] | None:
    """Batches of the model's own trajectories, where well-formed and correct; None where there are none."""
    config = run.config
    asked = prompts(run, task, 1 << 21, config.self_prompts)(0)
    weaver = Weaver(model.eval(), task.words, config.most, config.closing)
    rollouts = weaver.roll([prompt for prompt, _ in asked], Options(temperature=1.0, seed=run.seed("self")))
    right = [task.right(task.answer(r.text), target) for r, (_, target) in zip(rollouts, asked, strict=True)]
    found = keep([rollout.text for rollout in rollouts], right, **RULES)
    for name, amount in found.counts.items():
        run.metric("rollouts", amount, variant=name)
    for code, amount in found.problems.items():
        run.metric("problems_of_format", amount, variant=code)
    trees = [tree(r, task.words) for r, kept in zip(rollouts, found.mask, strict=True) if kept]
    if not trees:
        return None

    def at(step: int) -> Packed:
        chosen = np.random.default_rng([run.seed("order"), step]).integers(len(trees), size=config.batch)
        batch = [trees[place] for place in chosen]
        count(counted, model, batch, len(batch))
        return packing.batch(batch, task.words.vocabulary.pad)

    return at


def tree(rollout: Rollout, words: Words) -> Packed:
    """A trajectory's requests as one tree; what was generated is marked."""
    kept = {(unit.block, unit.thread): unit.attempt for unit in rollout.units if unit.kind == "thread"}
    units = [u for u in rollout.units if u.kind != "thread" or u.attempt == kept[u.block, u.thread]]
    return packing.pack(packing.token_units(units, words.encode, words.end))


def span(config: Any) -> tuple[int, int]:
    """The first step of the stream of problems that an arm sees, and how many it sees."""
    first, more = config.first_steps, config.more_steps
    extra = (first + more, config.self_steps)
    given = {"first": (0, first), "more": (first, more), "both": (0, first + more), "extra": extra}
    return extra if config.kind == "self" else given[config.budget]


class PolicyGradient:
    """P-GRPO: rollouts of each prompt by the present model, rewards, advantages, and one on-policy step."""

    def __init__(self, run: Run, task: Any, counted: dict[str, float]) -> None:
        self.config, self.task, self.words, self.counted = run.config, task, task.words, counted
        self.seed = run.seed("rollouts")
        self.logged: dict[str, float] = {}

    def __call__(self, model: nn.Module, asked: Sequence[tuple[str, str]]) -> Tensor:
        config = self.config
        weaver = Weaver(model.eval(), self.words, config.most, config.closing, config.rl_mode)
        seed = int(np.random.default_rng([self.seed, int(self.counted["problems"])]).integers(1 << 60))
        each = [pair for pair in asked for _ in range(config.rl_rollouts)]
        rollouts = weaver.roll([prompt for prompt, _ in each], Options(temperature=1.0, seed=seed))
        right = torch.tensor(
            [self.task.right(self.task.answer(r.text), t) for r, (_, t) in zip(rollouts, each, strict=True)]
        )
        paths = [critical_path(self.words.encode(rollout.text), self.words.tags) for rollout in rollouts]
        total, longest = (
            torch.tensor([getattr(path, name) for path in paths]).float() for name in ("total", "longest")
        )
        eta = 1 - longest / total.clamp(min=1)
        rewards = grpo.reward(
            right, eta, config.bonus, wrong=config.wrong, rho=config.rho, clip=config.rho_clip
        ).float()
        groups = torch.arange(len(asked)).repeat_interleave(config.rl_rollouts)
        advantage = grpo.advantages(rewards, groups, config.normalise)
        self.logged = {
            "reward": float(rewards.mean()), "correct": float(right.float().mean()), "eta": float(eta.mean()),
            "total": float(total.mean()), "longest": float(longest.mean()),
            "forked": float(np.mean([rollout.forks > 0 for rollout in rollouts])),
        }  # fmt: skip
        trees = [tree(rollout, self.words) for rollout in rollouts]
        count(self.counted, model, trees, len(asked))
        self.counted["flops"] += sum(weaver.flops(rollout) for rollout in rollouts)
        rows = packing.batch(trees, self.words.vocabulary.pad)
        rows = on(rows, model.train())
        told = packing.log_probs(logits(model, rows), rows)
        return grpo.loss(told, rows.loss & (rows.parent >= 0), torch.arange(len(rollouts)), advantage)
