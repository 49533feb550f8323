"""Packing a 40k-token trajectory, and attention over it, without an N x N mask: seconds and peak memory.

    OMP_NUM_THREADS=1 python benchmarks/threadweaver_packing.py

The trajectory has the shape of the paper's self-training data scaled to the length limit of 40,960: forks of three
threads of about a thousand tokens. The public collator keeps a float mask of N x N beside it.
"""

from __future__ import annotations

import argparse
import itertools
import random
import resource
import time
import tracemalloc

import torch

from methods.threadweaver.packing import Packed, TokenUnit, ancestor_mask, pack, tree_attention

THREADS, SEQUENCE, HEAD, THREAD = 3, 500, 60, 950


def example(tokens: int, seed: int = 0) -> list[TokenUnit]:
    """Units of a random trajectory whose tree has nearly `tokens` tokens, the whole first."""
    rng = random.Random(seed)

    def some(count: int) -> list[int]:
        return [rng.randrange(10, 150_000) for _ in range(count)]

    units, text, packed = [], some(200), 200
    prompt = len(text)
    # Each fork adds its sequence, and all its threads; every thread but the first stands in the tree twice.
    while packed + SEQUENCE + HEAD + (2 * THREADS - 1) * THREAD + SEQUENCE < tokens:
        written = some(SEQUENCE + HEAD)
        units.append(TokenUnit(text, written))
        text = text + written
        threads = [[1, 2, number, *some(THREAD - 4), 3] for number in range(4, 4 + THREADS)]
        units += [TokenUnit(text + thread[:3], thread[3:]) for thread in threads]
        text = [*text, *itertools.chain(*threads), 5]
        packed += SEQUENCE + HEAD + (2 * THREADS - 1) * THREAD + 1
    last = some(tokens - packed)
    return [TokenUnit(text[:prompt], text[prompt:] + last, False), *units, TokenUnit(text, last)]


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=40_960)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--width", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(1)

    units = example(options.tokens)
    start = time.process_time()
    packed = pack(units)
    pack_seconds = time.process_time() - start
    tracemalloc.start()
    pack(units)
    pack_peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    N = len(packed.tokens)
    kept = sum(field.numel() * field.element_size() for field in packed) / 2**20
    alone = sum(len(unit.context) + len(unit.completion) for unit in units)
    print(
        f"{N} packed tokens from {len(units)} units of {alone} tokens; "
        f"whole trajectory {len(units[0].context) + len(units[0].completion)}"
    )
    print(f"pack: {pack_seconds:.3f} CPU s, peak {pack_peak:.0f} MB of Python objects; result {kept:.1f} MB")
    print(
        f"the mask: {packed.last.numel() * 8 / 2**20:.2f} MB as intervals; "
        f"N x N would be {N * N * 4 / 1e9:.2f} GB in float32"
    )
    attend(packed, options.heads, options.width)


def attend(packed: Packed, heads: int, width: int) -> None:
    N = len(packed.tokens)
    q, k, v = (torch.randn(heads, N, width, requires_grad=True) for _ in range(3))
    before = peak_mb()
    start = time.process_time()
    out = tree_attention(q, k, v, packed.last)
    forward = time.process_time() - start
    after = peak_mb()
    out.square().mean().backward()
    seconds = time.process_time() - start
    rows = torch.arange(N // 2, N // 2 + 64)
    mask = ancestor_mask(packed.last, slice(N // 2, N // 2 + 64))
    plain = torch.nn.functional.scaled_dot_product_attention(q[None, :, rows], k[None], v[None], attn_mask=mask)[0]
    assert torch.allclose(out[:, rows], plain, atol=1e-5)
    print(f"attention, {heads} heads of {width}: forward {forward:.1f} CPU s, with backward {seconds:.1f} CPU s")
    print(
        f"peak memory of the process: {before:.0f} MB before, {after:.0f} MB after forward, "
        f"{peak_mb():.0f} MB after backward"
    )


if __name__ == "__main__":
    main()
