"""Trainings that the probes need beside Coconut's own: an untied output layer, and other labels of the stages.

All use Coconut's idea modules, its stream of examples and its recipe; what differs is one thing each.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from methods.coconut import thoughts
from methods.coconut import train as coconut
from methods.coconut.data import problem
from methods.coconut.model import Thinker, find_marks
from methods.coconut.values import graphs_of
from tycho.adapter import Run
from tycho.lm.examples import IGNORED, Batch, Examples
from tycho.lm.training import Trainer
from tycho.lm.vocabulary import Vocabulary
from tycho.tasks import common
from tycho.tasks.graphs import Graphs

# What these arms leave as it is, under the names that Coconut's modules read.
FIXED = {
    "schedule": "stages", "fill": "thoughts", "marks": False, "per_step": 1, "remove_all": False, "smoothing": 0.0,
    "start_steps": 0, "model": "", "data": None, "layers": None, "family": "gpt2", "test_items": 1,
}  # fmt: skip


def train(run: Run) -> None:
    config = SimpleNamespace(**run.config.model_dump() | FIXED)
    ground = common.ground(run.key.task)
    task = problem(run.key.task, config, data=run.seed("data"), order=run.seed("order"), init=run.seed("init"))
    model = ground.base(run.seed("init"), tied=config.tied).to(run.device)
    thinker = Thinker(model, task.tokenizer, "thoughts", config.latent_steps, False)
    make = coconut.batches(config, task, find_marks(task.tokenizer), run.seed("mix"))
    if config.labels == "breadth_first":
        make = breadth_first(make, task.batches, ground.words, run.seed("labels"))

    def score(_: nn.Module) -> float:
        return coconut.score(thinker, task, config, trainer.step)

    trainer = Trainer(
        model,
        lambda step: coconut.on(make(step), run.device),
        lambda model, batch: thoughts.loss(model, *batch),
        coconut.recipe(config),
        validate=score,
        validate_every=config.validate_every,
        seed=run.seed("dropout"),
    )
    perfect = 0
    restored = run.restore()
    if restored:
        trainer.restore(restored[1]["trainer"])
        perfect = restored[1]["perfect"]
    for point in run.progress(trainer, "steps", total=config.steps, start=trainer.step):
        if point.step % config.log_every == 0 or point.score is not None:
            run.log(point.step, loss=point.loss, stage=coconut.stage(config, point.step - 1))
        if point.score is not None:
            run.log(point.step, validation_accuracy=point.score)
            perfect = perfect + 1 if point.score == 1 else 0
            if perfect >= config.stop_after:
                break
        run.checkpoint(point.step, lambda perfect=perfect: {"trainer": trainer.state(), "perfect": perfect})
    run.metric("chosen_step", trainer.keep_best())
    run.metric("steps", trainer.step)
    run.metric("validation_accuracy", trainer.best["score"])
    run.save_model(thinker.save)


def breadth_first(
    make: Callable[[int], tuple[Batch, Tensor]], examples: Callable[[int], Examples], words: Vocabulary, seed: int
) -> Callable[[int], tuple[Batch, Tensor]]:
    """Batches of Coconut's sparse rule in which the one label of stage i is any node i + 1 hops from the root."""

    def relabelled(step: int) -> tuple[Batch, Tensor]:
        batch, latent = make(step)
        graphs = graphs_of(examples(step), words)
        hop = latent.sum(dim=1).numpy() + 1
        return batch._replace(
            labels=relabel(batch.labels, graphs, hop, words, np.random.default_rng([seed, step]))
        ), latent

    return relabelled


def relabel(labels: Tensor, graphs: Graphs, hop: np.ndarray, words: Vocabulary, rng: np.random.Generator) -> Tensor:
    """Labels [n, L] with a single one a row replaced by a uniform node `hop` [n] hops from the root; rows with more labels
    (the last stage's answers) stay."""
    candidates = graphs.from_root == hop[:, None]
    drawn = np.where(candidates, rng.random(candidates.shape), -1.0).argmax(axis=1)
    single = (labels != IGNORED).sum(dim=1) == 1
    node: Any = torch.from_numpy(words.node(drawn))
    return torch.where((labels != IGNORED) & single[:, None], node[:, None], labels)
