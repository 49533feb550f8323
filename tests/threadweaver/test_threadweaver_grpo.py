"""P-GRPO against its written formulas and, by enumeration, against the exact policy gradient."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.threadweaver.grpo import advantages, bonus, broadcast_from_last, loss, reward

GROUPS = st.lists(st.tuples(st.integers(0, 4), st.floats(-2, 2, width=32)), min_size=1, max_size=20)


def test_the_three_bonus_formulas() -> None:
    """At eta = 0.3: 0.15 in the paper, 0.10 in the code, 0.10 in the README, which saturate at 0.4, 0.2 and 1/6."""
    eta = torch.tensor([0.0, 0.1, 1 / 6, 0.2, 0.3, 0.4, 0.9], dtype=torch.float64)
    assert bonus(eta).tolist() == pytest.approx([0, 0.05, 1 / 12, 0.1, 0.15, 0.2, 0.2])
    assert bonus(eta, "code").tolist() == pytest.approx([0, 0.05, 1 / 12, 0.1, 0.1, 0.1, 0.1])
    assert bonus(eta, "readme").tolist() == pytest.approx([0, 0.1 / 1.8, 0.1, 0.1, 0.1, 0.1, 0.1])
    with pytest.raises(ValueError, match="paper, code, readme"):
        bonus(eta, "blog")


def test_a_wrong_answer_is_worth_nothing_in_the_paper_and_minus_one_in_the_release() -> None:
    """The gap between right and wrong is then 1 or 2, and the bonus 20 % or 5 % of it at most."""
    correct, eta = torch.tensor([True, False]), torch.tensor([0.9, 0.9])
    paper, release = reward(correct, eta), reward(correct, eta, "code", wrong=-1.0)
    assert paper.tolist() == pytest.approx([1.2, 0.0]) and release.tolist() == pytest.approx([1.1, -1.0])
    share = [float(bonus(eta, name)[0]) / gap for name, gap in (("paper", 1), ("code", 2))]
    assert share[0] / share[1] == pytest.approx(4)


@given(GROUPS, st.sampled_from(["mean", "std"]))
def test_advantages_are_the_plain_loop(pairs: list[tuple[int, float]], normalise: str) -> None:
    groups, rewards = [g for g, _ in pairs], [r for _, r in pairs]
    found = advantages(torch.tensor(rewards, dtype=torch.float64), torch.tensor(groups), normalise)
    for place, (group, value) in enumerate(pairs):
        own = [r for g, r in pairs if g == group]
        expected = value - (np.mean(own) if len(own) > 1 else 0.0)
        if normalise == "std" and len(own) > 1:
            expected /= np.std(own, ddof=1) + 1e-6
        assert found[place] == pytest.approx(expected, abs=1e-9)


def test_dividing_by_the_spread_lets_speed_rule_a_group_that_is_all_correct() -> None:
    eta = torch.tensor([0.0, 0.1, 0.2, 0.3], dtype=torch.float64)
    fast, groups = reward(torch.ones(4), eta), torch.zeros(4, dtype=torch.long)
    centred, scaled = advantages(fast, groups), advantages(fast, groups, "std")
    assert centred.abs().max() < 0.1  # no more than the bonus itself
    assert scaled.std() == pytest.approx(1, abs=1e-4)  # as strong as right against wrong
    mixed = advantages(reward(torch.tensor([1, 1, 0, 0]), torch.zeros(4)), groups, "std")
    assert scaled.abs().max() > mixed.abs().max()
    assert advantages(torch.ones(3), torch.zeros(3, dtype=torch.long), "std").tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="mean, std"):
        advantages(fast, groups, "minmax")


@given(st.data())
def test_the_loss_is_its_written_formula(data: st.DataObject) -> None:
    rollouts, rows, T = 3, data.draw(st.integers(3, 7)), 4

    def draw(values: st.SearchStrategy) -> list:
        return data.draw(st.lists(st.lists(values, min_size=T, max_size=T), min_size=rows, max_size=rows))

    logp, mask = draw(st.floats(-5, 0)), draw(st.booleans())
    owner = [0, 1, 2, *data.draw(st.lists(st.integers(0, 2), min_size=rows - 3, max_size=rows - 3))]
    A = data.draw(st.lists(st.floats(-2, 2), min_size=rollouts, max_size=rollouts))
    total = sum(map(sum, mask))
    expected = 0.0
    for i in range(rollouts):
        for m in range(rows):
            if owner[m] == i:
                expected -= A[i] * sum(value for value, told in zip(logp[m], mask[m], strict=True) if told)
    tensors = (
        torch.tensor(logp, dtype=torch.float64),
        torch.tensor(mask),
        torch.tensor(owner),
        torch.tensor(A, dtype=torch.float64),
    )
    assert float(loss(*tensors)) == pytest.approx(expected / max(total, 1), abs=1e-12)


def test_contexts_have_no_gradient_even_where_they_are_impossible() -> None:
    logp = torch.tensor([[-torch.inf, -1.0]], requires_grad=True)
    loss(logp, torch.tensor([[False, True]]), torch.tensor([0]), torch.tensor([2.0])).backward()
    assert logp.grad is not None and logp.grad.tolist() == [[0.0, -2.0]]


def test_mean_centring_is_the_policy_gradient() -> None:
    """Two units a trajectory, the second's policy depending on the first's token: all groups of two, enumerated.

    E[sum_i A_i grad log pi(tau_i)] over groups of n is (n - 1) grad E[r]; each rollout's own share in the mean takes
    one.
    """
    torch.manual_seed(0)
    theta = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)  # first unit; second unit after token 0, after 1
    worth = torch.randn(2, 2, dtype=torch.float64)
    first, second = theta[0].log_softmax(0), theta[1:].log_softmax(1)
    logp = torch.stack([first[:, None].expand(2, 2), second], dim=-1).reshape(4, 2)  # [trajectory, unit]
    chance = logp.sum(1).exp()
    (exact,) = torch.autograd.grad((chance * worth.flatten()).sum(), theta, retain_graph=True)
    estimate = torch.zeros_like(theta)
    for group in itertools.product(range(4), repeat=2):
        rewards = worth.flatten()[list(group)]
        A = advantages(rewards, torch.zeros(2, dtype=torch.long))
        rows = logp[list(group)].reshape(4, 1)  # a row a unit
        value = loss(rows, torch.ones(4, 1, dtype=torch.bool), torch.tensor([0, 0, 1, 1]), A)
        (step,) = torch.autograd.grad(-value * 4, theta, retain_graph=True)
        estimate += step * chance[list(group)].prod().detach()
    assert torch.allclose(estimate, exact, atol=1e-12)


def test_the_scalar_of_the_last_row_is_shared_by_its_rollout() -> None:
    values, rollout = torch.tensor([9.0, 9.0, 1.0, 2.0, 9.0, 3.0]), torch.tensor([0, 0, 0, 1, 2, 2])
    assert broadcast_from_last(values, rollout).tolist() == [1, 1, 1, 2, 3, 3]
    A = torch.tensor([1.0, 2.0, 3.0])
    assert torch.equal(broadcast_from_last(values, rollout), A[rollout])  # what `loss` does with `rollout`
