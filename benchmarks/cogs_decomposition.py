"""Decomposition of all order-6 frequencies at once against a loop over frequencies and column orders.

    OMP_NUM_THREADS=1 python -m benchmarks.cogs_decomposition

The loop does for each of the 720 orders of each frequency what `decomposition.factorise` does for all of them, with
numpy on [3, 6] matrices; both errors are compared before any time is printed.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy
import torch

from methods.cogs import algebra, decomposition, solutions, tables


def trained_like(d: int, networks: int) -> torch.Tensor:
    """[R, 3, d, q]: order-6 solutions of random phases with 5 % of noise and as many dead nodes as live ones."""
    elements = []
    for seed in range(networks):
        g = torch.Generator().manual_seed(seed)
        z = solutions.SOLUTIONS["order 6"].build(d, g)
        W, V = algebra.weights(algebra.add(z, 0.05 * z))
        W += 0.05 * W.std() * torch.randn(W.shape, generator=g, dtype=W.dtype)
        elements.append(algebra.coefficients(W, V))
    return torch.stack(elements)


def loop(nodes: numpy.ndarray) -> numpy.ndarray:
    """Errors [G, q!] of nodes [G, 3, q], one order of one frequency at a time, with both factors."""
    half = nodes.shape[-1] // 2
    errors = []
    for columns in nodes:
        row = []
        for permutation in itertools.permutations(range(2 * half)):
            left, right = columns[:, permutation[:half]], columns[:, permutation[half:]]
            ratio = right / left
            for j in range(1, half):
                if (ratio[:2, j] * ratio[:2, 0].conj()).real.sum() < 0:
                    ratio[:2, j] *= -1
            mean = ratio.mean(axis=1)
            first, second = mean[:, None], left / left[:, :1]
            first, second = first / first.prod(axis=0) ** (1 / 3), second / second.prod(axis=0) ** (1 / 3)
            row.append(numpy.linalg.norm(ratio - mean[:, None]))
        errors.append(row)
    return numpy.array(errors)


def best_of(repeats: int, work: Callable[..., Any], *arguments: Any) -> float:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work(*arguments)
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    torch.set_num_threads(1)
    numpy.seterr(divide="ignore", invalid="ignore")  # a mean ratio of 1 + omega + conj(omega) = 0 has no product
    for d, networks in ((23, 5), (71, 5), (127, 5)):
        z = trained_like(d, networks)
        _, _, nodes = decomposition.nodes_of_order(z, 6)
        few = nodes[:8]  # the loop is linear in frequencies
        assert numpy.allclose(loop(few.numpy()), decomposition.factorise(few).error.numpy())
        slow = best_of(2, loop, few.numpy()) * len(nodes) / len(few)
        fast = best_of(5, decomposition.factorise, nodes)
        named = best_of(3, tables.decomposition_table, z)
        print(
            f"d={d}, {networks} networks, {len(nodes)} frequencies of order 6: loop {slow:.2f} s (8 measured, scaled), "
            f"at once {fast:.4f} s, ratio {slow / fast:.0f}; whole decomposition table {named:.3f} s"
        )


if __name__ == "__main__":
    main()
