"""Training in which nodes that died are taken out: nine of ten do, and cost as much as the living.

Weight decay empties most hidden nodes of an over-parameterised network. A node whose incoming weights are all below
`DEAD` adds at most 4 DEAD^2 |V|, some 1e-12, to any output: far below the rounding of float32 outputs of order one. Its
gradients are products with those weights, so decay outweighs them and the node does not come back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from methods.grokking import training
from methods.grokking.network import Examples

DEAD = 1e-6
EVERY = 250  # epochs between two looks


def prune(state: dict[str, Tensor], dead: float = DEAD) -> dict[str, Tensor]:
    """The training state without nodes that are dead.

    W [R, 2d, q] becomes [R, 2d, q'] with q' the most nodes that live in one network of the batch, at least one; networks
    with fewer keep some dead ones. V and the optimiser's moments go with W; living nodes keep their order.
    """
    lives = state["W"].abs().amax(dim=1) >= dead
    width = max(int(lives.sum(dim=1).max()), 1)
    if width == lives.shape[1]:
        return state
    chosen = lives.int().argsort(dim=1, descending=True, stable=True)[:, :width]
    network = torch.arange(len(chosen))[:, None]
    pruned = dict(state)
    for name, value in state.items():
        if value.ndim == 3 and "W" in name.split("."):
            pruned[name] = value.transpose(1, 2)[network, chosen].transpose(1, 2).contiguous()
        elif value.ndim == 3:
            pruned[name] = value[network, chosen]
    return pruned


def train(
    state: dict[str, Tensor],
    seen: Examples,
    unseen: Examples,
    epochs: int,
    evaluate_at: Collection[int],
    rate: float,
    decay: float,
) -> Iterator[training.Evaluation]:
    """`grokking.training.train` (Adam, x^2, mean over classes removed), pruned every `EVERY` epochs.

    The state of an evaluation, copied, goes on to the same bits. The `state` given is not the one that ends.
    """
    while (epoch := int(state["epoch"])) < epochs:
        stop = min(epochs, (epoch // EVERY + 1) * EVERY)
        at = [e for e in evaluate_at if epoch <= e < stop or e == stop == epochs]
        yield from training.train(state, seen, unseen, stop, at, rate, decay)
        state = prune(state)
