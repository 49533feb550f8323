"""What batches, generation and a training step cost, each against a plain reference that must give the same.

    python benchmarks/batches.py

CPU seconds of one thread, the smallest of several interleaved runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tycho.lm import small
from tycho.lm.examples import next_token_loss
from tycho.lm.sampling import generate
from tycho.tasks import arithmetic, graph_text, graphs


def compare(name: str, fast: Callable[[], Any], plain: Callable[[], Any], rounds: int = 5) -> None:
    """Prints both costs and their ratio."""
    best = [float("inf"), float("inf")]
    for _ in range(rounds):
        for which, function in enumerate((fast, plain)):
            start = time.process_time()
            function()
            best[which] = min(best[which], time.process_time() - start)
    print(f"{name:58} {1e3 * best[0]:9.2f} ms {1e3 * best[1]:10.2f} ms  plain / ours {best[1] / best[0]:6.2f}")


# --- batches ---------------------------------------------------------------------------------------------------------


def plain_graph_rows(items: graphs.Graphs, words: Any, style: str, seed: int) -> list[list[int]]:
    """Prompt and continuation of each item, one item at a time, from the same random draws."""
    rng = np.random.default_rng(seed)
    n, width, size = len(items), items.edges.shape[1], words.nodes
    all_names = rng.random((n, size)).argsort(axis=1)
    orders, flips = rng.random((n, width)), rng.random((n, 1))
    weights = [rng.exponential(size=(n, size)) for _ in range(int(items.depth.max()))]
    rows = []
    for i in range(n):
        names = all_names[i].tolist()
        edges = [(names[s], names[t]) for s, t in items.edges[i].tolist() if s >= 0]
        root, target, distractor = (names[nodes[i]] for nodes in (items.root, items.target, items.distractor))
        shuffled = [edge for _, edge in sorted(zip(orders[i].tolist(), edges, strict=False))]
        children: dict[int, list[int]] = {}
        for s, t in edges:
            children.setdefault(s, []).append(t)
        layers, seen = [[root]], {root}
        while target not in seen:
            layers.append(sorted({t for s in layers[-1] for t in children.get(s, ())} - seen))
            seen.update(layers[-1])
        counts = {target: 1}
        for layer in layers[-2::-1]:
            counts |= {s: sum(counts.get(t, 0) for t in children.get(s, ()) if t not in layer) for s in layer}
            counts = {node: count for node, count in counts.items() if count}
        path = [root]
        for k in range(1, len(layers)):
            ahead = [t for t in children[path[-1]] if t in layers[k] and (t == target or k < len(layers) - 1)]
            ahead = [t for t in ahead if counts.get(t)]
            path.append(min(ahead, key=lambda t: weights[k - 1][i, t] / counts[t]))
        pair = [target, distractor] if flips[i, 0] < 0.5 else [distractor, target]
        text = [f"{s}>{t}" for s, t in shuffled] + ["[Q]", *map(str, pair), "[R]", str(root)]
        if style == "terse":
            text += map(str, path[1:])
        else:
            for layer in layers[:-1]:
                out = sorted((s, t) for s in layer for t in children.get(s, ()))
                text += ["[H]", *map(str, layer), ":", *(str(node) for edge in out for node in edge)]
            text += ["[P]", *map(str, path)]
        rows.append([words[word] for word in [*text, "[A]", str(target), "<eos>"]])
    return rows


def fast_rows(examples: Any) -> list[list[int]]:
    batch = examples.sequences()
    return [row[mask].tolist() for row, mask in zip(batch.ids, batch.mask, strict=True)]


def plain_product_rows(products: arithmetic.Products, words: Any) -> list[list[int]]:
    rows, modulus = [], products.shape.modulus
    for item in products.numbers.tolist():
        text, steps, results = [], [], []
        for group in item:
            text += [*map(str, group), ","]
            value = group[0]
            for number in group[1:]:
                steps += [str(value), str(number), str(value * number % modulus), ";"]
                value = value * number % modulus
            results.append(value)
        value = results[0]
        for number in results[1:]:
            steps += [str(value), str(number), str(value * number % modulus), ";"]
            value = value * number % modulus
        rows.append([words[word] for word in [*text[:-1], "=", *steps, "[A]", str(value), "<eos>"]])
    return rows


def batches() -> None:
    for name, make, nodes in (("14 nodes", graphs.layered, 14), ("ProsQA", graphs.published, 28)):
        items, words = make(2048, 0), graph_text.vocabulary(nodes)
        for style in ("terse", "verbose"):

            def fast(items=items, words=words, style=style) -> Any:
                fresh = items.select(slice(None))  # without the cached searches
                return graph_text.symbols(fresh, words, style, np.random.default_rng(1))

            def plain(items=items, words=words, style=style) -> Any:
                return plain_graph_rows(items, words, style, 1)

            assert fast_rows(fast()) == plain()
            compare(f"2,048 graph examples, {name}, {style}", lambda: fast().sequences(), plain, rounds=2)
    shape = arithmetic.Shape(11, 3, 5)
    words, products = arithmetic.vocabulary(shape), arithmetic.generate(2048, shape, 0)

    def fast() -> Any:
        traces = arithmetic.solve(products.numbers, shape, np.random.default_rng(0))
        return arithmetic.symbols(traces, words, "verbose")

    assert fast_rows(fast()) == plain_product_rows(products, words)
    compare(
        "2,048 products of 3 x 5 numbers, verbose",
        lambda: fast().sequences(),
        lambda: plain_product_rows(products, words),
    )


# --- generation ------------------------------------------------------------------------------------------------------


def generation() -> None:
    words = graph_text.vocabulary(14)
    examples = graph_text.symbols(graphs.layered(100, 0), words, "verbose", np.random.default_rng(0))
    ids, mask = examples.prompts()
    model = small.build(words).eval()
    most = 40

    @torch.no_grad()
    def plain() -> list[list[int]]:
        rows = []
        for prompt in ids:
            text = prompt[None]
            for _ in range(most):
                text = torch.cat([text, model(input_ids=text, use_cache=False).logits[:, -1:].argmax(dim=-1)], dim=1)
                if text[0, -1] == words.end:
                    break
            rows.append(text[0, len(prompt) :].tolist())
        return rows

    def fast() -> list[list[int]]:
        return generate(model, ids, mask, most=most, stop=[words.end]).rows()

    assert fast() == plain()
    compare("100 x 40 tokens, batched and cached / one by one", fast, plain, rounds=2)


# --- a training step -------------------------------------------------------------------------------------------------


def lean_gpt2(model: Any, ids: Tensor) -> Tensor:
    """GPT-2's forward pass on the same weights, with nothing but the arithmetic (dropout 0, no padding)."""
    body = model.transformer
    n, length = ids.shape
    hidden = body.wte(ids) + body.wpe.weight[:length]
    for block in body.h:
        joint = F.linear(block.ln_1(hidden), block.attn.c_attn.weight.T, block.attn.c_attn.bias)
        query, key, value = joint.view(n, length, 3, model.config.n_head, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)
        hidden = hidden + F.linear(mixed, block.attn.c_proj.weight.T, block.attn.c_proj.bias)
        inner = F.gelu(F.linear(block.ln_2(hidden), block.mlp.c_fc.weight.T, block.mlp.c_fc.bias))
        hidden = hidden + F.linear(inner, block.mlp.c_proj.weight.T, block.mlp.c_proj.bias)
    return model.lm_head(body.ln_f(hidden))


def training_step() -> None:
    words = graph_text.vocabulary(14)
    for style, size in (("terse", 64), ("terse", 128), ("verbose", 64)):
        examples = graph_text.symbols(graphs.layered(size, 0), words, style, np.random.default_rng(0))
        batch = examples.sequences()
        model = small.build(words)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        assert torch.allclose(lean_gpt2(model, batch.ids), model(input_ids=batch.ids).logits, atol=1e-5)

        def step(logits: Callable[[], Tensor], labels=batch.labels, optimizer=optimizer) -> None:
            optimizer.zero_grad()
            next_token_loss(logits(), labels).backward()
            optimizer.step()

        def attention(kind: str, model=model, batch=batch) -> Callable[[], Tensor]:
            def logits() -> Tensor:
                model.set_attn_implementation(kind)
                return model(input_ids=batch.ids, use_cache=False).logits

            return logits

        def lean(model=model, batch=batch) -> Tensor:
            return lean_gpt2(model, batch.ids)

        shape = f"{size} x {batch.ids.shape[1]} tokens"
        compare(f"step, {shape}, eager / sdpa", lambda: step(attention("eager")), lambda: step(attention("sdpa")), 30)
        compare(f"step, {shape}, lean / Hugging Face eager", lambda: step(lean), lambda: step(attention("eager")), 30)


if __name__ == "__main__":
    torch.set_num_threads(1)
    batches()
    generation()
    training_step()
