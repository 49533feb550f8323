"""The construction measured: answers by number of thoughts, the thoughts themselves, and what breaks them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from methods.superposition import construction
from methods.superposition.construction import SPECIAL, Constants, Construction, Reasoning
from tycho.adapter import Run
from tycho.errors import TychoError
from tycho.keys import setting
from tycho.tasks import common, graphs, published
from tycho.tasks.graphs import Graphs

DRAWN = "one node, drawn"
PAPERS, HIGHER = "paper's threshold", "higher threshold"
RIGHT = 1e-6  # by how much the target must stand above every other node; a tie is no answer


def measure(run: Run) -> None:
    """All of it for one job's graphs."""
    some = graphs_of(run)
    most = int(some.depth.max()) + 1  # one thought more than any graph needs
    net = construction.build(construction.token_embeddings(int(some.nodes.max())), some.edges.shape[1])
    found = construction.reason(net, some, most)
    exact = theorem(run, some, found)
    drawn = construction.reason(net, some, most, measured=True, generator=run.generator("collapse"))
    rows = []
    for variant, each in (("", found), (DRAWN, drawn)):
        for offset in range(-3, 2):
            rows.append({"thoughts": variant or "superposed", "offset": offset, "solved": solved(each, some, offset)})
            run.metric("solved", rows[-1]["solved"], variant=variant, setting=setting(offset=offset))
    shown = some.select(slice(run.config.disturbed))
    points = [*noise(run, shown), *dimensions(run, shown)]
    for point in points:
        for name in ("solved", "recovered"):
            run.metric(name, getattr(point, name).mean(), variant=point.threshold, setting=point.where)
    depth = torch.from_numpy(some.depth)
    samples = [sample(run, some, found, depth), sample(run, some, drawn, depth).assign(variant=DRAWN)]
    samples.append(sample(run, some, found, depth - 1).assign(setting=setting(offset=-1)))
    samples += [disturbed_sample(run, shown, point) for point in points]
    run.samples(pd.concat([pd.concat(samples).assign(split="test"), exact], ignore_index=True))
    run.table("by-thoughts", pd.DataFrame(rows))
    run.table("disturbed", pd.DataFrame([point.row() for point in points]))
    run.table("example", example(some, found))


def graphs_of(run: Run) -> Graphs:
    """The job's graphs: the common task's, ProsQA's generator's, or those of a published file."""
    n, seed = run.config.graphs, run.seed("data")
    if run.key.task == "graphs":
        return common.layered(n, seed)
    if run.key.task == "published":
        return graphs.published(n, seed)
    if run.config.data is None:
        raise TychoError("task prosqa reads a published file: give its path in the knob `data`")
    return published.graphs_of(published.read_prosqa(run.config.data))


def solved(found: Reasoning, some: Graphs, offset: int) -> float:
    """Share of graphs whose target stands alone above all nodes after D + offset thoughts, of those with D + offset ≥ 0."""
    count = torch.from_numpy(some.depth) + offset
    right = margins(found, some, count.clamp_min(0)) > RIGHT
    return float(right[count >= 0].double().mean())


def margins(found: Reasoning, some: Graphs, count: Tensor) -> Tensor:
    """[n] the target's margin after `count` [n] thoughts."""
    return construction.margin(found.logits[torch.arange(len(some)), count], torch.from_numpy(some.target))


def theorem(run: Run, some: Graphs, found: Reasoning) -> pd.DataFrame:
    """Graphs that are not solved, and how far thoughts are from the uniform superposition of what k hops reach.

    Returns one row a graph and statement, for the estimands: the target's margin with a thought too few, as many as hops, and one
    more; and the largest error of a graph's thoughts.
    """
    depth = torch.from_numpy(some.depth)
    short, own, more = (margins(found, some, depth + offset) for offset in (-1, 0, 1))
    run.metric("graphs", len(some))
    run.metric("unsolved", float((own <= RIGHT).sum()))
    run.metric("unsolved_with_one_more", float((more <= RIGHT).sum()))
    run.metric("margin_one_short", float(short.abs().max()))
    embeddings = construction.token_embeddings(int(some.nodes.max()))
    worst = torch.zeros(len(some), dtype=torch.float64)
    for k in range(1, found.thoughts.shape[1] + 1):
        wanted = construction.uniform(torch.from_numpy(some.reachable(k)), embeddings)
        error = (found.thoughts[:, k - 1] - wanted).abs().amax(dim=1)
        run.metric("thought_error", float(error.max()), setting=setting(thought=k))
        worst = worst.maximum(error)
    parts = [
        {
            "variant": "margin",
            "setting": setting(offset=offset),
            "score": margin.numpy(),
            "correct": (margin > RIGHT).numpy(),
        }
        for offset, margin in zip((-1, 0, 1), (short, own, more), strict=True)
    ]
    parts.append({"variant": "thought error", "setting": "", "score": worst.numpy(), "correct": True})
    blank = dict.fromkeys(("prompt", "response", "answer", "target"), "")
    return pd.concat([pd.DataFrame({"item": names(run, some), "split": "theorem", **blank, **part}) for part in parts])


def sample(run: Run, some: Graphs, found: Reasoning, count: Tensor) -> pd.DataFrame:
    """One row a graph after `count` [n] thoughts. A tie is no answer."""
    right = margins(found, some, count) > RIGHT
    logits = found.logits[torch.arange(len(some)), count]
    best = logits.topk(2, dim=1)
    tied = best.values[:, 0] - best.values[:, 1] <= RIGHT
    prompts = [write(row, kept) for row, kept in zip(*construction.prompts(some), strict=True)]
    return pd.DataFrame(
        {
            "item": names(run, some),
            "variant": "",
            "setting": "",
            "prompt": prompts,
            "response": "",
            "answer": ["" if tie else str(int(node)) for node, tie in zip(best.indices[:, 0], tied, strict=True)],
            "target": [str(node) for node in some.target],
            "correct": right.numpy(),
            "score": right.double().numpy(),
            "generated_tokens": count.numpy() + 1,  # thoughts count, as in Coconut's records
            "sequential_tokens": count.numpy() + 1,
            "forward_passes": count.numpy() + 2,
        }
    )


def names(run: Run, some: Graphs) -> list[str]:
    return [f"{run.key.task}, seed {run.key.seed}, graph {i}" for i in range(len(some))]


def write(ids: Tensor, mask: Tensor) -> str:
    """A prompt as text."""
    return " ".join(SPECIAL[i] if i < len(SPECIAL) else str(i - len(SPECIAL)) for i in ids[mask].tolist())


class Point(NamedTuple):
    """One point of a sweep. solved, recovered [n]: shares over draws of embeddings; recovered also over an item's thoughts."""

    swept: str
    value: float
    threshold: str
    solved: np.ndarray
    recovered: np.ndarray

    @property
    def where(self) -> str:
        return setting(**{self.swept: self.value})

    def row(self) -> dict[str, Any]:
        return self._asdict() | {"solved": self.solved.mean(), "recovered": self.recovered.mean()}


def noise(run: Run, some: Graphs) -> Iterator[Point]:
    """Gaussian noise on every coordinate of every thought, with the paper's thresholds and with a higher first one."""
    size = int(some.nodes.max())
    for name, constants in thresholds(size).items():
        net = construction.build(construction.token_embeddings(size), some.edges.shape[1], constants)
        for level in run.config.noise:
            generator = run.generator("noise")
            yield point("noise", level, name, some, [net], noise=level, generator=generator)


def dimensions(run: Run, some: Graphs) -> Iterator[Point]:
    """Fewer dimensions than nodes (a share of their number): embeddings overlap. Several draws of them a point."""
    size = int(some.nodes.max())
    for share in run.config.dimensions:
        generator = run.generator("embeddings")
        draws = run.config.draws if share < 1 else 1
        embeddings = [construction.token_embeddings(size, round(share * size), generator) for _ in range(draws)]
        for name, constants in thresholds(size).items():
            nets = [construction.build(each, some.edges.shape[1], constants) for each in embeddings]
            yield point("dimensions", share, name, some, nets)


def thresholds(size: int) -> dict[str, Constants]:
    """The paper's ε in both layers; or in the first half the weight a node has in the fullest thought."""
    return {PAPERS: Constants(), HIGHER: Constants(first=0.5 / size**0.5)}


def point(swept: str, value: float, threshold: str, some: Graphs, nets: list[Construction], **options: Any) -> Point:
    """With D thoughts: is the graph solved, and of how many thoughts are the nodes above half of a uniform superposition's
    weight exactly the reachable ones?"""
    most = int(some.depth.max())
    sets = torch.from_numpy(np.stack([some.reachable(k + 1) for k in range(most)], axis=1))
    half = 0.5 / sets.double().sum(dim=2, keepdim=True).sqrt()
    depth = torch.from_numpy(some.depth)
    own = torch.arange(most) < depth[:, None]
    right, held = [], []
    for net in nets:
        found = construction.reason(net, some, most, **options)
        right.append((margins(found, some, depth) > RIGHT).double())
        exact = ((found.weights > half) == sets).all(dim=2) & own
        held.append(exact.sum(dim=1).double() / depth)
    return Point(swept, value, threshold, *(torch.stack(part).mean(dim=0).numpy() for part in (right, held)))


def disturbed_sample(run: Run, some: Graphs, point: Point) -> pd.DataFrame:
    """One row a graph; the score is the share of draws in which it is solved."""
    items = names(run, some)
    rows = pd.DataFrame(
        {"item": items, "prompt": items, "response": "", "answer": "", "target": [str(node) for node in some.target]}
    )
    rows = rows.assign(score=point.solved, correct=point.solved > 0.5, variant=point.threshold, setting=point.where)
    return rows.assign(generated_tokens=some.depth + 1, sequential_tokens=some.depth + 1, forward_passes=some.depth + 2)


def example(some: Graphs, found: Reasoning) -> pd.DataFrame:
    """thought, node, hops from the root (-1: out of reach) and weight, of the first of the deepest graphs."""
    item = int(some.depth.argmax())
    size, most = int(some.nodes[item]), int(some.depth[item])
    thought, node = np.divmod(np.arange(most * size), size)
    weights = found.weights[item, :most, :size].numpy()
    hops = some.from_root[item, :size]
    return pd.DataFrame({"thought": thought + 1, "node": node, "hops": hops[node], "weight": weights[thought, node]})
