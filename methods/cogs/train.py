"""All points of a job, one after another, each a batch of networks of consecutive seeds."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from methods.cogs import pruning, snapshots
from methods.cogs.method import network_seeds, points
from methods.grokking import network, training
from tycho.adapter import Run
from tycho.keys import derive_seed, setting
from tycho.tasks import groups


def train(run: Run) -> None:
    # Weights of dead nodes decay into denormal numbers, with which products are many times slower.
    torch.set_flush_denormal(True)
    restored = run.restore()
    saved = restored[1] if restored else {"place": 0, "state": None, "kept": {}}
    state, kept = saved["state"], saved["kept"]
    for place, point in list(enumerate(points(run.config)))[saved["place"] :]:
        _train_point(run, place, point, state, kept)
        state = None
    run.save_model(lambda folder: snapshots.save(kept, folder))


def _train_point(
    run: Run,
    place: int,
    point: dict[str, Any],
    state: dict[str, Tensor] | None,
    kept: dict[str, dict[str, Tensor]],
) -> None:
    """One point of the sweep, from `state` or the start; what is to be kept goes into `kept`."""
    config, seeds = run.config.model_copy(update=point), network_seeds(run)
    epochs = config.horizons[-1]
    keep = {*config.horizons, *([] if point else [epoch for epoch in config.snapshots if epoch <= epochs])}
    at = sorted({*training.schedule(epochs, every=config.evaluate_every), *keep})
    done = -1 if state is None else int(state["epoch"])
    left = [epoch for epoch in at if epoch > done]
    seen, unseen = examples(run)
    if state is None:
        state = training.start(initial_weights(run, config.width))
    before, width = int(state["epoch"]), state["V"].shape[1]
    loop = pruning.train(state, seen, unseen, epochs, left, config.learning_rate, config.weight_decay)
    for found in run.progress(loop, setting(**point), total=len(at), start=len(at) - len(left)):
        for i, seed in enumerate(seeds):
            run.log(
                found.epoch,
                seed=seed,
                setting=setting(**point),
                train_accuracy=float(found.train_accuracy[i]),
                train_loss=float(found.train_loss[i]),
                test_accuracy=float(found.test_accuracy[i]),
                test_loss=float(found.test_loss[i]),
            )
        step = len(seeds) * network.step_flops(seen.left.shape[1], width, found.state["V"].shape[2])
        run.count(flops=(found.epoch - before) * step)
        before, width = found.epoch, found.state["V"].shape[1]
        if found.epoch in keep:
            where = setting(epochs=found.epoch, **point)
            kept[where] = {name: found.state[name].clone() for name in ("W", "V")}
        run.checkpoint(found.epoch, lambda state=found.state: {"place": place, "state": state, "kept": kept})


def _generators(run: Run, axis: str) -> list[torch.Generator]:
    keys = [dataclasses.replace(run.key, seed=seed) for seed in network_seeds(run)]
    return [torch.Generator().manual_seed(derive_seed(axis, key)) for key in keys]


def initial_weights(run: Run, width: int) -> dict[str, Tensor]:
    """{"W" [R, 2d, q], "V" [R, q, d]}, W ~ U(±1/√d): the code of the paper had one layer of d inputs an operand."""
    weights = network.initialise(groups.group(run.key.task).order, width, _generators(run, "init"))
    return weights | {"W": weights["W"] * 2**0.5}


def examples(run: Run) -> tuple[network.Examples, network.Examples]:
    """Training and test examples, one split a network."""
    group = groups.group(run.key.task)
    size = group.order**2
    learnt = size - math.ceil(run.config.test_share * size)
    rows = [groups.split(size, learnt, generator) for generator in _generators(run, "split")]
    table = groups.pairs(group)
    return network.examples(table, [seen for seen, _ in rows]), network.examples(table, [rest for _, rest in rows])
