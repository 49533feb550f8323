"""Estimators against their written formulas, losses of the baselines term by term, theorems by enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import spg_bounds
from methods.spg import baselines, bounds, exact, identities, masking


def draw(seed: int, b: int = 3, m: int = 2, n: int = 5):
    generator = torch.Generator().manual_seed(seed)
    log_p = -3 * torch.rand(b, m, n, generator=generator, dtype=torch.float64) - 0.01
    scored = torch.rand(b, m, n, generator=generator) < 0.6
    scored[..., 0] = True
    return log_p, scored, torch.full((b,), n)


def plain_elbo(log_p, scored):
    copies = []
    for rows, marks in zip(log_p, scored, strict=True):
        terms = [sum(r[i] for i in range(len(r)) if s[i]) / int(s.sum()) for r, s in zip(rows, marks, strict=True)]
        copies.append(sum(terms) / len(terms))
    return torch.stack(copies)


def plain_eubo(log_p, scored, lengths, beta):
    found = []
    for rows, marks, length in zip(log_p, scored, lengths.tolist(), strict=True):
        total, union = 0.0, 0
        for i in range(rows.shape[1]):
            a = sum(
                (math.exp(beta * rows[t, i]) / (int(marks[t].sum()) / length) if marks[t, i] else 0.0)
                for t in range(len(rows))
            ) / len(rows)
            if a > 0:
                total, union = total + math.log(a) / beta, union + 1
        found.append(total / union)
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("beta", [0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("m", [1, 2, 4])
def test_bounds_are_their_formulas(m, beta):
    log_p, scored, lengths = draw(7, m=m)
    assert torch.allclose(bounds.elbo(log_p, scored), plain_elbo(log_p, scored))
    upper = plain_eubo(log_p, scored, lengths, beta)
    assert torch.allclose(bounds.eubo(log_p, scored, lengths, beta), upper)
    mixed = bounds.mix(log_p, scored, lengths, beta, 0.3)
    assert torch.allclose(mixed, 0.3 * upper + 0.7 * plain_elbo(log_p, scored))
    assert bool((bounds.loose_eubo(log_p, scored, lengths, beta) >= upper - 1e-12).all())


@pytest.mark.parametrize("negatives", ["mix", "eubo", "elbo", "zero"])
def test_the_loss_takes_the_lower_bound_for_positives_alone(negatives):
    log_p, scored, _ = draw(3, b=4)
    lengths, advantages = torch.tensor([5, 4, 5, 2]), torch.tensor([0.5, -0.25, -0.5, 0.25], dtype=torch.float64)
    found = bounds.spg_loss(log_p, scored, lengths, advantages, negatives=negatives, beta=1.5, omega=0.5)
    lower, upper = plain_elbo(log_p, scored), plain_eubo(log_p, scored, lengths, 1.5)
    worse = {"mix": (lower + upper) / 2, "eubo": upper, "elbo": lower, "zero": 0 * lower}[negatives]
    total = sum(float(lengths[j] * advantages[j] * (lower[j] if advantages[j] > 0 else worse[j])) for j in range(4))
    assert float(found) == pytest.approx(-total / 16)


def test_advantages_are_centred_in_their_group_alone():
    rewards = torch.tensor([[1.0, 0.0, 0.5], [2.0, 2.0, 2.0]])
    assert torch.allclose(bounds.group_advantages(rewards), torch.tensor([[0.5, -0.5, 0.0], [0.0, 0.0, 0.0]]))


def test_baselines_are_their_formulas():
    log_p, scored, _ = draw(5, b=4, m=1)
    log_p, scored = log_p[:, 0], scored[:, 0]
    generator = torch.Generator().manual_seed(9)
    old, reference = (log_p + 0.4 * torch.randn(log_p.shape, generator=generator).double() for _ in range(2))
    advantages = torch.tensor([1.0, -1.0, 0.5, -0.5], dtype=torch.float64)
    tokens, rows = [], []
    for j in range(4):
        mine = []
        for i in range(log_p.shape[1]):
            if scored[j, i]:
                ratio = math.exp(log_p[j, i] - old[j, i])
                clipped = min(max(ratio, 0.8), 1.2)
                gap = float(reference[j, i] - log_p[j, i])
                gain = min(ratio * float(advantages[j]), clipped * float(advantages[j]))
                mine.append(gain - 0.04 * (math.exp(gap) - gap - 1))
        tokens += mine
        rows.append(sum(mine) / len(mine))
    common = {"epsilon": 0.2, "kl": 0.04}
    assert float(baselines.diffu_grpo_loss(log_p, old, reference, scored, advantages, **common)) == pytest.approx(
        -sum(tokens) / len(tokens)
    )
    assert float(baselines.unigrpo_loss(log_p, old, reference, scored, advantages, **common)) == pytest.approx(
        -sum(rows) / 4
    )
    sums = [float(log_p[j][scored[j]].sum()) for j in range(4)]
    total = 0.0
    for group in ((0, 1), (2, 3)):
        up = [math.exp(float(advantages[j])) for j in group]
        down = [math.exp(-float(advantages[j])) for j in group]
        total += sum((down[k] / sum(down) - up[k] / sum(up)) * sums[j] for k, j in enumerate(group))
    assert float(baselines.wd1_loss(log_p, scored, advantages, 2)) == pytest.approx(total / 2)


@given(st.integers(0, 500), st.sampled_from([2, 3, 4]))
def test_the_likelihood_is_the_mean_over_all_orders(seed, n):
    table = identities.random_tables(1, n, torch.Generator().manual_seed(seed))[0]
    paths = []
    for order in itertools.permutations(range(n)):
        seen, total = 0, 0.0
        for i in order:
            total += float(table[seen, i])
            seen |= 1 << i
        paths.append(total)
    wanted = math.log(sum(math.exp(p) for p in paths) / len(paths))
    assert float(exact.log_likelihood(table)) == pytest.approx(wanted, abs=1e-10)
    assert float(exact.elbo(table)) == pytest.approx(sum(paths) / len(paths), abs=1e-10)


@given(st.integers(0, 500), st.integers(2, 6), st.floats(1, 6))
def test_the_sandwich_holds_whatever_the_network(seed, n, beta):
    table = identities.random_tables(1, n, torch.Generator().manual_seed(seed))[0]
    lower, middle = float(exact.elbo(table)), float(exact.log_likelihood(table))
    assert lower <= middle + 1e-10 <= float(exact.eubo(table, beta)) + exact.constant(n, beta) + 2e-10
    if beta <= n:
        assert middle <= float(exact.scaled_eubo(table, beta)) + 1e-10


def test_a_violated_bound_would_be_seen():
    table = identities.random_tables(20, 4, torch.Generator().manual_seed(0))
    assert identities.above(exact.log_likelihood(table), exact.elbo(table)) > 0


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_one_copy_has_one_gradient_and_two_have_two(beta):
    generator = torch.Generator().manual_seed(4)
    assert identities.gradient_difference(beta, generator) < 1e-12
    log_p, scored, lengths = draw(11, m=2)
    log_p.requires_grad_()
    gradients = [
        torch.autograd.grad(bound.sum(), log_p)[0]
        for bound in (bounds.elbo(log_p, scored), bounds.eubo(log_p, scored, lengths, beta))
    ]
    assert float((gradients[0] - gradients[1]).abs().max()) > 1e-3


def test_beta_acts_on_tokens_scored_in_two_copies_alone():
    log_p, _, lengths = draw(13, m=2, n=4)
    scored = torch.tensor([[True, True, False, False], [False, True, True, False]]).expand(3, -1, -1)
    found = {}
    for beta in (1.0, 2.0):
        leaf = log_p.clone().requires_grad_()
        (found[beta],) = torch.autograd.grad(bounds.eubo(leaf, scored, lengths, beta).sum(), leaf)
    moved = (found[1.0] - found[2.0]).abs().amax(dim=(0, 1))
    assert moved[1] > 1e-3 and float(moved[[0, 2, 3]].max()) < 1e-12
    assert float(found[1.0][..., 3].abs().max()) == 0  # scored in no copy


@given(st.integers(0, 500), st.sampled_from([1.0, 1.5, 2.0]))
def test_two_tokens_have_the_papers_closed_form(seed, beta):
    """App. E.3, with the derivatives by central differences. Above β = 1 the upper bound pushes the larger probability
    down first, the lower bound the smaller."""
    assert identities.toy_error(beta, torch.Generator().manual_seed(seed)) < 1e-12
    a, b = (torch.rand(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.9 + 0.05).tolist()

    def both(a, b):
        table = torch.tensor([[b, 0.5], [1.0, 0.5], [a, 1.0], [1.0, 1.0]], dtype=torch.float64).log()
        return float(exact.elbo(table)), float(exact.eubo(table, beta))

    h, slopes = 1e-6, []
    for da, db in ((h, 0.0), (0.0, h)):
        up, down = both(a + da, b + db), both(a - da, b - db)
        slopes.append([(u - d) / (2 * h) for u, d in zip(up, down, strict=True)])
    (lower_a, upper_a), (lower_b, upper_b) = slopes
    assert lower_a == pytest.approx(1 / (2 * a), rel=1e-5)
    assert upper_a == pytest.approx(a ** (beta - 1) / (a**beta + b**beta), rel=1e-5)
    if abs(a - b) > 0.01:
        assert (lower_a < lower_b) == (a > b)
        assert beta == 1 or (upper_a > upper_b) == (a > b)


@given(st.integers(0, 500), st.integers(2, 6))
def test_upper_bounds_rise_with_their_order_and_start_above_the_lower(seed, n):
    table = identities.random_tables(1, n, torch.Generator().manual_seed(seed))[0]
    values = [float(exact.elbo(table)), *(float(exact.eubo(table, beta)) for beta in (1.0, 1.3, 2.0, 5.0))]
    assert all(low <= high + 1e-10 for low, high in itertools.pairwise(values))


def test_the_slope_at_the_best_mixture_is_rounding_where_the_denoiser_is_sure():
    """Generator 23 draws denoisers whose bounds hardly differ: over the variance of that difference, rounding was 0.23."""
    generator = torch.Generator().manual_seed(23)
    assert max(identities.omega_slope(3, generator) for _ in range(200)) < 1e-10


def test_another_mixture_has_a_slope(monkeypatch):
    right = exact.best_omega
    monkeypatch.setattr(exact, "best_omega", lambda *terms: right(*terms) + 1e-3)
    generator = torch.Generator().manual_seed(0)
    assert min(identities.omega_slope(4, generator) for _ in range(50)) > 1e-8


def test_masks_and_bounds_are_five_times_as_fast_as_the_loop():
    """At the published batch of 96 completions; the loop and its estimates are the benchmark's."""
    n, prompt, block, m = 256, 128, 32, 2
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(n // 2, n + 1, (96,), generator=generator)
    log_p = (-3 * torch.rand(96, m, n, generator=generator) - 0.01).requires_grad_()
    case = (lengths, n, prompt, block, m, log_p)
    slow, fast = (spg_bounds.best_of(3, spg_bounds.both, kind, *case) for kind in ("loop", "vectorised"))
    assert slow > 5 * fast


def test_the_best_mixture_beats_its_neighbours():
    generator = torch.Generator().manual_seed(8)
    table = identities.random_tables(1, 4, generator)[0]
    scores = torch.randn(16, 4, generator=generator, dtype=torch.float64)
    q, lower, upper = exact.gradient_terms(table, scores, 1.0)
    best = float(exact.best_omega(q, lower, upper))
    least = exact.variance(q, (1 - best) * lower + best * upper)
    for step in (-0.1, 0.1):
        assert exact.variance(q, (1 - best - step) * lower + (best + step) * upper) > least
    assert float(q.sum()) == pytest.approx(1)


def test_block_masks_are_what_a_sampler_sees():
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([16, 10, 3])
    masks = masking.block_masks(lengths, 16, 6, block=4, m=200, generator=generator, p_mask=0.15)
    for row, length in enumerate(lengths.tolist()):
        for hidden, scored in zip(masks.hidden[row], masks.scored[row], strict=True):
            assert bool(hidden[length:].all()) and not bool(scored[length:].any())
            assert torch.equal(scored[:length], hidden[:length])
            assert bool(hidden[:length].any())
    share = masks.prompt.float().mean()
    assert abs(float(share) - 0.15) < 0.02


def test_one_step_masks_hide_everything():
    masks = masking.one_step_masks(
        torch.tensor([8, 5]), 8, 4, m=1, generator=torch.Generator().manual_seed(0), p_mask=0.15
    )
    assert bool(masks.hidden.all()) and masks.scored.sum(dim=2).tolist() == [[8], [5]]
