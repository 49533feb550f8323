"""What codes mean and how often each is used; what each arm writes."""

from __future__ import annotations

from collections import Counter

import pandas as pd
import torch

from methods.token_assorted import vqvae
from methods.token_assorted.train import chunks_of, codebooks, load_codes, problem_of, reconstructed, setting_of
from tycho.adapter import Run

SHOWN = 200  # prompts that a code is decoded with


def analyse(run: Run) -> None:
    codes(run) if run.key.arm == "codes" else written(run)


def written(run: Run) -> None:
    """Accuracy, tokens, and how many of these are codes."""
    samples = run.job.record("samples")
    samples = samples.assign(codes=samples.response.str.count("<c[0-9]+>"))
    for where, mine in samples.groupby("setting"):
        run.metric("accuracy", mine.correct.mean(), setting=str(where))
        for column in ("generated_tokens", "sequential_tokens", "forward_passes", "flops", "codes"):
            run.metric(column, float(mine[column].mean()), setting=str(where))


def codes(run: Run) -> None:
    """Usage, perplexity and reconstruction on the test traces, and each code decoded back to text."""
    config, task = run.config, problem_of(run)
    chunks = chunks_of(task.test, config.chunk)
    run.metric("distinct_chunks", len(torch.unique(chunks.tokens, dim=0)))
    frames = []
    for size in codebooks(config):
        where = setting_of(config, size)
        model = load_codes(run.job.model, size, config.codebook)
        with torch.no_grad():
            found = model.encode(chunks.tokens)
            run.metric("reconstructed", reconstructed(model, chunks), setting=where)
            counts = vqvae.usage(found, size)
            run.metric("codes_used", int((counts > 0).sum()), setting=where)
            run.metric("perplexity", vqvae.perplexity(counts), setting=where)
            pairs = len(torch.unique(torch.cat([found[:, None], chunks.tokens], dim=1), dim=0))
            run.metric("chunks_a_code", pairs / max(1, int((counts > 0).sum())), setting=where)
            frames.append(table(model, chunks, found, counts, task).assign(codebook=size))
    run.table("codes", pd.concat(frames, ignore_index=True))


def table(model, chunks, found, counts, task) -> pd.DataFrame:
    """code, used, stands for (its commonest chunks), decoded (what f_dec makes of it with most prompts) and agreement."""
    rows = []
    prompt, mask = chunks.prompt[:SHOWN], chunks.prompt_mask[:SHOWN]
    for code in counts.nonzero()[:, 0].tolist():
        texts = Counter(task.text(row) for row in chunks.tokens[found == code].tolist())
        decoded = model.decode_codes(torch.full((len(prompt),), code), prompt, mask)
        ((text, times),) = Counter(task.text(row) for row in decoded.tolist()).most_common(1)
        shown = " | ".join(f"{chunk} ({n})" for chunk, n in texts.most_common(3))
        rows.append({"code": code, "used": int(counts[code]), "stands for": shown, "decoded": text})
        rows[-1]["agreement"] = times / len(prompt)
    return pd.DataFrame(rows).sort_values("used", ascending=False)
