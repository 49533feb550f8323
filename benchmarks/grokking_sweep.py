"""Networks x epochs per CPU-second: a batched sweep against one network at a time, and the share of the machine's rate.

python -m benchmarks.grokking_sweep --repeats 12
Ways: `batched` (methods.grokking.training, R networks), `alone` (the same loop, one network after another), `plain` (one
after another in PyTorch as one would write it: autograd over a look-up, torch.optim.Adam), `one-hot` (the same with the
public code's one-hot product). All train the same networks from the same starts, and are checked to end at the same
weights. CPU-seconds of this process, turns alternate, least of the repeats; one thread. The share is that of the three
matrix products' FLOPs in the rate of one large product, measured in the same turns.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from methods.grokking import network, training
from tycho.tasks import groups

RATE, DECAY = 5e-4, 2e-4


class Setting:
    """R networks of random splits: a third each of 2.25, 2.5 and 3 M ln M training pairs."""

    def __init__(self, order: int, hidden: int, networks: int) -> None:
        self.order, self.hidden, self.networks = order, hidden, networks
        self.sizes = [round((2.25, 2.5, 3.0)[3 * r // networks] * order * math.log(order)) for r in range(networks)]
        table = groups.pairs(groups.group(f"Z{order}"))
        self.rows = [groups.split(len(table), size, seed)[0] for seed, size in enumerate(self.sizes)]
        self.seen = network.examples(table, self.rows)
        self.single = [network.examples(table, [rows]) for rows in self.rows]
        generators = [torch.Generator().manual_seed(seed) for seed in range(networks)]
        self.start = network.initialise(order, hidden, generators)

    def batched(self, epochs: int) -> Tensor:
        state = training.start(self.start)
        for _ in training.train(state, self.seen, self.seen, epochs, [], RATE, DECAY):
            pass
        return state["W"]

    def alone(self, epochs: int) -> Tensor:
        ended = []
        for r, seen in enumerate(self.single):
            state = training.start({name: value[[r]] for name, value in self.start.items()})
            for _ in training.train(state, seen, seen, epochs, [], RATE, DECAY):
                pass
            ended.append(state["W"])
        return torch.cat(ended)

    def plain(self, epochs: int, one_hot: bool = False) -> Tensor:
        ended = []
        for r, seen in enumerate(self.single):
            W, V = (self.start[name][r].clone().requires_grad_() for name in ("W", "V"))
            optimiser = torch.optim.Adam([W, V], lr=RATE, weight_decay=DECAY)
            left, right, target = seen.left[0], seen.right[0], seen.target[0]
            inputs = torch.zeros(len(left), 2 * self.order)
            inputs[torch.arange(len(left)), left] = 1
            inputs[torch.arange(len(left)), self.order + right] = 1
            for _ in range(epochs):
                h = inputs @ W if one_hot else W[left] + W[self.order + right]
                outputs = h.square() @ V
                centred = outputs - outputs.mean(dim=1, keepdim=True)
                hit = centred.gather(1, target[:, None])[:, 0]
                loss = (centred.square().sum(dim=1) - 2 * hit).mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            ended.append(W.detach())
        return torch.stack(ended)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--epochs", type=int, nargs=2, default=[40, 4], help="at M=23 and at M=71")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for setting, epochs in zip((Setting(23, 256, 30), Setting(71, 1024, 6)), options.epochs, strict=True):
        _measure(setting, epochs, options.repeats)


def _measure(setting: Setting, epochs: int, repeats: int) -> None:
    ways: dict[str, Callable[[], Tensor]] = {
        "batched": lambda: setting.batched(epochs),
        "alone": lambda: setting.alone(epochs),
        "plain": lambda: setting.plain(epochs),
        "one-hot": lambda: setting.plain(epochs, one_hot=True),
    }
    ended = {name: way() for name, way in ways.items()}
    for name, weights in ended.items():
        torch.testing.assert_close(weights, ended["batched"], rtol=0, atol=1e-5, msg=f"{name} ends elsewhere")
    square = torch.randn(1024, 1024)
    ways["product"] = lambda: square @ square
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.process_time()
            way()
            seconds[name].append(time.process_time() - began)
    least = {name: min(taken) for name, taken in seconds.items()}
    peak = 2 * 1024**3 / least.pop("product")
    flops = epochs * sum(network.step_flops(size, setting.hidden, setting.order) for size in setting.sizes)
    print(f"M={setting.order} K={setting.hidden} networks={setting.networks}: one product {peak / 1e9:.0f} GFLOP/s")
    for name, taken in least.items():
        print(
            f"  {name:8s} {setting.networks * epochs / taken:8.0f} networks x epochs per CPU-s   batched is "
            f"{taken / least['batched']:.2f} times as fast   {flops / taken / peak:5.1%} of the product's rate"
        )


if __name__ == "__main__":
    main()
