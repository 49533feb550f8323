"""Training of every arm: several networks as one batch, each on its own exact mixture of the corpora."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from methods.mobilellm_r1 import corpora, network
from methods.mobilellm_r1.corpora import CAPABILITIES, CORPORA
from methods.mobilellm_r1.network import Networks, Shape, Weights
from methods.mobilellm_r1.sampler import MixtureSampler
from tycho.adapter import Run
from tycho.lm.training import Recipe, Trainer

WEIGHTS = "weights.safetensors"
# The oracle's grid over the three right corpora: alike, each twice as much, each half as much.
GRID = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (1, 2, 2), (2, 1, 2), (2, 2, 1)]


def shape_of(config: Any) -> Shape:
    return Shape(len(corpora.WORDS), config.layers, config.width, 4, 2, config.inner)


def mixtures(run: Run) -> dict[str, list[float]]:
    """The arm's mixtures by name, weights in the order of `CORPORA`; "" is the arm's own."""
    kind = run.config.mix
    size = len(CORPORA)
    if kind == "uniform":
        return {"": [1 / size] * size}
    if kind == "clean":
        return {"": [1 / 3] * 3 + [0.0] * (size - 3)}
    if kind == "influence":
        table = run.inputs["influence"].table("weights")
        mine = table[table.reading == run.config.reading].set_index("corpus")
        run.metric("mixture_follows", float(mine.follows.all()))
        return {"": [float(mine.weight[name]) for name in CORPORA]}
    if kind == "random":
        drawn = run.rng("mixture").dirichlet(np.ones(size), run.config.random_mixes)
        return {f"mixture {i}": row.tolist() for i, row in enumerate(drawn)}
    if kind == "oracle":
        return {" ".join(map(str, row)): [w / sum(row) for w in row] + [0.0] * (size - 3) for row in GRID}
    if kind == "specialists":
        return {c: [float(name == corpora.OWN[c]) for name in CORPORA] for c in CAPABILITIES}
    without = {f"without {name}": [float(other != name) for other in CORPORA] for name in CORPORA}
    return {"all": [1.0] * size} | without


def documents(run: Run, weights: Sequence[float], n: int) -> Tensor:
    """[n, 26] the first n documents of a mixture; corpora are the seed's own, alike for all arms."""
    return torch.from_numpy(corpora.gather(run.seed("data"), *MixtureSampler(weights).take(n)))


def pretrain(run: Run) -> None:
    """Trains the arm's networks side by side from the same weights; the oracle keeps the best on validation."""
    config, shape, mixes = run.config, shape_of(run.config), mixtures(run)
    names = list(mixes)
    data = torch.stack([documents(run, weights, config.steps * config.batch) for weights in mixes.values()])
    deviation = 0.8 / shape.width**0.5  # as the other small models start
    first = network.initialise(shape, [run.generator("init") for _ in names], deviation)
    at = {round(config.steps * t / config.checkpoints) for t in range(1, config.checkpoints + 1)}
    if config.mix != "specialists":
        at = {config.steps}
    recipe = Recipe(
        config.steps, config.learning_rate, warmup=min(20, config.steps // 4), decay="linear", floor=0.1,
        weight_decay=config.weight_decay, betas=(0.9, 0.95), clip=0.0,
    )  # fmt: skip
    kept = fit(run, Networks(shape, first), data, recipe, at)
    for name, weights in mixes.items():
        for corpus, weight in zip(CORPORA, weights, strict=True):
            if name == "" or config.mix == "random":
                run.metric("weight", weight, variant=" · ".join(part for part in (name, corpus) if part))
    last = kept[config.steps]
    if config.mix == "oracle":
        losses = validation_losses(last, shape, config.validated)
        best = int(losses.argmin())
        run.metric("chosen", best)
        for corpus, weight in zip(CORPORA, mixes[names[best]], strict=True):
            run.metric("weight", weight, variant=corpus)
        last, names = {name: value[best : best + 1] for name, value in last.items()}, [""]
        kept = {config.steps: last}
    save(run, names, kept)


def fit(
    run: Run, nets: Networks, data: Tensor, recipe: Recipe, at: set[int], *, resume: bool = True
) -> dict[int, Weights]:
    """Trains [R] networks on data [R, steps · batch, 26] and returns their weights at the steps `at`."""
    batch = run.config.batch
    trainer = Trainer(
        nets,
        lambda step: data[:, step * batch : (step + 1) * batch],
        lambda model, ids: network.document_losses(model(ids), ids).mean(-1).sum(),
        recipe,
    )
    kept: dict[int, Weights] = {}
    restored = run.restore() if resume else None
    if restored:
        trainer.restore(restored[1]["trainer"])
        kept = {int(step): dict(weights) for step, weights in restored[1]["kept"].items()}
    for point in run.progress(trainer, f"{len(data)} networks", total=recipe.steps, start=trainer.step):
        if resume and (point.step % 20 == 0 or point.step == recipe.steps):
            run.log(point.step, loss=point.loss / len(data))
        if point.step in at:
            kept[point.step] = {name: value.detach().clone() for name, value in nets.weights.items()}
        if resume:
            run.checkpoint(point.step, lambda: {"trainer": trainer.state(), "kept": kept})
    flops = nets.shape.training_flops(recipe.steps * batch * corpora.LENGTH, corpora.LENGTH)
    run.count(flops=len(data) * flops)
    return kept


@torch.no_grad()
def validation_losses(weights: Weights, shape: Shape, n: int) -> Tensor:
    """[R] mean over capabilities of the loss on what a skill determines, on the validation sets."""
    total = 0.0
    for capability in CAPABILITIES:
        total = total + losses(weights, shape, corpora.held_out(capability, "validation", n))[0].mean(dim=1)
    return total / len(CAPABILITIES)


@torch.no_grad()
def losses(weights: Weights, shape: Shape, asked: corpora.Documents) -> tuple[Tensor, Tensor]:
    """([R, N] loss over the answers of each document, [R, N] bool: all its answers are the likeliest tokens)."""
    ids = torch.from_numpy(asked.ids)
    answers = torch.from_numpy(np.ascontiguousarray(asked.answers))
    count = len(weights["model.embed_tokens.weight"])
    logits = network.forward(weights, shape, ids.expand(count, *ids.shape))
    loss = network.document_losses(logits, ids.expand(count, *ids.shape), answers.expand(count, *ids.shape))
    right = (logits[:, :, :-1].argmax(-1) == ids[:, 1:]) | ~answers[:, 1:]
    return loss, right.all(dim=-1)


def save(run: Run, names: list[str], kept: dict[int, Weights]) -> None:
    tensors = {
        f"{step}/{name}": value.contiguous() for step, weights in kept.items() for name, value in weights.items()
    }
    # One entry: the order of several is not the same from one file to the next.
    metadata = {"about": json.dumps({"networks": names, "steps": sorted(kept)})}
    run.save_model(lambda folder: save_file(tensors, folder / WEIGHTS, metadata=metadata))


def load(folder: Path) -> tuple[list[str], list[int], Weights]:
    """(networks' names, steps kept, weights at the last step)."""
    from safetensors import safe_open

    with safe_open(folder / WEIGHTS, framework="pt") as handle:
        about = json.loads(handle.metadata()["about"])
    return about["networks"], about["steps"], at_step(folder, about["steps"][-1])


def at_step(folder: Path, step: int) -> Weights:
    """All networks' weights at a kept step."""
    return {
        name.partition("/")[2]: value.clone()
        for name, value in load_file(folder / WEIGHTS).items()
        if name.startswith(f"{step}/")
    }
