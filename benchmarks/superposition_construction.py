"""The construction on 500 graphs: all at once against one graph at a time.

    OMP_NUM_THREADS=1 python -m benchmarks.superposition_construction

CPU seconds of one thread, weights and prompts included. Both give the same answers before any time is printed.
"""

from __future__ import annotations

import time

import torch

from methods.superposition import construction
from tycho.tasks import graphs


def solve(some: graphs.Graphs, batch: int) -> tuple[torch.Tensor, float]:
    """(answers, CPU seconds) with exactly D thoughts."""
    start = time.process_time()
    net = construction.build(construction.token_embeddings(int(some.nodes.max())), some.edges.shape[1])
    found = construction.reason(net, some, int(some.depth.max()), batch=batch)
    logits = found.logits[torch.arange(len(some)), torch.from_numpy(some.depth)]
    return logits.argmax(dim=1), time.process_time() - start


def main() -> None:
    torch.set_num_threads(1)
    some = graphs.published(500, 7)
    some.depth  # noqa: B018  (computed once, for both)
    runs = [solve(some, 50) for _ in range(3)]
    single, slow = solve(some, 1)
    fast = min(seconds for _, seconds in runs)
    right = (single == torch.from_numpy(some.target)).double().mean()
    assert all(torch.equal(answers, single) for answers, _ in runs)
    print(
        f"500 graphs of ProsQA's generator, {right:.1%} solved: {fast:.2f} CPU-s (< 5 wanted); one at a time {slow:.2f}"
    )
    print(f"ratio {slow / fast:.1f}")


if __name__ == "__main__":
    main()
