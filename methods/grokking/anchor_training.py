"""Full-batch training of an anchor's network, by autograd; resumes bit for bit.

The state is one flat dict of tensors: parameters by name, "epoch", and "memory.*" of the optimiser and of Grokfast.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from methods.grokking import anchors
from methods.grokking.optimisers import OPTIMISERS
from tycho.adapter import Run

BETAS = (0.9, 0.98)  # of Grokfast and Nanda; 2501.04697 has (0.9, 0.99)
# Without decay gradients fall below Adam's usual 1e-8, which then stops the training; 2501.04697 has 1e-25, whose square
# roots float32 cannot hold.
EPSILON = 1e-15


class Point(NamedTuple):
    """Measured before the step of `epoch`. `state` is live: copy it to keep it."""

    epoch: int
    values: dict[str, float]
    state: dict[str, Tensor]


def parameters_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name != "epoch" and not name.startswith("memory.")}


def train(
    state: dict[str, Tensor],
    seen: Tensor,
    unseen: Tensor,
    epochs: int,
    evaluate_at: Collection[int],
    model: str,
    loss: str,
    gradient: str,
    optimiser: str,
    rate: float,
    decay: float,
) -> Iterator[Point]:
    """From `state["epoch"]` to `epochs`; `seen` and `unseen` are rows (left, right, target). Yields as `training.train`."""
    forward = anchors.NETWORKS[model][1]
    memory = {name.removeprefix("memory."): v for name, v in state.items() if name.startswith("memory.")}
    parameters = {name: value.requires_grad_() for name, value in parameters_of(state).items()}
    for epoch in range(int(state["epoch"]), epochs + 1):
        if epoch in evaluate_at:
            yield Point(epoch, _measured(forward, parameters, seen, unseen, loss), state)
        if epoch == epochs:
            break
        value = anchors.cross_entropy(forward(parameters, seen[:, 0], seen[:, 1]), seen[:, 2], loss)
        found = dict(zip(parameters, torch.autograd.grad(value, list(parameters.values())), strict=True))
        with torch.no_grad():
            if gradient == "grokfast":
                found = anchors.grokfast(found, memory)
            elif gradient == "orthogonal":
                found = {name: anchors.orthogonal(slope, parameters[name]) for name, slope in found.items()}
            OPTIMISERS[optimiser](parameters, found, memory, rate, decay, BETAS, EPSILON)
        state["epoch"] = torch.tensor(epoch + 1)
        state.update({f"memory.{name}": part for name, part in memory.items()})


@torch.no_grad()
def _measured(forward, parameters: dict[str, Tensor], seen: Tensor, unseen: Tensor, loss: str) -> dict[str, float]:
    values = {}
    for part, rows in (("train", seen), ("test", unseen)):
        logits = forward(parameters, rows[:, 0], rows[:, 1])
        values[f"{part}_accuracy"] = float((logits.argmax(dim=1) == rows[:, 2]).float().mean())
        values[f"{part}_loss"] = float(anchors.cross_entropy(logits.double(), rows[:, 2], loss))
    return values


def run_training(run: Run) -> None:
    """The train stage of an anchor's arm."""
    from safetensors.torch import save_file

    from methods.grokking.training import schedule
    from tycho.tasks import groups

    config = run.config
    group = groups.group(run.key.task)
    table = groups.pairs(group)
    seen, unseen = (table[rows] for rows in groups.split(len(table), config.train_pairs, run.generator("split")))
    restored = run.restore()
    if restored:
        state, kept = restored[1]["state"], restored[1]["kept"]
    else:
        start = anchors.NETWORKS[config.network][0](group.order, config.width, run.generator("init"))
        state, kept = start | {"epoch": torch.tensor(0)}, {}
    at = sorted({*schedule(config.epochs, every=config.evaluate_every), *config.snapshots, config.epochs})
    left = [epoch for epoch in at if epoch <= config.epochs and (epoch > int(state["epoch"]) or not restored)]
    loop = train(
        state, seen, unseen, config.epochs, left, config.network, config.loss, config.gradient, config.optimiser,
        config.learning_rate, config.weight_decay,
    )  # fmt: skip
    for point in run.progress(loop, total=len(at), start=len(at) - len(left)):
        run.log(point.epoch, **point.values)
        if point.epoch in config.snapshots or point.epoch == config.epochs:
            for name, value in parameters_of(point.state).items():
                kept[f"{point.epoch}/{name}"] = value.detach().clone()
        run.checkpoint(point.epoch, lambda: {"state": {n: v.detach() for n, v in state.items()}, "kept": kept})
    run.save_model(lambda folder: save_file(kept, folder / "snapshots.safetensors"))
