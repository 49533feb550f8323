"""What each arm trains on, against sequences and losses written out by hand from the paper's rules."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.coconut import curriculum, thoughts
from methods.coconut.curriculum import FAR, Stages, removed_tokens, stage_at
from methods.coconut.data import problem
from methods.coconut.method import Coconut
from methods.coconut.model import find_marks
from methods.coconut.train import batches, settled, stage
from tycho.config import MethodPlan, job_config
from tycho.lm import small
from tycho.lm.examples import IGNORED
from tycho.tasks import arithmetic, common

SHAPE = arithmetic.Shape(5, 2, 3, fewest_groups=1, fewest_numbers=2)
WORDS = arithmetic.vocabulary(SHAPE, common.SPECIAL)
MARKS = find_marks(WORDS.tokenizer())
EXAMPLES = arithmetic.symbols(arithmetic.generate(9, SHAPE, 3), WORDS, "verbose")
MODEL = small.build(WORDS, width=32, heads=2).double()
REMOVED = 3  # tokens that iCoT has removed, where its loss is checked


def parts(row):
    """(prompt, steps, answer) of an example as lists of ids."""
    prompt = EXAMPLES.prompt[row, : EXAMPLES.prompt_length[row]].tolist()
    lengths = EXAMPLES.step_length[row].tolist()
    steps = [EXAMPLES.steps[row, i, :n].tolist() for i, n in enumerate(lengths) if n]
    return prompt, steps, EXAMPLES.answer[row, : EXAMPLES.answer_length[row]].tolist()


def rows_of(batch, latent):
    """Each row's kept (ids, labels, which are thoughts)."""
    return [
        tuple(part[row][batch.mask[row]].tolist() for part in (batch.ids, batch.labels, latent))
        for row in range(len(batch.ids))
    ]


def config_of(arm, **config):
    defaults = {"latent_steps": 2, "first_steps": 2, "stage_steps": 2, "steps": 9, "batch": 6, "validation_items": 4, "test_items": 4}  # fmt: skip
    return job_config(Coconut(), MethodPlan(config=defaults | config), arm, "products-verbose")


def expected(arm, stage, prompt, steps, answer, c=1, s_max=2, remove_all=False, marked=False):
    """The rule of section 3, in words: what stands between question and what is left, and what is left."""
    drop = {"cot": 0, "icot": 0, "no_cot": FAR}.get(arm, FAR if stage > s_max else stage)
    count = min(stage, s_max) * c
    inner = {"coconut": MARKS.thought, "no_curriculum": MARKS.thought, "pause_as_thought": MARKS.pause}.get(arm)
    first = int(marked and inner is not None)
    between = [MARKS.begin] * first + [inner] * count * (inner is not None) + [MARKS.end] * first
    left = [*[word for step in steps[drop:] for word in step][REMOVED * (arm == "icot") :], *answer]
    ids = [*prompt, *between, *left]
    labels = [IGNORED] * (len(prompt) + len(between)) + left
    thinks = [False] * len(ids)
    if arm in ("coconut", "no_curriculum"):
        thinks[len(prompt) + first : len(prompt) + first + count] = [True] * count
    return ids, labels, thinks


@pytest.mark.parametrize("arm", ["coconut", "cot", "no_cot", "no_curriculum", "pause_as_thought", "no_thought"])
@pytest.mark.parametrize(("c", "remove_all", "marked"), [(1, False, False), (2, True, True), (1, True, False)])
def test_an_arm_trains_on_the_sequences_the_rule_says(arm, c, remove_all, marked):
    config = config_of(arm, per_step=c, remove_all=remove_all, marks=marked)
    task = problem("products-verbose", config, data=0, order=0, init=0)
    task = type(task)(**{**task.__dict__, "batches": lambda step: EXAMPLES})
    make = batches(config, task, MARKS, seed=0)
    for step in range(9):
        now = stage_at(step, 2, 2, 2 + remove_all)
        if arm == "no_curriculum":
            now = 2 + remove_all
        wanted = [
            expected(arm, now, *parts(row), c=c, remove_all=remove_all, marked=marked) for row in range(len(EXAMPLES))
        ]
        assert rows_of(*make(step)) == wanted


@pytest.mark.parametrize("arm", ["coconut", "cot", "no_cot", "pause_as_thought", "no_thought", "icot"])
@pytest.mark.parametrize("marked", [True, False])
def test_its_loss_is_the_mean_surprise_of_what_is_left(arm, marked):
    """Cross-entropy written out: minus the mean log-probability, over items and words together, of each word left."""
    counts = {"cot": 0, "no_cot": 0, "no_thought": 0}.get(arm, 2)
    skip = {"cot": 0, "no_cot": FAR}.get(arm, 2)
    fill = {"coconut": "thoughts", "pause_as_thought": "pauses"}.get(arm, "nothing")
    batch, latent = curriculum.compose(EXAMPLES, skip, counts, fill, MARKS, marked=marked and fill != "nothing")
    if arm == "icot":
        batch = curriculum.without_tokens(EXAMPLES, REMOVED)
        latent = torch.zeros_like(batch.mask)
    total, words = 0.0, 0
    for row in range(len(EXAMPLES)):
        ids, labels, thinks = expected(arm, 2, *parts(row), marked=marked)
        vectors = MODEL.get_input_embeddings()(torch.tensor([ids]))
        for place, here in enumerate(thinks):
            if here:
                hidden = MODEL(inputs_embeds=vectors[:, :place], output_hidden_states=True).hidden_states[-1][:, -1:]
                vectors = torch.cat([vectors[:, :place], hidden, vectors[:, place + 1 :]], dim=1)
        shares = MODEL(inputs_embeds=vectors).logits[0].softmax(dim=1)
        for place, label in enumerate(labels):
            if label != IGNORED:
                total, words = total - math.log(shares[place - 1, label].item()), words + 1
    assert thoughts.loss(MODEL, batch, latent).item() == pytest.approx(total / words, rel=1e-6)


def test_the_sparse_rule_predicts_the_next_word_then_the_answer():
    for skip in (1, 2, FAR):
        batch, latent = curriculum.compose(EXAMPLES, skip, min(skip, 3), "thoughts", MARKS)
        for row, (_, labels, _) in enumerate(rows_of(curriculum.only_next(batch, EXAMPLES, skip), latent)):
            _, steps, answer = parts(row)
            left = [word for step in steps[skip:] for word in step]
            assert [label for label in labels if label != IGNORED] == (left[:1] or answer)


def test_icot_removes_tokens_from_the_left():
    longest = int(EXAMPLES.step_length.sum(dim=1).max())
    for removed in (0, 1, 5, longest):
        batch = curriculum.without_tokens(EXAMPLES, removed)
        for row, (ids, labels, _) in enumerate(rows_of(batch, torch.zeros_like(batch.mask))):
            prompt, steps, answer = parts(row)
            left = [*[word for step in steps for word in step][removed:], *answer]
            assert ids == prompt + left and labels == [IGNORED] * len(prompt) + left


def test_icot_removes_all_by_the_time_coconut_is_in_its_last_stage():
    config = config_of("icot", latent_steps=3, first_steps=5, stage_steps=10, steps=60)
    rng = np.random.default_rng(0)
    over = 20
    schedule = [removed_tokens(step, 5, over, 31, 1, 0, rng).item() for step in range(40)]
    assert schedule[:5] == [0] * 5 and schedule[5] == 1 and schedule[24] < 31 == schedule[25] == schedule[39]
    assert schedule == sorted(schedule)
    assert not settled(config, 24) and settled(config, 25)
    assert stage_at(25, 5, 10, 3) == 3 > stage_at(24, 5, 10, 3)


def test_removal_smoothing_is_a_geometric_offset():
    """P(o) ∝ exp(-λ o): 98 % of the items lose no extra token at λ = 4."""
    rng = np.random.default_rng(0)
    offsets = removed_tokens(0, 0, 100, 1, 40_000, 1.0, rng) - 1
    shares = np.bincount(offsets.numpy()) / 40_000
    law = np.exp(-np.arange(len(shares))) * (1 - np.exp(-1))
    assert np.abs(shares - law).max() < 0.01
    assert np.mean((removed_tokens(0, 0, 100, 1, 40_000, 4.0, rng) == 1).numpy()) == pytest.approx(
        1 - math.exp(-4), abs=0.003
    )


def test_mixing_draws_from_all_of_an_items_own_stages():
    counts = torch.tensor([2] * 30_000 + [0] * 1000)
    drawn = curriculum.mixed(1, counts, 0.6, np.random.default_rng(0))
    shares = torch.bincount(drawn[:30_000]) / 30_000
    torch.testing.assert_close(shares, torch.tensor([0.2, 0.6, 0.2]), rtol=0, atol=0.01)
    assert set(drawn[30_000:].tolist()) == {0, 1}
    assert (curriculum.mixed(1, counts, 0.0, np.random.default_rng(0)) == 1).all()


@given(st.integers(0, 50), st.integers(0, 20), st.integers(1, 9), st.integers(0, 6))
def test_stages_follow_the_steps(step, first, each, last):
    schedule = [0] * first + [stage for stage in range(1, last + 1) for _ in range(each)] + [last] * 60
    if last == 0:
        schedule = [0] * 120
    assert stage_at(step, first, each, last) == schedule[step]


def test_thoughts_and_dropped_steps_of_the_stages():
    gsm = Stages(latent_steps=3, per_step=2, remove_all=True)
    assert gsm.last == 4
    assert gsm.dropped(torch.arange(5)).tolist() == [0, 1, 2, 3, FAR]
    assert gsm.thoughts(torch.arange(5)).tolist() == [0, 2, 4, 6, 6]


def test_only_the_last_stage_is_validated():
    config = config_of("coconut")
    assert [stage(config, step) for step in range(8)] == [0, 0, 1, 1, 2, 2, 2, 2]
    assert [settled(config, step) for step in range(5)] == [False] * 4 + [True]
    assert settled(config_of("cot"), 0) and settled(config_of("no_curriculum"), 0)
