"""What the three stages look like from outside: spectra of nodes, live nodes, Gram matrices, turning directions.

Provable Scaling Laws of Feature Emergence (arXiv 2509.21519), Figs. 3 and 7. Everything here is off the hot path: call
it at the epochs worth looking at. W [R, 2M, K], V [R, K, M]; components are those of `groups.isotypic_basis` (for Z_M
component k is frequency k, component 0 the constant).
"""

from __future__ import annotations

import torch
from torch import Tensor


def component_power(W: Tensor, basis: Tensor, component: Tensor) -> Tensor:
    """Squared norm of each node's two halves in each isotypic component: [R, 2M, K] -> [R, C, K]; sums to |w|^2."""
    networks, _, hidden = W.shape
    halves = W.view(networks, 2, len(basis), hidden)
    power = (basis.to(W.dtype).T @ halves).square().sum(dim=1)
    return W.new_zeros(networks, int(component.max()) + 1, hidden).index_add_(1, component, power)


def concentration(power: Tensor) -> Tensor:
    """[R, K] share of a node's power in its strongest component but the constant; 1 = a single frequency or irrep."""
    return power[:, 1:].amax(dim=1) / power.sum(dim=1).clamp_min(torch.finfo(power.dtype).tiny)


def contribution(W: Tensor, V: Tensor, degree: int = 2) -> Tensor:
    """[R, K] scale |w|^degree |v| of what a node adds to the output, for sigma homogeneous of this degree."""
    return W.norm(dim=1) ** degree * V.norm(dim=2)


def live_nodes(contributed: Tensor, share: float = 0.01) -> Tensor:
    """[R, K] mask of nodes that contribute at least `share` of the largest contribution in their network.

    Weight decay shrinks pruned nodes by orders of magnitude but never to zero, so any threshold is a convention;
    `weighted_mean` needs none.
    """
    return contributed >= share * contributed.amax(dim=1, keepdim=True)


def weighted_mean(values: Tensor, contributed: Tensor) -> Tensor:
    """[R] mean over nodes of [R, K], weighted by contribution."""
    return (values * contributed).sum(dim=1) / contributed.sum(dim=1)


def live_median(values: Tensor, live: Tensor) -> Tensor:
    """[R] median over live nodes of [R, K]."""
    return values.masked_fill(~live, torch.nan).nanmedian(dim=1).values


def distinct_components(power: Tensor, live: Tensor) -> Tensor:
    """[R] number of different strongest components among live nodes."""
    strongest = power[:, 1:].argmax(dim=1)
    present = torch.zeros(power.shape[0], power.shape[1] - 1, dtype=torch.int64)
    return present.scatter_reduce_(1, strongest, live.long(), reduce="amax").sum(dim=1)


def off_diagonal_ratio(gram: Tensor) -> Tensor:
    """Mean |off-diagonal| over mean |diagonal| of square matrices [..., a, a] -> [...]; the paper's "at most 8 %"."""
    size = gram.shape[-1]
    diagonal = gram.diagonal(dim1=-2, dim2=-1).abs().sum(dim=-1)
    return (gram.abs().sum(dim=(-2, -1)) - diagonal) / ((size - 1) * diagonal)


def distance_from_exchangeable(gram: Tensor) -> Tensor:
    """Relative Frobenius distance of symmetric [..., a, a] from the nearest a I + b 11^T, the form of F F^T that
    random wide features take in eq. 5."""
    size = gram.shape[-1]
    diagonal = gram.diagonal(dim1=-2, dim2=-1).mean(dim=-1)
    off = (gram.sum(dim=(-2, -1)) - size * diagonal) / (size * (size - 1))
    nearest = (size * diagonal.square() + size * (size - 1) * off.square()) / gram.square().sum(dim=(-2, -1))
    return (1 - nearest).clamp_min(0).sqrt()


def turning(earlier: Tensor, middle: Tensor, later: Tensor) -> Tensor:
    """[R] cosine distance 1 - cos of the two successive changes of weights [R, a, b] at three points in time."""
    first, second = (middle - earlier).flatten(1), (later - middle).flatten(1)
    return 1 - torch.nn.functional.cosine_similarity(first, second, dim=1, eps=1e-30)
