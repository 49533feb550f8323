"""Every formula of the three stages against an independent solve, a simulated flow, autograd or brute force."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from methods.grokking import closed_forms, network, theory
from tycho.tasks.groups import (
    Group,
    frobenius_schur,
    from_table,
    group,
    isotypic_basis,
    isotypic_projectors,
    pairs,
    split,
)


def lazy_problem(n: int, hidden: int, order: int = 7, seed: int = 0) -> tuple[Tensor, Tensor]:
    """F [n, K] of a random first layer and Y [n, M], from a random subset of the table of Z_M."""
    data, _ = subset(group(f"Z{order}"), n, seed)
    weights = network.initialise(order, hidden, [torch.Generator().manual_seed(seed)], dtype=torch.float64)
    left, right, target = data
    return network.features(weights["W"], left[None], right[None])[0], theory.one_hot(target, order)


def subset(g: Group, n: int, seed: int) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """(left, right, target) of n random pairs and the same as X [n, 2M]."""
    left, right, target = pairs(g)[split(g.order**2, n, seed)[0]].unbind(dim=1)
    x = torch.cat([theory.one_hot(left, g.order), theory.one_hot(right, g.order)], dim=1)
    return (left, right, target), x


def full(g: Group) -> tuple[Tensor, Tensor, Tensor]:
    return pairs(g).unbind(dim=1)


def quaternions() -> Group:
    """Q8 as <a, b | a^4 = 1, b^2 = a^2, b a = a^-1 b>, element a^i b^j = i + 4j."""
    table = torch.empty(8, 8, dtype=torch.int64)
    for i in range(4):
        for k in range(4):
            for j in range(2):
                for m in range(2):  # a^i b^j a^k b^m = a^(i +- k) b^(j + m)
                    turn = (i + (-k if j else k) + (2 if j and m else 0)) % 4
                    table[i + 4 * j, k + 4 * m] = turn + 4 * ((j + m) % 2)
    return from_table("Q8", table)


# --- Stage I ------------------------------------------------------------------------------------------------------


def test_g_f_is_minus_the_gradient_of_the_papers_loss() -> None:
    f, y = lazy_problem(30, 12)
    v = torch.randn(12, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    leaf = f.clone().requires_grad_()
    keep = torch.eye(30).double() - torch.ones(30, 30).double() / 30
    ((keep @ (y - leaf @ v)).square().sum() / 2).backward()
    assert torch.allclose(theory.backpropagated_gradient(f, y, v), -leaf.grad, atol=1e-12)


@pytest.mark.parametrize(("n", "hidden"), [(30, 12), (30, 60)])
@pytest.mark.parametrize("eta", [0.05, 1.0])
def test_eq_4_against_least_squares_and_a_long_gradient_flow(n: int, hidden: int, eta: float) -> None:
    f, y = lazy_problem(n, hidden)
    centred = f - f.mean(dim=0)
    stacked = torch.cat([centred, eta**0.5 * torch.eye(hidden).double()])
    solved = torch.linalg.lstsq(stacked, torch.cat([y - y.mean(dim=0), torch.zeros(hidden, 7).double()])).solution
    assert torch.allclose(theory.ridge_output(f, y, eta), solved, atol=1e-10)
    at_rest = theory.backpropagated_gradient(f, y, solved)
    assert torch.allclose(theory.limiting_gradient(f, y, eta), at_rest, atol=1e-10)
    v = torch.randn(hidden, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    step = 1 / (torch.linalg.matrix_norm(centred, ord=2) ** 2 + eta)
    for _ in range(int(40 / (step * eta))):  # every mode decays at least as exp(-eta t)
        v += step * (f.T @ theory.centre(y - f @ v) - eta * v)
    assert torch.allclose(theory.backpropagated_gradient(f, y, v), at_rest, atol=1e-10)


def test_eq_3_early_gradient_is_time_times_the_key_term() -> None:
    f, y = lazy_problem(30, 12)
    key = (centred := y - y.mean(dim=0)) @ centred.T @ (f - f.mean(dim=0))
    assert torch.allclose(theory.key_term(f, y), key, atol=1e-12)
    time = 1e-7
    v = time * f.T @ theory.centre(y)  # the flow from V = 0 to first order
    assert torch.allclose(theory.backpropagated_gradient(f, y, v) / time, key, rtol=1e-4, atol=1e-6)
    assert theory.cosine(theory.backpropagated_gradient(f, y, v), key) > 1 - 1e-10


def test_eq_5_wide_random_features_push_along_the_key_term() -> None:
    """M = 41, n = 672, K = 256 at PyTorch's initial W: cosine 0.998 at eta = 1, 0.91 at eta = 0.067."""
    f, y = lazy_problem(672, 256, order=41)
    key = theory.key_term(f, y)
    assert abs(theory.cosine(theory.limiting_gradient(f, y, 1.0), key) - 0.998) < 0.002
    assert abs(theory.cosine(theory.limiting_gradient(f, y, 0.067), key) - 0.91) < 0.02


def test_no_ridge_no_gradient() -> None:
    """With eta = 0 and n <= K independent features the residual, and so G_F, is fitted away."""
    f, y = lazy_problem(30, 60)
    v = torch.linalg.pinv(f - f.mean(dim=0)) @ (y - y.mean(dim=0))
    assert theory.backpropagated_gradient(f, y, v).abs().max() < 1e-10
    small = theory.limiting_gradient(f, y, 1e-7).norm()
    assert torch.isclose(theory.limiting_gradient(f, y, 1e-6).norm() / small, torch.tensor(10.0).double(), rtol=0.05)


def test_cosines() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 10, 4, generator=generator).double()
    expected = torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1))
    assert torch.allclose(theory.cosine(a, b), expected)
    assert torch.allclose(theory.node_cosine(a, b), torch.nn.functional.cosine_similarity(a, b, dim=1))
    assert theory.cosine(a, torch.zeros_like(b)).eq(0).all()


# --- Stage II -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", network.ACTIVATIONS)
@pytest.mark.parametrize("name", ["Z7", "S3"])
def test_energy_and_its_gradient_against_the_definition_and_autograd(name: str, activation: str) -> None:
    g = group(name)
    data, x = subset(g, 20, 3)
    w = torch.randn(2 * g.order, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    classes = isotypic_projectors(g)[0][1:].sum(dim=0)
    for projector in (None, classes):
        leaf = w.clone().requires_grad_()
        y = theory.centre(theory.one_hot(data[2], g.order))
        y = y if projector is None else y @ projector
        expected = (y.T @ network.ACTIVATIONS[activation][0](x @ leaf)).square().sum(dim=0) / 2
        expected.sum().backward()
        assert torch.allclose(theory.energy(w, *data, activation, projector), expected.detach(), atol=1e-10)
        assert torch.allclose(theory.energy_gradient(w, *data, activation, projector), leaf.grad, atol=1e-10)


@pytest.mark.parametrize("order", [11, 12, 23])
def test_fourier_features_have_energy_m_over_4_and_at_nyquist_m_over_2(order: int) -> None:
    g = group(f"Z{order}")
    h = torch.arange(order).double()
    for k in range(1, order // 2 + 1):
        u = torch.cos(2 * torch.pi * k * h / order + (0.0 if 2 * k == order else 0.7))
        u /= u.norm() * 2**0.5
        expected = order / 2 if 2 * k == order else order / 4
        for sign in (1, -1):
            w = torch.cat([u, sign * u[g.inverse]])[:, None]
            assert abs(theory.energy(w, *full(g)) - expected) < 1e-10
            slope = theory.energy_gradient(w, *full(g))
            assert torch.allclose(slope, (w * slope).sum() * w, atol=1e-9)  # stationary on the sphere
        assert theory.feature_energy(order, 1, "real" if 2 * k == order else "complex") == expected


@pytest.mark.parametrize("name", ["Z11", "Z12", "Z4xZ7", "Z2xZ6"])
def test_cor_2_every_ascent_on_an_abelian_table_ends_in_one_frequency(name: str) -> None:
    g = group(name)
    w = torch.randn(2 * g.order, 60, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    ended = theory.ascend(w, *full(g), steps=1500)
    basis, component = isotypic_basis(g)
    power = torch.zeros(int(component.max()) + 1, 60).double()
    for half in ended.view(2, g.order, 60):
        power.index_add_(0, component, (basis.T @ half).square())
    assert power.amax(dim=0).min() > 1 - 1e-8
    single = torch.bincount(component) == 1
    expected = torch.where(single[power.argmax(dim=0)], g.order / 2, g.order / 4).double()
    assert torch.allclose(theory.energy(ended, *full(g)), expected, atol=1e-8)


@pytest.mark.parametrize("g", [group("S3"), group("D5"), group("S4"), group("Z7"), quaternions()], ids=lambda g: g.name)
def test_thm_2_energy_depends_on_the_degree_and_kind_of_the_irrep(g: Group) -> None:
    """Ascent from starts inside one isotypic component stays there; its best energy is the closed form."""
    projectors, degrees = isotypic_projectors(g)
    kinds = {1: "real", 0: "complex", -1: "quaternionic"}
    types = [kinds[int(value)] for value in frobenius_schur(g)][: len(degrees)]
    generator = torch.Generator().manual_seed(6)
    for k in range(1, len(degrees)):
        start = torch.randn(2, g.order, 40, generator=generator, dtype=torch.float64)
        ended = theory.ascend((projectors[k] @ start).view(2 * g.order, 40), *full(g), steps=800)
        best = theory.energy(ended, *full(g)).max()
        assert abs(best - theory.feature_energy(g.order, int(degrees[k]), types[k])) < 1e-6


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="real, complex, quaternionic"):
        theory.feature_energy(7, 1, "imaginary")


# --- Stage III ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [1e-3, 0.5])
def test_thm_6_similar_nodes_repel_for_every_pair(eta: float) -> None:
    f, _ = lazy_problem(30, 9)
    b = theory.interaction(f, eta)
    for j in range(9):
        for m in range(9):
            if j != m:
                assert b[j, m].sign() == -theory.residual_similarity(f, eta, j, m).sign()


def test_eq_4_contains_the_interaction() -> None:
    f, y = lazy_problem(30, 9)
    outer = torch.linalg.inv(theory.centre(f) @ theory.centre(f).T + 0.3 * torch.eye(30).double())
    expected = 0.3 * outer @ theory.key_term(f, y) @ theory.interaction(f, 0.3)
    assert torch.allclose(theory.limiting_gradient(f, y, 0.3), expected, atol=1e-10)


def test_repulsion_agreement_counts_signs() -> None:
    f, _ = lazy_problem(30, 9)
    centred = f - f.mean(dim=0)
    b = torch.linalg.inv(centred.T @ centred + 0.5 * torch.eye(9).double())
    scored = sorted(
        (-abs(torch.nn.functional.cosine_similarity(centred[:, j], centred[:, m], dim=0)), j, m)
        for j in range(9)
        for m in range(j + 1, 9)
    )
    agree = [float(b[j, m] * (centred[:, j] @ centred[:, m]) < 0) for _, j, m in scored]
    for count in (1, 7, 36):
        assert abs(theory.repulsion_agreement(f, 0.5, count) - sum(agree[:count]) / count) < 1e-12
    assert theory.repulsion_agreement(f, 0.5, 1000) == theory.repulsion_agreement(f, 0.5, 36)


def test_thm_7_learnt_components_leave_no_residual_and_no_maxima() -> None:
    g = group("Z13")
    basis, component = isotypic_basis(g)
    projectors, _ = isotypic_projectors(g)
    targets = theory.one_hot(full(g)[2], g.order)
    learnt = [2, 5]
    outputs = targets @ projectors[learnt].sum(dim=0)
    left = theory.residual_by_component(outputs, targets, basis, component)
    expected = torch.ones(7).double()
    expected[learnt] = 0
    assert left[0].isnan() and torch.allclose(left[1:], expected[1:], atol=1e-12)
    assert torch.allclose(
        theory.residual_by_component(0.5 * targets, targets, basis, component)[1:], torch.tensor(0.25).double()
    )
    remaining = torch.eye(13).double() - projectors[learnt].sum(dim=0)
    w = torch.randn(26, 80, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    ended = theory.ascend(w, *full(g), steps=1500, classes=remaining)
    power = torch.zeros(7, 80).double().index_add_(0, component, (basis.T @ ended[:13]).square())
    assert set(power.argmax(dim=0).tolist()) == {1, 3, 4, 6}
    assert torch.allclose(theory.energy(ended, *full(g), classes=remaining), torch.tensor(13 / 4).double(), atol=1e-8)


def test_a_start_beside_a_saddle_of_the_residual_energy_is_followed_to_its_maximum() -> None:
    """S3 with its representation of degree 2 learnt: one of these starts is still beside the saddle at step 1000."""
    left = closed_forms._learnt_again(group("S3"), 100, torch.Generator().manual_seed(7))
    assert left < 1e-18


def test_an_ascent_ends_at_a_maximum_or_is_refused() -> None:
    g = group("Z11")
    w = torch.randn(22, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ended = closed_forms.ascended(w, *full(g))
    assert torch.allclose(theory.energy(ended, *full(g)), torch.tensor(11 / 4).double(), atol=1e-12)
    assert torch.allclose(theory.energy_gradient(ended, *full(g)), 11 * ended, atol=1e-8)
    with pytest.raises(RuntimeError, match="30 of 30 starts still climb after 3 steps"):
        closed_forms.ascended(w, *full(g), steps=3)
