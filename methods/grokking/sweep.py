"""Many networks in one program: sweeps of train size, width, decay, rate, initial scale, optimiser and activation.

Networks that can share a batch (width, optimiser, activation) train together; one that has generalised leaves it. A
network that has not by the last epoch is censored: it might have later.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from methods.grokking import network, training
from tycho.adapter import Run
from tycho.keys import setting
from tycho.tasks import groups

GROKKED, FITTED = (
    0.99,
    0.99,
)  # test accuracy at which a network leaves the batch; training accuracy that counts as fitted
DELAYED = 0.95  # test accuracy whose first epoch is recorded
SHARED = ("width", "optimiser", "activation")  # what a batch has in common


class Network(NamedTuple):
    """One network of a sweep: where it stands, and the knobs it trains with."""

    where: str
    pairs: int
    knobs: dict[str, Any]


def points(config: Any, order: int) -> list[Network]:
    """The sweep's networks: every combination of the swept knobs over the job's own.

    `ratio` r sets the train size to r M ln M, `width_ratio` the width to that multiple of M.
    """
    found = []
    for values in itertools.product(*config.sweep.values()):
        swept = dict(zip(config.sweep, values, strict=True))
        knobs = {name: swept.get(name, getattr(config, name)) for name in (*SHARED, "learning_rate", "weight_decay")}
        knobs["output_scale"] = swept.get("output_scale", config.output_scale)
        if config.width_ratio:
            knobs["width"] = round(config.width_ratio * order)
        pairs = config.train_pairs if "ratio" not in swept else round(swept["ratio"] * order * math.log(order))
        found.append(Network(setting(**swept), min(int(swept.get("train_pairs", pairs)), order**2 - 1), knobs))
    return found


def sweep(run: Run) -> None:
    """Trains every network of the job's sweep with the job's seed, and records when each fitted and generalised."""
    config = run.config
    group = groups.group(run.key.task)
    every = points(config, group.order)
    batches: dict[tuple, list[Network]] = {}
    for one in every:
        batches.setdefault(tuple(one.knobs[name] for name in SHARED), []).append(one)
    restored = run.restore()
    kept = restored[1] if restored else {"done": 0, "ends": {}}
    for number, together in enumerate(batches.values()):
        if number >= kept["done"]:
            train(run, group, sorted(together, key=lambda one: one.pairs), kept)
            kept = {"done": number + 1, "ends": kept["ends"]}
    for one in every:
        end = kept["ends"][one.where]
        for name in ("test_accuracy", "train_accuracy"):
            run.metric(name, end[name], setting=one.where)
        for name in ("epochs_to_test", "epochs_to_train"):
            run.metric(name, max(abs(end[name]), 1.0), setting=one.where, censored=end[name] < 0)
        run.metric("train_pairs", one.pairs, setting=one.where)


def train(run: Run, group: groups.Group, together: list[Network], kept: dict[str, Any]) -> None:
    """One batch to its end; `kept["ends"]` gets a network's end when it leaves. Epochs that never came are negative."""
    config, ends = run.config, kept["ends"]
    rows = [groups.split(group.order**2, one.pairs, run.generator("split")) for one in together]
    table = groups.pairs(group)
    if "state" in kept:
        state, left = kept["state"], list(kept["left"])
        first = {name: dict(found) for name, found in kept["first"].items()}
    else:
        width = together[0].knobs["width"]
        weights = network.initialise(group.order, width, [run.generator("init") for _ in together])
        scale = torch.tensor([one.knobs["output_scale"] for one in together])[:, None, None]
        state = training.start({"W": weights["W"], "V": weights["V"] * scale})
        left, first = list(range(len(together))), {"train": {}, "test": {}}
    at = training.schedule(config.epochs, dense=10, every=config.evaluate_every, per_decade=20)
    measured = -1
    while left:
        seen, unseen = (network.examples(table, [rows[i][part] for i in left]) for part in (0, 1))
        rates, decays = (_each(together, left, name) for name in ("learning_rate", "weight_decay"))
        ahead = [epoch for epoch in at if epoch >= int(state["epoch"]) and epoch > measured]
        shared = {name: together[0].knobs[name] for name in ("optimiser", "activation")}
        loop = training.train(state, seen, unseen, config.epochs, ahead, rates, decays, centre=config.centre, **shared)
        for point in run.progress(loop, f"{len(left)} of {len(together)} networks", total=len(ahead)):
            measured = point.epoch
            gone = _note(point, together, left, first, ends, config.epochs)
            run.checkpoint(
                point.epoch, lambda: kept | {"state": state, "left": left, "first": first, "ends": ends}  # noqa: B023
            )  # fmt: skip
            if gone.any():
                stay = (~gone).nonzero()[:, 0]
                state = training.select(state, stay)
                left = [left[i] for i in stay.tolist()]
                break
        else:
            return


def _note(point: training.Evaluation, together: list[Network], left: list[int], first, ends, epochs: int) -> Tensor:
    """[R] bool: networks that are done. Notes when each first fitted and generalised."""
    gone = (point.test_accuracy >= GROKKED) | torch.full_like(point.test_accuracy, point.epoch == epochs).bool()
    for row, index in enumerate(left):
        name = together[index].where
        for part, level in (("train", FITTED), ("test", DELAYED)):
            if float(getattr(point, f"{part}_accuracy")[row]) >= level:
                first[part].setdefault(name, point.epoch)
        if gone[row]:
            ends[name] = {
                "test_accuracy": float(point.test_accuracy[row]),
                "train_accuracy": float(point.train_accuracy[row]),
                "epochs_to_test": first["test"].get(name, -point.epoch),
                "epochs_to_train": first["train"].get(name, -point.epoch),
            }
    return gone


def _each(together: list[Network], left: list[int], name: str) -> Tensor:
    """A knob of the networks that are left, to broadcast over their weights."""
    return torch.tensor([together[i].knobs[name] for i in left], dtype=torch.float64)[:, None, None]


def crossing(size: list[float], accuracy: list[float], level: float = 0.5) -> float:
    """Train size at which accuracy first passes `level`, linearly between neighbours; nan where it never does.

    The largest size still below counts, so that a lucky run at a small size does not move the boundary.
    """
    order = sorted(range(len(size)), key=lambda i: size[i])
    sizes, values = [size[i] for i in order], [accuracy[i] for i in order]
    below = [i for i, value in enumerate(values) if value < level]
    if not below or below[-1] + 1 == len(values):
        return math.nan
    i = below[-1]
    share = (level - values[i]) / (values[i + 1] - values[i])
    return sizes[i] + share * (sizes[i + 1] - sizes[i])
