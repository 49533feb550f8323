"""Directed reachability: from a root, which of two candidate nodes can be reached?

Three sources of graphs, all batched: `published` (ProsQA's generator, fitted to the official files' statistics),
`balanced` (the same graphs, asked so that nothing but the root tells the candidates apart) and `layered` (small
graphs of one fixed shape). How they are written as tokens or sentences is in `graph_text.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

BLOCK = 512  # graphs grown at once; part of what a seed means


@dataclass(frozen=True, eq=False)
class Graphs:
    """n items. Nodes of an item are 0 .. nodes-1; V is the largest `nodes`, E the largest number of edges.

    edges [n, E, 2] int64, rows (source, target), an item's own edges first, the rest -1.
    root, target (reachable), distractor (not reachable), nodes: [n] int64.
    """

    edges: np.ndarray
    root: np.ndarray
    target: np.ndarray
    distractor: np.ndarray
    nodes: np.ndarray

    def __len__(self) -> int:
        return len(self.root)

    def select(self, rows: np.ndarray | slice) -> Graphs:
        """The items of an index array, mask or slice."""
        return Graphs(*(getattr(self, field.name)[rows] for field in fields(self)))

    @cached_property
    def edge_counts(self) -> np.ndarray:
        """[n] number of edges."""
        return (self.edges[..., 0] >= 0).sum(axis=1)

    @cached_property
    def adjacency(self) -> np.ndarray:
        """[n, V, V] bool, [i, s, t]: item i has the edge s -> t."""
        size = int(self.nodes.max(initial=1))
        matrix = np.zeros((len(self), size, size), dtype=bool)
        item, slot = np.nonzero(self.edges[..., 0] >= 0)
        matrix[item, self.edges[item, slot, 0], self.edges[item, slot, 1]] = True
        return matrix

    @cached_property
    def from_root(self) -> np.ndarray:
        """[n, V] hops from the root, -1 where there is no way."""
        return hops(self.adjacency, _one_hot(self.root, self.adjacency.shape[1]))

    @cached_property
    def to_target(self) -> np.ndarray:
        """[n, V] hops to the target, -1 where there is no way."""
        return hops(self.adjacency.transpose(0, 2, 1), _one_hot(self.target, self.adjacency.shape[1]))

    @cached_property
    def depth(self) -> np.ndarray:
        """[n] hops from root to target; -1 where it cannot be reached."""
        return np.take_along_axis(self.from_root, self.target[:, None], axis=1)[:, 0]

    def reachable(self, k: int) -> np.ndarray:
        """[n, V] bool: nodes within k hops of the root, the root included."""
        return (self.from_root >= 0) & (self.from_root <= k)

    def walk_ends(self, k: int) -> np.ndarray:
        """[n, V] bool: ends of walks of exactly k edges (the superposition paper's frontier; a node may come twice)."""
        ends = _one_hot(self.root, self.adjacency.shape[1])
        for _ in range(k):
            ends = _follow(ends, self.adjacency.astype(np.float32))
        return ends

    @cached_property
    def neighbor_k(self) -> np.ndarray:
        """[n, D+1, V] bool: [i, k, v]: v is the k-th node of some shortest path from root to target."""
        k = np.arange(self.depth.max(initial=0) + 1)[None, :, None]
        on_path = (self.to_target >= 0) & (self.from_root + self.to_target == self.depth[:, None])
        return (self.from_root[:, None] == k) & on_path[:, None]

    @cached_property
    def path_counts(self) -> np.ndarray:
        """[n, V] number of shortest paths to the target from each node that lies on one from the root, else 0."""
        matrix = self.adjacency.astype(np.float32)  # counts stay far below 2^24, so floats are exact
        counts = _one_hot(self.target, matrix.shape[1]).astype(np.float32)
        for layer in self.neighbor_k[:, :-1].transpose(1, 0, 2)[::-1]:
            ahead = (matrix @ counts[..., None])[..., 0]
            counts = np.where(layer & ~_one_hot(self.target, layer.shape[1]), ahead, counts)
        return counts.astype(np.int64)

    def random_paths(self, rng: np.random.Generator) -> np.ndarray:
        """[n, D+1] one shortest path an item, root first, each as likely; -1 behind the target."""
        item = np.arange(len(self))
        path = np.full((len(self), self.neighbor_k.shape[1]), -1)
        path[:, 0] = self.root
        for k in range(1, path.shape[1]):
            ahead = self.adjacency[item, path[:, k - 1]] & self.neighbor_k[:, k]
            # the smallest of exponential draws divided by weights is a draw in proportion to the weights
            draw = rng.exponential(size=ahead.shape) / np.where(ahead, self.path_counts, np.nan)
            chosen = np.where(ahead, draw, np.inf).argmin(axis=1)
            path[:, k] = np.where(ahead.any(axis=1), chosen, -1)
        return path

    def shortest_paths(self, item: int) -> list[tuple[int, ...]]:
        """All shortest paths of one item, in lexicographic order."""
        layers = self.neighbor_k[item, : self.depth[item] + 1]
        paths = [(int(self.root[item]),)]
        for layer in layers[1:]:
            paths = [(*path, int(v)) for path in paths for v in np.nonzero(layer & self.adjacency[item, path[-1]])[0]]
        return paths

    def renamed(self, size: int, rng: np.random.Generator) -> Graphs:
        """The same items with random node numbers below `size`; each item then counts as having `size` nodes."""
        used = int(self.nodes.max(initial=0))
        if used > size:
            raise ValueError(f"an item has {used} nodes, there are only {size} names")
        names = rng.random((len(self), size)).argsort(axis=1)[:, :used]

        def rename(nodes: np.ndarray) -> np.ndarray:
            return np.where(nodes >= 0, np.take_along_axis(names, np.maximum(nodes, 0), axis=1), -1)

        edges = rename(self.edges.reshape(len(self), -1)).reshape(self.edges.shape)
        root, target, distractor = (rename(nodes[:, None])[:, 0] for nodes in (self.root, self.target, self.distractor))
        return Graphs(edges, root, target, distractor, np.full(len(self), size))


def from_lists(
    edges: Sequence[Sequence[Sequence[int]]],
    root: Sequence[int],
    target: Sequence[int],
    distractor: Sequence[int],
    nodes: Sequence[int],
) -> Graphs:
    """Graphs from one list of (source, target) pairs an item and one number an item for the rest."""
    padded = np.full((len(edges), max(map(len, edges), default=0), 2), -1)
    for item, pairs in enumerate(edges):
        padded[item, : len(pairs)] = np.asarray(pairs).reshape(-1, 2)
    return Graphs(padded, *(np.asarray(column, dtype=np.int64) for column in (root, target, distractor, nodes)))


def hops(adjacency: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Breadth-first search of all items at once: [n, V] hops from the set `start` [n, V] bool, -1 if out of reach."""
    distance = np.where(start, 0, -1)
    matrix = adjacency.astype(np.float32)
    frontier, k = start, 0
    while frontier.any():
        k += 1
        frontier = _follow(frontier, matrix) & (distance < 0)
        distance[frontier] = k
    return distance


def all_hops(adjacency: np.ndarray) -> np.ndarray:
    """[n, V, V] hops from every node to every node, -1 where there is no way."""
    n, size, _ = adjacency.shape
    distance = np.where(np.eye(size, dtype=bool), 0, np.full((n, 1, 1), -1))
    frontier, k = np.broadcast_to(np.eye(size, dtype=bool), (n, size, size)), 0
    matrix = adjacency.astype(np.float32)
    while frontier.any():
        k += 1
        frontier = (frontier.astype(np.float32) @ matrix > 0) & (distance < 0)
        distance[frontier] = k
    return distance


def _one_hot(nodes: np.ndarray, size: int) -> np.ndarray:
    return nodes[:, None] == np.arange(size)


def _follow(start: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return (start[:, None].astype(np.float32) @ matrix)[:, 0] > 0  # floats, since numpy multiplies those fast


# --- generators ------------------------------------------------------------------------------------------------------


def published(n: int, seed: int) -> Graphs:
    """ProsQA's graphs and questions (Coconut, arXiv 2412.06769, appendix A.2, algorithm 1, mended to fit its files).

    The root is the source whose side has the deeper exclusive leaf, the target that leaf, the distractor any
    exclusive leaf of the other side, 3 to 6 hops. This makes depth alone a 93 % predictor: see `graph_shortcuts.py`.
    Deterministic from `seed`; fewer items are the first of more.
    """

    def ask(depth: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        deepest = depth.max(axis=2)
        tied = deepest[:, 0] == deepest[:, 1]
        side = np.where(tied, rng.integers(0, 2, len(depth)), deepest.argmax(axis=1))
        item = np.arange(len(depth))
        mine, other = depth[item, side], depth[item, 1 - side]
        target = _any_of(mine == mine.max(axis=1, keepdims=True), rng)
        fits = (deepest[item, side] >= 3) & (deepest[item, side] <= 6) & (deepest[item, 1 - side] > 0)
        return side, target, _any_of(other > 0, rng), fits

    return _collect(n, seed, lambda rng: _grow(rng, ask))


def balanced(n: int, seed: int) -> Graphs:
    """The same graphs, but root-blind answers are worth a coin.

    One exclusive leaf of each side, both equally many hops from their own source (the deepest such pair, 3 to 6
    hops); a coin says which source is asked about, so no function of the graph and the candidates alone beats 50 %.
    Only 15 % of the three-hop pairs are kept: that leaves the hops of the published 3-4-hop files (48 % three).
    """

    def ask(depth: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        wanted = np.arange(3, 7)
        both = (depth[:, :, None] == wanted[:, None]).any(axis=3).all(axis=1)  # [n, 4]
        level = np.where(both, wanted, 0).max(axis=1)
        fits = (level > 3) | ((level == 3) & (rng.random(len(level)) < 0.15))
        leaves = [_any_of(depth[:, side] == np.maximum(level, 1)[:, None], rng) for side in (0, 1)]
        side = rng.integers(0, 2, len(depth))
        return side, np.where(side, *leaves[::-1]), np.where(side, *leaves), fits

    return _collect(n, seed, lambda rng: _grow(rng, ask))


def layered(n: int, seed: int, *, widths: Sequence[int] = (2, 2, 2), extra: int = 2) -> Graphs:
    """Small graphs of one shape: two disjoint layered sides, every item with equally many nodes and edges.

    A side is a source and layers of the given widths. Every node has one parent in the layer before, and `extra` more
    edges join neighbouring layers. Target and distractor lie in the last layers of the asked and of the other side; a
    coin says which side is asked about. The defaults give 14 nodes, 16 edges and three hops.
    """
    layer = np.repeat(np.arange(len(widths) + 1), (1, *widths))
    size = len(layer)
    possible = layer[:, None] + 1 == layer
    side_edges = size - 1 + extra
    if min(widths) < 1 or not 0 <= extra <= possible.sum() - (size - 1):
        raise ValueError(f"layers of widths {tuple(widths)} have no room for {extra} extra edges")

    def make(rng: np.random.Generator) -> Graphs:
        draw = np.where(possible, rng.random((BLOCK, 2, size, size)), np.inf)
        draw[draw == draw.min(axis=2, keepdims=True)] -= 1  # each node's parent: these edges come first
        chosen = draw.reshape(BLOCK, 2, -1).argsort(axis=2)[..., :side_edges]
        edges = np.stack(np.divmod(chosen, size), axis=-1) + np.array([0, size])[:, None, None]
        leaves = rng.integers(size - widths[-1], size, (2, BLOCK)) + np.array([[0], [size]])
        side = rng.integers(0, 2, BLOCK)
        pair = np.where(side, leaves[::-1], leaves)
        return Graphs(edges.reshape(BLOCK, -1, 2), side * size, *pair, np.full(BLOCK, 2 * size))

    return _collect(n, seed, make)


def _collect(n: int, seed: int, make: Callable[[np.random.Generator], Graphs]) -> Graphs:
    """The first n items of block after block, each block with a generator of its own."""
    blocks: list[Graphs] = []
    while sum(map(len, blocks)) < n:
        blocks.append(make(np.random.default_rng([seed, len(blocks)])))
    return concatenate(blocks).select(slice(n)) if blocks else from_lists([], [], [], [], [])


def concatenate(parts: Sequence[Graphs]) -> Graphs:
    """All items of several batches, in order."""
    width = max(part.edges.shape[1] for part in parts)
    edges = [
        np.pad(part.edges, ((0, 0), (0, width - part.edges.shape[1]), (0, 0)), constant_values=-1) for part in parts
    ]
    rest = (np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Graphs) if f.name != "edges")
    return Graphs(np.concatenate(edges), *rest)


def _any_of(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[n] a random marked column of each row of `mask` [n, V]."""
    return np.where(mask, rng.random(mask.shape), -1.0).argmax(axis=1)


def _grow(rng: np.random.Generator, ask: Callable[..., tuple[np.ndarray, ...]], size: int = 28) -> Graphs:
    """A block of ProsQA's random graphs, and those of its items that `ask` finds a question for.

    Algorithm 1 adds nodes one by one: in-degree Poisson(1.5), parents drawn without replacement with weights
    1.5 * depth + 1 among the descendants of source 0 (35 %), of source 1 (35 %) or all nodes (30 %). Two departures
    fit the official files: nodes without a source are no candidates in the first two cases, and isolated nodes go.

    `ask` gets depth [n, 2, V], hops from source s to those leaves that only s reaches, else -1, and returns
    (side, target, distractor, mask of items that fit).
    """
    adjacency = np.zeros((BLOCK, size, size), dtype=bool)
    sources = np.zeros((BLOCK, size), dtype=np.int64)  # bit s: descends from source s
    sources[:, :2] = 1, 2
    longest = np.zeros((BLOCK, size), dtype=np.int64)
    for node in range(2, size):
        kind = rng.random((BLOCK, 1))
        earlier = sources[:, :node]
        allowed = np.where(kind <= 0.35, earlier == 1, (earlier == 2) | (kind > 0.7))
        draw = np.where(allowed, rng.exponential(size=allowed.shape) / (1.5 * longest[:, :node] + 1), np.inf)
        rank = draw.argsort(axis=1).argsort(axis=1)
        parents = allowed & (rank < rng.poisson(1.5, (BLOCK, 1)))
        adjacency[:, :node, node] = parents
        sources[:, node] = np.bitwise_or.reduce(np.where(parents, earlier, 0), axis=1)
        longest[:, node] = np.where(parents, longest[:, :node] + 1, 0).max(axis=1)
    has_parent, has_child = adjacency.any(axis=1), adjacency.any(axis=2)
    leaf = has_parent & ~has_child
    starts = (hops(adjacency, _one_hot(np.full(BLOCK, source), size)) for source in (0, 1))
    depth = np.stack([np.where(leaf & (sources == s + 1), start, -1) for s, start in enumerate(starts)], axis=1)
    side, target, distractor, fits = ask(depth, rng)
    keep = (has_parent | has_child)[fits]
    number = keep.cumsum(axis=1) - 1  # what is left is numbered without gaps
    item, child, parent = np.nonzero(adjacency[fits].transpose(0, 2, 1))
    counts = np.bincount(item, minlength=len(keep))
    slot = np.arange(len(item)) - np.repeat(counts.cumsum() - counts, counts)
    edges = np.full((len(keep), counts.max(), 2), -1)
    edges[item, slot] = np.stack([number[item, parent], number[item, child]], axis=1)
    row = np.arange(len(keep))
    return Graphs(edges, *(number[row, nodes[fits]] for nodes in (side, target, distractor)), keep.sum(axis=1))
