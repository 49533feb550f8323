"""The ring of weights against explicit sums, and the loss identity against the network's own outputs."""

from __future__ import annotations

import cmath
import itertools
import math

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from methods.cogs import algebra


def random_weights(d: int, q: int, seed: int = 0, leading: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    W = torch.randn(*leading, 2 * d, q, generator=g, dtype=torch.float64)
    return W / d**0.5, torch.randn(*leading, q, d, generator=g, dtype=torch.float64) / d**0.5


def outputs(W: Tensor, V: Tensor) -> Tensor:
    """Yhat [d, d, d] on the full table, from one-hot inputs."""
    d = V.shape[-1]
    eye = torch.eye(d, dtype=torch.float64)
    left, right = eye.repeat_interleave(d, dim=0), eye.repeat(d, 1)
    return ((torch.cat([left, right], dim=1) @ W).square() @ V).reshape(d, d, d)


def direct_loss(W: Tensor, V: Tensor) -> float:
    """Mean over all pairs of the squared error whose mean over classes was removed."""
    d = V.shape[-1]
    total = 0.0
    for m1, m2 in itertools.product(range(d), repeat=2):
        error = outputs_row(W, V, m1, m2)
        error[(m1 + m2) % d] -= 1
        total += float((error - error.mean()).square().sum())
    return total / d**2


def outputs_row(W: Tensor, V: Tensor, m1: int, m2: int) -> Tensor:
    return (W[m1] + W[V.shape[-1] + m2]).square() @ V


def element(d: int, q: int) -> st.SearchStrategy[Tensor]:
    """Any complex z [3, d, q], not only those of real weights."""
    number = st.complex_numbers(max_magnitude=2, allow_subnormal=False)
    return arrays(numpy.complex128, (3, d, q), elements=number).map(torch.from_numpy)


elements = st.integers(1, 3).flatmap(
    lambda d: st.tuples(*(st.integers(0, 3).flatmap(lambda q, d=d: element(d, q)) for _ in range(3)))
)


def close(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and torch.allclose(x, y, rtol=1e-12, atol=1e-11)


def same_nodes(z1: Tensor, z2: Tensor) -> bool:
    """Equal up to the order of the nodes."""
    if z1.shape != z2.shape:
        return False
    distance = (z1.flatten(0, 1).T[:, None] - z2.flatten(0, 1).T[None]).abs().sum(dim=-1).numpy()
    return bool(distance[linear_sum_assignment(distance)].sum() < 1e-10)


# --- Coefficients ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [4, 5])
def test_coefficients_are_the_sums_of_the_definition(d: int) -> None:
    W, V = random_weights(d, 3)
    z = algebra.coefficients(W, V)
    scale = (2 * d) ** (1 / 3)
    for k, j in itertools.product(range(d), range(3)):
        a = sum(W[m, j].item() * cmath.exp(-2j * math.pi * k * m / d) for m in range(d)) / d
        b = sum(W[d + m, j].item() * cmath.exp(-2j * math.pi * k * m / d) for m in range(d)) / d
        c = sum(V[j, m].item() * cmath.exp(+2j * math.pi * k * m / d) for m in range(d)) / d
        assert z[:, k, j].tolist() == pytest.approx([scale * a, scale * b, scale * c], abs=1e-13)


def test_weights_invert_coefficients_for_stacked_networks() -> None:
    W, V = random_weights(6, 4, leading=(2, 3))
    z = algebra.coefficients(W, V)
    assert z.shape == (2, 3, 3, 6, 4)
    assert close(z[1, 2], algebra.coefficients(W[1, 2], V[1, 2]))
    back = algebra.weights(z)
    assert close(back[0], W) and close(back[1], V)


def test_errors_say_what_is_wrong() -> None:
    W, V = random_weights(5, 3)
    with pytest.raises(ValueError, match=r"\[\.\.\., 2d, q\].*got \[9, 3\] \[3, 5\]"):
        algebra.coefficients(W[1:], V)
    z = algebra.coefficients(W, V)
    z[2, 1] *= 1j
    with pytest.raises(ValueError, match="V is not real"):
        algebra.weights(z)


def test_remove_mean_removes_the_constant_and_nothing_else() -> None:
    W, V = random_weights(7, 4)
    before, after = algebra.coefficients(W, V), algebra.coefficients(algebra.remove_mean(W), V)
    assert after[:2, 0].abs().max() < 1e-15
    assert close(after[:, 1:], before[:, 1:])


# --- The ring and its homomorphisms -------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(elements)
def test_sum_potentials_are_ring_homomorphisms(three: tuple[Tensor, Tensor, Tensor]) -> None:
    z1, z2, _ = three
    for r in (algebra.cross_potentials, algebra.square_potentials):
        assert close(r(algebra.add(z1, z2)), r(z1) + r(z2))
        assert close(r(algebra.multiply(z1, z2)), r(z1) * r(z2))
        assert (r(z1.new_ones(*z1.shape[:-1], 1)) == 1).all()


@settings(deadline=None, max_examples=60)
@given(elements)
def test_semiring_laws_hold_up_to_the_order_of_nodes(three: tuple[Tensor, Tensor, Tensor]) -> None:
    x, y, z = three
    add, multiply = algebra.add, algebra.multiply
    assert same_nodes(add(x, y), add(y, x))
    assert same_nodes(multiply(x, y), multiply(y, x))
    assert same_nodes(add(add(x, y), z), add(x, add(y, z)))
    assert same_nodes(multiply(multiply(x, y), z), multiply(x, multiply(y, z)))
    assert same_nodes(multiply(x, add(y, z)), add(multiply(x, y), multiply(x, z)))
    assert same_nodes(multiply(x, x.new_ones(*x.shape[:-1], 1)), x)


def test_multiplication_is_not_entrywise() -> None:
    z = torch.randn(3, 2, 2, dtype=torch.complex128, generator=torch.Generator().manual_seed(1))
    product = algebra.multiply(z, z)
    assert product.shape == (3, 2, 4)
    for j1, j2 in itertools.product(range(2), repeat=2):
        assert close(product[..., 2 * j1 + j2], z[..., j1] * z[..., j2])


def test_the_sum_of_elements_is_the_sum_of_networks() -> None:
    first, second = random_weights(5, 3, seed=1), random_weights(5, 4, seed=2)
    z = algebra.add(algebra.coefficients(*first), algebra.coefficients(*second))
    assert close(outputs(*algebra.weights(z)), outputs(*first) + outputs(*second))


def test_leading_axes_are_networks() -> None:
    W, V = random_weights(4, 3, leading=(2,))
    z = algebra.coefficients(W, V)
    one = z[0, ..., :1]
    for r in (algebra.cross_potentials, algebra.square_potentials, algebra.convolved_potentials):
        assert close(r(z)[1], r(z[1]))
    for stacked, single in zip(algebra.loss(z), algebra.loss(z[1]), strict=True):
        assert close(stacked[1], single)
    assert close(algebra.multiply(z, one)[1], algebra.multiply(z[1], one))
    assert close(algebra.add(z, one)[1], algebra.add(z[1], one))


# --- Potentials and the loss ---------------------------------------------------------------------------------------


def test_potentials_are_the_sums_of_the_definition() -> None:
    W, V = random_weights(4, 3)
    z = algebra.coefficients(W, V)
    cross, square, single = algebra.cross_potentials(z), algebra.square_potentials(z), algebra.convolved_potentials(z)
    for k1, k2, k in itertools.product(range(4), repeat=3):
        assert cross[k1, k2, k].item() == pytest.approx(sum(z[0, k1, j] * z[1, k2, j] * z[2, k, j] for j in range(3)))
        for p in range(2):
            expected = sum(z[p, k1, j] * z[p, k2, j] * z[2, k, j] for j in range(3))
            assert square[p, k1, k2, k].item() == pytest.approx(expected)
    for p, m, k in itertools.product(range(2), range(4), range(4)):
        assert single[p, m, k].item() == pytest.approx(sum(square[p, i, (m - i) % 4, k] for i in range(4)))


def zero_mean_loss(z: Tensor) -> float:
    """The loss identity for zero-mean weights, one potential at a time."""
    d = z.shape[-2]
    r, s = algebra.cross_potentials(z).numpy(), algebra.square_potentials(z).numpy()
    total = 0.0
    for k in range(1, d):
        total += 1 - 2 * r[k, k, k].real + sum(abs(r[k1, k2, k]) ** 2 for k1 in range(1, d) for k2 in range(1, d))
        total += abs(sum(s[p, i, -i % d, k] for p in range(2) for i in range(1, d))) ** 2 / 4
        for m, p in itertools.product(range(1, d), range(2)):
            total += abs(sum(s[p, i, (m - i) % d, k] for i in range(1, d) if (m - i) % d)) ** 2 / 4
    return total / d


@pytest.mark.parametrize("d", [3, 6, 7, 11])
def test_loss_identity_for_zero_mean_weights(d: int) -> None:
    W, V = random_weights(d, 5, seed=d)
    W = algebra.remove_mean(W)
    z = algebra.coefficients(W, V)
    expected = direct_loss(W, V)
    assert float(algebra.loss(z).total) == pytest.approx(expected, rel=1e-12)
    assert zero_mean_loss(z) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("d", [3, 6, 7, 11])
def test_loss_of_weights_with_a_mean_is_exact_where_the_zero_mean_formula_is_not(d: int) -> None:
    W, V = random_weights(d, 5, seed=d)
    z = algebra.coefficients(W + 0.5 / d, V)
    expected = direct_loss(W + 0.5 / d, V)
    assert float(algebra.loss(z).total) == pytest.approx(expected, rel=1e-12)
    assert abs(zero_mean_loss(z) / expected - 1) > 1e-3


def test_parts_of_the_loss_are_nonnegative_and_symmetric_in_frequency() -> None:
    z = algebra.coefficients(*random_weights(7, 5))
    for part in algebra.loss(z):
        assert part.shape == (6,) and part.min() >= 0
        assert close(part, part.flip(0))


def test_the_zero_network_loses_one_minus_one_over_d() -> None:
    parts = algebra.loss(torch.zeros(3, 9, 2, dtype=torch.complex128))
    assert float(parts.total) == pytest.approx(8 / 9) and float(parts.goal.sum()) == pytest.approx(8 / 9)
