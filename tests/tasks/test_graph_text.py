"""What the written items say, read back by parsers that share nothing with the writers."""

from __future__ import annotations

import itertools
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tycho.tasks import graph_text, graphs, published

DATA = Path(os.environ.get("TYCHO_DATA", Path(__file__).parents[2] / "../shared/data"))
FACT = re.compile(r"(?:Every (\w+)|(\w+)) is a (\w+)\.")


def texts(examples, words):
    """(prompt, steps, answer) of each example as strings."""
    for i in range(len(examples)):
        prompt = words.write(examples.prompt[i, : examples.prompt_length[i]].tolist())
        steps = [
            words.write(row[:length].tolist())
            for row, length in zip(examples.steps[i], examples.step_length[i].tolist(), strict=True)
        ]
        yield prompt, steps, words.write(examples.answer[i].tolist())


def parse(prompt):
    """(children by node, candidates, root) of a written prompt."""
    facts, question = prompt.split("[Q]")
    candidates, root = question.split("[R]")
    children = {}
    for edge in facts.split():
        source, target = map(int, edge.split(">"))
        children.setdefault(source, set()).add(target)
    return children, set(map(int, candidates.split())), int(root)


def layers(children, root):
    """Breadth-first layers from the root, for ever."""
    seen, layer = {root}, {root}
    while True:
        yield layer
        layer = {v for u in layer for v in children.get(u, ())} - seen
        seen |= layer


@pytest.mark.parametrize(("make", "nodes"), [(graphs.layered, 14), (graphs.published, 28), (graphs.balanced, 30)])
def test_terse_traces_are_shortest_paths_to_the_reachable_candidate(make, nodes):
    words = graph_text.vocabulary(nodes)
    batch = make(150, 2)
    examples = graph_text.symbols(batch, words, "terse", np.random.default_rng(0))
    firsts = 0
    for item, (prompt, steps, answer) in enumerate(texts(examples, words)):
        children, candidates, root = parse(prompt)
        assert sum(map(len, children.values())) == batch.edge_counts[item]
        path = [root, *(int(step) for step in steps if step)]
        assert all(v in children[u] for u, v in itertools.pairwise(path))
        mark, target, end = answer.split()
        assert (mark, end) == ("[A]", "<eos>") and path[-1] == int(target) and len(path) - 1 == batch.depth[item]
        reached = set().union(*(layer for layer, _ in zip(layers(children, root), range(30), strict=False)))
        assert candidates & reached == {int(target)}
        firsts += prompt.split("[Q] ")[1].startswith(f"{target} ")
    assert 50 < firsts < 100  # the order of candidates is a coin


@pytest.mark.parametrize(("make", "nodes"), [(graphs.layered, 14), (graphs.published, 28)])
def test_verbose_traces_are_breadth_first_searches(make, nodes):
    words = graph_text.vocabulary(nodes)
    batch = make(100, 2)
    examples = graph_text.symbols(batch, words, "verbose", np.random.default_rng(0))
    assert examples.step_counts.tolist() == (batch.depth + 1).tolist()
    for prompt, steps, answer in texts(examples, words):
        children, _, root = parse(prompt)
        *search, path = [step for step in steps if step]
        for step, layer in zip(search, layers(children, root), strict=False):
            assert step.startswith("[H] ")
            frontier, edges = step.removeprefix("[H] ").split(" :")
            assert list(map(int, frontier.split())) == sorted(layer)
            numbers = list(map(int, edges.split()))
            expected = sorted((u, v) for u in layer for v in children.get(u, ()))
            assert list(zip(numbers[::2], numbers[1::2], strict=True)) == expected
        mark, *nodes_on_path = path.split()
        assert mark == "[P]" and int(nodes_on_path[0]) == root and nodes_on_path[-1] == answer.split()[1]
        assert all(int(v) in children[int(u)] for u, v in itertools.pairwise(nodes_on_path))


def test_verbose_traces_are_long():
    for make, nodes, at_least in ((graphs.layered, 14, 1.0), (graphs.published, 28, 0.99), (graphs.balanced, 28, 0.97)):
        words = graph_text.vocabulary(nodes)
        examples = graph_text.symbols(make(1000, 0), words, "verbose", np.random.default_rng(0))
        lengths = examples.trace()[1].sum(dim=1)
        assert (lengths >= 30).float().mean() >= at_least


def test_names_and_orders_are_drawn_anew():
    words = graph_text.vocabulary(14)
    batch = graphs.layered(1, 0).select(np.zeros(4000, dtype=int))
    examples = graph_text.symbols(batch, words, "terse", np.random.default_rng(0))
    roots = torch.bincount(examples.prompt[:, -1] - int(words.node(0)), minlength=14)
    assert (roots - 4000 / 14).abs().max() < 5 * (4000 / 14) ** 0.5
    assert len({tuple(row) for row in examples.prompt.tolist()}) == 4000


def test_renamed_graphs_are_the_same_graphs_and_are_written_as_they_are():
    words = graph_text.vocabulary(30)
    batch = graphs.published(100, 0)
    renamed = batch.renamed(30, np.random.default_rng(0))
    assert (renamed.depth == batch.depth).all() and (renamed.nodes == 30).all()
    item = np.arange(100)
    assert (renamed.path_counts[item, renamed.root] == batch.path_counts[item, batch.root]).all()
    examples = graph_text.symbols(renamed, words, "terse", np.random.default_rng(1), rename=False)
    for i, (prompt, _, answer) in enumerate(texts(examples, words)):
        children, candidates, root = parse(prompt)
        edges = {(u, v) for u, targets in children.items() for v in targets}
        assert edges == set(zip(*(axis.tolist() for axis in np.nonzero(renamed.adjacency[i])), strict=True))
        assert root == renamed.root[i] and candidates == {renamed.target[i], renamed.distractor[i]}
        assert answer.split()[1] == str(renamed.target[i])


def test_too_small_a_vocabulary_is_refused():
    words = graph_text.vocabulary(13)
    with pytest.raises(ValueError, match="14 nodes, there are only 13 names"):
        graph_text.symbols(graphs.layered(1, 0), words, "terse", np.random.default_rng(0))


@pytest.mark.parametrize("pool", [None, 50])
def test_a_stream_is_a_function_of_the_step(pool):
    words = graph_text.vocabulary(14)

    def new(seed):
        return graph_text.stream(graphs.layered, words, "terse", seed, 16, pool=pool)

    forwards, jumping, other = new(0), new(0), new(1)
    steps = [0, 1, 255, 256, 700]
    seen = {step: forwards(step).prompt for step in steps}
    for step in reversed(steps):
        assert torch.equal(jumping(step).prompt, seen[step])
        assert len(seen[step]) == 16 and not torch.equal(other(step).prompt, seen[step])
    flat = [tuple(row) for rows in seen.values() for row in rows.tolist()]
    assert len(set(flat)) == len(flat)


def facts(text):
    return [(every or name, concept, bool(every)) for every, name, concept in FACT.findall(text)]


def check_sentences(item, style):
    names, edges = item["idx_to_symbol"], {tuple(edge) for edge in item["edges"]}
    index = {name: i for i, name in enumerate(names)}
    *_, question = item["question"].partition("Is ")
    stated = facts(item["question"])
    assert {(index[s], index[t]) for s, t, _ in stated} == edges and len(stated) == len(edges)
    children = {index[t] for _, t, _ in stated}
    assert all(every == (index[source] in children) for source, _, every in stated)
    root, first, second = re.fullmatch(r"(\w+) a (\w+) or (\w+)\?", question).groups()
    assert index[root] == item["root"] and {index[first], index[second]} == {item["target"], item["neg_target"]}
    assert item["answer"] == f"{root} is a {names[item['target']]}."
    steps = [facts(step) for step in item["steps"]]
    path = steps[-1] if style == "verbose" else [fact for step in steps for fact in step]
    nodes = [index[path[0][0]], *(index[target] for _, target, _ in path)]
    assert nodes[0] == item["root"] and nodes[-1] == item["target"]
    assert all((u, v) in edges for u, v in itertools.pairwise(nodes))
    if style == "verbose":
        outgoing = {}
        for source, target in edges:
            outgoing.setdefault(source, set()).add(target)
        for step, layer in zip(steps[:-1], layers(outgoing, item["root"]), strict=False):
            assert {(index[s], index[t]) for s, t, _ in step} == {(u, v) for u in layer for v in outgoing.get(u, ())}
    return nodes


@pytest.mark.parametrize("style", ["terse", "verbose"])
def test_sentences_say_what_the_graph_is(style):
    batch = graphs.published(80, 1)
    for i, item in enumerate(graph_text.sentences(batch, 0, style)):
        assert tuple(check_sentences(item, style)) in batch.shortest_paths(i)
    assert graph_text.sentences(batch, 0) == graph_text.sentences(batch, 0) != graph_text.sentences(batch, 1)


def test_the_published_file_is_written_the_same_way():
    path = DATA / "prosqa_valid_graph_4_coconut.json"
    if not path.exists():
        pytest.skip(f"{path} is not here: set TYCHO_DATA to the folder with the published files")
    items = json.loads(path.read_text())
    ours = graph_text.sentences(graphs.published(300, 0), 0)
    for item in items:
        check_sentences(item, "terse")
    assert set(items[0]) == set(ours[0])
    people = {item["idx_to_symbol"][item["root"]] for item in items}
    names = {name for item in items for name in item["idx_to_symbol"]}
    assert people <= set(graph_text.PEOPLE) and names == {*graph_text.PEOPLE, *graph_text.CONCEPTS}


def test_sentences_pass_through_the_readers(tmp_path):
    batch = graphs.published(60, 3)
    path = tmp_path / "made.json"
    path.write_text(json.dumps(graph_text.sentences(batch, 0)))
    items = published.read_prosqa(path)
    again = published.graphs_of(items)
    assert (again.adjacency == batch.adjacency).all() and (again.target == batch.target).all()
    for i, item in enumerate(items):
        expected = [tuple(np.nonzero(layer)[0].tolist()) for layer in batch.neighbor_k[i, : batch.depth[i] + 1]]
        assert list(item.neighbor_k) == expected
