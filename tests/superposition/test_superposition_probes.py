"""Groups against walks written out, probes against one item at a time, labels of the breadth-first arm, the swap."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from methods.coconut.data import problem
from methods.coconut.method import Coconut
from methods.coconut.model import Thinker
from methods.coconut.values import graphs_of
from methods.superposition import estimands, probes, published, train
from methods.superposition.method import Superposition
from tycho import records
from tycho.adapter import JobView, Run
from tycho.config import MethodPlan, job_config, load_settings, method_plan
from tycho.harness import make_items
from tycho.keys import JobKey
from tycho.lm.examples import IGNORED
from tycho.tasks import common, graphs

GROUND = common.ground("graphs")


def thinker(tied: bool = True) -> Thinker:
    return Thinker(GROUND.base(3, tied=tied).eval(), GROUND.words.tokenizer(), "thoughts", 3, False)


def walks(edges: list[tuple[int, int]], root: int, k: int) -> set[int]:
    ends = {root}
    for _ in range(k):
        ends = {target for source, target in edges if source in ends}
    return ends


@pytest.mark.parametrize("make", [graphs.layered, graphs.published])
def test_groups_of_nodes_and_edges(make):
    some = make(12, 5)
    source, target = np.moveaxis(some.edges, 2, 0)
    for k in (1, 2, 3):
        nodes, edges_in = probes.node_classes(some, k), probes.edge_classes(some, k, source, target)
        for item in range(len(some)):
            edges = [tuple(edge) for edge in some.edges[item].tolist() if edge[0] >= 0]
            paths = some.shortest_paths(item)
            named = {node for edge in edges for node in edge}
            reached = set().union(*(walks(edges, int(some.root[item]), j) for j in range(k + 1)))
            frontier = walks(edges, int(some.root[item]), k)
            optimal = {path[k] for path in paths if k < len(path)}
            wanted = (named - reached, reached, frontier, optimal, reached - frontier, frontier - optimal)
            other = int(some.distractor[item])
            wanted += ({other}, named - reached - {other})
            for name, group in zip((*probes.CLASSES, *probes.NAMED_OR_NOT), wanted, strict=True):
                assert set(np.nonzero(nodes[name][item])[0]) == group & named, (k, name)
            before = set().union(*(walks(edges, int(some.root[item]), j) for j in range(k)))
            last = walks(edges, int(some.root[item]), k - 1)
            best = {(path[k - 1], path[k]) for path in paths if k < len(path)}
            inside = [edge for edge in edges if edge[0] in before]
            newest = [edge for edge in inside if edge[0] in last]
            groups = (
                set(edges) - set(inside), set(inside), set(newest), best, set(inside) - set(newest), set(newest) - best,
            )  # fmt: skip
            for name, group in zip(probes.CLASSES, groups, strict=True):
                assert {edges[slot] for slot in np.nonzero(edges_in[name][item])[0]} == group, (k, name)


def test_gaps_of_inner_products_by_hand():
    """0 -> {1, 2}, 1 -> 3, 5 -> 6: target 3, distractor 6. At thought 2 the target alone is as far from the root."""
    some = graphs.from_lists([[(0, 1), (0, 2), (1, 3), (5, 6)]], [0], [3], [6], [8])
    products = np.array([[0.0, 5.0, 3.0, 9.0, 0.0, 1.0, 8.5, 0.0]])
    first, second = (probes.gaps(products, some, probes.node_classes(some, k)) for k in (1, 2))
    assert first["optimal over other frontier"].tolist() == [2.0]
    assert np.isnan(second["optimal over other frontier"]).all()
    # Far above nodes that the prompt does not name, and hardly above the one it does.
    assert second["target over distractor"].tolist() == [0.5]


def test_what_claims_on_probes_rest_on_is_recorded(tmp_path):
    """Gaps item by item, through the estimand; attention in both layers; groups of nodes out of reach, apart."""
    key = JobKey("quick", "superposition", "untied", "graphs", 0)
    config = job_config(Superposition(), MethodPlan(config={"probed": 30}), "untied", "graphs")
    model, view = thinker(tied=False), JobView(key, tmp_path)
    model.save(tmp_path / "model")
    run = Run(key, "analyse", config, job=view, work=tmp_path / "work")
    Superposition().analyse(run)
    run.finish(tmp_path)
    found, examples = view.record("metrics"), GROUND.held_out(30, "test")
    some = graphs_of(examples, GROUND.words)
    probe = probes.probe(model, examples, GROUND.words)
    for layer in (1, 2):
        for k in (1, 2, 3):
            edges = probes.edge_classes(some, k, probe.source, probe.target)["frontier"]
            mean = probe.attention[:, k - 1, layer - 1].numpy()[edges].mean()
            row = found.query(
                "name == 'attention' and variant == 'frontier' and setting == @at",
                local_dict={"at": f"layer={layer},thought={k}"},
            )
            assert row.value.tolist() == [pytest.approx(float(mean))]
    out = found.query("name == 'inner_product' and variant == 'distractor' and setting == 'thought=3'").value
    last = probe.products[:, 2].numpy()
    assert out.tolist() == [pytest.approx(float(last[np.arange(30), some.distractor].mean()), abs=1e-5)]
    asked = {"arm": "untied", "task": "graphs", "variant": "target over distractor", "setting": "thought=3"}
    gaps = estimands.product_gap(SimpleNamespace(samples=view.record("samples")), **asked)
    wanted = last[np.arange(30), some.target] - last[np.arange(30), some.distractor]
    assert gaps.value.to_numpy() == pytest.approx(wanted, abs=1e-5) and gaps.item.nunique() == 30
    assert (view.record("samples").split != "test").all(), "gaps are no answers"


def test_probes_of_a_batch_are_those_of_its_items():
    examples, model = GROUND.held_out(5, "test"), thinker()
    found = probes.probe(model, examples, GROUND.words)
    embedding = model.model.get_input_embeddings()
    for item in range(5):
        one = examples.select(slice(item, item + 1))
        prompt = one.prompt[0, : one.prompt_length[0]]
        inputs = embedding(prompt)[None]
        for k in range(3):  # without a cache, by hand
            out = model.model(inputs_embeds=inputs, output_hidden_states=True, output_attentions=True)
            thought = out.hidden_states[-1][0, -1]
            assert torch.allclose(found.thoughts[item, k], thought, atol=1e-5)
            attention = torch.stack([layer[0, :, -1].sum(dim=0) for layer in out.attentions])
            for place, token in enumerate(prompt.tolist()):
                edge = token - GROUND.words.produced
                if edge >= 0:
                    slot = [
                        s for s in range(found.source.shape[1])
                        if (found.source[item, s], found.target[item, s]) == divmod(edge, 14)
                    ]  # fmt: skip
                    assert len(slot) == 1
                    for layer in range(2):
                        held = float(found.attention[item, k, layer, slot[0]])
                        assert held == pytest.approx(attention[layer, place].item(), abs=1e-5)
            for node in (0, 13):
                row = embedding(torch.tensor(int(GROUND.words.node(np.array(node)))))
                assert float(found.products[item, k, node]) == pytest.approx((row @ thought).item(), abs=1e-4)
            inputs = torch.cat([inputs, thought[None, None]], dim=1)


def test_with_tied_embeddings_the_inner_product_is_the_logit():
    """What the untied arm is for."""
    examples = GROUND.held_out(4, "test")
    for tied in (True, False):
        model = thinker(tied)
        found = probes.probe(model, examples, GROUND.words)
        ids, mask = examples.prompts()
        logits = model.model(input_ids=ids, attention_mask=mask.long()).logits[:, -1]
        nodes = logits[:, GROUND.words.produced - 14 : GROUND.words.produced]
        assert torch.allclose(found.products[:, 0], nodes, atol=1e-4) == tied


def test_a_swap_asks_from_the_other_source():
    examples, model = GROUND.held_out(6, "test"), thinker()
    some = graphs_of(examples, GROUND.words)
    shares = probes.swap(model, examples, some, GROUND.words)
    assert 0 <= shares.thoughts + shares.prompt <= 1 and 0 <= shares.own <= 1
    batch, latent = probes.composed(model, examples)
    from methods.coconut import thoughts

    passes = thoughts.forward(model.model, batch, latent)
    mark = int(passes.logits.shape[1]) - 3  # … [A] target <eos>
    wanted = passes.logits[:, mark].argmax(dim=1)
    assert torch.equal(probes.answer(model.model, batch, latent, passes.thoughts), wanted)
    with pytest.raises(ValueError, match="two sources"):
        probes.swap(model, examples, graphs.Graphs(some.edges[:, :3], *(getattr(some, n) for n in ("root", "target", "distractor", "nodes"))), GROUND.words)  # fmt: skip


def test_a_trained_arm_answers_the_items_of_coconuts_arms(tmp_path):
    """Inside lm-eval, by its own thoughts: names of items, answers and tokens are those of Coconut's test."""
    key = JobKey("quick", "superposition", "untied", "graphs", 0)
    config = job_config(Superposition(), MethodPlan(config={"test_items": 5}), "untied", "graphs")
    model, out = thinker(tied=False), tmp_path / "work"
    model.save(tmp_path / "model")
    run = Run(key, "evaluate", config, job=JobView(key, tmp_path), work=out)
    Superposition().evaluate(run)
    found = records.read(run._out / "samples.parquet")
    examples = GROUND.held_out(5, "test")
    task = problem("graphs", Coconut.Config(test_items=5, validation_items=5), data=0, order=0, init=0)
    prompts = [task.text(row.tolist()) for row in examples.prompt]
    items = make_items(prompts, [task.target(examples, row) for row in range(5)])
    assert found.item.tolist() == items.item.tolist() and found.prompt.tolist() == prompts
    written = model.answer_all([row.tolist() for row in examples.prompt], most=config.most)
    assert found.response.tolist() == [task.text(ids) for ids, _ in written]
    assert found.generated_tokens.tolist() == [cost.generated_tokens for _, cost in written]
    assert Superposition().stages("untied") == ("train", "evaluate", "analyse")


def test_the_untied_arm_has_coconuts_recipe():
    """So that the output layer alone tells the two apart; the arms with one label a stage differ in the numbers of steps."""
    settings = load_settings({"scale": "standard"})
    mine, theirs = (method_plan(name, settings) for name in ("superposition", "coconut"))
    other = job_config(Coconut(), theirs, "coconut", "graphs").model_dump()
    ours = job_config(Superposition(), mine, "untied", "graphs").model_dump()
    shared = {name: value for name, value in ours.items() if name in other}
    assert len(shared) > 15 and shared == {name: other[name] for name in shared}
    rule, bfs = (job_config(Superposition(), mine, arm, "graphs").model_dump() for arm in ("published_rule", "bfs"))
    assert rule | {"labels": ""} == bfs | {"labels": ""}


def test_a_training_ends_after_two_perfect_validations_though_it_was_killed_between_them(tmp_path, monkeypatch):
    """Scores are scripted; training, checkpoint and resumption are real."""
    small = {"steps": 8, "batch": 4, "first_steps": 1, "stage_steps": 1, "validate_every": 1, "validation_items": 2}
    config = job_config(Superposition(), MethodPlan(config=small), "untied", "graphs")
    key = JobKey("quick", "superposition", "untied", "graphs", 0)
    scores = {3: 1.0, 4: 0.5, 5: 1.0, 6: 1.0}  # by training step; after 3 and 4 the count begins anew
    monkeypatch.setattr(train.coconut, "score", lambda thinker, task, config, step: scores.get(step, -1.0))

    class Killed(Exception):
        pass

    def trained(folder, kill_at=None):
        run = Run(key, "train", config, job=JobView(key, folder), work=folder / "work", checkpoint_seconds=0)
        plain = run.checkpoint

        def checkpoint(step, state):
            plain(step, state)
            if step == kill_at:
                raise Killed

        run.checkpoint = checkpoint
        train.train(run)
        metrics = {row["name"]: row["value"] for row in run._rows if row["step"] is None}
        return metrics, Thinker.load(run._out / "model").model.state_dict()

    metrics, weights = trained(tmp_path / "undisturbed")
    assert metrics["chosen_step"] == 3 and metrics["steps"] == 6
    with pytest.raises(Killed):
        trained(tmp_path / "killed", kill_at=5)
    again, same = trained(tmp_path / "killed")
    assert again == metrics and all(torch.equal(value, same[name]) for name, value in weights.items())


def test_the_tables_are_the_printed_ones():
    """Table 5 prints three seeds a cell; published.py has their means. Table 1 prints means."""
    printed = {
        "not reachable": ((-.37, -.25, -.33), (-.26, -.04, -.14), (-.09, -.01, .02), (-.25, -.23, -.27)),
        "reachable": ((3.59, 3.62, 3.71), (1.55, 1.42, 1.37), (.80, .77, .62), (.61, .66, .53)),
        "frontier": ((5.09, 5.13, 5.38), (2.69, 2.45, 2.63), (2.11, 1.95, 2.01), (2.27, 2.12, 2.29)),
        "optimal": ((6.41, 6.52, 6.84), (4.78, 4.67, 5.11), (6.00, 5.44, 6.43), (9.48, 8.98, 9.58)),
    }  # fmt: skip
    assert set(printed) == set(published.PRODUCTS) == set(published.ATTENTION) == set(probes.NESTED)
    for group, cells in printed.items():
        assert published.PRODUCTS[group] == pytest.approx([sum(cell) / 3 for cell in cells], abs=6e-4)
    for later, nearer in zip(probes.NESTED, probes.NESTED[1:], strict=False):
        assert all(a <= b for a, b in zip(published.ATTENTION[later], published.ATTENTION[nearer], strict=True))


def test_breadth_first_labels_are_any_node_of_the_next_hop():
    defaults = {"first_steps": 1, "stage_steps": 1, "steps": 9, "batch": 200, "validation_items": 4, "mix": 0.0}
    config = job_config(Superposition(), MethodPlan(config=defaults), "bfs", "graphs")
    assert not config.dense and config.labels == "breadth_first"
    from methods.coconut import train as coconut
    from methods.coconut.model import find_marks

    plain = SimpleNamespace(**config.model_dump() | train.FIXED)
    task = problem("graphs", plain, data=1, order=1, init=1)
    make = coconut.batches(plain, task, find_marks(task.tokenizer), 5)
    labelled = train.breadth_first(make, task.batches, GROUND.words, 7)
    for step in range(4):
        (batch, latent), (path, _) = labelled(step), make(step)
        some = graphs_of(task.batches(step), GROUND.words)
        assert bool((latent.sum(dim=1) == step).all())
        if step == 3:
            assert torch.equal(batch.labels, path.labels)
            continue
        where = batch.labels != IGNORED
        assert bool((where.sum(dim=1) == 1).all()) and torch.equal(where, path.labels != IGNORED)
        nodes = (batch.labels[where] - (GROUND.words.produced - 14)).numpy()
        row = np.arange(200)
        assert (some.from_root[row, nodes] == step + 1).all()
        on_path = some.neighbor_k[row, step + 1, nodes].mean()
        share = (some.neighbor_k[:, step + 1].sum(axis=1) / (some.from_root == step + 1).sum(axis=1)).mean()
        assert on_path == pytest.approx(share, abs=0.12)
