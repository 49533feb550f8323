"""What the arms of the experiment minimise, for answers of one token: by reward, and on labels.

logits [n, V] follow n prompts; correct [n, V] bool marks the right tokens; pi is softmax(logits), pi0 the base model's.
All losses are means over prompts. On one-token answers the group-relative estimators are exact policy gradients: there
is no length to normalise and, fully on-policy, no ratio to clip.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sample(logits: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """[n, count] answers drawn from pi at temperature 1."""
    return torch.multinomial(logits.detach().softmax(dim=1), count, replacement=True, generator=generator)


def rewards(answers: Tensor, correct: Tensor) -> Tensor:
    """[n, g] 1.0 where an answer is right, else 0.0."""
    return correct.gather(1, answers).float()


def group_advantage(reward: Tensor, *, divide: bool) -> Tensor:
    """[n, g] reward minus its group's mean (Dr. GRPO, arXiv 2503.20783); with `divide` over its standard deviation
    (GRPO, arXiv 2402.03300), where groups that agree get 0."""
    centred = reward - reward.mean(dim=1, keepdim=True)
    if not divide:
        return centred
    spread = reward.std(dim=1, correction=0, keepdim=True)
    return torch.where(spread > 0, centred / spread.clamp_min(1e-12), torch.zeros_like(centred))


def policy_gradient(logits: Tensor, answers: Tensor, advantage: Tensor) -> Tensor:
    """-mean_i mean_j A_ij log pi(y_ij | x_i): its gradient is the REINFORCE estimator of d E[reward]."""
    chosen = logits.log_softmax(dim=1).gather(1, answers)
    return -(advantage * chosen).mean()


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """-mean_i sum_y q_i(y) log pi(y | x_i) for a target distribution q [n, V]."""
    return -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()


def one_hot(answers: Tensor, size: int) -> Tensor:
    """[n, V] all mass on one answer [n]."""
    return torch.nn.functional.one_hot(answers, size).float()


def uniform_correct(correct: Tensor) -> Tensor:
    """[n, V] equal mass on every right answer: where sampling a fresh right label each time tends to."""
    return correct.float() / correct.sum(dim=1, keepdim=True)


def oracle(base_logits: Tensor, correct: Tensor) -> Tensor:
    """[n, V] pi0 renormalised on the right answers.

    Of all distributions without mass on wrong answers it has the smallest KL(q || pi0) (RL's Razor, arXiv 2509.04259).
    """
    return base_logits.masked_fill(~correct, -torch.inf).softmax(dim=1)


def accepted(answers: Tensor, correct: Tensor) -> Tensor:
    """[n, V] a prompt's right samples as a distribution times their share: rejection sampling, positives only.

    Its cross-entropy is `policy_gradient` with the raw reward as advantage.
    """
    weight = rewards(answers, correct) / answers.shape[1]
    return torch.zeros(correct.shape).scatter_add_(1, answers, weight)


def kl(first: Tensor, second: Tensor) -> Tensor:
    """Mean over prompts of KL(p || q) in nats, both given as logits [n, V]."""
    p, q = first.double().log_softmax(dim=1), second.double().log_softmax(dim=1)
    return (p.exp() * (p - q)).sum(dim=1).mean()


def mass(logits: Tensor, correct: Tensor) -> Tensor:
    """Mean over prompts of the probability of a right answer, what sampling scores."""
    return (logits.softmax(dim=1) * correct).sum(dim=1).mean()
