"""The three stages in a trained network, the energy's landscape without one, and the anchors' progress measures."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor

from methods.grokking import anchors, meters, network, progress, theory
from methods.grokking import landscape as energies
from methods.grokking.snapshots import named_snapshots
from tycho.adapter import Run
from tycho.keys import setting
from tycho.tasks import groups

# --- the stages ------------------------------------------------------------------------------------------------------


def lazy(hidden: Tensor, gradient: Tensor, targets: Tensor, live: Tensor) -> dict[str, float]:
    """How far each live node's gradient points along the key term (eq. 3 and 5), and F F^T from a I + b 1 1^T."""
    along = theory.node_cosine(gradient, theory.key_term(hidden, targets))[live]
    return {
        "node_cosine": float(along.median()),
        "node_cosine_low": float(along.quantile(0.1)),
        "distance_from_exchangeable": float(meters.distance_from_exchangeable(hidden @ hidden.T)),
    }


def turning(kept: dict[int, dict[str, Tensor]], epoch: int) -> dict[str, float]:
    """How far the direction of change turned between the two last intervals of kept weights."""
    epochs = list(kept)
    place = epochs.index(epoch)
    if place < 2:
        return {}
    before = [kept[epochs[place - 2 + i]] for i in range(3)]
    return {f"turning_{name}": float(meters.turning(*(both[name] for both in before))) for name in ("W", "V")}


def interactive(run: Run, epoch: int, hidden: Tensor) -> dict[str, float]:
    """Thm 6 on the 200 most similar pairs of nodes, at the epochs asked for; with a ridge of n wd / 2."""
    eta = len(hidden) * run.config.weight_decay / 2
    if epoch not in run.config.repulsion or not eta:
        return {}
    agreement = float(theory.repulsion_agreement(hidden.double(), eta))
    if epoch == max(run.config.repulsion):
        run.metric("final_repulsion", agreement)
    return {"repulsion": agreement}


def ending(curve: pd.Series) -> float:
    """Median over the evaluations of the last twentieth of the epochs; `curve` is indexed by epoch.

    Adam's loss has spikes late in training, and the last evaluation may stand in one.
    """
    return float(curve[curve.index >= 0.95 * curve.index.max()].median())


def settled(loss: pd.Series, kept: list[int]) -> int:
    """The last kept epoch that is not in a spike: its loss is at most ten times the one at the end (`ending`).

    The last kept epoch where there is none.
    """
    level = 10 * ending(loss)
    return max((epoch for epoch in kept if loss[epoch] <= level), default=max(kept))


def train_curves(run: Run) -> pd.DataFrame:
    """What training logged: a row an epoch, a column a name."""
    return run.job.record("metrics").query("stage == 'train'").pivot(index="step", columns="name", values="value")


def times(run: Run) -> None:
    """Loss and accuracies at the end, and the first evaluated epoch at which 99 % of the training and 95 % of the test set
    are right."""
    curves = train_curves(run)
    run.metric("train_loss", ending(curves.train_loss))
    for part, level in (("train", 0.99), ("test", 0.95)):
        accuracy = curves[f"{part}_accuracy"]
        reached = accuracy.index[accuracy >= level]
        run.metric(f"{part}_accuracy", ending(accuracy))
        epoch = float(reached[0]) if len(reached) else float(accuracy.index[-1])
        run.metric(f"epochs_to_{part}", max(epoch, 1.0), censored=not len(reached))


# --- progress measures -----------------------------------------------------------------------------------------------


def table_outputs(run: Run, weights: dict[str, Tensor]) -> Tensor:
    """[M, M, M] outputs of the paper's network for all pairs."""
    group = groups.group(run.key.task)
    left, right, _ = (part[None] for part in groups.pairs(group).unbind(dim=1))
    found = network.forward(weights["W"], weights["V"], left, right, run.config.activation)[0]
    return found.view(group.order, group.order, group.order)


def progress_measures(run: Run, outputs: dict[int, Tensor]) -> None:
    """Restricted loss (all pairs), excluded loss (training pairs) and the share of the outputs in waves of x + y.

    Key frequencies are those at the end, as in the paper, and the end is the last epoch kept that is not in a spike of
    the loss (`settled`). Losses are the network's own. "before" is the last epoch kept before half of the test set was
    right for the first time.
    """
    group = groups.group(run.key.task)
    table = groups.pairs(group)
    seen, _ = groups.split(len(table), run.config.train_pairs, run.generator("split"))
    loss = _loss(run.config.loss)
    everything = torch.arange(len(table))
    curves = train_curves(run)
    end = settled(curves.train_loss, list(outputs))
    keys = progress.key_frequencies(outputs[end].double())
    measured: dict[int, dict[str, float]] = {}
    for epoch, logits in outputs.items():
        logits = logits.double()
        measured[epoch] = {
            "restricted_loss": loss(progress.restricted(logits, keys).flatten(0, 1), table, everything),
            "excluded_loss": loss(progress.excluded(logits, keys).flatten(0, 1), table, seen),
            "whole_loss": loss(logits.flatten(0, 1), table, everything),
            "wave_share": float(progress.wave_share(logits, keys)),
        }
        run.log(epoch, **measured[epoch])
    run.metric("key_frequencies", len(keys))
    run.metric("final_epoch", end)
    for name, value in measured[end].items():
        run.metric(f"final_{name}", value)
    first = min(outputs)
    half = min((epoch for epoch in outputs if curves.test_accuracy[epoch] >= 0.5), default=math.inf)
    before = max((epoch for epoch in outputs if epoch < half), default=first)
    for when, epoch in (("start", first), ("before", before)):
        run.metric(f"{when}_wave_share", measured[epoch]["wave_share"])


def _loss(kind: str) -> Callable[[Tensor, Tensor, Tensor], float]:
    """(outputs [M^2, M], table, rows) -> the loss over these rows."""

    def squared(outputs: Tensor, table: Tensor, rows: Tensor) -> float:
        weight = torch.full((1, len(rows)), 1 / len(rows), dtype=outputs.dtype)
        return float(network.squared_error(outputs[rows][None], table[rows, 2][None], weight)[0])

    def entropy(outputs: Tensor, table: Tensor, rows: Tensor) -> float:
        return float(anchors.cross_entropy(outputs[rows], table[rows, 2], kind))

    return squared if kind == "squared" else entropy


def anchor(run: Run) -> None:
    """Times of an anchor's network; for the transformer its progress measures and embedding spectrum as well."""
    times(run)
    if run.config.network != "transformer":
        return
    group = groups.group(run.key.task)
    left, right, _ = groups.pairs(group).unbind(dim=1)
    kept = named_snapshots(run.job.model)
    shape = (group.order, group.order, group.order)
    progress_measures(run, {e: anchors.transformer(p, left, right).view(shape) for e, p in kept.items()})
    for epoch, parameters in kept.items():
        spectrum = progress.embedding_spectrum(parameters["embed"][: group.order])
        run.log(epoch, embedding_gini=float(progress.gini(spectrum[1:])))
        run.log(epoch, squared_weights=float(sum(value.square().sum() for value in parameters.values())))


# --- the landscape ---------------------------------------------------------------------------------------------------


def landscape(run: Run) -> None:
    """Share of single frequencies that survive ascent of E on n random pairs, for train sizes r M ln M and beyond."""
    group = groups.group(run.key.task)
    table = groups.pairs(group)
    basis, component = groups.isotypic_basis(group)
    nodes = energies.fourier_nodes(group.order, run.generator("phase"))
    for share in run.config.shares:
        size = round(share * len(table))
        rows, _ = groups.split(len(table), size, run.generator("split"))
        left, right, target = table[rows].unbind(dim=1)
        survived = energies.survival(nodes, left, right, target, basis, component)
        where = setting(share=share)
        run.metric("survival", float(survived.double().mean()), setting=where)
        run.metric("train_pairs", size, setting=where)
        spike = torch.zeros(2 * group.order, 1, dtype=torch.float64)
        spike[0] = 1
        for name, found, formula in (
            ("spike", spike, energies.spike_energy),
            ("wave", nodes, energies.wave_energy),
        ):
            energy = theory.energy(found, left, right, target).mean()
            run.metric(f"{name}_energy", float(energy) / formula(group.order, share), setting=where)
