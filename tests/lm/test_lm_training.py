"""The loop against its formulas, against a plain loop, and a killed run against an undisturbed one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tycho.files import load_state, save_state
from tycho.lm import small
from tycho.lm.examples import next_token_loss
from tycho.lm.training import Recipe, Trainer, learning_rate
from tycho.tasks import arithmetic

SHAPE = arithmetic.Shape(5, 2, 2)
WORDS = arithmetic.vocabulary(SHAPE)
BATCHES = arithmetic.stream(SHAPE, WORDS, "verbose", 0, 16)


def loss(model, examples):
    batch = examples.sequences()
    return next_token_loss(model(input_ids=batch.ids).logits, batch.labels)


def model(dropout=0.0):
    return small.build(WORDS, width=16, heads=2, layers=1, dropout=dropout)


def test_learning_rates_by_hand():
    recipe = Recipe(steps=110, rate=2.0, warmup=10, floor=0.1)
    assert learning_rate(recipe, 0) == pytest.approx(2 / 11)
    assert learning_rate(recipe, 9) == pytest.approx(20 / 11)
    assert learning_rate(recipe, 10) == 2.0
    assert learning_rate(recipe, 60) == pytest.approx(2 * (0.1 + 0.9 * 0.5))
    assert learning_rate(recipe, 35) == pytest.approx(2 * (0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2))
    assert learning_rate(recipe, 110) == pytest.approx(0.2) == learning_rate(recipe, 500)
    linear = Recipe(steps=110, rate=2.0, warmup=10, decay="linear")
    assert learning_rate(linear, 35) == pytest.approx(1.5) and learning_rate(linear, 109) == pytest.approx(0.02)
    held = Recipe(steps=110, rate=2.0, warmup=10, decay="linear", hold=0.6)
    assert learning_rate(held, 69) == learning_rate(held, 10) == 2.0
    assert learning_rate(held, 70) == 2.0 and learning_rate(held, 90) == pytest.approx(1.0)
    constant = Recipe(steps=5, rate=3.0, warmup=0, decay="constant")
    assert {learning_rate(constant, step) for step in range(5)} == {3.0}


def test_a_step_equals_adamw_by_hand():
    """Three steps with clipping and weight decay against the update rule written out (Loshchilov & Hutter, alg. 2)."""
    torch.manual_seed(0)
    net = nn.Linear(3, 1, bias=False)
    weight = net.weight.detach().double().clone()
    data = [torch.randn(8, 3) * 5 for _ in range(3)]
    recipe = Recipe(steps=3, rate=0.1, warmup=0, decay="constant", weight_decay=0.3, clip=0.5, betas=(0.8, 0.9))
    points = list(Trainer(net, data.__getitem__, lambda m, x: m(x).square().mean(), recipe))
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step, x in enumerate(data, start=1):
        x = x.double()
        gradient = 2 * (x @ weight.T).T @ x / len(x)
        norm = gradient.norm()
        assert points[step - 1].norm == pytest.approx(norm.item(), rel=1e-5)
        assert points[step - 1].loss == pytest.approx((x @ weight.T).square().mean().item(), rel=1e-5)
        gradient = gradient * min(1.0, 0.5 / norm.item())
        first, second = 0.8 * first + 0.2 * gradient, 0.9 * second + 0.1 * gradient**2
        weight = weight * (1 - 0.1 * 0.3)
        weight = weight - 0.1 * (first / (1 - 0.8**step)) / ((second / (1 - 0.9**step)).sqrt() + 1e-8)
    torch.testing.assert_close(net.weight.detach().double(), weight, rtol=1e-5, atol=1e-6)


def test_accumulated_batches_are_one_large_batch():
    one, two = model(), model()
    whole = arithmetic.stream(SHAPE, WORDS, "verbose", 0, 32)
    large = list(Trainer(one, whole, loss, Recipe(steps=3, warmup=0)))
    halves = list(
        Trainer(
            two,
            lambda i: whole(i // 2).select(slice(16 * (i % 2), 16 * (i % 2) + 16)),
            loss,
            Recipe(steps=3, warmup=0, accumulate=2),
        )
    )
    for a, b in zip(large, halves, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-5) and a.norm == pytest.approx(b.norm, rel=1e-4)


def new_trainer(score=None):
    scores = iter(score or [])
    return Trainer(
        model(dropout=0.1),
        BATCHES,
        loss,
        Recipe(steps=12, rate=0.01, warmup=3),
        validate=(lambda _: next(scores)) if score else None,
        validate_every=3,
        seed=7,
    )


def test_a_killed_run_resumed_equals_an_undisturbed_one_bit_for_bit(tmp_path):
    whole = new_trainer([0.1, 0.5, 0.3, 0.4])
    expected = list(whole)
    killed = new_trainer([0.1, 0.5])
    before = [next(killed) for _ in range(7)]
    save_state(tmp_path / "checkpoint.safetensors", killed.state())
    next(killed)  # work that is lost
    torch.rand(100)
    resumed = new_trainer([0.3, 0.4])
    resumed.restore(load_state(tmp_path / "checkpoint.safetensors"))
    assert before + list(resumed) == expected
    for trainer in (whole, resumed):
        assert trainer.keep_best() == 6
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_dropout_is_on_and_seeded():
    one, two = list(new_trainer()), list(new_trainer())
    other = new_trainer()
    torch.manual_seed(8)
    assert one == two != list(other)


def test_the_best_checkpoint_is_kept():
    seen = {}

    def validate(net):
        assert not net.training and not torch.is_grad_enabled()
        step = len(seen)
        seen[step] = net.transformer.wte.weight.clone()
        return [0.2, 0.9, 0.9, 0.1][step]

    trainer = Trainer(model(), BATCHES, loss, Recipe(steps=10), validate=validate, validate_every=3)
    scores = [point.score for point in trainer]
    assert scores == [None, None, 0.2, None, None, 0.9, None, None, 0.9, 0.1]
    assert trainer.keep_best() == 6 and not trainer.model.training
    assert torch.equal(trainer.model.transformer.wte.weight, seen[1])
    plain = Trainer(model(), BATCHES, loss, Recipe(steps=2))
    assert [point.score for point in plain] == [None, None] and plain.keep_best() == 2


def test_resetting_the_optimizer_forgets_its_moments():
    one, two = new_trainer(), new_trainer()
    next(one), next(two)
    assert one.optimizer.state
    one.reset_optimizer()
    assert not one.optimizer.state
    next(one), next(two)
    assert not torch.equal(one.model.transformer.wte.weight, two.model.transformer.wte.weight)


def test_it_learns():
    trainer = Trainer(
        small.build(WORDS, width=32, heads=2),
        arithmetic.stream(SHAPE, WORDS, "verbose", 0, 64),
        loss,
        Recipe(200, 5e-3, 30),
    )
    losses = [point.loss for point in trainer]
    assert losses[0] > 2.5 and sum(losses[-20:]) / 20 < 0.45 * losses[0]
