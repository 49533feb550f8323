"""Gradients of the zero-mean loss in one pass over blocks that stay in cache: what a training spends its time in.

The same numbers as `network.forward`, `squared_error` (centre="classes") and `backward`, which are the plain reference.
What makes it quick: the mean over classes leaves every example's error to itself, so hidden activities are computed once
and used while they are in cache; the first layer and its gradient are sums of rows in both directions (`embedding_bag`);
classes are padded with zeros to a multiple of eight, which matrix products of 23 or 71 columns gain a third from.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, pad

from methods.grokking.network import ACTIVATIONS, Examples

BLOCK = 2**18  # floats of hidden activity at a time: a megabyte
CLASSES = 8


class Gradients:
    """Gradients of R networks on fixed training examples: a function of the weights, its index and its memory.

    Networks of similar training sizes should stand side by side: a
    block is as long as its largest.
    """

    def __init__(self, seen: Examples, order: int, hidden: int, activation: str = "square") -> None:
        self.sigma, self.slope = ACTIVATIONS[activation]
        self.square = activation == "square"
        self.memory: dict[str, Tensor] = {}
        self.order, self.classes = order, -(-order // CLASSES) * CLASSES
        sizes = (seen.weight > 0).sum(dim=1)
        self.several = several = max(1, BLOCK // (int(sizes.max()) * hidden))
        self.groups = [
            _Group(seen, slice(r, r + several), int(sizes[r : r + several].max()), order, self.classes, hidden)
            for r in range(0, len(sizes), several)
        ]

    def __call__(self, W: Tensor, V: Tensor) -> dict[str, Tensor]:
        """{"W" [R, 2M, K], "V" [R, K, M]} at the weights W and V."""
        hidden = W.shape[2]
        output = pad(V, (0, self.classes - self.order))
        # sigma'(h) = 2 h of the square: the 2 goes into the smallest factor, the rest saves two passes over h.
        back = (output * 2 if self.square else output).transpose(1, 2)
        dV = V.new_zeros(len(V), self.classes, hidden)
        parts = zip(self.groups, *(whole.split(self.several) for whole in (W, output, back, dV)), strict=True)
        dW = [self._group(*part) for part in parts]
        return {"W": torch.cat(dW).view_as(W), "V": dV[:, : self.order].transpose(1, 2).contiguous()}

    def _group(self, group: _Group, W: Tensor, output: Tensor, back: Tensor, dV: Tensor) -> Tensor:
        """[several * 2M, K] gradients of W; those of V are added to dV [several, classes, K]."""
        networks, hidden = len(W), W.shape[2]
        rows = W.reshape(-1, hidden)
        flow = self._memory("flow", W, networks, group.size, hidden)
        for block in group.blocks:
            h = embedding_bag(block.looked_up, rows, block.two, mode="sum", include_last_offset=True).view(
                networks, -1, hidden
            )
            active = torch.mul(h, h, out=self._memory("active", W, *h.shape)) if self.square else self.sigma(h)
            error = block.centred(torch.bmm(active, output), self.order)
            dV.baddbmm_(error.transpose(1, 2), active)
            part = flow if len(group.blocks) == 1 else flow[:, block.examples]
            torch.bmm(error, back, out=part)
            part *= h if self.square else self.slope(h)
        return embedding_bag(group.sources, flow.view(-1, hidden), group.offsets, mode="sum", include_last_offset=True)

    def _memory(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """Uninitialised memory of a shape, the same at each call where it is large enough: fresh pages cost more than work."""
        size = math.prod(shape)
        if name not in self.memory or len(self.memory[name]) < size:
            self.memory[name] = like.new_empty(size)
        return self.memory[name][:size].view(shape)


class _Block:
    """Some examples of a group of networks: which rows of W they sum, their targets and weights."""

    def __init__(self, seen: Examples, networks: slice, examples: slice, order: int, classes: int) -> None:
        self.examples = examples
        left, right, target, weight = (part[networks, examples] for part in seen)
        first = 2 * order * torch.arange(len(left), device=left.device)[:, None]
        self.looked_up = torch.stack([left + first, right + first + order], dim=-1).flatten()
        self.two = torch.arange(0, len(self.looked_up) + 1, 2, device=left.device)
        self.hit = (torch.arange(target.numel(), device=target.device) * classes + target.flatten()).contiguous()
        self.minus_one = weight.new_full((len(self.hit),), -1)
        self.twice = 2 * weight[..., None]

    def centred(self, outputs: Tensor, order: int) -> Tensor:
        """The loss's gradient with respect to the outputs, in place; padding classes stay zero."""
        outputs.view(-1).index_add_(0, self.hit, self.minus_one)
        mean = outputs.sum(dim=2, keepdim=True).div_(order)
        outputs[..., :order] -= mean
        return outputs.mul_(self.twice)


class _Group:
    """Networks that are worked on together, and for each row of their W the examples whose gradients it collects."""

    def __init__(self, seen: Examples, networks: slice, size: int, order: int, classes: int, hidden: int) -> None:
        self.networks, self.size = networks, size
        rows = max(1, min(size, BLOCK // hidden))
        self.blocks = [
            _Block(seen, networks, slice(i, min(i + rows, size)), order, classes) for i in range(0, size, rows)
        ]
        left, right, _, weight = (part[networks, :size] for part in seen)
        first = 2 * order * torch.arange(len(left), device=left.device)[:, None]
        real = (weight > 0).flatten()
        example = torch.arange(left.numel(), device=left.device)[real].repeat(2)
        row = torch.cat([(left + first).flatten()[real], (right + first + order).flatten()[real]])
        self.sources = example[row.argsort(stable=True)]
        counts = torch.bincount(row, minlength=2 * order * len(left))
        self.offsets = pad(counts.cumsum(0), (1, 0))
