"""The gathered, blocked, stacked network against dense one-hot products and autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from methods.grokking import network
from tycho.tasks.groups import group, pairs, split

SIGMA = {
    "square": torch.square,
    "relu": torch.relu,
    "relu_square": lambda h: torch.relu(h) ** 2,
    "silu": lambda h: h * torch.sigmoid(h),
}


def setup(sizes: list[int], order: int = 7, hidden: int = 13) -> tuple[dict[str, Tensor], network.Examples]:
    table = pairs(group(f"Z{order}"))
    rows = [split(len(table), n, seed)[0] for seed, n in enumerate(sizes)]
    generators = [torch.Generator().manual_seed(100 + r) for r in range(len(sizes))]
    weights = network.initialise(order, hidden, generators, dtype=torch.float64)
    return weights, network.examples(table, rows, torch.float64)


def dense(data: network.Examples, order: int, r: int) -> tuple[Tensor, Tensor]:
    """One-hot X [n_r, 2M] and Y [n_r, M] of network r, padding removed."""
    real = data.weight[r] > 0
    x = torch.zeros(int(real.sum()), 2 * order, dtype=torch.float64)
    y = torch.zeros(len(x), order, dtype=torch.float64)
    every = torch.arange(len(x))
    x[every, data.left[r, real]] = 1
    x[every, order + data.right[r, real]] = 1
    y[every, data.target[r, real]] = 1
    return x, y


@pytest.mark.parametrize("activation", network.ACTIVATIONS)
@pytest.mark.parametrize("centre", ["classes", "samples"])
@pytest.mark.parametrize("block", [1, 100, 2**19])
def test_manual_backward_matches_autograd(
    activation: str, centre: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "BLOCK", block)
    sizes = [20, 31, 7]
    weights, data = setup(sizes)
    outputs = network.forward(**weights, left=data.left, right=data.right, activation=activation)
    value, error = network.squared_error(outputs, data.target, data.weight, centre)
    gradients = network.backward(**weights, left=data.left, right=data.right, error=error, activation=activation)
    for r, n in enumerate(sizes):
        x, y = dense(data, 7, r)
        W, V = (weights[name][r].clone().requires_grad_() for name in ("W", "V"))
        yhat = SIGMA[activation](x @ W) @ V
        if centre == "classes":
            o = yhat - yhat.mean(dim=1, keepdim=True)  # as the public code writes it
            loss = (o.square().sum(dim=1) - 2 * (o * y).sum(dim=1)).mean() + 1 - 1 / 7
        else:
            keep = torch.eye(n).double() - torch.ones(n, n).double() / n
            loss = (keep @ (y - yhat)).square().sum() / 2
        loss.backward()
        assert torch.allclose(outputs[r, data.weight[r] > 0], yhat, atol=1e-12)
        assert torch.allclose(value[r], loss, atol=1e-12)
        assert torch.allclose(gradients["W"][r], W.grad, atol=1e-12)
        assert torch.allclose(gradients["V"][r], V.grad, atol=1e-12)


def test_zero_output_loses_one_minus_one_over_m() -> None:
    _, data = setup([20, 31])
    value, _ = network.squared_error(torch.zeros(2, 31, 7).double(), data.target, data.weight)
    assert torch.allclose(value, torch.full((2,), 1 - 1 / 7).double(), atol=1e-14)


def test_the_two_losses_differ_by_the_stated_means() -> None:
    """n/2 * classes - samples = n/2 |mean over examples|^2 - M/2 |mean over classes|^2, and 0 if both means vanish."""
    order, n = 7, 40
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(order, (1, n), generator=generator)
    weight = torch.full((1, n), 1 / n).double()
    y = torch.nn.functional.one_hot(target, order).double()
    outputs = torch.randn(1, n, order, generator=generator, dtype=torch.float64)
    error = (y - outputs)[0]
    code, code_gradient = network.squared_error(outputs, target, weight, "classes")
    paper, paper_gradient = network.squared_error(outputs, target, weight, "samples")
    expected = n / 2 * error.mean(dim=0).square().sum() - order / 2 * error.mean(dim=1).square().sum()
    assert torch.allclose(n / 2 * code - paper, expected, atol=1e-12)
    both = error - error.mean(dim=0) - error.mean(dim=1, keepdim=True) + error.mean()
    code, code_gradient = network.squared_error(y - both, target, weight, "classes")
    paper, paper_gradient = network.squared_error(y - both, target, weight, "samples")
    assert torch.allclose(n / 2 * code, paper, atol=1e-12)
    assert torch.allclose(n / 2 * code_gradient, paper_gradient, atol=1e-12)


def test_initial_weights_are_those_of_two_linear_layers() -> None:
    weights = network.initialise(7, 13, [torch.Generator().manual_seed(s) for s in (3, 4)])
    for r, seed in enumerate((3, 4)):
        torch.manual_seed(seed)
        first, second = torch.nn.Linear(14, 13, bias=False), torch.nn.Linear(13, 7, bias=False)
        assert torch.allclose(weights["W"][r], first.weight.T, atol=1e-7)
        assert torch.allclose(weights["V"][r], second.weight.T, atol=1e-7)
    zero = network.initialise(7, 13, [torch.Generator().manual_seed(3)], output_scale=0.0)
    assert torch.equal(zero["W"][0], weights["W"][0]) and not zero["V"].any()


def test_accuracy_ignores_padding() -> None:
    table = pairs(group("Z5"))
    data = network.examples(table, [torch.arange(4), torch.arange(10)])
    outputs = torch.nn.functional.one_hot(data.target, 5).float()
    outputs[0, 4:] = torch.eye(5)[(data.target[0, 4:] + 1) % 5]  # wrong, but padding
    outputs[1, :5] = torch.eye(5)[(data.target[1, :5] + 1) % 5]
    assert torch.allclose(network.accuracy(outputs, data.target, data.weight), torch.tensor([1.0, 0.5]))


def test_wrong_names_are_refused() -> None:
    with pytest.raises(ValueError, match="'classes' or 'samples'"):
        network.squared_error(torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1), "rows")
    with pytest.raises(ValueError, match="at least one row"):
        network.examples(pairs(group("Z3")), [torch.arange(2), torch.arange(0)])


def test_step_flops_against_pytorchs_count():
    """The analytic cost formula, checked once against FlopCounterMode (which does not see products done in place)."""
    from tycho.cost import counted_flops

    hidden = torch.randn(30, 16, requires_grad=True)
    output = torch.randn(16, 7, requires_grad=True)
    with counted_flops() as counted:
        (hidden @ output).square().sum().backward()
    assert counted["flops"] == network.step_flops(30, 16, 7)
