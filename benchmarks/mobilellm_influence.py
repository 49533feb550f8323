"""First-order influence of samples on three probing sets: from taps of the layers against a gradient for each sample.

    OMP_NUM_THREADS=1 python benchmarks/mobilellm_influence.py

CPU seconds, one core, median of several runs after a warm-up, in one process: the network, the layers (the last block) and
the documents are the same, and the results are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

from methods.mobilellm_r1 import corpora, influence, network


def plain(weights, shape, ids, probes):
    """The definition: each document's own gradient, then its inner product with each probing set's."""
    layers = list(probes[0])
    found = torch.zeros(len(probes), len(ids))
    for row, document in enumerate(ids):
        leaf = {name: value.detach().requires_grad_(name in layers) for name, value in weights.items()}
        loss = network.document_losses(network.forward(leaf, shape, document[None, None]), document[None, None]).sum()
        gradients = torch.autograd.grad(loss, [leaf[name] for name in layers])
        for c, probe in enumerate(probes):
            found[c, row] = sum((g * probe[name]).sum() for g, name in zip(gradients, layers, strict=True))
    return found


def seconds(run, repeat):
    run()
    times = []
    for _ in range(repeat):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--documents", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    shape = network.Shape(len(corpora.WORDS))
    weights = network.initialise(shape, [torch.Generator().manual_seed(0)], 0.1)
    ids = torch.from_numpy(corpora.Corpus("chains", 0).read(0, options.documents).ids.copy())
    probes = []
    for capability in corpora.CAPABILITIES:
        asked = corpora.held_out(capability, "probing", 64)
        counted = torch.from_numpy(np.ascontiguousarray(asked.answers))
        probes.append(
            influence.probe_gradients(weights, shape, torch.from_numpy(asked.ids), counted, shape.last_block())
        )

    def tapped():
        return influence.influences(weights, shape, ids[None], probes)[0][:, 0]

    expected = plain(weights, shape, ids, probes)
    error = float((tapped() - expected).abs().max() / expected.abs().max())
    slow = seconds(lambda: plain(weights, shape, ids, probes), options.repeat)
    fast = seconds(tapped, options.repeat)
    print(f"{options.documents} documents on {len(probes)} probing sets, {shape.parameters} parameters; CPU seconds")
    print(f"a gradient a sample {slow:8.3f}\ntaps of the layers  {fast:8.3f}   {slow / fast:.1f} times faster")
    print(f"largest difference {error:.1e} of the largest influence")


if __name__ == "__main__":
    main()
