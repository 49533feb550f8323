"""The specialists' verdict: influence of every corpus on every capability, and the mixture that follows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from methods.mobilellm_r1 import corpora, influence
from methods.mobilellm_r1.corpora import CAPABILITIES, CORPORA
from methods.mobilellm_r1.train import at_step, load, probe_sets, shape_of
from tycho.adapter import Run


def specialists(run: Run) -> None:
    """Influences of a sample of each corpus at each checkpoint of each specialist; weights by their positive parts.

    Each capability is asked of the specialist of its own domain (θ_C, θ_M, θ_K in the paper).
    """
    config, shape = run.config, shape_of(run.config)
    names, steps, _ = load(run.job.model)
    sample = [_sample(run, name, config.sampled) for name in CORPORA]
    products = torch.zeros(len(CAPABILITIES), len(steps), len(CORPORA), config.sampled)
    norms = torch.zeros(len(steps), len(CAPABILITIES), len(CORPORA))
    for t, step in enumerate(run.progress(steps, "influence", total=len(steps))):
        weights = at_step(run.job.model, step)
        probes = probe_sets(weights, shape, config.probed)
        for k, ids in enumerate(sample):
            found, squares = influence.influences(weights, shape, ids.expand(len(names), *ids.shape), probes)
            for c, capability in enumerate(CAPABILITIES):
                products[c, t, k] = found[c, names.index(capability)]
            norms[t, :, k] = squares.sqrt().mean(dim=1)
    alpha = influence.checkpoint_weights(len(steps)).to(products)
    by_capability = torch.einsum("ctkn,t->ck", products, alpha) / config.sampled
    mixture = influence.positive_parts(influence.corpus_scores(products))
    rows = []
    for c, capability in enumerate(CAPABILITIES):
        scale = by_capability[c].abs().max().clamp_min(1e-12)
        for k, name in enumerate(CORPORA):
            run.metric("influence", float(by_capability[c, k]), variant=f"{name} on {capability}")
            rows.append({"corpus": name, "capability": capability, "influence": float(by_capability[c, k] / scale)})
    for k, name in enumerate(CORPORA):
        run.metric("mixture_weight", float(mixture[k]), variant=name)
        run.metric("gradient_norm", float(norms[:, :, k].mean()), variant=name)
        run.metric("positive_share", float((products[:, -1, k] > 0).float().mean()), variant=name)
    run.table("influence", pd.DataFrame(rows))
    run.table("weights", pd.DataFrame({"corpus": CORPORA, "weight": mixture.double().numpy()}))


def _sample(run: Run, name: str, n: int) -> torch.Tensor:
    """Documents behind those the specialists were trained on, so that none is asked about its own training."""
    start = run.config.steps * run.config.batch
    return torch.from_numpy(np.ascontiguousarray(corpora.Corpus(name, run.seed("data")).read(start, n).ids))
