"""The two-layer transformer that solves reachability by superposition (arXiv 2505.12514, section 4 and appendix B).

A state has four parts: content, two buffers (one embedding each) and the position. Thought c is the normalised sum of the
embeddings of all nodes within c hops of the root. Layer 1 copies each edge's source and target into the buffers of its mark
<e>; in layer 2 a thought attends to every edge whose source it holds and adds the targets: one step of breadth-first search
for all nodes at once. <A> looks at the last thought and at the candidates; the one that is in both has twice the weight.

    <s> s t <e> … <Q> c1 c2 <R> root [thought 1] … [thought C] <A>
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from methods.superposition.transformer import Block, Cache, forward
from tycho.tasks.graphs import Graphs

SPECIAL = ("<s>", "<e>", "<Q>", "<R>", "<A>")
START, EDGE, QUESTION, ROOT, ANSWER = range(len(SPECIAL))
# Attention choosers (token x, distance l, buffer): a position that holds x copies the content l places before it.
CHOOSERS = ((EDGE, 2, 0), (EDGE, 1, 1), (ROOT, 2, 1), (ROOT, 1, 1), (ANSWER, 1, 0))


@dataclass(frozen=True)
class Constants:
    """What the theorem leaves free, as long as it is large or small enough.

    positions: d_PE; sharpness η and sink ξ of the choosers; focus τ of layer 2. first, second: the two layers' thresholds,
    None for the paper's ε = 1/(4n), with n the largest number of edges.
    """

    positions: int = 64
    sharpness: float = 2000.0
    sink: float = 50.0
    focus: float = 2000.0
    first: float | None = None
    second: float | None = None


class Construction(NamedTuple):
    """embeddings ũ [tokens, d_TE], special tokens first, then nodes; two blocks; d_PE and its base M."""

    embeddings: Tensor
    blocks: tuple[Block, Block]
    positions: int

    @property
    def content(self) -> int:
        """d_TE"""
        return self.embeddings.shape[1]

    @property
    def width(self) -> int:
        """d = 3 d_TE + d_PE"""
        return 3 * self.content + self.positions


def token_embeddings(nodes: int, dimensions: int | None = None, generator: torch.Generator | None = None) -> Tensor:
    """[5 + nodes, 5 + dimensions] float64 unit rows: orthonormal special tokens, and nodes in `dimensions` of their own.

    Orthonormal where there is room for it (the default: as many dimensions as nodes). With fewer dimensions the rows are
    those of a random tight frame: the projections of an orthonormal basis onto a random subspace, made as long again.
    """
    dimensions = nodes if dimensions is None else dimensions
    some = torch.eye(nodes, dimensions, dtype=torch.float64)
    if dimensions < nodes:
        some = torch.linalg.qr(torch.randn(nodes, dimensions, generator=generator, dtype=torch.float64)).Q
    return torch.block_diag(torch.eye(len(SPECIAL), dtype=torch.float64), some / some.norm(dim=1, keepdim=True))


def position_embeddings(index: Tensor, size: int, base: float = 1e4) -> Tensor:
    """[..., size] unit vectors p̄_i: (cos, sin) of i at size/2 frequencies."""
    frequency = base ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angle = index[..., None].double() * frequency
    return torch.stack([angle.cos(), angle.sin()], dim=-1).flatten(-2) / (size / 2) ** 0.5


def rotation(distance: int, size: int, base: float = 1e4) -> Tensor:
    """R(l) [size, size] with p̄_{i+l} = p̄_i R(l) for row vectors."""
    frequency = base ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    cos, sin = (distance * frequency).cos(), (distance * frequency).sin()
    return torch.block_diag(*torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], dim=1))


def build(embeddings: Tensor, edges: int, constants: Constants = Constants()) -> Construction:
    """The weights, for graphs of at most `edges` edges over the nodes of `embeddings`."""
    u, size = embeddings, constants.positions
    tokens, te = u.shape
    d = 3 * te + size
    content, source, target = (slice(part * te, (part + 1) * te) for part in range(3))
    place = slice(3 * te, d)
    epsilon = 1 / (4 * edges)

    # Layer 1. Score η(⟨p̄_i, p̄_{j+l}⟩ + ξ (1 − ⟨ũ_x, content_i⟩) ⟨p̄_1, p̄_j⟩): unless it holds x, a position looks at <s>.
    first_place = position_embeddings(torch.tensor(1), size)
    query = torch.zeros(len(CHOOSERS), d, size, dtype=torch.float64)
    output = torch.zeros(len(CHOOSERS), te, d, dtype=torch.float64)
    for head, (token, distance, buffer) in enumerate(CHOOSERS):
        query[head, place] = rotation(-distance, size)
        query[head, content] = -constants.sink * torch.outer(u[token], first_place)
        output[head, :, (source, target)[buffer]] = torch.eye(te, dtype=torch.float64)
    bias = (constants.sink * first_place).expand(len(CHOOSERS), -1)
    key, value = torch.zeros(d, size, dtype=torch.float64), torch.zeros(d, te, dtype=torch.float64)
    key[place], value[content] = torch.eye(size, dtype=torch.float64), torch.eye(te, dtype=torch.float64)
    up, down = torch.zeros(d, 3 * tokens, dtype=torch.float64), torch.zeros(3 * tokens, d, dtype=torch.float64)
    dropped = u.clone()
    dropped[START] = 0  # what the choosers that do not apply have copied from <s>
    for part, (columns, rows) in enumerate(((content, u), (source, dropped), (target, dropped))):
        up[columns, part * tokens : (part + 1) * tokens] = u.T
        down[part * tokens : (part + 1) * tokens, columns] = rows
    first = Block(
        constants.sharpness * query, constants.sharpness * bias, key, value, output,
        up, epsilon if constants.first is None else constants.first, down,
    )  # fmt: skip

    # Layer 2. A thought looks at the edges whose source it holds, <A> at <R>; both add what stands in the target buffer.
    identity = torch.eye(te, dtype=torch.float64)
    query, key, value = (torch.zeros(d, te, dtype=torch.float64) for _ in range(3))
    output = torch.zeros(te, d, dtype=torch.float64)
    query[content], key[source], value[target], output[:, content] = (identity,) * 4
    key[content] = torch.outer(u[ROOT], u[ANSWER]) + torch.outer(u[START], u[START])
    # Half of the least score of a match: who finds none looks at <s>, which has nothing to add.
    bias = 0.5 / (3 * (tokens - len(SPECIAL) + 1)) ** 0.5 * u[START]
    up, down = torch.zeros(d, 2 * tokens, dtype=torch.float64), torch.zeros(2 * tokens, d, dtype=torch.float64)
    for part, columns in enumerate((content, source)):
        up[columns, part * tokens : (part + 1) * tokens] = u.T
        down[part * tokens : (part + 1) * tokens, content] = u
    second = Block(
        constants.focus * query[None], constants.focus * bias[None], key, value, output[None],
        up, epsilon if constants.second is None else constants.second, down,
    )  # fmt: skip
    return Construction(u, (first, second), size)


class Reasoning(NamedTuple):
    """What the construction did with n graphs and C thoughts.

    thoughts [n, C, d_TE]: each thought as it was fed in. weights [n, C, V]: ⟨thought, ũ_v⟩ of the nodes.
    logits [n, C + 1, V]: nodes after 0 … C thoughts and <A>, unit-length read-out W_O = Uᵀ.
    """

    thoughts: Tensor
    weights: Tensor
    logits: Tensor


def prompts(graphs: Graphs) -> tuple[Tensor, Tensor]:
    """(tokens, mask) [n, L], right-aligned. Candidates stand in the order of their numbers."""
    n = len(graphs)
    edges = torch.from_numpy(graphs.edges[:, : graphs.edge_counts.max()])
    kept = (edges[..., :1] >= 0).expand(-1, -1, 3)
    marks = torch.full((n, edges.shape[1], 1), EDGE)
    body = torch.cat([edges + len(SPECIAL), marks], dim=2).flatten(1)
    order = torch.argsort(kept.flatten(1).long(), dim=1, stable=True)  # padding first
    body, body_mask = body.gather(1, order), kept.flatten(1).gather(1, order)
    pair = np.sort(np.stack([graphs.target, graphs.distractor], axis=1), axis=1) + len(SPECIAL)
    columns = [np.full(n, QUESTION), *pair.T, np.full(n, ROOT), graphs.root + len(SPECIAL)]
    tail = torch.from_numpy(np.stack(columns, axis=1))
    start = (~body_mask).sum(dim=1, keepdim=True)  # <s> stands before the first edge
    ids = torch.cat([torch.zeros(n, 1, dtype=torch.long), body, tail], dim=1)
    mask = torch.cat([torch.zeros(n, 1, dtype=torch.bool), body_mask, torch.ones_like(tail, dtype=torch.bool)], dim=1)
    ids = ids.masked_fill(~mask, START).scatter(1, start, START)
    return ids, mask.scatter(1, start, True)


def reason(net: Construction, graphs: Graphs, thoughts: int, *, batch: int = 50, **options: Any) -> Reasoning:
    """`reason_batch`, `batch` graphs with about as many edges at a time, so that little is padded."""
    order = np.argsort(graphs.edge_counts, kind="stable")
    parts = [
        reason_batch(net, graphs.select(order[start : start + batch]), thoughts, **options)
        for start in range(0, len(graphs), batch)
    ]
    back = torch.from_numpy(np.argsort(order))
    return Reasoning(*(torch.cat(columns)[back] for columns in zip(*parts, strict=True)))


@torch.no_grad()
def reason_batch(
    net: Construction,
    graphs: Graphs,
    thoughts: int,
    *,
    noise: float = 0.0,
    measured: bool = False,
    generator: torch.Generator | None = None,
) -> Reasoning:
    """Thinks `thoughts` times about each graph and asks for the answer after every thought.

    noise: standard deviation of what is added to every coordinate of a thought's content. measured: each thought collapses
    to one node, drawn by squared weights, as a written chain of thought has to.
    """
    ids, mask = prompts(graphs)
    index = mask.long().cumsum(dim=1)  # 1-based; <s> is at 1
    out, cache = forward(net.blocks, _states(net, net.embeddings[ids], index), mask)
    after, found, logits = index[:, -1], [], [_answer(net, cache, index[:, -1] + 1)]
    one = torch.ones(len(graphs), 1, dtype=torch.bool)
    nodes = net.embeddings[len(SPECIAL) :]
    for _ in range(thoughts):
        thought = out[:, : net.content]
        if measured:
            chance = (thought @ nodes.T).square() + 1e-30
            thought = nodes[torch.multinomial(chance, 1, generator=generator)[:, 0]]
        if noise:
            thought = thought + noise * torch.randn(thought.shape, generator=generator, dtype=thought.dtype)
        found.append(thought)
        after = after + 1
        out, cache = forward(net.blocks, _states(net, thought[:, None], after[:, None]), one, cache)
        logits.append(_answer(net, cache, after + 1))
    stacked = torch.stack(found, dim=1) if found else out.new_zeros(len(graphs), 0, net.content)
    return Reasoning(stacked, stacked @ nodes.T, torch.stack(logits, dim=1))


def _states(net: Construction, content: Tensor, index: Tensor) -> Tensor:
    """[n, T, d] inputs: content, empty buffers, position."""
    empty = content.new_zeros(*content.shape[:2], 2 * net.content)
    return torch.cat([content, empty, position_embeddings(index, net.positions)], dim=2)


def _answer(net: Construction, cache: Cache, index: Tensor) -> Tensor:
    """[n, V] the nodes' logits behind <A>, with everything before it in the cache."""
    asked = net.embeddings[ANSWER].expand(len(index), 1, -1)
    out, _ = forward(
        net.blocks, _states(net, asked, index[:, None]), torch.ones(len(index), 1, dtype=torch.bool), cache
    )
    return out[:, : net.content] @ net.embeddings[len(SPECIAL) :].T


def uniform(sets: Tensor, embeddings: Tensor) -> Tensor:
    """[..., d_TE] |V_c|^{-1/2} Σ ũ_v over the sets [..., V] (bool): lemma 2's thought. Of length 1 if ũ are orthonormal."""
    return (
        sets.to(embeddings.dtype)
        @ embeddings[len(SPECIAL) :]
        / sets.double().sum(dim=-1, keepdim=True).clamp_min(1).sqrt()
    )


def margin(logits: Tensor, target: Tensor) -> Tensor:
    """[...] the target's logit above the best other node's, relative to its own; logits [..., V], target [...]."""
    own = logits.gather(-1, target[..., None])
    others = logits.scatter(-1, target[..., None], -torch.inf).amax(dim=-1)
    return (own[..., 0] - others) / own[..., 0].abs().clamp_min(1e-300)
