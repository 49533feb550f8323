"""Reachability items written down: as symbols (one token an edge) for small models, as ProsQA's sentences for others."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from tycho.lm.examples import Examples, from_padded
from tycho.lm.vocabulary import Vocabulary
from tycho.tasks.graphs import Graphs

Style = Literal["terse", "verbose"]

# [Q] candidates, [R] root, [A] answer; [H] a hop of the search, its frontier, ":" and the edges out of it; [P] the path.
MARKS = ("[Q]", "[R]", "[A]", "[H]", ":", "[P]")


def vocabulary(nodes: int, extra: Sequence[str] = ()) -> Vocabulary:
    """Marks, a method's own words, `nodes` nodes and all edges between them."""
    return Vocabulary((*MARKS, *extra), nodes)


def symbols(
    graphs: Graphs, words: Vocabulary, style: Style, rng: np.random.Generator, *, rename: bool = True
) -> Examples:
    """Items as tokens. Node names, the order of edges and of candidates, and which shortest path is shown are drawn anew.

    rename=False keeps the node numbers: for graphs that `Graphs.renamed` has given names already, which probes of a
    model compare with its tokens. (A generator's own numbers would give the answer away.)

    prompt  `3>7 0>3 … [Q] 7 5 [R] 0`
    terse   one step a hop, its node: `3`, `7`
    verbose one step a hop of a breadth-first search (`[H] frontier : source target source target …`, all edges out of
            the nodes first reached at that hop, in order of their numbers), then one with the path: `[P] 0 3 7`
    answer  `[A] 7 <eos>`

    Raises ValueError when an item has more nodes than the vocabulary.
    """
    item = np.arange(n := len(graphs))
    graphs = graphs.renamed(words.nodes, rng) if rename else graphs
    prompt, kept = _prompt(graphs, words, rng)
    path = graphs.random_paths(rng)
    if style == "terse":
        steps, steps_kept = words.node(path[:, 1:, None]), path[:, 1:, None] >= 0
    else:
        search, search_kept = _search(graphs, words)
        width = max(search.shape[2], path.shape[1] + 1)
        steps = np.zeros((n, search.shape[1] + 1, width), dtype=np.int64)
        steps_kept = np.zeros(steps.shape, dtype=bool)
        steps[:, :-1, : search.shape[2]], steps_kept[:, :-1, : search.shape[2]] = search, search_kept
        last = graphs.depth  # the path is the step after an item's own last hop
        steps[item, last, 0], steps_kept[item, last, 0] = words["[P]"], True
        steps[item, last, 1 : path.shape[1] + 1] = words.node(path)
        steps_kept[item, last, 1 : path.shape[1] + 1] = path >= 0
    answer = np.stack([np.full(n, words["[A]"]), words.node(graphs.target), np.full(n, words.end)], axis=1)
    return from_padded(prompt, kept, steps, steps_kept, answer, words.pad)


def _prompt(graphs: Graphs, words: Vocabulary, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    n = len(graphs)
    present = graphs.edges[..., 0] >= 0
    order = np.where(present, rng.random(present.shape), 2.0).argsort(axis=1)
    edges = np.take_along_axis(words.edge(*np.moveaxis(graphs.edges, 2, 0)), order, axis=1)
    candidates = np.stack([graphs.target, graphs.distractor], axis=1)
    candidates = np.where(rng.random((n, 1)) < 0.5, candidates, candidates[:, ::-1])
    question = [np.full(n, words["[Q]"]), *words.node(candidates.T), np.full(n, words["[R]"]), words.node(graphs.root)]
    ids = np.concatenate([edges, np.stack(question, axis=1)], axis=1)
    return ids, np.concatenate([np.take_along_axis(present, order, axis=1), np.ones((n, 5), dtype=bool)], axis=1)


def _search(graphs: Graphs, words: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """(ids, kept) [n, D, 2 + V + 2E] of the search's hops; hops at or behind the target's are not kept."""
    n, size = graphs.from_root.shape
    source, target = np.moveaxis(graphs.edges, 2, 0)
    order = np.where(source >= 0, source * size + target, size * size).argsort(axis=1)
    source, target = np.take_along_axis(source, order, axis=1), np.take_along_axis(target, order, axis=1)
    hop = np.arange(graphs.depth.max(initial=0))[:, None]
    asked = hop[:, 0] < graphs.depth[:, None]  # [n, D]
    frontier = (graphs.from_root[:, None] == hop) & asked[..., None]
    reached = np.take_along_axis(graphs.from_root, np.maximum(source, 0), axis=1)
    out = (source >= 0)[:, None] & (reached[:, None] == hop) & asked[..., None]
    pairs = words.node(np.stack([source, target], axis=2)).reshape(n, -1)
    row = np.concatenate(
        [
            np.full((n, 1), words["[H]"]),
            np.broadcast_to(words.node(np.arange(size)), (n, size)),
            np.full((n, 1), words[":"]),
            pairs,
        ],
        axis=1,
    )
    kept = np.concatenate([asked[..., None], frontier, asked[..., None], out.repeat(2, axis=2)], axis=2)
    return np.broadcast_to(row[:, None], kept.shape), kept


def stream(
    make: Callable[[int, int], Graphs],
    words: Vocabulary,
    style: Style,
    seed: int,
    batch: int,
    *,
    pool: int | None = None,
) -> Callable[[int], Examples]:
    """Batches by step: `stream(layered, …)(step)`, the same for the same step whatever came before.

    `pool`: draw from that many graphs for ever (names and orders are new each time); None: new graphs each step.
    Steps are made in blocks, since numpy's cost is mostly per call.
    """
    block = max(1, 4096 // batch)
    graphs = make(pool, seed) if pool else None
    cached: dict[int, Examples] = {}

    def at(step: int) -> Examples:
        number, within = divmod(step, block)
        if number not in cached:
            rng = np.random.default_rng([seed, 1, number])
            size = block * batch
            some = graphs.select(rng.integers(0, pool, size)) if graphs else make(size, int(rng.integers(2**62)))
            cached.clear()
            cached[number] = symbols(some, words, style, rng)
        return cached[number].select(slice(within * batch, (within + 1) * batch))

    return at


# --- sentences -------------------------------------------------------------------------------------------------------

# The names and concepts of the published ProsQA files.
_PEOPLE = "Alex Bob Carol Davis Eva Fae Gabriel Jack Max Oliver Polly Rex Sally Sam Stella Tom Wren"
_STEMS = (
    "bom boom brim chor dum fel fom ger gor grim gwom hil im jel jom ker lem lor num quim rem rom ror scrom shum ster "
    "stor ter tim tum vum wor wum yer yim yum zhor zum"
)
PEOPLE = tuple(_PEOPLE.split())
CONCEPTS = tuple(f"{stem}pus" for stem in _STEMS.split())


def sentence_vocabulary(extra: Sequence[str] = ()) -> Vocabulary:
    """A word-level vocabulary of the sentences, for models that are trained on them from scratch."""
    return Vocabulary(("Every", "is", "a", "Is", "or", ".", "?", "###", *PEOPLE, *CONCEPTS, *extra), isolate=".?")


def sentences(graphs: Graphs, seed: int, style: Style = "terse") -> list[dict[str, Any]]:
    """Items in ProsQA's published JSON form, with `neighbor_k`.

    Parentless nodes are people, the others concepts. terse: the published steps, one sentence a hop. verbose: a step
    a hop with every sentence about the nodes first reached there, then the path's sentences in one step.
    """
    rng = np.random.default_rng(seed)
    paths = graphs.random_paths(rng)
    parentless = ~graphs.adjacency.any(axis=1)
    return [
        _sentences(graphs, item, paths[item, : depth + 1].tolist(), parentless[item], style, rng)
        for item, depth in enumerate(graphs.depth)
    ]


def _sentences(
    graphs: Graphs, item: int, path: list[int], parentless: np.ndarray, style: Style, rng: np.random.Generator
) -> dict[str, Any]:
    people, concepts = iter(rng.permutation(PEOPLE).tolist()), iter(rng.permutation(CONCEPTS).tolist())
    names = [next(people) if parentless[node] else next(concepts) for node in range(graphs.nodes[item])]
    edges = graphs.edges[item, : graphs.edge_counts[item]].tolist()

    def fact(source: int, target: int) -> str:
        return f"{'' if parentless[source] else 'Every '}{names[source]} is a {names[target]}."

    facts = [fact(*edges[i]) for i in rng.permutation(len(edges))]
    root, target, distractor = (int(nodes[item]) for nodes in (graphs.root, graphs.target, graphs.distractor))
    first, second = rng.permutation([target, distractor]).tolist()
    steps = [fact(*edge) for edge in itertools.pairwise(path)]
    if style == "verbose":
        hop = graphs.from_root[item]
        search = [" ".join(fact(s, t) for s, t in sorted(edges) if hop[s] == k) for k in range(len(path) - 1)]
        steps = [*search, " ".join(steps)]
    layers = graphs.neighbor_k[item, : len(path)]
    return {
        "question": " ".join([*facts, f"Is {names[root]} a {names[first]} or {names[second]}?"]),
        "answer": f"{names[root]} is a {names[target]}.",
        "steps": steps,
        "idx_to_symbol": names,
        "edges": edges,
        "root": root,
        "target": target,
        "neg_target": distractor,
        "neighbor_k": {str(k): np.nonzero(layer)[0].tolist() for k, layer in enumerate(layers)},
    }
