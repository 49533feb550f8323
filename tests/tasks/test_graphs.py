"""Graphs against networkx and brute force; the generators against the published files' statistics."""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from tycho.tasks import graph_shortcuts, graphs

DATA = Path(os.environ.get("TYCHO_DATA", Path(__file__).parents[2] / "../shared/data"))
MAKERS = [graphs.published, graphs.balanced, graphs.layered]


def official() -> graphs.Graphs:
    """The published ProsQA validation set, read without the product's readers."""
    path = DATA / "prosqa_valid.json"
    if not path.exists():
        pytest.skip(f"{path} is not here: set TYCHO_DATA to the folder with the published files")
    items = json.loads(path.read_text())
    columns = ([item[name] for item in items] for name in ("edges", "root", "target", "neg_target"))
    return graphs.from_lists(*columns, [len(item["idx_to_symbol"]) for item in items])


def as_networkx(batch: graphs.Graphs, item: int) -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_nodes_from(range(batch.nodes[item]))
    graph.add_edges_from(batch.edges[item, : batch.edge_counts[item]].tolist())
    return graph


def check_against_networkx(batch: graphs.Graphs, item: int) -> None:
    graph, size = as_networkx(batch, item), batch.adjacency.shape[1]
    root, target = int(batch.root[item]), int(batch.target[item])
    away = nx.single_source_shortest_path_length(graph, root)
    assert batch.from_root[item].tolist() == [away.get(v, -1) for v in range(size)]
    back = nx.single_source_shortest_path_length(graph.reverse(), target)
    assert batch.to_target[item].tolist() == [back.get(v, -1) for v in range(size)]
    every = dict(nx.all_pairs_shortest_path_length(graph))
    distances = graphs.all_hops(batch.adjacency[item : item + 1])[0]
    for u, v in itertools.product(range(batch.nodes[item]), repeat=2):
        assert distances[u, v] == every[u].get(v, -1)
    paths = sorted(map(tuple, nx.all_shortest_paths(graph, root, target))) if target in away else []
    if paths:
        assert batch.depth[item] == len(paths[0]) - 1
        assert batch.shortest_paths(item) == paths
        assert batch.path_counts[item, root] == len(paths)
        for k, layer in enumerate(batch.neighbor_k[item]):
            expected = {path[k] for path in paths} if k < len(paths[0]) else set()
            assert set(np.nonzero(layer)[0].tolist()) == expected
    ends = {root}
    for k in range(4):
        assert set(np.nonzero(batch.walk_ends(k)[item])[0].tolist()) == ends
        assert set(np.nonzero(batch.reachable(k)[item])[0].tolist()) == {v for v in away if away[v] <= k}
        ends = {v for u in ends for v in graph.successors(u)}


@pytest.mark.parametrize("make", MAKERS)
def test_structure_equals_networkx(make):
    batch = make(40, 3)
    for item in range(len(batch)):
        check_against_networkx(batch, item)


@st.composite
def digraphs(draw):
    size = draw(st.integers(3, 7))
    pairs = [(u, v) for u in range(size) for v in range(size) if u != v]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True, min_size=1, max_size=14))
    root, target, distractor = draw(st.permutations(range(size)))[:3]
    return edges, root, target, distractor, size


@settings(max_examples=60, deadline=None)
@given(st.lists(digraphs(), min_size=1, max_size=4))
def test_structure_equals_networkx_on_any_digraph(items):
    batch = graphs.from_lists(*zip(*items, strict=True))
    for item in range(len(batch)):
        check_against_networkx(batch, item)


@pytest.mark.parametrize("make", MAKERS)
def test_items_are_well_formed(make):
    batch = make(1500, 1)
    item = np.arange(len(batch))
    assert len(batch) == 1500
    assert (batch.depth >= 3).all() and (batch.depth <= 6).all()
    assert (batch.from_root[item, batch.distractor] < 0).all()
    leaf = ~batch.adjacency.any(axis=2)
    assert leaf[item, batch.target].all() and leaf[item, batch.distractor].all()
    has_parent = batch.adjacency.any(axis=1)
    assert not has_parent[item, batch.root].any() and has_parent[item, batch.distractor].all()
    inside = np.arange(batch.adjacency.shape[1]) < batch.nodes[:, None]
    assert ((has_parent | ~leaf) == inside).all()  # no isolated nodes, none beyond `nodes`
    assert (batch.adjacency.sum(axis=(1, 2)) == batch.edge_counts).all()  # no edge twice
    assert not np.triu(batch.adjacency.transpose(0, 2, 1)).any()  # parents come first: acyclic


@pytest.mark.parametrize("make", MAKERS)
def test_a_seed_names_a_sequence(make):
    many, few, other = make(1200, 5), make(100, 5), make(100, 6)
    width = few.edges.shape[1]
    assert (many.edges[:100, :width] == few.edges).all() and (many.edges[:100, width:] == -1).all()
    for name in ("root", "target", "distractor", "nodes"):
        assert (getattr(many, name)[:100] == getattr(few, name)).all()
    assert not np.array_equal(few.target, other.target)


def test_layered_shape():
    batch = graphs.layered(3000, 0)
    assert (batch.nodes == 14).all() and (batch.edge_counts == 16).all() and (batch.depth == 3).all()
    sides = batch.adjacency.reshape(len(batch), 2, 7, 2, 7)
    assert not sides[:, 0, :, 1].any() and not sides[:, 1, :, 0].any()
    for source in (0, 7):
        distance = graphs.hops(batch.adjacency, np.arange(14)[None] == np.full((len(batch), 1), source))
        layers = (distance[:, :, None] == np.arange(4)).sum(axis=1)
        assert (layers == [1, 2, 2, 2]).all()
    assert set(np.unique(batch.root)) == {0, 7}
    assert (graph_shortcuts.depth(batch) == 3).all()
    assert ((batch.target < 7) == (batch.root == 0)).all() and ((batch.distractor < 7) == (batch.root == 7)).all()


def test_layered_takes_other_shapes_and_refuses_impossible_ones():
    deep = graphs.layered(50, 0, widths=(2, 3, 3, 2), extra=4)
    assert (deep.depth == 4).all() and (deep.edge_counts == 28).all() and (deep.nodes == 22).all()
    full = graphs.layered(50, 0, widths=(2, 2), extra=2)
    assert (full.path_counts[np.arange(50), full.root] == 2).all()  # complete: two ways
    with pytest.raises(ValueError, match="no room for 3 extra"):
        graphs.layered(1, 0, widths=(2, 2), extra=3)


def test_random_paths_are_uniform_shortest_paths():
    diamond = [(0, 1), (0, 2), (1, 3), (2, 3), (2, 4), (3, 5), (4, 5), (0, 6), (6, 7), (7, 5)]
    paths = [(0, 1, 3, 5), (0, 2, 3, 5), (0, 2, 4, 5), (0, 6, 7, 5)]
    batch = graphs.from_lists([diamond] * 8000, [0] * 8000, [5] * 8000, [8] * 8000, [9] * 8000)
    drawn = Counter(map(tuple, batch.random_paths(np.random.default_rng(0)).tolist()))
    assert set(drawn) == set(paths)
    assert chisquare([drawn[path] for path in paths]).pvalue > 1e-3
    mixed = graphs.published(300, 2)
    for item, path in enumerate(mixed.random_paths(np.random.default_rng(0)).tolist()):
        depth = mixed.depth[item]
        assert tuple(path[: depth + 1]) in mixed.shortest_paths(item) and set(path[depth + 1 :]) <= {-1}


def statistics(batch: graphs.Graphs) -> dict[str, float]:
    """The measures of the official files."""
    item = np.arange(len(batch))
    inside = np.arange(batch.adjacency.shape[1]) < batch.nodes[:, None]
    parents = batch.adjacency.sum(axis=1)
    degrees = parents[inside & (parents > 0)]
    mine = batch.from_root >= 0
    distances = graphs.all_hops(batch.adjacency)
    other = distances[item, 1 - batch.root] >= 0  # ProsQA's two sources are nodes 0 and 1
    walk = np.zeros(batch.adjacency.shape[:2])
    walk[item, batch.root] = 1
    out = batch.adjacency.sum(axis=2)
    move = batch.adjacency / np.maximum(out, 1)[..., None]
    for _ in range(8):
        walk = (walk[:, None] @ move)[:, 0] + walk * (out == 0)
    return {
        "nodes": batch.nodes.mean(),
        "nodes_sd": batch.nodes.std(),
        "edges": batch.edge_counts.mean(),
        **{f"hops_{k}": np.mean(batch.depth == k) for k in (3, 4, 5, 6)},
        "paths": batch.path_counts[item, batch.root].mean(),
        "parentless": (inside & (parents == 0)).sum(axis=1).mean(),
        "root_children": out[item, batch.root].mean(),
        **{f"parents_{k}": np.mean(degrees == k) for k in (1, 2, 3, 4)},
        "asked_side": (mine & ~other).sum(axis=1).mean(),
        "other_side": (other & ~mine).sum(axis=1).mean(),
        **{f"within_{k}": batch.reachable(k).sum(axis=1).mean() for k in (1, 2, 3, 4)},
        "random_walk": walk[item, batch.target].mean(),
        **{name: graph_shortcuts.accuracy(f(batch)) for name, f in graph_shortcuts.PREDICTORS.items()},
    }


# Means over the 800 official validation and test items, and how far the generator may be from them.
MEASURED = {
    "nodes": (22.8, 0.5),
    "nodes_sd": (1.98, 0.2),
    "edges": (36.0, 0.8),
    "hops_3": (0.40, 0.06),
    "hops_4": (0.44, 0.05),
    "hops_5": (0.13, 0.03),
    "hops_6": (0.024, 0.01),
    "paths": (1.59, 0.1),
    "parentless": (2.55, 0.25),
    "root_children": (2.9, 0.2),
    "parents_1": (0.49, 0.02),
    "parents_2": (0.31, 0.02),
    "parents_3": (0.14, 0.01),
    "parents_4": (0.04, 0.01),
    "asked_side": (12.1, 0.8),
    "other_side": (8.7, 0.6),
    "within_1": (4.0, 0.25),
    "within_2": (8.4, 0.4),
    "within_3": (11.7, 0.6),
    "within_4": (13.0, 0.7),
    "random_walk": (0.155, 0.035),
    "depth": (0.94, 0.02),
    "ancestors": (0.71, 0.03),
    "few_parents": (0.66, 0.03),
}


@pytest.fixture(scope="module")
def grown() -> dict[str, float]:
    return statistics(graphs.published(4000, 0))


@pytest.mark.parametrize("name", MEASURED)
def test_published_fits_the_official_statistics(grown, name):
    value, tolerance = MEASURED[name]
    assert grown[name] == pytest.approx(value, abs=tolerance)


def test_published_fits_the_official_file(grown):
    """The same measures on the file itself; three standard errors of its 300 items are added to the tolerance."""
    batch = official()
    rng = np.random.default_rng(0)
    resampled = [statistics(batch.select(rng.integers(0, len(batch), len(batch)))) for _ in range(20)]
    for name, value in statistics(batch).items():
        error = np.std([sample[name] for sample in resampled])
        assert grown[name] == pytest.approx(value, abs=MEASURED[name][1] + 3 * error), name


def test_the_published_question_gives_the_answer_away(grown):
    assert grown["depth"] == pytest.approx(0.93, abs=0.015)
    batch = graphs.published(3000, 4)
    own = graphs.all_hops(batch.adjacency)[np.arange(len(batch)), 1 - batch.root, batch.distractor]
    assert (batch.depth >= own).all()  # the target is never shallower than the distractor


@pytest.mark.parametrize("make", [graphs.balanced, graphs.layered])
def test_the_balanced_questions_do_not(make):
    batch = make(4000, 0)
    for name, predictor in graph_shortcuts.PREDICTORS.items():
        accuracy = graph_shortcuts.accuracy(predictor(batch))
        assert accuracy == pytest.approx(0.5, abs=4 * 0.5 / 4000**0.5), name  # four standard errors
    if make is graphs.balanced:
        own = graphs.all_hops(batch.adjacency)[np.arange(len(batch)), 1 - batch.root, batch.distractor]
        assert (batch.depth == own).all()
        assert np.mean(batch.depth == 3) == pytest.approx(0.48, abs=0.03)  # 326 of the 676 published 3-4-hop items


def test_shortcuts_by_brute_force():
    batch = graphs.published(25, 8)
    for item in range(len(batch)):
        graph = as_networkx(batch, item)
        sources = [v for v in graph if graph.in_degree(v) == 0]
        for column, node in enumerate((int(batch.target[item]), int(batch.distractor[item]))):
            ways = [nx.shortest_path_length(graph, s, node) for s in sources if nx.has_path(graph, s, node)]
            assert graph_shortcuts.depth(batch)[item, column] == max(ways)
            assert graph_shortcuts.ancestors(batch)[item, column] == len(nx.ancestors(graph, node)) + 1
            assert graph_shortcuts.few_parents(batch)[item, column] == -graph.in_degree(node)
    assert graph_shortcuts.accuracy(np.array([[1, 0], [0, 0], [0, 1], [2, 1]])) == 0.625
