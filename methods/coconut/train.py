"""Training of every arm by one loop and one recipe; what differs is the batch an arm makes of the same examples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods.coconut import curriculum, thoughts
from methods.coconut.curriculum import FAR, Stages
from methods.coconut.data import Problem, problem
from methods.coconut.model import Thinker, find_marks
from methods.coconut.thoughts import Marks
from tycho.adapter import Run
from tycho.keys import setting
from tycho.lm.examples import Batch, Examples
from tycho.lm.training import Recipe, Trainer

Batches = Callable[[int], tuple[Batch, Tensor]]


def train(run: Run) -> None:
    """Trains the arm's model, and one more for each depth of the sweep."""
    config, task = run.config, problem_of(run)
    points = [None, *config.depths]
    restored = run.restore()
    state = restored[1] if restored else {"done": []}
    done: list[dict[str, Tensor]] = list(state["done"])  # weights of the points that are trained
    for layers in points[len(done) :]:
        thinker = new_thinker(run, task, layers)
        steps(run, task, thinker, layers, done, state if "trainer" in state else None)
        state = {}
        done.append(dict(thinker.model.state_dict()))

    def save(folder: Path) -> None:
        for layers, weights in zip(points, done, strict=True):
            thinker = new_thinker(run, task, layers)
            thinker.model.load_state_dict(weights)
            thinker.save(folder if layers is None else folder / point(layers))

    run.save_model(save)


def point(layers: int | None) -> str:
    """A point of the depth sweep, as settings and folders name it; the arm's own depth has no name."""
    return "" if layers is None else setting(layers=layers)


def new_thinker(run: Run, task: Problem, layers: int | None) -> Thinker:
    """The arm's model before training: the base model, or that of the arm it goes on from."""
    config = run.config
    if "start" in run.inputs:
        model = Thinker.load(run.inputs["start"].model / point(layers)).model
    else:
        model = task.base(layers)
    return Thinker(model.to(run.device), task.tokenizer, config.fill, final_thoughts(config), config.marks)


def steps(
    run: Run, task: Problem, thinker: Thinker, layers: int | None, done: list[dict[str, Tensor]], state: dict | None
) -> None:
    """One training, in place, with curves and checkpoints; the model ends as the one of its best validation."""
    config, where, before = run.config, point(layers), run.config.start_steps
    make = batches(config, task, find_marks(task.tokenizer), run.seed("mix"))
    trainer = Trainer(
        thinker.model,
        lambda step: on(make(step + before), run.device),
        lambda model, batch: thoughts.loss(model, *batch),
        recipe(config),
        validate=lambda _: score(thinker, task, config, trainer.step + before),
        validate_every=config.validate_every,
        seed=run.seed("dropout"),
    )
    perfect = 0
    if state is not None:
        trainer.restore(state["trainer"])
        perfect = state["perfect"]
    for at in run.progress(trainer, f"steps {where}", total=config.steps - before, start=trainer.step):
        step, now = at.step + before, stage(config, at.step + before - 1)
        if at.step % config.log_every == 0 or at.score is not None:
            run.log(step, setting=where, loss=at.loss, rate=at.rate, norm=at.norm, stage=now)
        if at.score is not None and settled(config, step - 1):
            run.log(step, setting=where, validation_accuracy=at.score)
            perfect = perfect + 1 if at.score == 1 else 0
            if perfect >= config.stop_after:
                break
        if config.reset_optimizer and stage(config, step) != now:
            trainer.reset_optimizer()
        run.checkpoint(at.step, lambda perfect=perfect: {"trainer": trainer.state(), "perfect": perfect, "done": done})
    run.metric("chosen_step", trainer.keep_best() + before, setting=where)
    run.metric("steps", trainer.step + before, setting=where)


def batches(config: Any, task: Problem, marks: Marks, seed: int) -> Batches:
    """Training batches by step, as the arm composes them: (batch, where the thoughts are)."""
    found = Stages(config.latent_steps, config.per_step, config.remove_all)
    longest = int(task.validation.step_length.sum(dim=1).max())

    def make(step: int) -> tuple[Batch, Tensor]:
        examples, rng = task.batches(step), np.random.default_rng([seed, step])
        if config.schedule == "tokens":
            removed = curriculum.removed_tokens(
                step, config.first_steps, removal_steps(config), longest, len(examples), config.smoothing, rng
            )
            batch = curriculum.without_tokens(examples, removed)
            return batch, torch.zeros_like(batch.mask)
        mix = config.mix if config.schedule == "stages" else 0.0
        now = curriculum.mixed(stage(config, step), examples.step_counts, mix, rng)
        skip = torch.full_like(now, FAR) if config.schedule == "no_trace" else found.dropped(now)
        batch, latent = curriculum.compose(examples, skip, found.thoughts(now), config.fill, marks, marked=config.marks)
        return (batch if config.dense else curriculum.only_next(batch, examples, skip)), latent

    return make


def stage(config: Any, step: int) -> int:
    """The stage of a training step. Without a curriculum the last one from the start; whole traces are stage 0."""
    if config.schedule == "stages":
        return curriculum.stage_at(step, config.first_steps, config.stage_steps, last_stage(config))
    return last_stage(config)


def last_stage(config: Any) -> int:
    return config.latent_steps + config.remove_all if config.schedule in ("stages", "last") else 0


def removal_steps(config: Any) -> int:
    """Steps over which iCoT removes the trace: those that Coconut spends between its first stage and its last."""
    return max(1, (config.latent_steps + config.remove_all - 1) * config.stage_steps)


def settled(config: Any, step: int) -> bool:
    """Whether a training step is one of the arm's last stage, that is, trains what will be evaluated."""
    if config.schedule == "tokens":
        return step >= config.first_steps + removal_steps(config)
    return stage(config, step) == last_stage(config)


def final_thoughts(config: Any) -> int:
    """Thoughts (or pauses) of the last stage."""
    thinks = config.schedule in ("stages", "last") and config.fill != "nothing"
    return config.latent_steps * config.per_step if thinks else 0


# --- the rest of a run -------------------------------------------------------------------------------------------------


def problem_of(run: Run) -> Problem:
    return problem(run.key.task, run.config, data=run.seed("data"), order=run.seed("order"), init=run.seed("init"))


def recipe(config: Any) -> Recipe:
    return Recipe(
        steps=config.steps - config.start_steps,
        rate=config.learning_rate,
        warmup=config.warmup,
        decay=config.decay,
        hold=config.hold,
        weight_decay=config.weight_decay,
        betas=(0.9, config.beta2),
        clip=config.clip,
    )


def score(thinker: Thinker, task: Problem, config: Any, step: int) -> float:
    """Validation accuracy; -1 before the last stage, whose checkpoints alone are candidates."""
    if not settled(config, step - 1):
        return -1.0
    return accuracy(thinker, task, task.validation, config.most)


def accuracy(thinker: Thinker, task: Problem, examples: Examples, most: int, thoughts: int | None = None) -> float:
    """Share of examples whose answer, read out of what the model writes, is the wanted one."""
    prompts = [row[:n].tolist() for row, n in zip(examples.prompt, examples.prompt_length, strict=True)]
    written = thinker.answer_all(prompts, most=most, thoughts=thoughts)
    right = [task.read(task.text(ids)) == task.target(examples, row) for row, (ids, _) in enumerate(written)]
    return sum(right) / len(right)


def on(pair: tuple[Batch, Tensor], device: str) -> tuple[Batch, Tensor]:
    batch, latent = pair
    return Batch(*(part.to(device) for part in batch)), latent.to(device)
