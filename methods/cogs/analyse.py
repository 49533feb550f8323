"""Trained networks taken apart: what the nodes of each frequency are, over training and at the horizons."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from methods.cogs import algebra, decomposition, snapshots, tables
from methods.cogs.method import network_seeds
from methods.cogs.published import MEASURES
from tycho.adapter import Run
from tycho.keys import read_setting, setting


def trained(run: Run) -> None:
    seeds, horizons = network_seeds(run), run.config.horizons
    kept = snapshots.load(run.job.model)
    samples, potentials = [], []
    for where, weights in run.progress(kept.items(), "decompositions", total=len(kept)):
        z = algebra.coefficients(weights["W"].double(), weights["V"].double())
        point = read_setting(where)
        epoch = int(point.pop("epochs"))
        for variant, (tolerance, limit) in decomposition.RULES.items():
            found = tables.decomposition_table(z, tolerance, limit)
            found = found.assign(seed=[seeds[i] for i in found.network], named=_named(found))
            if epoch in {0, *horizons}:
                samples.append(_samples(run, found).assign(variant=variant, setting=where))
            if epoch in horizons:
                _finals(run, found, variant, where)
            if not point and not variant:
                _curves(run, found, epoch)
        if epoch in horizons:
            _nodes(run, weights, z, where)
            _knobs(run, where)
        if not point:
            # one network at a time: its cross potentials alone are d^3 complex numbers
            for i, seed in enumerate(seeds):
                potentials.append(tables.potentials_table(z[i : i + 1]).assign(seed=seed, epoch=epoch))
            if epoch == horizons[-1]:
                run.table("factors", _factors(z))
                run.table(
                    "nodes", tables.node_table(z).assign(seed=lambda found: found.network.map(dict(enumerate(seeds))))
                )
    run.samples(pd.concat(samples, ignore_index=True))
    run.table("potentials", pd.concat(potentials, ignore_index=True).drop(columns="network"))
    _accuracies(run)


def _factors(z: Tensor) -> pd.DataFrame:
    """product, factor, part, real, imaginary: the columns other than 1 of both factors of every named frequency."""
    parts = [pd.DataFrame(columns=["product", "factor", "part", "real", "imaginary"])]
    for order in decomposition.PRODUCTS:
        _, _, nodes = decomposition.nodes_of_order(z, order)
        if not len(nodes):
            continue
        found = decomposition.decompose(nodes)
        for factor, columns in (("first", found.first.unsqueeze(-1)), ("second", found.second[..., 1:])):
            index = torch.cartesian_prod(*map(torch.arange, columns.shape)).T
            parts.append(
                pd.DataFrame(
                    {
                        "product": [found.product[g] for g in index[0].tolist()],
                        "factor": factor,
                        "part": ["abc"[p] for p in index[1].tolist()],
                        "real": columns.real.flatten(),
                        "imaginary": columns.imag.flatten(),
                    }
                )
            )
    frame = pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)
    return frame[frame["product"] != "unknown"].astype({"real": float, "imaginary": float})


def _named(found: pd.DataFrame) -> pd.Series:
    return ~found["product"].isin(["", "unknown"])


def _samples(run: Run, found: pd.DataFrame) -> pd.DataFrame:
    """One sample a frequency: correct where the theory names the product that its nodes are."""
    item = [f"{run.key.task}, network {row.seed}, frequency {row.frequency}" for row in found.itertuples(index=False)]
    return pd.DataFrame(
        {
            "seed": found.seed,
            "item": item,
            "split": "frequency",
            "prompt": [f"the live nodes of {text}" for text in item],
            "response": found["product"].where(found.named, "no product that the theory names"),
            "answer": found.order.astype(str),
            "target": "4 or 6",
            "correct": found.named,
        }
    )


def _finals(run: Run, found: pd.DataFrame, variant: str, where: str) -> None:
    """The paper's table for each network. A share of nothing (no frequency of order 4) is left out."""
    counts = tables.census(found.assign(network=found.seed))
    counts = counts[counts.measure.isin(list(MEASURES))].dropna(subset="value")
    for row in counts.itertuples(index=False):
        run.metric(MEASURES[row.measure], row.value, seed=row.network, variant=variant, setting=where)
    for seed, mine in found.groupby("seed"):
        run.metric("explained", mine.named.mean(), seed=seed, variant=variant, setting=where)
        run.metric("mean_order", mine.order.mean(), seed=seed, variant=variant, setting=where)


def _curves(run: Run, found: pd.DataFrame, epoch: int) -> None:
    for seed, mine in found.groupby("seed"):
        run.log(
            epoch,
            seed=seed,
            order_4=mine.order.eq(4).mean(),
            order_6=mine.order.eq(6).mean(),
            higher_order=mine.order.gt(6).mean(),
            explained=mine.named.mean(),
        )


def _nodes(run: Run, weights: dict[str, Tensor], z: Tensor, where: str) -> None:
    """What the decomposition leaves out: power of live nodes at other frequencies, and nodes that count as dead."""
    live = decomposition.members(z).any(dim=-2)
    pure = decomposition.concentration(z)
    size = weights["W"].square().sum(dim=1) * weights["V"].norm(dim=2)
    for i, seed in enumerate(network_seeds(run)):
        run.metric("live_nodes", float(live[i].sum()), seed=seed, setting=where)
        run.metric("dead_share", float(size[i][~live[i]].sum() / size[i].sum()), seed=seed, setting=where)
        if live[i].any():
            run.metric("concentration", float(pure[i][live[i]].mean()), seed=seed, setting=where)


def _knobs(run: Run, where: str) -> None:
    """What a point of a sweep was trained with, its own arm's among them."""
    swept = read_setting(where)
    for knob in ("weight_decay", "width"):
        value = float(swept.get(knob, getattr(run.config, knob)))
        for seed in network_seeds(run):
            run.metric(knob, value, seed=seed, setting=where)


def _accuracies(run: Run) -> None:
    """Accuracies at the horizons, from the training's curves."""
    curves = run.job.record("metrics").query("stage == 'train'")
    curves = curves[curves.step.isin(run.config.horizons) & curves.name.isin(["train_accuracy", "test_accuracy"])]
    for row in curves.itertuples(index=False):
        where = setting(epochs=int(row.step), **read_setting(row.setting))
        run.metric(row.name, row.value, seed=row.seed, setting=where)
