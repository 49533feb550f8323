"""Prefix-tree packing: many units of one trajectory in one sequence, each seeing only its own past (arXiv 2512.07843).

Units share prefixes, so their tokens are inserted into a tree and laid out depth first. A token's position is its
depth; it attends to its ancestors and itself. In that order a subtree is an interval, so one number a token, `last`
(where its subtree ends), holds the whole mask: k is seen from q iff k <= q <= last[k]. Nothing of size N x N is kept.

A token is predicted from its parent's state. (The public code shifts labels by one in flat order instead, which trains
the first token of every later branch from another branch's end, and never from its parent: `targets="flat"`.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from methods.threadweaver.orchestrator import Unit

LOSSES = ("completion", "hybrid", "everything")


class TokenUnit(NamedTuple):
    """A unit in tokens: a given context, and a completion that is learnt unless it is there for the layout only."""

    context: Sequence[int]
    completion: Sequence[int]
    learnt: bool = True


class Packed(NamedTuple):
    """A tree of N tokens, depth first; every field [N], or [B, N] for a batch. `parent` is -1 at a root."""

    tokens: Tensor
    parent: Tensor
    position: Tensor
    last: Tensor
    loss: Tensor


class Tree:
    """Token sequences by their prefixes. Nodes are numbered as they come; children keep that order."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.parent: list[int] = []
        self._child: dict[tuple[int, int], int] = {}

    def insert(self, sequence: Iterable[int]) -> list[int]:
        """The nodes of a sequence, root first; new ones where it leaves what is known."""
        node, path = -1, []
        for token in sequence:
            new = len(self.tokens)
            node = self._child.setdefault((node, token), new)
            if node == new:
                self.tokens.append(token)
                self.parent.append(path[-1] if path else -1)
            path.append(node)
        return path


def token_units(
    units: Sequence[Unit], encode: Callable[[str], list[int]], eos: int, loss: str = "completion"
) -> list[TokenUnit]:
    """Units in tokens, the whole response first, so that the packed sequence begins with it.

    - `completion` (the paper): what the machine generates is learnt once; injected headers and closing tags never.
    - `hybrid`: the whole response is learnt too, so that plain decoding, tags and all, keeps working.
    - `everything`: all that follows the prompt, in every unit, as the public collator does: headers too, and every
      thread but the first twice, once with its elder siblings in view.

    Contexts and completions are encoded apart, as an engine sees them.
    """
    if loss not in LOSSES:
        raise ValueError(f"token_units: loss {loss!r} is none of {', '.join(LOSSES)}")
    whole = [unit for unit in units if unit.kind == "whole"]
    prompt = len(encode(whole[0].context)) if whole else 0
    found = []
    for unit in [*whole, *(unit for unit in units if unit.kind != "whole")]:
        context, completion = encode(unit.context), encode(unit.completion) + [eos] * unit.ends
        if loss == "everything":
            context, completion = context[:prompt], context[prompt:] + completion
        found.append(TokenUnit(context, completion, unit.kind != "whole" or loss != "completion"))
    return found


def pack(
    units: Sequence[TokenUnit], longest: int | None = None, overflow: Literal["refuse", "cut"] = "refuse"
) -> Packed:
    """One example's units as a tree. A token that several units learn is learnt once.

    More than `longest` tokens raise ValueError; `overflow="cut"` drops the last branches silently, as public code does.
    """
    tree, learnt = Tree(), set()
    for context, completion, wanted in units:
        path = tree.insert([*context, *completion])
        if wanted:
            learnt.update(path[len(context) :])
    nodes = len(tree.tokens)
    size = [1] * nodes
    for node in range(nodes - 1, -1, -1):  # children come after their parents
        if tree.parent[node] >= 0:
            size[tree.parent[node]] += size[node]
    # Depth first: a node stands where its parent's earlier children end.
    place, depth, free, root = [0] * nodes, [0] * nodes, [0] * nodes, 0
    for node, parent in enumerate(tree.parent):
        place[node] = free[parent] if parent >= 0 else root
        depth[node] = depth[parent] + 1 if parent >= 0 else 0
        if parent >= 0:
            free[parent] += size[node]
        else:
            root += size[node]
        free[node] = place[node] + 1

    where = torch.tensor(place, dtype=torch.long)
    order = torch.empty_like(where)
    order[where] = torch.arange(nodes)
    parent = torch.tensor(tree.parent, dtype=torch.long)[order]
    loss = torch.zeros(nodes, dtype=torch.bool)
    loss[where[torch.tensor(sorted(learnt), dtype=torch.long)]] = True
    packed = Packed(
        torch.tensor(tree.tokens, dtype=torch.long)[order],
        torch.where(parent >= 0, where[parent], -1) if nodes else parent,
        torch.tensor(depth, dtype=torch.long)[order],
        torch.arange(nodes) + torch.tensor(size, dtype=torch.long)[order] - 1,
        loss,
    )
    if longest is None or nodes <= longest:
        return packed
    if overflow == "refuse":
        raise ValueError(f"pack: {nodes} tokens, at most {longest} wanted")
    cut = Packed(*(field[:longest] for field in packed))
    return cut._replace(last=cut.last.clamp(max=longest - 1))


def forest(packs: Sequence[Packed]) -> Packed:
    """Several trees in one sequence; they do not see each other."""
    offsets = torch.cumsum(torch.tensor([0, *(len(pack.tokens) for pack in packs)]), 0).tolist()
    parents = [torch.where(p.parent >= 0, p.parent + at, -1) for p, at in zip(packs, offsets, strict=False)]
    lasts = [p.last + at for p, at in zip(packs, offsets, strict=False)]
    tokens, positions, losses = ([getattr(p, name) for p in packs] for name in ("tokens", "position", "loss"))
    return Packed(*map(torch.cat, (tokens, parents, positions, lasts, losses)))


def batch(packs: Sequence[Packed], pad: int = 0) -> Packed:
    """Rows [B, N] of different trees, padded at the end with tokens that see and are seen by themselves only."""
    width = max(len(pack.tokens) for pack in packs)
    rows = []
    for packed in packs:
        nodes = len(packed.tokens)
        filler = torch.arange(nodes, width)
        ends = (torch.full_like(filler, pad), torch.full_like(filler, -1), torch.zeros_like(filler), filler)
        ends = (*ends, torch.zeros(width - nodes, dtype=torch.bool))
        rows.append([torch.cat(pair) for pair in zip(packed, ends, strict=True)])
    return Packed(*map(torch.stack, zip(*rows, strict=True)))


def ancestor_mask(last: Tensor, queries: slice = slice(None), keys: slice | Tensor = slice(None)) -> Tensor:
    """Which keys each query may see, bool [..., q, k]; a tile of it where `queries` and `keys` choose one."""
    place = torch.arange(last.shape[-1], device=last.device)
    q, k = place[queries, None], place[keys]
    return (k <= q) & (q <= last[..., keys].unsqueeze(-2))


def mask_mod(last: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The mask of `last` [B, N] as FlexAttention's `create_block_mask` takes it."""

    def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & (q <= last[b, k])

    return visible


def tree_attention(query: Tensor, key: Tensor, value: Tensor, last: Tensor, rows: int = 256) -> Tensor:
    """Attention [H, N, D] under the mask of `last` [N], `rows` queries at a time, over the keys they can see at all.

    Memory beside inputs and output is rows x N: a tile of the mask is made anew for the backward pass, not kept.
    """

    def tile(query: Tensor, key: Tensor, value: Tensor, start: int) -> Tensor:
        stop = min(start + rows, len(last))
        keys = torch.nonzero(last[:stop] >= start)[:, 0]
        mask = ancestor_mask(last, slice(start, stop), keys)
        parts = query[None, :, start:stop], key[None, :, keys], value[None, :, keys]
        return torch.nn.functional.scaled_dot_product_attention(*parts, attn_mask=mask)[0]

    starts = range(0, len(last), rows)
    return torch.cat([checkpoint(tile, query, key, value, start, use_reentrant=False) for start in starts], dim=1)


def log_probs(logits: Tensor, packed: Packed, targets: Literal["parent", "flat"] = "parent") -> Tensor:
    """log p(token | its ancestors) [..., N] from logits [..., N, V]; 0 at roots, which nothing predicts.

    `flat` reads the state before it in flat order, as the public code's labels do: a branch's first token is then
    predicted from the end of another branch.
    """
    if targets not in ("parent", "flat"):
        raise ValueError(f"log_probs: targets is 'parent' or 'flat', not {targets!r}")
    before = torch.arange(packed.tokens.shape[-1], device=logits.device) - 1
    source = packed.parent if targets == "parent" else before.expand_as(packed.parent)
    at = source.clamp(min=0)
    norm = torch.logsumexp(logits, dim=-1).gather(-1, at)
    if logits.dim() == 2:
        score = logits[at, packed.tokens]
    else:
        score = logits[torch.arange(len(logits), device=logits.device)[:, None], at, packed.tokens]
    return torch.where(source >= 0, score - norm, 0.0)


def learnt(packed: Packed) -> Tensor:
    """Which tokens are learnt: those marked that have a parent, bool [..., N]."""
    return packed.loss & (packed.parent >= 0)


def loss(logits: Tensor, packed: Packed, targets: Literal["parent", "flat"] = "parent") -> Tensor:
    """Mean negative log-probability of the learnt tokens that have a parent."""
    counts = learnt(packed)
    return -(log_probs(logits, packed, targets) * counts).sum() / counts.sum()


def surprise(states: Tensor, head: Callable[[Tensor], Tensor], packed: Packed, rows: int = 1024) -> Tensor:
    """-log p added up over the learnt tokens of one tree, from states [N, D] and `head`, which makes logits [..., V] of them.

    Logits are there for `rows` tokens at a time, and are made anew for the backward pass: whole, those of 40,960 tokens are
    25 GB in float32 where there are 151,936 words.
    """

    def part(states: Tensor, tokens: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(head(states).float(), tokens, reduction="sum")

    places = torch.nonzero(learnt(packed))[:, 0]
    total = 0.0 * states[:1].sum()  # a tree that learns nothing has a gradient all the same
    for some in places.split(rows):
        total = total + checkpoint(part, states[packed.parent[some]], packed.tokens[some], use_reentrant=False)
    return total


def reuse(units: Sequence[TokenUnit]) -> tuple[int, int]:
    """Context tokens of all requests, and how many a prefix cache does not already hold: (asked, prefilled).

    Units in the order they are sent; what a request read or wrote before is cached.
    """
    tree, asked, prefilled = Tree(), 0, 0
    for context, completion, _ in units:
        known = len(tree.tokens)
        tree.insert(context)
        asked, prefilled = asked + len(context), prefilled + len(tree.tokens) - known
        tree.insert([*context, *completion])
    return asked, prefilled
