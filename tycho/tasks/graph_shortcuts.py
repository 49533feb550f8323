"""Root-blind predictors of the reachability tasks: answers given without reading which node is asked about.

Each returns scores [n, 2] (target, distractor) from the graph and the two candidates alone; `accuracy` says how often
the target has the higher one. On ProsQA's official files `depth` is right 93-95 % of the time.
"""

from __future__ import annotations

import numpy as np

from tycho.tasks.graphs import Graphs, all_hops


def depth(graphs: Graphs) -> np.ndarray:
    """Hops from the farthest parentless ancestor (the largest, over those ancestors, of the shortest distance)."""
    parentless = ~graphs.adjacency.any(axis=1)
    distance = np.where(parentless[:, :, None], all_hops(graphs.adjacency), -1)
    return _of_candidates(graphs, distance.max(axis=1))


def ancestors(graphs: Graphs) -> np.ndarray:
    """Number of nodes from which a candidate can be reached."""
    return _of_candidates(graphs, (all_hops(graphs.adjacency) >= 0).sum(axis=1))


def few_parents(graphs: Graphs) -> np.ndarray:
    """Minus the in-degree."""
    return _of_candidates(graphs, -graphs.adjacency.sum(axis=1))


def accuracy(scores: np.ndarray) -> float:
    """Share of items whose target scores higher; a tie is half."""
    return float(np.mean((scores[:, 0] > scores[:, 1]) + 0.5 * (scores[:, 0] == scores[:, 1])))


def _of_candidates(graphs: Graphs, values: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, np.stack([graphs.target, graphs.distractor], axis=1), axis=1)


PREDICTORS = {"depth": depth, "ancestors": ancestors, "few_parents": few_parents}
