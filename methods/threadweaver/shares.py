"""Supervised training of a model that does not fit one GPU: processes share the weights and deal out a step's trees, one at a time.

A step is that of `train.train`: the mean is over the learnt tokens of the whole batch, whichever process has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from methods.threadweaver import packing
from methods.threadweaver.packing import Packed
from methods.threadweaver.problems import problems
from methods.threadweaver.serve import Weaver
from methods.threadweaver.train import TILED, are_right, forks, on, span, start, supervised
from tycho.adapter import JobView, Run
from tycho.errors import TychoError
from tycho.keys import JobKey, derive_seed
from tycho.lm import small
from tycho.lm.sharded import ShardedTrainer, added, from_first, in_turns, leading


@dataclass(frozen=True)
class Beside:
    """What a process beside the first knows of the run: all that it reads, and no way to record."""

    key: JobKey
    config: Any
    inputs: Mapping[str, JobView]
    device: str

    def seed(self, axis: str) -> int:
        return derive_seed(axis, self.key)


def train(run: Run) -> None:
    config = run.config
    if config.kind != "sft":
        raise TychoError(
            f"{run.key}: self-training and P-GRPO write with the model that they train, which over several processes needs"
            " a server (docs/paper-scale.md): `processes: 1`, and a model that fits one GPU"
        )
    if run.key.task != "own":
        raise TychoError(f"{run.key}: `processes` share a pretrained model (task own); the common ground's are small")
    beside = Beside(run.key, config, run.inputs, run.device)
    with leading(config.processes, run.device, follow, beside) as device:
        together(run, device)


def follow(device: torch.device, beside: Beside) -> None:
    together(beside, device)


class Likelihood(nn.Module):
    """A causal model of transformers whose forward pass is the loss, so that nothing of the model is called from outside."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tree: Packed) -> Tensor:
        """-log p, added up over what a tree [1, N] learns."""
        states = self.model.model(
            input_ids=tree.tokens, position_ids=tree.position, last=tree.last, use_cache=False
        ).last_hidden_state
        return packing.surprise(states[0], self.model.lm_head, Packed(*(field[0] for field in tree)))


def together(run: Run | Beside, device: torch.device) -> None:
    """What every process does; the first one, which has the Run, reads the checkpoint, writes and records."""
    config, task = run.config, problems(run.key.task, run.config)
    first = run if isinstance(run, Run) else None
    model = in_turns(lambda: start(run, task).to(device))
    layers = getattr(getattr(model, "model", None), "layers", None)
    if layers is None or not hasattr(model, "lm_head"):
        raise TychoError(f"{config.model} has no `model.layers` and `lm_head`, by which processes share a model")
    # Queries in tiles whatever the length: layers are computed again in the backward pass, under the same attention.
    model.set_attn_implementation(TILED)
    model.activation_checkpointing_enable({"use_reentrant": False})
    counted = {"problems": 0.0, "tokens": 0.0, "flops": 0.0}
    validation = task.items(config.validation_items, "validation")

    def accuracy(whole: Likelihood) -> float:
        """Each process asks its share of the items, one after the other: their rows would not fit beside the weights."""
        whole.model.set_attn_implementation("sdpa")
        weaver = Weaver(whole.model, task.words, config.most, config.closing)
        mine = validation.iloc[torch.distributed.get_rank() :: config.processes]
        found = [are_right(weaver, task, mine[place : place + 1], config.temperature)[0] for place in range(len(mine))]
        return added(sum(found)) / len(validation)

    trainer = ShardedTrainer(
        Likelihood(model),
        dealt(run, task, model, counted),
        lambda net, batch: net(on(batch[0], net)) * batch[1],
        supervised(config, span(config)[1], accumulate=config.batch, bf16=config.bf16),
        parts=layers,
        validate=accuracy,
        validate_every=config.validate_every,
    )
    perfect, restored = 0, first and first.restore()
    if from_first(restored is not None):
        trainer.restore(restored and restored[1]["trainer"])
        perfect = from_first(restored and restored[1]["perfect"])
    if restored:
        counted.update(restored[1]["counted"])
    steps = first.progress(trainer, "steps", total=trainer.recipe.steps, start=trainer.step) if first else trainer
    for point in steps:
        if first and (point.step % config.log_every == 0 or point.score is not None):
            first.log(point.step, loss=point.loss, norm=point.norm, **counted)
        if point.score is not None:
            perfect = perfect + 1 if point.score == 1 else 0
            if first:
                first.log(point.step, validation_accuracy=point.score)
        if perfect >= config.stop_after:
            break
        if from_first(first and first.due):
            state = {"counted": counted, "perfect": perfect, "trainer": trainer.state()}
            if first:
                first.checkpoint(point.step, lambda state=state: state)
    chosen = trainer.keep_best()
    with trainer.gathered() as whole:
        if first:
            first.metric("chosen_step", chosen)
            first.metric("steps", trainer.step)
            for name in ("problems", "tokens"):
                first.metric(f"trained_{name}", counted[name])
            first.count(flops=counted["flops"])
            first.save_model(lambda folder: small.save(whole.model, task.words.vocabulary.tokenizer(), folder))


def dealt(
    run: Run | Beside, task: Any, model: nn.Module, counted: dict[str, float]
) -> Callable[[int], tuple[Packed, float]]:
    """By place in the stream of trees: a tree [1, N], and what its sum counts in the mean of its batch of B, B / learnt tokens."""
    size, stream = run.config.batch, forks(run, task, model, counted)

    @lru_cache(maxsize=1)
    def batch(step: int) -> tuple[list[Packed], float]:
        trees = stream(step)
        return trees, size / sum(int(packing.learnt(tree).sum()) for tree in trees)

    def at(place: int) -> tuple[Packed, float]:
        trees, weight = batch(place // size)
        return packing.batch([trees[place % size]]), weight

    return at
