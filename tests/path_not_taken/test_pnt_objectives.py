"""The experiment's losses against their written formulas, and its little world."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.path_not_taken import letters, residues
from methods.path_not_taken import objectives as O
from methods.path_not_taken.synthesise import quadratic_r2


def policy(seed: int, n: int = 3, size: int = 5):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, size, generator=generator, dtype=torch.float64).requires_grad_()
    correct = torch.zeros(n, size, dtype=torch.bool)
    correct[:, :2] = True
    correct[0, 3] = True
    return logits, correct


def test_the_policy_gradient_is_the_gradient_of_the_expected_reward():
    """In expectation over all groups of two answers, by enumeration; the group's mean includes the answer itself, which
    scales the gradient by (g - 1) / g."""
    logits, correct = policy(0)
    expected = (logits.softmax(dim=1) * correct).sum(dim=1).mean()
    (wanted,) = torch.autograd.grad(expected, logits)
    found = torch.zeros_like(wanted)
    probabilities = logits.softmax(dim=1).detach()
    for pair in itertools.product(range(5), repeat=2):
        answers = torch.tensor([pair] * 3)
        weight = probabilities[:, pair[0]] * probabilities[:, pair[1]]
        advantage = O.group_advantage(O.rewards(answers, correct), divide=False).double()
        (gradient,) = torch.autograd.grad(O.policy_gradient(logits, answers, advantage), logits)
        found -= weight[:, None] * gradient
    assert torch.allclose(found, wanted / 2, atol=1e-7)


def test_grpo_divides_by_the_groups_spread_and_leaves_agreement_alone():
    reward = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    advantage = O.group_advantage(reward, divide=True)
    spread = math.sqrt(0.25 * 0.75)
    assert torch.allclose(advantage[0], torch.tensor([0.75, -0.25, -0.25, -0.25]) / spread)
    assert torch.equal(advantage[1], torch.zeros(4))


def test_targets_are_distributions_over_right_answers():
    logits, correct = policy(1)
    for target in (O.uniform_correct(correct), O.oracle(logits.detach(), correct)):
        assert torch.allclose(target.sum(dim=1).double(), torch.ones(3, dtype=torch.float64))
        assert float(target[~correct].abs().max()) == 0


@given(st.integers(0, 1000))
def test_the_oracle_is_the_nearest_right_distribution(seed):
    """KL(q || pi0) of any other distribution over the right answers is larger; at the oracle it is -ln of pi0's mass on them."""
    logits, correct = policy(seed)
    base = logits.detach()
    target = O.oracle(base, correct)
    smallest = (target * (target.clamp_min(1e-300).log() - base.log_softmax(dim=1))).sum(dim=1)
    mass = (base.softmax(dim=1) * correct).sum(dim=1)
    assert torch.allclose(smallest, -mass.log())
    draw = torch.rand(base.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64) * correct
    other = draw / draw.sum(dim=1, keepdim=True)
    beyond = (other * (other.clamp_min(1e-300).log() - base.log_softmax(dim=1))).sum(dim=1)
    assert bool((beyond >= smallest - 1e-12).all())


def test_rejection_sampling_is_the_policy_gradient_with_raw_rewards():
    logits, correct = policy(2)
    answers = O.sample(logits, 6, torch.Generator().manual_seed(0))
    a = O.cross_entropy(logits, O.accepted(answers, correct))
    b = O.policy_gradient(logits, answers, O.rewards(answers, correct))
    assert torch.allclose(a, b)


def test_kl_by_hand():
    p, q = torch.tensor([[math.log(0.75), math.log(0.25)]]), torch.tensor([[0.0, 0.0]])
    assert float(O.kl(p, q)) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-6)
    assert float(O.kl(q, q)) == 0


def test_the_world_says_what_is_right():
    known = residues.known()
    tokens = residues.WORDS.tokens
    for row in range(0, len(known.answers), 97):
        op, a, b, equals = (tokens[i] for i in known.prompts[row].tolist())
        a, b = int(a), int(b)
        wanted = {"+": (a + b) % 31, "*": a * b % 31, "-": (a - b) % 31, "max": max(a, b)}[op]
        assert equals == "=" and tokens[known.answers[row]] == str(wanted)
    first, second = residues.new((500, 461), torch.Generator().manual_seed(0))
    prompts = {tuple(row) for row in torch.cat([first.prompts, second.prompts]).tolist()}
    assert len(prompts) == 961
    for row in range(0, 500, 41):
        _, a, b, _ = (tokens[i] for i in first.prompts[row].tolist())
        right = {int(tokens[i]) for i in first.correct[row].nonzero()[:, 0].tolist()}
        assert right == {r for r in range(31) if r % 2 == (int(a) + int(b)) % 2}
    with pytest.raises(ValueError, match="961 new prompts"):
        residues.new((962,), torch.Generator())


def test_words_are_different_and_judged_by_their_last_letter():
    words = letters.words(300, 1)
    assert len(set(words)) == 300 and words[:50] == letters.words(50, 1)
    assert letters.prompt("abc").endswith("r o b o t: t\na b c:") and letters.reply("abc") == " c"
    assert letters.is_right(" C", "abc") and not letters.is_right("", "abc") and not letters.is_right(" abc", "abc")


def test_a_quadratic_explains_a_quadratic():
    import pandas as pd

    x = pd.Series([0.0, 1.0, 2.0, 3.0, 5.0])
    assert quadratic_r2(x, 2 * x**2 - x + 3) == pytest.approx(1)
    noise = pd.Series([1.0, -1.0, 1.0, -1.0, 1.0])
    fitted = quadratic_r2(x, noise)
    assert 0 <= fitted < 0.5
