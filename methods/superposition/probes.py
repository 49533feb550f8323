"""What trained continuous thoughts hold: the paper's probes (arXiv 2505.12514, section 5), and a causal one.

Inner product: thought k with the input embedding of every node. Attention: from the position that produces thought k, in every
layer, summed over heads, to every edge. Nodes and edges are grouped by what search had reached by then.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from methods.coconut import thoughts
from methods.coconut.curriculum import FAR, compose
from methods.coconut.model import Thinker, find_marks
from methods.coconut.paired import gap
from tycho.lm.examples import Batch, Examples
from tycho.lm.factored import is_factored
from tycho.lm.vocabulary import Vocabulary
from tycho.tasks.graphs import Graphs

# The paper's groups; the first three are nested. Then those that leave out what the group before it has.
NESTED = ("not reachable", "reachable", "frontier", "optimal")
APART = ("other reachable", "other frontier")
CLASSES = (*NESTED, *APART)
# The paper's nodes out of reach, apart: the candidate among them, which the prompt names as it names the target, and the rest.
NAMED_OR_NOT = ("distractor", "other not reachable")


def node_classes(graphs: Graphs, k: int) -> dict[str, np.ndarray]:
    """[n, V] masks of the nodes after k ≥ 1 thoughts. reachable: in at most k edges; frontier: by a walk of exactly k;
    optimal: the k-th node of a shortest path to the target; distractor: the candidate that cannot be reached."""
    reachable, frontier = graphs.reachable(k), graphs.walk_ends(k)
    layers = graphs.neighbor_k
    optimal = layers[:, k] if k < layers.shape[1] else np.zeros_like(reachable)
    named = graphs.adjacency.any(axis=1) | graphs.adjacency.any(axis=2)
    groups = _groups(reachable & named, frontier, optimal, named)
    distractor = np.arange(named.shape[1]) == graphs.distractor[:, None]
    return groups | dict(zip(NAMED_OR_NOT, (distractor, groups["not reachable"] & ~distractor), strict=True))


def gaps(products: np.ndarray, graphs: Graphs, classes: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """[n] each, of products [n, V]: an item's gaps between groups of nodes, NaN where it has none of a group; and between the
    target and the other candidate, the two that the prompt names."""
    target = np.arange(products.shape[1]) == graphs.target[:, None]
    return {
        "optimal over other frontier": gap(products, classes["optimal"], classes["other frontier"]),
        "target over distractor": gap(products, target, classes["distractor"]),
    }


def edge_classes(graphs: Graphs, k: int, source: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    """[n, E] masks of edges (-1: none) while thought k ≥ 1 is made, by their sources: reachable in at most k - 1 edges;
    frontier: by a walk of exactly k - 1; optimal: the edge is the k-th of a shortest path."""
    there, row = source >= 0, np.arange(len(graphs))[:, None]
    source, target = np.maximum(source, 0), np.maximum(target, 0)
    layers = graphs.neighbor_k
    optimal = np.zeros_like(there)
    if k < layers.shape[1]:
        optimal = layers[row, k - 1, source] & layers[row, k, target]
    reachable, frontier = graphs.reachable(k - 1)[row, source], graphs.walk_ends(k - 1)[row, source]
    return _groups(reachable & there, frontier & there, optimal & there, there)


def _groups(
    reachable: np.ndarray, frontier: np.ndarray, optimal: np.ndarray, there: np.ndarray
) -> dict[str, np.ndarray]:
    apart = (reachable & ~frontier, frontier & ~optimal)
    return dict(zip(CLASSES, (there & ~reachable, reachable, frontier, optimal, *apart), strict=True))


class Probe(NamedTuple):
    """T thoughts about n items. thoughts [n, T, d]; products [n, T, V] with the nodes' word embeddings; source_products
    [n, T, V] with their vectors as sources of edges (None: the model has none); attention [n, T, layers, E] to edges
    source[n, E] -> target [n, E], -1 where there is no edge."""

    thoughts: Tensor
    products: Tensor
    source_products: Tensor | None
    attention: Tensor
    source: np.ndarray
    target: np.ndarray


@torch.no_grad()
def probe(thinker: Thinker, examples: Examples, words: Vocabulary) -> Probe:
    """Thinks about all items and looks inside."""
    model, (batch, latent) = thinker.model, composed(thinker, examples)
    passes = thoughts.forward(model, batch, latent, output_attentions=True)
    found = passes.thoughts.float()
    nodes = model.get_input_embeddings()(torch.from_numpy(words.node(np.arange(words.nodes))))
    sources = None
    if is_factored(model):
        embedding = model.get_input_embeddings()
        sources = found @ embedding.weight[words.produced : words.produced + words.nodes].T
    width = examples.prompts()[0].shape[1]
    edge = batch.ids[:, :width].numpy() - words.produced
    there = edge >= 0
    attention = torch.stack(
        [
            torch.stack([layer[:, :, -1, :width].sum(dim=1) for layer in output.attentions], dim=1)
            for output in passes.outputs[: found.shape[1]]
        ],
        dim=1,
    )
    source, target = (np.where(there, part, -1) for part in np.divmod(np.maximum(edge, 0), words.nodes))
    return Probe(found, found @ nodes.T, sources, attention, source, target)


def composed(thinker: Thinker, examples: Examples) -> tuple[Batch, Tensor]:
    """Prompts, all thoughts and the answer."""
    marks = find_marks(thinker.tokenizer)
    return compose(examples, FAR, thinker.thoughts, "thoughts", marks, marked=thinker.marked)


class Swap(NamedTuple):
    """Shares of items. own: right with their own thoughts; thoughts: with those about the other root, the answer is that
    root's; prompt: then the answer is still the right one."""

    own: float
    thoughts: float
    prompt: float


@torch.no_grad()
def swap(thinker: Thinker, examples: Examples, graphs: Graphs, words: Vocabulary) -> Swap:
    """Gives each item the thoughts about the same graph and candidates, asked from the graph's other source.

    If the answer then changes to the other candidate, thoughts carry the search and the prompt does not redo it.
    """
    parentless = (graphs.adjacency.any(axis=2) & ~graphs.adjacency.any(axis=1)) & (
        np.arange(words.nodes) != graphs.root[:, None]
    )
    if not (parentless.sum(axis=1) == 1).all():
        raise ValueError("the swap needs graphs of exactly two sources, the root and one more")
    prompt = examples.prompt.clone()
    prompt[torch.arange(len(prompt)), examples.prompt_length - 1] = torch.from_numpy(
        words.node(parentless.argmax(axis=1))
    )
    other = Examples(
        prompt,
        *(getattr(examples, name) for name in ("prompt_length", "steps", "step_length", "answer", "answer_length")),
        examples.pad,
    )
    batch, latent = composed(thinker, examples)
    own = thoughts.forward(thinker.model, batch, latent).thoughts
    theirs = thoughts.forward(thinker.model, *composed(thinker, other)).thoughts
    answers = [answer(thinker.model, batch, latent, each) for each in (own, theirs)]
    target, distractor = (torch.from_numpy(words.node(nodes)) for nodes in (graphs.target, graphs.distractor))
    shares = (answers[0] == target, answers[1] == distractor, answers[1] == target)
    return Swap(*(float(share.double().mean()) for share in shares))


def answer(model: nn.Module, batch: Batch, latent: Tensor, given: Tensor) -> Tensor:
    """[n] the likeliest word behind the answer's mark, with `given` [n, T, d] in the places of the thoughts."""
    inputs = model.get_input_embeddings()(batch.ids)
    inputs[latent] = given.flatten(0, 1).to(inputs.dtype)
    out = model(inputs_embeds=inputs, attention_mask=batch.mask.long(), position_ids=batch.positions)
    labelled = (batch.labels >= 0).long().cumsum(dim=1)
    mark = (labelled == 1).long().argmax(dim=1)  # the first label is the mark itself
    return out.logits[torch.arange(len(inputs)), mark].argmax(dim=1)


def means(values: np.ndarray, classes: dict[str, np.ndarray]) -> dict[str, tuple[float, float, int]]:
    """(mean, standard deviation, number) of the values of each group; empty groups are left out."""
    found = {name: values[mask] for name, mask in classes.items()}
    return {name: (float(v.mean()), float(v.std()), len(v)) for name, v in found.items() if len(v)}
