"""Mid-training: the model goes on from the uniform mixture, and drops samples that do not help it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from methods.mobilellm_r1 import corpora, influence
from methods.mobilellm_r1.corpora import CAPABILITIES, CORPORA
from methods.mobilellm_r1.network import Networks, Shape, Weights
from methods.mobilellm_r1.sampler import MixtureSampler
from methods.mobilellm_r1.train import fit, load, save, shape_of
from tycho.adapter import Run
from tycho.lm.training import Recipe

BATCH = 256  # documents whose influence is computed together


def midtrain(run: Run) -> None:
    """Each round draws a pool, drops samples, and trains on what is left.

    Influence is the present model's own, summed over capabilities (unit probing gradients). `random` keeps as many samples
    of a round as `mid_influence` kept. All arms take as many steps of as many documents. Where no sample has a positive
    influence none is dropped, and the metric `keeps_all` says so.
    """
    config, shape = run.config, shape_of(run.config)
    nets = Networks(shape, load(run.inputs["start"].model)[2])
    taken = MixtureSampler([1.0] * len(CORPORA))
    taken.take(config.steps * config.batch)  # what the uniform model has seen
    order = run.rng("drop")
    for turn in range(1, config.rounds + 1):
        corpus, document = taken.take(config.pool)
        ids = torch.from_numpy(corpora.gather(run.seed("data"), corpus, document))
        keep = torch.ones(len(ids), dtype=torch.bool)
        if config.drop == "influence":
            helps = influence_on(nets.weights, shape, ids, config.probed)
            run.count(flops=influence_cost(shape, len(ids), config.probed))
            run.log(turn, mean_influence=float(helps.mean()))
            keep = helps > 0
        elif config.drop == "random":
            keep = torch.zeros(len(ids), dtype=torch.bool)
            keep[torch.from_numpy(order.permutation(len(ids))[: kept_by(run, turn)])] = True
        if not keep.any():
            keep[:] = True
            run.log(turn, keeps_all=1.0)
        run.log(turn, kept=float(keep.sum()), kept_share=float(keep.float().mean()))
        for k, name in enumerate(CORPORA):
            run.log(turn, variant=name, kept_share=float(keep[torch.from_numpy(corpus == k)].float().mean()))
        rows = keep.nonzero()[:, 0]
        chosen = rows[torch.arange(config.mid_steps * config.batch) % len(rows)]
        recipe = Recipe(
            config.mid_steps, config.mid_rate, warmup=5, decay="linear", weight_decay=config.weight_decay,
            betas=(0.9, 0.95), clip=0.0,
        )  # fmt: skip
        last = fit(run, nets, ids[chosen][None], recipe, {config.mid_steps}, resume=False)[config.mid_steps]
    save(run, [""], {config.steps: last})


def kept_by(run: Run, turn: int) -> int:
    """Samples that `mid_influence` kept in a round."""
    rows = run.inputs["sizes"].record("metrics")
    return int(rows[(rows.name == "kept") & (rows.step == turn)].value.item())


def influence_on(weights: Weights, shape: Shape, ids: Tensor, probed: int) -> Tensor:
    """[N] influence of each document on all capabilities together, of one network."""
    weights = {name: value.detach() for name, value in weights.items()}
    probes = [influence.unit(probe) for probe in probe_gradients(weights, shape, probed)]
    parts = [influence.influences(weights, shape, part[None], probes)[0][:, 0].sum(dim=0) for part in ids.split(BATCH)]
    return torch.cat(parts)


def probe_gradients(weights: Weights, shape: Shape, n: int) -> list[dict[str, Tensor]]:
    """The gradients of the capability-probing sets over the last block, in the order of `CAPABILITIES`."""
    found = []
    for capability in CAPABILITIES:
        asked = corpora.held_out(capability, "probing", n)
        ids, counted = torch.from_numpy(asked.ids), torch.from_numpy(np.ascontiguousarray(asked.answers))
        found.append(influence.probe_gradients(weights, shape, ids, counted, shape.last_block()))
    return found


def influence_cost(shape: Shape, documents: int, probed: int, networks: Sequence[str] = ("",)) -> float:
    """FLOPs of the influences of some documents on all capabilities, probing gradients included."""
    tokens, length, probes = documents * corpora.LENGTH, corpora.LENGTH, len(CAPABILITIES)
    asked = probes * shape.training_flops(probed * length, length)
    return len(networks) * (shape.influence_flops(tokens, length, probes) + asked)
