"""The energy of a single node on part of the table: does it hold a frequency, and where would that put the boundary?

Theorem 4 of arXiv 2509.21519 argues that n ~ M log M samples keep the maxima of E. This asks E alone, without any
network: start at a single frequency, climb, and see whether it is still that frequency.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from methods.grokking import meters, theory


def fourier_nodes(order: int, generator: torch.Generator) -> Tensor:
    """One unit node [2M, (M - 1) // 2] a frequency of Z_M, a maximum of E on the full table, with a random phase.

    For cyclic groups E does not depend on the phases of the two halves (`theory.feature_energy`), so both take the same.
    """
    frequency = torch.arange(1, (order - 1) // 2 + 1, dtype=torch.float64)
    phase = 2 * math.pi * torch.rand(len(frequency), generator=generator, dtype=torch.float64)
    angle = 2 * math.pi / order * torch.arange(order, dtype=torch.float64)[:, None] * frequency
    u = torch.cat([torch.cos(angle + phase), torch.cos(angle + phase)])
    return u / u.norm(dim=0)


def survival(
    nodes: Tensor,
    left: Tensor,
    right: Tensor,
    target: Tensor,
    basis: Tensor,
    component: Tensor,
    steps: int = 300,
    pure: float = 0.5,
) -> Tensor:
    """[B] whether each node, after `steps` of ascent, has at least `pure` of its power where it had most at first."""
    first = meters.component_power(nodes[None], basis, component)[0].argmax(dim=0)
    ended = theory.ascend(nodes, left, right, target, steps)
    power = meters.component_power(ended[None], basis, component)[0]
    return power.gather(0, first[None])[0] >= pure * power.sum(dim=0)


def spike_energy(order: int, share: float) -> float:
    """E of a node that answers one element only, w = e_x, on a random share p of the table: about M p (1 - p) / 2."""
    return order * share * (1 - share) / 2


def wave_energy(order: int, share: float) -> float:
    """E of a single frequency on a random share p of the table: about M p^2 / 4 (M/4 on all of it)."""
    return order * share**2 / 4
