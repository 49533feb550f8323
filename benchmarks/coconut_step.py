"""What continuous thoughts cost, each against a plain reference that must give the same.

    python benchmarks/coconut_step.py

Training: a step against the published formulation, which before each pass builds the batch's embeddings anew from lists
of single vectors. Generation: batched with a cache against one item at a time without. CPU seconds of one thread, the
smallest of several interleaved runs.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from methods.coconut import curriculum, thoughts
from methods.coconut.data import GRAPH_NODES
from methods.coconut.model import Thinker, find_marks
from tycho.lm import small
from tycho.lm.examples import Batch, Examples, next_token_loss
from tycho.tasks import common, graph_text, graphs


def compare(name: str, fast: Callable[[], Any], plain: Callable[[], Any], rounds: int) -> None:
    """Prints both costs and their ratio."""
    best = [float("inf"), float("inf")]
    for _ in range(rounds):
        for which, function in enumerate((fast, plain)):
            start = time.process_time()
            function()
            best[which] = min(best[which], time.process_time() - start)
    print(f"{name:66} {1e3 * best[0]:9.1f} ms {1e3 * best[1]:10.1f} ms  plain / ours {best[1] / best[0]:6.2f}")


def rebuilt(model: Any, batch: Batch, latent: Tensor) -> Tensor:
    """The published training forward: key-value cache, and a list of vectors a row that is stacked before each pass."""
    columns = latent.any(dim=0).nonzero()[:, 0].tolist()
    embeddings, logits, cache, output = model.get_input_embeddings()(batch.ids), [], None, None
    edges = [0, *columns, batch.ids.shape[1]]
    for a, b in itertools.pairwise(edges):
        if a:
            vectors = [
                [embeddings[row, place] for place in range(embeddings.shape[1])] for row in range(len(embeddings))
            ]
            for row in latent[:, a].nonzero()[:, 0].tolist():
                vectors[row][a] = output.hidden_states[-1][row, -1]
            embeddings = torch.stack([torch.stack(row) for row in vectors])
        output = model(
            inputs_embeds=embeddings[:, a:b], attention_mask=batch.mask[:, :b].long(),
            position_ids=batch.positions[:, a:b], past_key_values=cache, use_cache=True, output_hidden_states=True,
        )  # fmt: skip
        cache = output.past_key_values
        logits.append(output.logits)
    return torch.cat(logits, dim=1)


def step(size: int, examples: Examples, words: Any, count: int, name: str, layers: int) -> None:
    marks = find_marks(words.tokenizer())
    batch, latent = curriculum.compose(examples, count, count, "thoughts", marks)
    model = small.build(words, layers=layers, context=160)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def ours() -> Tensor:
        return thoughts.loss(model, batch, latent)

    def plain() -> Tensor:
        return next_token_loss(rebuilt(model, batch, latent), batch.labels)

    def gradients(loss: Callable[[], Tensor]) -> list[Tensor]:
        optimizer.zero_grad()
        loss().backward()
        return [weight.grad.clone() for weight in model.parameters()]

    for mine, theirs in zip(gradients(ours), gradients(plain), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)

    def train(loss: Callable[[], Tensor]) -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    shape = f"{size} x {batch.ids.shape[1]} tokens, {count} thoughts"
    compare(f"training step, {name}, {shape}", lambda: train(ours), lambda: train(plain), rounds=5)


def generation(examples: Examples, words: Any, count: int, most: int, name: str) -> None:
    model = small.build(words, context=160).eval()
    marks = find_marks(words.tokenizer())
    thinker = Thinker(model, words.tokenizer(), "thoughts", count)
    ids, mask = examples.prompts()

    def ours() -> list[list[int]]:
        return thinker.generate(ids, mask, most=most).rows()

    @torch.no_grad()
    def plain() -> list[list[int]]:
        """The published evaluation: one item, no cache, the whole sequence again for each thought and each word."""
        table, rows = model.get_input_embeddings(), []
        for row, length in zip(examples.prompt, examples.prompt_length, strict=True):
            vectors = table(torch.cat([row[:length], row.new_tensor([marks.begin])])[None])
            for _ in range(count):
                hidden = model(inputs_embeds=vectors, output_hidden_states=True, use_cache=False).hidden_states[-1]
                vectors = torch.cat([vectors, hidden[:, -1:]], dim=1)
            vectors = torch.cat([vectors, table(row.new_tensor([[marks.end]]))], dim=1)
            written: list[int] = []
            while len(written) < most and words.end not in written:
                logits = model(inputs_embeds=vectors, use_cache=False).logits[0, -1]
                written.append(int(logits.argmax()))
                vectors = torch.cat([vectors, table(torch.tensor([[written[-1]]]))], dim=1)
            rows.append(written)
        return rows

    assert ours() == plain()
    compare(f"100 items, {name}, {count} thoughts, up to {most} words", ours, plain, rounds=2)


def main() -> None:
    torch.set_num_threads(1)
    import numpy as np

    words = graph_text.vocabulary(common.GRAPH_NODES, common.SPECIAL)
    small_graphs = graphs.layered(100, 0)
    terse = graph_text.symbols(small_graphs, words, "terse", np.random.default_rng(0))
    prosqa = graph_text.vocabulary(GRAPH_NODES, common.SPECIAL)
    published = graph_text.symbols(graphs.published(100, 0), prosqa, "terse", np.random.default_rng(0))
    first = slice(64)
    step(64, terse.select(first), words, 3, "graphs", 2)
    step(64, published.select(first), prosqa, 6, "prosqa", 2)
    generation(terse, words, 3, 8, "graphs")


if __name__ == "__main__":
    main()
