"""The value function that thoughts imply: how likely each node is to be written next (arXiv 2412.06769, section 5).

After k thoughts and the end mark the model is made to go on in words. The probability it gives to each node as the next
step is read as the value it gives to searching there; a thought that holds several nodes searches them in parallel.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from methods.coconut.model import Thinker
from methods.coconut.thoughts import think
from tycho.lm.examples import Examples
from tycho.lm.vocabulary import Vocabulary
from tycho.tasks.graphs import Graphs

# Nodes after k thoughts, each in one class: the next of some shortest path to the target; others k + 1 hops from the root;
# others that can be reached; the rest.
CLASSES = ("optimal", "other frontier", "other reachable", "unreachable")


def node_values(thinker: Thinker, examples: Examples, words: Vocabulary, count: int) -> Tensor:
    """[n, nodes] probability of each node as the next word after `count` thoughts."""
    between = thinker.between(torch.full((len(examples),), count))
    found = think(thinker.model, *examples.prompts(), between)
    return found.logits.float().softmax(dim=1)[:, words.produced - words.nodes : words.produced]


def graphs_of(examples: Examples, words: Vocabulary) -> Graphs:
    """The graphs that symbolic items are about, read back from prompts (`3>7 … [Q] 7 5 [R] 0`) and answers (`[A] 7`)."""
    ids, length = examples.prompt.numpy(), examples.prompt_length.numpy()
    row = np.arange(len(ids))
    edge = ids - words.produced
    there = (edge >= 0) & (np.arange(ids.shape[1]) < length[:, None])
    pairs = np.where(there[..., None], np.stack([edge // words.nodes, edge % words.nodes], axis=2), -1)
    order = (~there).argsort(axis=1, kind="stable")
    pairs = np.take_along_axis(pairs, order[..., None], axis=1)[:, : there.sum(axis=1).max(initial=0)]
    first = words.produced - words.nodes
    root = ids[row, length - 1] - first
    candidates = np.stack([ids[row, length - 4], ids[row, length - 3]], axis=1) - first
    target = examples.answer[:, 1].numpy() - first
    distractor = candidates.sum(axis=1) - target
    return Graphs(pairs, root, target, distractor, np.full(len(ids), words.nodes))


def classes(graphs: Graphs, k: int) -> np.ndarray:
    """[n, V] index into CLASSES of each node after k thoughts; -1 for names that no edge of the item has."""
    hops = graphs.from_root
    layers = graphs.neighbor_k
    optimal = layers[:, k + 1] if k + 1 < layers.shape[1] else np.zeros_like(hops, dtype=bool)
    frontier = hops == k + 1
    named = graphs.adjacency.any(axis=1) | graphs.adjacency.any(axis=2)
    found = np.select([optimal, frontier, hops >= 0], [0, 1, 2], 3)
    return np.where(named, found, -1)


def by_class(values: np.ndarray, kinds: np.ndarray) -> dict[str, float]:
    """Mean value of a node of each class; classes without a node are left out."""
    return {name: float(values[kinds == i].mean()) for i, name in enumerate(CLASSES) if (kinds == i).any()}


def top_shares(values: np.ndarray, most: int = 3) -> list[float]:
    """Mean cumulative value of an item's most likely 1, 2, … nodes: how many nodes a thought holds at once."""
    ordered = -np.sort(-values, axis=1)[:, :most]
    return ordered.cumsum(axis=1).mean(axis=0).tolist()
