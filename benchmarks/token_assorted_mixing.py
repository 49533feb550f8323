"""Mixed sequences of a batch at once against one example at a time.

    OMP_NUM_THREADS=1 python -m benchmarks.token_assorted_mixing

CPU seconds of one thread, the smallest of several interleaved runs; both give the same sequences before any time is printed.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from methods.token_assorted import mixing
from methods.token_assorted.mixing import Words
from tycho.tasks import common

SIZE = 4


def plain(traces: list[list[int]], codes: list[list[int]], counts: list[int], words: Words) -> list[list[int]]:
    """The rule for the paper's replacement, example by example."""
    rows = []
    for trace, code, count in zip(traces, codes, counts, strict=True):
        row = [words.begin, *[words.first + z for z in code[:count]], words.end] if count else []
        rows.append(row + trace[count * SIZE :])
    return rows


def main() -> None:
    torch.set_num_threads(1)
    ground = common.ground("products-verbose")
    examples = ground.batches(0, 256)(0)
    words = Words(ground.words["<latent>"], ground.words["</latent>"], ground.words["<c0>"])
    rng = np.random.default_rng(0)
    whole = mixing.chunked(examples, SIZE)[2]
    codes = torch.from_numpy(rng.integers(0, 64, whole.shape))
    counts = mixing.counts("random_left", whole, [0, 4, 8, 10, 12, 14, 16], 0.0, rng)
    ids, mask = examples.trace()

    def fast() -> tuple[torch.Tensor, torch.Tensor]:
        tokens, kept, whole = mixing.chunked(examples, SIZE)
        replaced = mixing.places("random_left", whole, counts, rng)
        return mixing.mixed(tokens, kept, codes, replaced, words, examples.pad)

    def slow() -> torch.Tensor:
        traces = [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)]
        rows = plain(traces, codes.tolist(), counts.tolist(), words)
        width = max(map(len, rows))
        return torch.tensor([row + [examples.pad] * (width - len(row)) for row in rows])

    assert torch.equal(fast()[0], slow())
    best = [float("inf")] * 2
    for _ in range(20):
        for which, function in enumerate((fast, slow)):
            start = time.process_time()
            function()
            best[which] = min(best[which], time.process_time() - start)
    print(f"256 traces of products-verbose: {1e3 * best[0]:.2f} ms at once, {1e3 * best[1]:.2f} ms one at a time")
    print(f"ratio {best[1] / best[0]:.1f}")


if __name__ == "__main__":
    main()
