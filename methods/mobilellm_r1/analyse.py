"""The specialists' verdict: influence of every corpus on every capability, and the mixtures that follow."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from methods.mobilellm_r1 import corpora, influence
from methods.mobilellm_r1.corpora import CAPABILITIES, CORPORA
from methods.mobilellm_r1.midtrain import influence_cost, probe_gradients
from methods.mobilellm_r1.train import at_step, load, shape_of
from tycho.adapter import Run

READING = "unit"  # the one whose numbers have no reading in their name


def specialists(run: Run) -> None:
    """Influences of a sample of each corpus at each checkpoint of each specialist; weights by their positive parts.

    Where no corpus has a positive score no mixture follows: the table then has the uniform one, and `mixture_follows` is 0.
    """
    config, shape = run.config, shape_of(run.config)
    names, steps, _ = load(run.job.model)
    sample = [_sample(run, name, config.sampled) for name in CORPORA]
    products = torch.zeros(len(names), len(CAPABILITIES), len(steps), len(CORPORA), config.sampled)
    lengths = torch.zeros(len(names), len(CAPABILITIES), len(steps))
    norms = torch.zeros(len(names), len(steps), len(CORPORA))
    for t, step in enumerate(run.progress(steps, "influence", total=len(steps))):
        weights = at_step(run.job.model, step)
        probes = probe_gradients(weights, shape, config.probed)
        lengths[:, :, t] = torch.stack([influence.lengths(probe) for probe in probes], dim=1)
        for k, ids in enumerate(sample):
            found, squares = influence.influences(weights, shape, ids.expand(len(names), *ids.shape), probes)
            products[:, :, t, k] = found.transpose(0, 1)
            norms[:, t, k] = squares.sqrt().mean(dim=1)
        run.count(flops=influence_cost(shape, len(CORPORA) * config.sampled, config.probed, names))
    tables = []
    for reading, values in readings(products, lengths).items():
        scores = influence.corpus_scores(values)
        weight, follows = influence.mixture(scores)
        prefix = "" if reading == READING else f"{reading} · "
        run.metric("mixture_follows", float(follows), variant="" if reading == READING else reading)
        for name, share, score in zip(CORPORA, weight.tolist(), scores.tolist(), strict=True):
            run.metric("mixture_weight", share, variant=prefix + name)
            run.metric("score", score, variant=prefix + name)
        about = {"reading": reading, "corpus": CORPORA, "score": scores, "weight": weight.double(), "follows": follows}
        tables.append(pd.DataFrame(about))
    run.table("weights", pd.concat(tables, ignore_index=True))
    run.table("influence", _by_capability(readings(products, lengths)[READING]))
    for k, name in enumerate(CORPORA):
        run.metric("gradient_norm", float(norms[:, :, k].mean()), variant=name)
        for s, capability in enumerate(names):
            run.metric("gradient_norm", float(norms[s, :, k].mean()), variant=f"{name} on the {capability} specialist")
        run.metric("positive_share", float((products[:, :, -1, k] > 0).float().mean()), variant=name)


def readings(products: Tensor, lengths: Tensor) -> dict[str, Tensor]:
    """Influences [C', T, K, N] by reading, whose sum over C' is a sample's influence.

    products [S, C, T, K, N]: of specialist s on capability c; lengths [S, C, T]: of the probing sets' gradients. `unit`
    divides by the length, so that each probing set has the same say at each checkpoint; the `own` readings ask each
    capability of its own specialist alone, the others of all, whose mean is taken.
    """
    every = len(products)
    unit = products / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)[..., None, None]
    own = torch.arange(every)
    return {
        "unit": unit.flatten(0, 1) / every,
        "raw": products.flatten(0, 1) / every,
        "own-unit": unit[own, own],
        "own-raw": products[own, own],
    }


def _by_capability(values: Tensor) -> pd.DataFrame:
    """corpus, capability, influence: summed over specialists, means over checkpoints and samples."""
    per = values.view(-1, len(CAPABILITIES), *values.shape[1:]).transpose(0, 1)
    rows = [
        {"corpus": name, "capability": capability, "influence": float(score)}
        for capability, mine in zip(CAPABILITIES, per, strict=True)
        for name, score in zip(CORPORA, influence.corpus_scores(mine), strict=True)
    ]
    return pd.DataFrame(rows)


def _sample(run: Run, name: str, n: int) -> Tensor:
    """Documents behind those the specialists were trained on, so that none is asked about its own training."""
    start = run.config.steps * run.config.batch
    return torch.from_numpy(corpora.Corpus(name, run.seed("data")).read(start, n).ids.copy())
