"""Values compared within items, so that what differs between items does not count and a difference has an error of its own."""

from __future__ import annotations

import numpy as np

from methods.coconut.values import CLASSES, classes
from tycho.tasks.graphs import Graphs

TIMES = 4  # as many items as the test has, since only those that have nodes of both groups say anything


def gaps(values: np.ndarray, graphs: Graphs, k: int) -> dict[str, np.ndarray]:
    """[n] each: an item's gaps between groups of nodes after k thoughts; `values` is [n, V].

    Nodes on a path to the target have more children than others as far from the root, some of which are dead ends. The second
    gap leaves those out; the third is between nodes with equally many children, so that their number does not tell them apart.
    """
    kinds = classes(graphs, k)
    optimal, frontier, unreachable = (
        kinds == CLASSES.index(name) for name in ("optimal", "other frontier", "unreachable")
    )
    children = graphs.adjacency.sum(axis=2)
    return {
        "optimal over other frontier": gap(values, optimal, frontier),
        "optimal over other frontier with children": gap(values, optimal, frontier & (children > 0)),
        "optimal over other frontier with as many children": gap(
            values, optimal, frontier, children[:, :, None] == children[:, None, :]
        ),
        "other frontier over unreachable": gap(values, frontier, unreachable),
    }


def gap(values: np.ndarray, upper: np.ndarray, lower: np.ndarray, allowed: np.ndarray | bool = True) -> np.ndarray:
    """[n] the mean difference over an item's pairs of a node in `upper` and one in `lower` [n, V], of those `allowed` [n, V, V];
    NaN where there is no pair."""
    pairs = upper[:, :, None] & lower[:, None, :] & allowed
    count = pairs.sum(axis=(1, 2))
    total = np.where(pairs, values[:, :, None] - values[:, None, :], 0.0).sum(axis=(1, 2))
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
