"""What an update of the same size would look like if it knew nothing of the weights: the Gaussian null.

A stored weight moves only if its update exceeds half the distance to the next value of the grid, and that distance
grows with the weight. So updates of any direction show where weights are small, and the larger the update the more of
them: the published masks, overlaps and spectral shifts follow from size alone unless they differ from this null.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from scipy.optimize import brentq
from torch import Tensor

from methods.path_not_taken import lattice
from methods.path_not_taken.masks import order_statistic

SHAPES = (0.15, 8.0)  # from nearly even magnitudes to very heavy tails; the norm rises with the shape between them
SAMPLE = 2**10  # moved entries on which the shape is sought
TOLERANCE = 1e-3  # of the norm
PIECES = {"cpu": 2**16}  # entries worked on at once: what fits a core's cache; 2^24 on other devices


class Null(NamedTuple):
    """W0 plus noise, cast: bfloat16 of W0's shape; and the exponent of the noise, 1 for a Gaussian."""

    weights: Tensor
    shape: float


def visible_share(base: Tensor, sigma: float, bits: int = lattice.BITS) -> float:
    """Expected share of entries that move when N(0, sigma^2) is added to W0 [...] and the sum is cast.

    The mean over entries of the two tails beyond half the distance to either neighbour. For choosing a learning rate
    or a grid at which masks can say something (20 to 60 % moved) before anything is trained.
    """
    start = lattice.cast(base, bits)
    up = torch.ones_like(start, dtype=torch.bool)
    away = [(lattice.neighbour(start, side, bits).double() - start.double()).abs() for side in (up, ~up)]
    return sum(torch.erfc(distance / (2 * math.sqrt(2) * sigma)).mean().item() / 2 for distance in away)


def gaussian(base: Tensor, moved: int, generator: torch.Generator, bits: int = lattice.BITS) -> Null:
    """W0 [...] plus N(0, sigma^2) noise, sigma such that `moved` entries differ after casting; the norm follows."""
    noise = _Noise.draw(lattice.cast(base, bits), generator, bits)
    return Null(noise.move(moved, 1.0), 1.0)


def matched(base: Tensor, moved: int, norm: float, generator: torch.Generator, bits: int = lattice.BITS) -> Null:
    """W0 [...] plus symmetric i.i.d. noise that moves `moved` entries by a Frobenius norm of `norm`, after casting.

    One scale cannot fit both, so the noise is sigma sign(g) |g|^shape with g standard Gaussian: shape 1 is the
    Gaussian, which a Gaussian update gets back; below 1 magnitudes are more even (a few steps of Adam), above 1 tails
    are heavier. sigma fits the count, the shape fits the norm. An update beyond `SHAPES` gets the nearest of them,
    and the null's own norm shows the difference (all of one size: up to a fifth more, since halves of grid steps tie).
    """
    if moved == 0:
        return Null(lattice.cast(base, bits), 1.0)
    noise = _Noise.draw(lattice.cast(base, bits), generator, bits)
    entries = noise.start.numel()
    few = min(moved, SAMPLE)
    share = few / moved
    part = noise.sample(round(entries * share), generator) if share < 1 else noise

    def excess(shape: float) -> float:
        return _log_ratio(part.norm(part.move(few, shape)), norm * math.sqrt(share))

    low, high = SHAPES
    if excess(low) >= 0:
        return Null(noise.move(moved, low), low)
    if excess(high) <= 0:
        return Null(noise.move(moved, high), high)
    shape = brentq(excess, low, high, xtol=1e-4, disp=False)
    weights = noise.move(moved, shape)
    if share < 1:  # steps of the secant method remove the sample's error
        slope = (excess(shape * 1.05) - excess(shape / 1.05)) / (shape * (1.05 - 1 / 1.05))
        off = _log_ratio(noise.norm(weights), norm)
        for _ in range(5):
            if abs(off) < TOLERANCE or not slope:
                break
            last, last_off = shape, off
            shape = min(max(shape - off / slope, low), high)
            weights = noise.move(moved, shape)
            off = _log_ratio(noise.norm(weights), norm)
            slope = (off - last_off) / (shape - last) if shape != last else 0.0
    return Null(weights, shape)


class _Noise(NamedTuple):
    """W0, the neighbour on the side the noise points to, and the logarithms of half that distance and of |g|."""

    start: Tensor
    near: Tensor
    log_half: Tensor
    log_size: Tensor
    bits: int

    @classmethod
    def draw(cls, start: Tensor, generator: torch.Generator, bits: int) -> _Noise:
        g = torch.randn(start.shape, generator=generator, device=start.device)
        near = lattice.neighbour(start, g > 0, bits)
        log_half = near.float().sub_(start).abs_().div_(2).log_()
        # The smallest normal number stands for an exact 0, which would never move anything.
        return cls(start, near, log_half, g.abs_().clamp_(min=1e-38).log_(), bits)

    def sample(self, entries: int, generator: torch.Generator) -> _Noise:
        """The noise of randomly chosen entries, with replacement."""
        device = self.start.device
        chosen = torch.randint(self.start.numel(), (entries,), generator=generator, device=device)
        return _Noise(*(tensor.flatten()[chosen] for tensor in self[:4]), self.bits)

    def move(self, moved: int, shape: float) -> Tensor:
        """W0 with the noise at the scale that moves `moved` entries.

        Entry ij moves once sigma reaches t_ij = (half the distance to its neighbour) / |g_ij|^shape, so sigma is the
        `moved`-th smallest t.
        """
        appears = torch.add(self.log_half, self.log_size, alpha=-shape)
        log_sigma = order_statistic(appears, moved)
        out = self.start.clone()
        for start, near, log_size, piece, result in _pieces(self.start, self.near, self.log_size, appears, out):
            size = (log_sigma + shape * log_size).exp_()
            there = lattice.cast(start + size.copysign_(near.float() - start), self.bits)
            # At the threshold itself rounding may go back to W0.
            there = torch.where(there == start, near, there)
            torch.where(piece <= log_sigma, there, start, out=result)
        return out

    def norm(self, weights: Tensor) -> float:
        return _distance(weights, self.start)


def _log_ratio(found: float, wanted: float) -> float:
    tiny = 1e-45  # squares of steps away from zero vanish
    return math.log(max(found, tiny) / max(wanted, tiny))


def _distance(a: Tensor, b: Tensor) -> float:
    """|a - b|_F of bfloat16 tensors."""
    return torch.stack([(x.float() - y).norm() for x, y in _pieces(a, b)]).norm().item()


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of equally shaped tensors, some entries at a time: whole copies would be the peak of a diff's memory."""
    size = PIECES.get(tensors[0].device.type, 2**24)
    return zip(*(tensor.view(-1).split(size) for tensor in tensors), strict=True)
