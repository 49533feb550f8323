"""Milliseconds for loss and gradients of one full-batch epoch: by hand against autograd, checked equal.

python -m benchmarks.grokking_step --hidden 2048 --threads 1 --repeats 20
Settings are those of Fig. 3 of arXiv 2509.21519: Z71, 2016 training pairs, sigma(x) = x^2. Turns alternate, so that a
busy machine slows all of them alike; the median and the least of the repeats are printed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from methods.grokking import network
from methods.grokking.optimisers import adam
from tycho.tasks.groups import group, pairs, split


def by_hand(weights: dict[str, Tensor], data: network.Examples) -> tuple[Tensor, dict[str, Tensor]]:
    outputs = network.forward(**weights, left=data.left, right=data.right)
    loss, error = network.squared_error(outputs, data.target, data.weight)
    return loss, network.backward(**weights, left=data.left, right=data.right, error=error)


def by_autograd(weights: dict[str, Tensor], data: network.Examples, dense: Tensor | None) -> tuple[Tensor, dict]:
    """One network; the first layer is a one-hot product (the public code's way) or, without `dense`, a look-up."""
    W, V = (weights[name][0].clone().requires_grad_() for name in ("W", "V"))
    order = V.shape[1]
    h = W[data.left[0]] + W[order + data.right[0]] if dense is None else dense @ W
    outputs = h.square() @ V
    centred = outputs - outputs.mean(dim=1, keepdim=True)
    hit = centred.gather(1, data.target[0, :, None])[:, 0]
    loss = (centred.square().sum(dim=1) - 2 * hit).mean() + 1 - 1 / order
    loss.backward()
    return loss.detach()[None], {"W": W.grad[None], "V": V.grad[None]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--order", type=int, default=71)
    parser.add_argument("--train", type=int, default=2016)
    parser.add_argument("--hidden", type=int, nargs="+", default=[2048, 1024, 512])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    g = group(f"Z{options.order}")
    table = pairs(g)
    data = network.examples(table, [split(len(table), options.train, 0)[0]])
    dense = torch.zeros(options.train, 2 * g.order)
    dense[torch.arange(options.train), data.left[0]] = 1
    dense[torch.arange(options.train), g.order + data.right[0]] = 1
    for hidden in options.hidden:
        weights = network.initialise(g.order, hidden, [torch.Generator().manual_seed(0)])
        memory: dict[str, Tensor] = {}
        stepped = {name: value.clone() for name, value in weights.items()}
        ways: dict[str, Callable[[], object]] = {
            "by hand": lambda w=weights: by_hand(w, data),
            "autograd, look-up": lambda w=weights: by_autograd(w, data, None),
            "autograd, one-hot": lambda w=weights: by_autograd(w, data, dense),
            "Adam step alone": lambda w=weights, s=stepped, m=memory: adam(s, w, m, 1e-3, 2e-4),
        }
        _check(by_hand(weights, data), by_autograd(weights, data, None))
        _check(by_hand(weights, data), by_autograd(weights, data, dense))
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.repeats):
            for name, way in ways.items():
                began = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - began)
        least = min(seconds["by hand"])
        for name, taken in seconds.items():
            median = sorted(taken)[len(taken) // 2]
            print(
                f"K={hidden} threads={options.threads} {name:18s} median {median * 1e3:6.1f} ms  "
                f"least {min(taken) * 1e3:6.1f} ms  ratio to by hand {min(taken) / least:.2f}"
            )


def _check(ours: tuple[Tensor, dict[str, Tensor]], theirs: tuple[Tensor, dict[str, Tensor]]) -> None:
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-5, atol=1e-6)
    for name, value in ours[1].items():
        torch.testing.assert_close(value, theirs[1][name], rtol=1e-4, atol=1e-7)


if __name__ == "__main__":
    main()
