"""The three stages of feature emergence as formulas (Provable Scaling Laws of Feature Emergence, arXiv 2509.21519).

Lazy learning (eq. 2-5), independent feature learning (eq. 6-7, Thm 2, Cor. 2) and interactive feature learning
(Thm 6-7). Symbols and shapes: n examples, K hidden nodes, M group order; F = sigma(X W) [n, K], V [K, M], Y [n, M]
one-hot; P1 removes the mean over the n examples and a tilde marks P1 applied, F~ = P1 F, Y~ = P1 Y. A ridge `eta` here
is n * wd / 2 for weight decay wd on the public code's mean loss (see `network.squared_error`). Leading axes batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.grokking.network import ACTIVATIONS


def centre(values: Tensor) -> Tensor:
    """P1 values: remove the mean over examples, axis -2 of [..., n, *]."""
    return values - values.mean(dim=-2, keepdim=True)


def one_hot(target: Tensor, order: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Y [..., n, M] from targets [..., n]."""
    return torch.nn.functional.one_hot(target, order).to(dtype)


# --- Stage I, lazy learning: F is frozen, V approaches the ridge solution -----------------------------------------


def backpropagated_gradient(features: Tensor, targets: Tensor, output: Tensor) -> Tensor:
    """Eq. 2: G_F = P1 (Y - F V) V^T [..., n, K], minus the gradient of eq. 1 with respect to F."""
    return centre(targets - features @ output) @ output.transpose(-1, -2)


def key_term(features: Tensor, targets: Tensor) -> Tensor:
    """Y~ Y~^T F~ [..., n, K], the direction of G_F in eq. 3 (first order in time) and eq. 5 (wide random W)."""
    centred = centre(targets)
    return centred @ (centred.transpose(-1, -2) @ features)  # centred^T makes P1 on F superfluous


def ridge_output(features: Tensor, targets: Tensor, eta: float) -> Tensor:
    """V_ridge = (F~^T F~ + eta I)^-1 F~^T Y~ [..., K, M], where eq. 1 with ridge eta/2 |V|^2 is stationary in V.

    Solves in the smaller of K and n dimensions. eta must be positive when F~ lacks full column rank.
    """
    f, y = centre(features), centre(targets)
    examples, hidden = f.shape[-2:]
    if hidden <= examples:
        return torch.linalg.solve(_ridged(f.transpose(-1, -2) @ f, eta), f.transpose(-1, -2) @ y)
    return f.transpose(-1, -2) @ torch.linalg.solve(_ridged(f @ f.transpose(-1, -2), eta), y)


def limiting_gradient(features: Tensor, targets: Tensor, eta: float) -> Tensor:
    """Eq. 4: G_F(inf) = eta (F~F~^T + eta I)^-1 Y~Y~^T F~ (F~^T F~ + eta I)^-1 [..., n, K], G_F at V = V_ridge.

    "Proportional to eta" in the text holds for eta far below the squared singular values of F~ only.
    """
    f = centre(features)
    transposed = f.transpose(-1, -2)
    left = torch.linalg.solve(_ridged(f @ transposed, eta), key_term(features, targets))
    return eta * torch.linalg.solve(_ridged(transposed @ f, eta), left, left=False)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of two matrices as vectors: [..., n, K] twice -> [...]; 0 where one of them is zero."""
    return _ratio((a * b).sum(dim=(-2, -1)), (a.square().sum(dim=(-2, -1)) * b.square().sum(dim=(-2, -1))).sqrt())


def node_cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine column by column (one hidden node a column): [..., n, K] twice -> [..., K]."""
    return _ratio((a * b).sum(dim=-2), (a.square().sum(dim=-2) * b.square().sum(dim=-2)).sqrt())


# --- Stage II, independent feature learning: each node ascends an energy of its own --------------------------------


def energy(
    weights: Tensor,
    left: Tensor,
    right: Tensor,
    target: Tensor,
    activation: str = "square",
    classes: Tensor | None = None,
) -> Tensor:
    """Eq. 7: E(w) = 1/2 |Y~^T sigma(X w)|^2 for each node, weights [2M, B] -> [B]; examples [n] each.

    `classes` [M, M]: a projector on outputs, for the residual energy E_S of Thm 7 (targets Y~ times `classes`, which
    removes the components already learnt).
    """
    return correlation(weights, left, right, target, activation, classes).square().sum(dim=0) / 2


def correlation(
    weights: Tensor, left: Tensor, right: Tensor, target: Tensor, activation: str, classes: Tensor | None
) -> Tensor:
    """(classes) Y~^T sigma(X w) [M, B]: how far each class pulls on each node's feature."""
    order = weights.shape[0] // 2
    feature = ACTIVATIONS[activation][0](weights[left] + weights[order + right])
    pull = torch.zeros(order, weights.shape[1], dtype=weights.dtype).index_add_(0, target, feature)
    share = torch.bincount(target, minlength=order).to(weights.dtype) / len(target)
    pull -= share[:, None] * feature.sum(dim=0)
    return pull if classes is None else classes @ pull


def energy_gradient(
    weights: Tensor,
    left: Tensor,
    right: Tensor,
    target: Tensor,
    activation: str = "square",
    classes: Tensor | None = None,
) -> Tensor:
    """Gradient of `energy`: X^T D Y~ Y~^T sigma(X w) [2M, B], D = diag sigma'(X w) (the dynamics of eq. 6)."""
    order = weights.shape[0] // 2
    pull = correlation(weights, left, right, target, activation, classes)
    share = torch.bincount(target, minlength=order).to(weights.dtype) / len(target)
    flow = pull[target] - share @ pull
    flow *= ACTIVATIONS[activation][1](weights[left] + weights[order + right])
    return torch.zeros_like(weights).index_add_(0, left, flow).index_add_(0, right + order, flow)


def ascend(
    weights: Tensor,
    left: Tensor,
    right: Tensor,
    target: Tensor,
    steps: int,
    size: float | None = None,
    activation: str = "square",
    classes: Tensor | None = None,
) -> Tensor:
    """Projected gradient ascent of E on the unit sphere from B starts at once, weights [2M, B] -> [2M, B].

    w <- normalise(w + size * gradient); the default size 1 / (2M) is of the order of the inverse curvature at the
    maxima of the full table (E* is about M/4 there).
    """
    size = 1 / len(weights) if size is None else size
    weights = weights / weights.norm(dim=0)
    for _ in range(steps):
        weights = weights + size * energy_gradient(weights, left, right, target, activation, classes)
        weights = weights / weights.norm(dim=0)
    return weights


def feature_energy(order: int, degree: int, kind: str) -> float:
    """Thm 2: E of a local maximum [u; +-Pu] (|u|^2 = 1/2, u in one irrep of dimension d) on the full table.

    sigma(x) = x^2 gives z = |u|^2 + |v|^2 + 2 u*v, so E = 2 |u*v - mean|^2 = (2/M) sum_k d_k |u^_k v^_k|_F^2:
    kind "real" M/(2d); "complex" (irrep and its conjugate) M/(4d); "quaternionic" M/(4d), since the components of a
    real function are then quaternions and cannot have rank one. Hence M/4 for odd Z_M and M/2 at the Nyquist frequency.
    The paper prints M/(8d) and M/(16d), four times less: its appendix expands (u_i + v_j)^2 to u_i v_j without the
    factor 2. Nothing else depends on it.
    """
    shares = {"real": 2, "complex": 4, "quaternionic": 4}
    if kind not in shares:
        raise ValueError(f"feature_energy: kind must be one of {', '.join(shares)}, got {kind!r}")
    return order / (shares[kind] * degree)


# --- Stage III, interactive feature learning ----------------------------------------------------------------------


def interaction(features: Tensor, eta: float) -> Tensor:
    """B = (F~^T F~ + eta I)^-1 [..., K, K], through which nodes see each other in eq. 4."""
    f = centre(features)
    return torch.linalg.inv(_ridged(f.transpose(-1, -2) @ f, eta))


def residual_similarity(features: Tensor, eta: float, j: int, m: int) -> Tensor:
    """Thm 6: f~_j^T P_{eta,-jm} f~_m [...], P = I - A (A^T A + eta I)^-1 A^T with A all other columns of F~.

    b_jm of `interaction` has exactly the opposite sign: similar nodes repel.
    """
    f = centre(features)
    others = f[..., [k for k in range(f.shape[-1]) if k not in (j, m)]]
    mine = f[..., [m]]
    fitted = others @ torch.linalg.solve(
        _ridged(others.transpose(-1, -2) @ others, eta), others.transpose(-1, -2) @ mine
    )
    return (f[..., [j]] * (mine - fitted)).sum(dim=(-2, -1))


def repulsion_agreement(features: Tensor, eta: float, pairs: int = 200) -> Tensor:
    """Share of the `pairs` most similar node pairs (largest |cosine| of F~ columns) with sign b_jm = -sign f~_j^T f~_m.

    features [n, K]. Thm 6 makes this exact with the projected product (`residual_similarity`); the plain product is
    what a reader of "similar features repel" would measure, and may disagree.
    """
    f = centre(features)
    gram = f.T @ f
    norms = gram.diagonal().sqrt().clamp_min(torch.finfo(f.dtype).tiny)
    likeness = (gram / norms / norms[:, None]).triu(diagonal=1)
    top = likeness.abs().flatten().topk(min(pairs, f.shape[1] * (f.shape[1] - 1) // 2)).indices
    return (interaction(features, eta).flatten()[top].sign() == -gram.flatten()[top].sign()).double().mean()


def residual_by_component(outputs: Tensor, targets: Tensor, basis: Tensor, component: Tensor) -> Tensor:
    """Thm 7: share of Y~ not yet explained in each isotypic component of the classes, [..., n, M] twice -> [..., C].

    |(Y~ - Yhat~) Q_k|^2 / |Y~ Q_k|^2 with Q_k the columns of `basis` in component k (`groups.isotypic_basis`): 1 at
    zero output, 0 where learnt. The constant component has nothing to explain and is 0 / 0; it reads NaN.
    """
    missing = (centre(targets - outputs) @ basis).square().sum(dim=-2)
    whole = (centre(targets) @ basis).square().sum(dim=-2)
    count = int(component.max()) + 1
    parts = missing.new_zeros(*missing.shape[:-1], count).index_add_(-1, component, missing)
    totals = whole.new_zeros(*whole.shape[:-1], count).index_add_(-1, component, whole)
    return torch.where(totals > 1e-9 * totals.sum(dim=-1, keepdim=True), parts / totals, torch.nan)


def _ridged(gram: Tensor, eta: float) -> Tensor:
    return gram + eta * torch.eye(gram.shape[-1], dtype=gram.dtype)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below > 0, above / below, torch.zeros_like(above))
