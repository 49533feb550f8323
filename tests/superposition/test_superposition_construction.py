"""The construction against breadth-first search by hand, and its parts against their formulas."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.superposition import construction, estimands
from methods.superposition.construction import ANSWER, EDGE, ROOT, SPECIAL, START, Constants
from methods.superposition.method import Superposition
from methods.superposition.transformer import forward
from tycho.adapter import JobView, Run
from tycho.config import MethodPlan, job_config
from tycho.keys import JobKey
from tycho.tasks import graphs, published

DATA = Path(os.environ.get("TYCHO_DATA", Path(__file__).parents[2] / "../shared/data"))


def reached(edges: list[tuple[int, int]], root: int, hops: int) -> set[int]:
    """The nodes within some hops, by sets."""
    found = {root}
    for _ in range(hops):
        found |= {target for source, target in edges if source in found}
    return found


def edges_of(some: graphs.Graphs, item: int) -> list[tuple[int, int]]:
    return [tuple(edge) for edge in some.edges[item].tolist() if edge[0] >= 0]


def check(some: graphs.Graphs) -> None:
    """Every thought, and the answers with D - 1, D and D + 1 thoughts."""
    most = int(some.depth.max()) + 1
    net = construction.build(construction.token_embeddings(int(some.nodes.max())), some.edges.shape[1])
    found = construction.reason(net, some, most, batch=7)
    for item in range(len(some)):
        for k in range(1, most + 1):
            nodes = reached(edges_of(some, item), int(some.root[item]), k)
            wanted = torch.zeros(net.embeddings.shape[0] - len(SPECIAL), dtype=torch.float64)
            wanted[list(nodes)] = len(nodes) ** -0.5
            assert torch.allclose(found.weights[item, k - 1], wanted, rtol=0, atol=1e-13)
        depth, target = int(some.depth[item]), int(some.target[item])
        for count in (depth, depth + 1):
            logits = found.logits[item, count]
            others = torch.cat([logits[:target], logits[target + 1 :]])
            assert float(logits[target]) == pytest.approx(2 * float(others.max()))  # in the thought and a candidate
        short = found.logits[item, depth - 1]
        assert int((short == short.max()).sum()) > 1 and short[target] == short[some.distractor[item]]


@pytest.mark.parametrize("make", [graphs.published, graphs.balanced, graphs.layered])
def test_generated_graphs(make):
    check(make(40, 3))


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the published files (TYCHO_DATA)")
def test_published_graphs():
    some = published.graphs_of(published.read_prosqa(DATA / "prosqa_valid_graph_4_coconut.json"))
    assert len(some) == 257
    check(some.select(slice(None, None, 3)))


@given(seed=st.integers(0, 10**6), nodes=st.integers(4, 12))
def test_any_graph(seed, nodes):
    """Cycles, shared targets, dead ends: whatever has a target that only the root reaches."""
    generator = torch.Generator().manual_seed(seed)
    adjacency = torch.rand(nodes, nodes, generator=generator) < 1.5 / nodes
    adjacency.fill_diagonal_(False)
    edges = [tuple(edge) for edge in adjacency.nonzero().tolist()]
    near = reached(edges, 0, nodes)
    far = set(range(nodes)) - near
    if len(near) < 2 or not far:
        return
    check(graphs.from_lists([edges], [0], [max(near)], [max(far)], [nodes]))


def test_exact_claims_count_graphs(tmp_path):
    """Each statement of the theorem is one instance a graph, as a check of that graph alone has it."""
    key = JobKey("quick", "superposition", "construction", "published", 0)
    small = {"graphs": 9, "disturbed": 2, "noise": [0.0], "dimensions": [1.0], "draws": 1}
    config = job_config(Superposition(), MethodPlan(config=small), "construction", "published")
    view = JobView(key, tmp_path)
    run = Run(key, "analyse", config, job=view, work=tmp_path / "work")
    Superposition().analyse(run)
    run.finish(tmp_path)
    found = SimpleNamespace(samples=view.record("samples"))
    asked = {"arm": "construction", "task": "published", "variant": "", "setting": ""}
    metrics = view.record("metrics").set_index(["name", "setting"]).value
    for name in ("unsolved", "unsolved_with_one_more", "margin_one_short", "thought_error"):
        frame = getattr(estimands, name)(found, **asked)
        assert frame.instance.nunique() == len(frame) == 9, name
        total = frame.value.sum() if name.startswith("unsolved") else frame.value.max()
        assert total == metrics[name].max(), name
    # A graph that is not solved is one instance that misses.
    wrong = found.samples.assign(correct=found.samples.correct & (found.samples.item != "published, seed 0, graph 4"))
    one = estimands.unsolved(SimpleNamespace(samples=wrong), **asked).set_index("instance").value
    assert one.sum() == 1 and one["published, seed 0, graph 4"] == 1


def test_layer_one_copies_sources_targets_and_candidates():
    some = graphs.published(5, 1)
    net = construction.build(construction.token_embeddings(int(some.nodes.max())), some.edges.shape[1])
    ids, mask = construction.prompts(some)
    index = mask.long().cumsum(dim=1)
    states = construction._states(net, net.embeddings[ids], index)
    doubled = (net.blocks[0], net.blocks[0])  # the last block answers for the last column alone
    _, cache = forward(doubled, states, mask)
    after = cache.values[1]  # content of layer 1's output, as its own value map reads it
    assert after.shape[2] == net.content
    from methods.superposition.transformer import attend, feed_forward

    block = net.blocks[0]
    out = feed_forward(block, states + attend(block, states, states @ block.key, states @ block.value, mask))
    size = net.content
    parts = [out[..., part * size : (part + 1) * size] @ net.embeddings.T for part in range(3)]
    for row in range(5):
        tokens = ids[row][mask[row]].tolist()
        held = [
            [{t for t, w in enumerate(column) if w > 1e-9} for column in part[row][mask[row]].tolist()]
            for part in parts
        ]
        for place, token in enumerate(tokens):
            assert held[0][place] == {token}
            source = {EDGE: {tokens[place - 2]}, ANSWER: {tokens[place - 1]}}.get(token, set())
            target = {EDGE: {tokens[place - 1]}, ROOT: {tokens[place - 2], tokens[place - 1]}}.get(token, set())
            assert held[1][place] == source and held[2][place] == target


def test_prompts_say_what_the_graph_is():
    some = graphs.published(6, 2)
    ids, mask = construction.prompts(some)
    for row in range(6):
        tokens = ids[row][mask[row]].tolist()
        assert tokens[0] == START and tokens.count(START) == 1
        triples = [tuple(t - len(SPECIAL) for t in tokens[i : i + 2]) for i in range(1, len(tokens) - 5, 3)]
        assert triples == edges_of(some, row) and set(tokens[3 : len(tokens) - 5 : 3]) == {EDGE}
        pair = {int(some.target[row]), int(some.distractor[row])}
        assert {t - len(SPECIAL) for t in tokens[-4:-2]} == pair and tokens[-1] - len(SPECIAL) == some.root[row]
        assert mask[row].tolist() == sorted(mask[row].tolist())  # padding is on the left


def test_positions_turn_by_the_rotation():
    index = torch.arange(1, 200)
    for distance in (-2, -1, 1, 5):
        turned = construction.position_embeddings(index, 64) @ construction.rotation(distance, 64)
        assert torch.allclose(turned, construction.position_embeddings(index + distance, 64), atol=1e-12)
    near = construction.position_embeddings(index, 64)
    products = near @ near.T
    assert torch.allclose(products.diagonal(), torch.ones(199, dtype=torch.float64))
    assert float((products - 2 * torch.eye(199)).max()) < 1 - 0.03  # the gap that η sharpens


def test_the_cache_changes_nothing():
    """Columns passed in one by one, and all at once."""
    some = graphs.layered(4, 5)
    net = construction.build(construction.token_embeddings(14), 16)
    ids, mask = construction.prompts(some)
    states = construction._states(net, net.embeddings[ids], mask.long().cumsum(dim=1))
    whole, _ = forward(net.blocks, states, mask)
    cache, last = None, None
    for column in range(states.shape[1]):
        last, cache = forward(net.blocks, states[:, column : column + 1], mask[:, column : column + 1], cache)
    assert torch.allclose(whole, last, atol=1e-13)


def test_noise_above_the_threshold_breaks_it_and_below_does_not():
    some = graphs.layered(40, 9)

    def share(constants: Constants, noise: float) -> float:
        net = construction.build(construction.token_embeddings(14), 16, constants)
        found = construction.reason(net, some, 3, noise=noise, generator=torch.Generator().manual_seed(1))
        return float((construction.margin(found.logits[:, 3], torch.from_numpy(some.target)) > 1e-6).double().mean())

    assert share(Constants(), 0.002) == 1 and share(Constants(), 0.03) < 0.5
    assert share(Constants(first=0.5 / 14**0.5), 0.03) == 1


def test_a_collapsed_thought_is_one_node_that_follows_an_edge():
    some = graphs.published(30, 4)
    net = construction.build(construction.token_embeddings(int(some.nodes.max())), some.edges.shape[1])
    found = construction.reason(net, some, 4, measured=True, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found.weights.sum(dim=2), torch.ones(30, 4, dtype=torch.float64))
    place = found.weights.argmax(dim=2)
    for item in range(30):
        here = int(some.root[item])
        for k in range(4):
            after = int(place[item, k])
            edges = edges_of(some, item)
            # At a leaf no edge asks for attention, so all get the same and the next node may be any.
            assert after == here or (here, after) in edges or here not in {source for source, _ in edges}
            here = after


def test_margin_of_a_tie_is_zero():
    logits = torch.tensor([[1.0, 1.0, 0.5], [2.0, 1.0, 1.0]], dtype=torch.float64)
    assert construction.margin(logits, torch.tensor([0, 0])).tolist() == [0.0, 0.5]
    assert construction.margin(logits, torch.tensor([2, 1])).tolist() == [-1.0, -1.0]
