"""Probes of a trained model, as records: of Coconut's checkpoint, or of the model this job has trained."""

from __future__ import annotations

import numpy as np
import pandas as pd

from methods.coconut.model import Thinker
from methods.coconut.values import graphs_of
from methods.superposition import probes, published
from tycho.adapter import Run
from tycho.keys import setting
from tycho.tasks import common


def analyse(run: Run) -> None:
    folder = run.inputs["coconut"].model if "coconut" in run.inputs else run.job.model
    thinker, ground = Thinker.load(folder), common.ground(run.key.task)
    examples = ground.held_out(run.config.probed, "test")
    graphs = graphs_of(examples, ground.words)
    found = probes.probe(thinker, examples, ground.words)
    items = np.array([f"{run.key.task}, test item {row}" for row in range(len(graphs))])
    rows, gaps = [], []
    for k in range(1, thinker.thoughts + 1):
        nodes, products = probes.node_classes(graphs, k), found.products[:, k - 1].numpy()
        rows += record(run, "inner_product", k, products, nodes, published.PRODUCTS)
        for name, gap in probes.gaps(products, graphs, nodes).items():
            frame = pd.DataFrame({"item": items, "variant": name, "setting": setting(thought=k), "score": gap})
            gaps.append(frame.dropna())
        if found.source_products is not None:
            rows += record(run, "source_product", k, found.source_products[:, k - 1].numpy(), nodes, {})
        edges = probes.edge_classes(graphs, k, found.source, found.target)
        layers = found.attention.shape[2]
        for layer in range(1, layers + 1):
            printed = published.ATTENTION if layer == layers else {}  # the paper's table is of its last layer
            attention = found.attention[:, k - 1, layer - 1].numpy()
            rows += record(run, "attention", k, attention, edges, printed, layer=layer)
    # Of another split than a test's answers: they are read by `estimands.product_gap` alone.
    blank = dict.fromkeys(("prompt", "response", "answer", "target"), "")
    run.samples(pd.concat(gaps).assign(split="inner products", correct=lambda frame: frame.score > 0, **blank))
    run.table("probes", pd.DataFrame(rows))
    run.table("example", example(graphs, found))
    swapped = probes.swap(thinker, examples, graphs, ground.words)
    for name, share in swapped._asdict().items():
        run.metric(f"swap_{name}", share)


def record(
    run: Run, name: str, k: int, values: np.ndarray, classes: dict[str, np.ndarray], paper: dict, **where: int
) -> list[dict]:
    """A probe after k thoughts, in a layer if it is of one: metrics by group, and rows beside the paper's table."""
    rows = []
    for group, (mean, deviation, count) in probes.means(values, classes).items():
        run.metric(name, mean, variant=group, setting=setting(thought=k, **where))
        printed = paper[group][k - 1] if group in paper and k <= len(paper[group]) else np.nan
        rows.append({"probe": name, "thought": k, "group": group, "mean": mean, "deviation": deviation, "count": count})
        rows[-1] |= {"paper": printed, "layer": where.get("layer", 0)}
    return rows


def example(graphs, found) -> pd.DataFrame:
    """thought, node, hops from the root (-1: out of reach) and inner product, of the first item."""
    most, size = found.products.shape[1:]
    thought, node = np.divmod(np.arange(most * size), size)
    hops = graphs.from_root[0]
    weight = found.products[0].numpy()[thought, node]
    return pd.DataFrame({"thought": thought + 1, "node": node, "hops": hops[node], "weight": weight})
