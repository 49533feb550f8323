"""Factored embeddings: an edge token's vector is E_source[s] + E_target[t].

A graph of m nodes has m^2 edge tokens; with a vector each, every one would have to be learnt from the few prompts it
occurs in. With two factors a small model is told what a tokenizer of three tokens an edge would have to learn first.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FactoredEmbedding(nn.Module):
    """Input embedding of `produced` free tokens, then nodes^2 edge tokens (source-major).

    weight [produced + 2 * nodes, d]: free rows, source factors, target factors.
    """

    def __init__(self, produced: int, nodes: int, weight: Tensor) -> None:
        super().__init__()
        self.produced, self.nodes = produced, nodes
        self.weight = nn.Parameter(weight)
        edge = torch.arange(nodes**2)
        self.register_buffer("first", torch.cat([torch.arange(produced), produced + edge // nodes]), persistent=False)
        self.register_buffer(
            "second", torch.cat([torch.zeros(produced).long(), produced + nodes + edge % nodes]), persistent=False
        )

    def forward(self, ids: Tensor) -> Tensor:
        """[...] ids -> [..., d]."""
        edge = (ids >= self.produced).unsqueeze(-1)
        return F.embedding(self.first[ids], self.weight) + F.embedding(self.second[ids], self.weight) * edge

    def table(self) -> Tensor:
        """[produced + nodes^2, d], every token's vector."""
        return self(torch.arange(self.produced + self.nodes**2, device=self.weight.device))


class ProducedHead(nn.Module):
    """Output layer over the `produced` tokens alone, since edges are never written: logits [..., produced].

    weight: the embedding's own parameter (tied; its factor rows take no part) or [produced, d] of its own.
    """

    def __init__(self, produced: int, weight: nn.Parameter) -> None:
        super().__init__()
        self.produced, self.weight = produced, weight

    def forward(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.weight[: self.produced])


def factorise(model: nn.Module, produced: int, nodes: int, *, fresh: bool = False) -> None:
    """Gives a causal LM factored embeddings, in place.

    The factors are the least-squares fit to the edges' rows: exact for a checkpoint that `materialise` made.
    fresh: the factors are drawn anew instead, normal with the model's own standard deviation.
    Raises ValueError when the table has another size or its edges are no such sums.
    """
    table = model.get_input_embeddings().weight.detach()
    if table.shape[0] != produced + nodes**2:
        raise ValueError(f"the model has {table.shape[0]} tokens, not {produced} and {nodes}^2 edges")
    if fresh:
        factors = torch.randn(2 * nodes, table.shape[1]) * model.config.initializer_range
    else:
        edges = table[produced:].double().view(nodes, nodes, -1)
        half = edges.mean(dim=(0, 1)) / 2
        source, target = edges.mean(dim=1) - half, edges.mean(dim=0) - half
        if not torch.allclose(source[:, None] + target, edges, atol=1e-5 * float(edges.abs().max())):
            raise ValueError("the model's edge embeddings are not sums of a source's and a target's vector")
        factors = torch.cat([source, target]).to(table.dtype)
    embedding = FactoredEmbedding(produced, nodes, torch.cat([table[:produced], factors]))
    tied = model.config.tie_word_embeddings
    own = embedding.weight if tied else nn.Parameter(model.get_output_embeddings().weight.detach()[:produced].clone())
    model.set_input_embeddings(embedding)
    model.set_output_embeddings(ProducedHead(produced, own))
    model.config.factored = {"produced": produced, "nodes": nodes}


def is_factored(model: nn.Module) -> bool:
    """Whether a model's input embedding is factored."""
    return isinstance(model.get_input_embeddings(), FactoredEmbedding)


def materialise(model: nn.Module) -> nn.Module:
    """An ordinary model with the same logits over the produced tokens; the given one is left as it is.

    Tied: an edge's output row is its embedding, as in any tied model. Untied: it is zero. Either way such logits mean
    nothing, and the generation config suppresses edges.
    """
    from transformers import AutoModelForCausalLM

    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    table = embedding.table().detach()
    config = copy.deepcopy(model.config)
    with torch.random.fork_rng(devices=[]):
        ordinary = AutoModelForCausalLM.from_config(config, attn_implementation=config._attn_implementation)
    skipped = {f"{name}.weight" for name, module in model.named_modules() if module in (embedding, head)}
    weights = {name: value for name, value in model.state_dict().items() if name not in skipped}
    missing, unexpected = ordinary.load_state_dict(weights, strict=False)
    if unexpected or not set(missing) <= skipped:
        raise ValueError(f"cannot write this model out: {sorted({*unexpected, *missing} - skipped)} do not fit")
    with torch.no_grad():
        ordinary.get_input_embeddings().weight.copy_(table)
        if not config.tie_word_embeddings:
            rows = ordinary.get_output_embeddings().weight
            rows.zero_()
            rows[: head.produced] = head.weight[: head.produced]
    ordinary.generation_config.suppress_tokens = list(range(embedding.produced, len(table)))
    return ordinary.to(table.device).train(model.training)
