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

from methods.mobilellm_r1 import corpora, influence, network
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
        table = run.inputs["influence"].table("weights").set_index("corpus").weight
        return {"": [float(table[name]) for name in CORPORA]}
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
    corpus, document = MixtureSampler(weights).take(n)
    ids = np.empty((n, corpora.LENGTH), np.int64)
    for k, name in enumerate(CORPORA):
        rows = corpus == k
        if rows.any():
            read = corpora.Corpus(name, run.seed("data")).read(0, int(document[rows].max()) + 1)
            ids[rows] = read.ids[document[rows]]
    return torch.from_numpy(ids)


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


def midtrain(run: Run) -> None:
    """Goes on from the uniform model: each round draws a pool, drops samples, and trains on what is left.

    Influence is the present model's own, summed over capabilities; `random` drops as many samples of each round. All
    arms take as many steps of as many documents.
    """
    config, shape = run.config, shape_of(run.config)
    weights = load(run.inputs["start"].model)[2]
    nets = Networks(shape, weights)
    taken = MixtureSampler([1.0] * len(CORPORA))
    taken.take(run.config.steps * run.config.batch)  # what the uniform model has seen
    order = run.rng("drop")
    kept_all: dict[int, Weights] = {}
    for turn in range(config.rounds):
        corpus, document = taken.take(config.pool)
        ids = torch.from_numpy(
            np.stack([_document(run, CORPORA[k], int(i)) for k, i in zip(corpus, document, strict=True)])
        )
        helps = influence_on(nets.weights, shape, ids, config.probed)
        keep = helps > 0
        share = float(keep.float().mean())
        run.log(turn + 1, kept_share=share, mean_influence=float(helps.mean()))
        for k, name in enumerate(CORPORA):
            run.log(turn + 1, variant=name, kept_share=float(keep[torch.from_numpy(corpus == k)].float().mean()))
        if config.drop == "none":
            keep = torch.ones_like(keep)
        elif config.drop == "random":
            keep = torch.zeros_like(keep)
            keep[torch.from_numpy(order.permutation(len(ids))[: max(1, round(share * len(ids)))])] = True
        rows = keep.nonzero()[:, 0] if keep.any() else torch.arange(len(ids))
        chosen = rows[torch.arange(config.mid_steps * config.batch) % len(rows)]
        recipe = Recipe(config.mid_steps, config.mid_rate, warmup=5, decay="linear", weight_decay=config.weight_decay,
                        betas=(0.9, 0.95), clip=0.0)  # fmt: skip
        kept_all = fit(run, nets, ids[chosen][None], recipe, {config.mid_steps}, resume=False)
    run.metric("kept_share", share)
    save(run, [""], {config.steps: kept_all[config.mid_steps]})


def _document(run: Run, name: str, number: int) -> np.ndarray:
    return corpora.Corpus(name, run.seed("data")).read(number, 1).ids[0]


def influence_on(weights: Weights, shape: Shape, ids: Tensor, probed: int) -> Tensor:
    """[N] influence of each document on all capabilities together, of one network."""
    weights = {name: value.detach() for name, value in weights.items()}
    total = torch.zeros(len(ids))
    probes = probe_sets(weights, shape, probed)
    for start in range(0, len(ids), 256):
        part, _ = influence.influences(weights, shape, ids[None, start : start + 256], probes)
        total[start : start + 256] = part[:, 0].sum(dim=0)
    return total


def probe_sets(weights: Weights, shape: Shape, n: int) -> list[dict[str, Tensor]]:
    """The gradients of the capability-probing sets over the last block."""
    found = []
    for capability in CAPABILITIES:
        asked = corpora.held_out(capability, "probing", n)
        ids, counted = torch.from_numpy(asked.ids), torch.from_numpy(np.ascontiguousarray(asked.answers))
        found.append(influence.probe_gradients(weights, shape, ids, counted, shape.last_block()))
    return found


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
