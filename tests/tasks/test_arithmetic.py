"""Traces re-computed by hand from their text, noise against its stated rates."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tycho.tasks import arithmetic
from tycho.tasks.arithmetic import Noise, Shape

shapes = st.builds(
    lambda modulus, groups, numbers, fewer_groups, fewer_numbers: Shape(
        modulus, groups, numbers, max(1, groups - fewer_groups), max(1, numbers - fewer_numbers)
    ),
    st.sampled_from([5, 7, 11, 19]),
    st.integers(1, 4),
    st.integers(2, 5),
    st.integers(0, 2),
    st.integers(0, 2),
)


def texts(examples, words):
    """(prompt, steps, answer) of each example, as lists of words; steps only where there is one."""
    for i in range(len(examples)):
        prompt = words.write(examples.prompt[i, : examples.prompt_length[i]].tolist()).split()
        rows = zip(examples.steps[i].tolist(), examples.step_length[i].tolist(), strict=True)
        yield (
            prompt,
            [words.write(row[:length]).split() for row, length in rows],
            words.write(examples.answer[i].tolist()),
        )


def read_prompt(prompt):
    assert prompt[-1] == "="
    return [list(map(int, group.split())) for group in " ".join(prompt[:-1]).split(",")]


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(0, 10**6), st.sampled_from(["terse", "verbose", "rewriting"]))
def test_traces_by_hand(shape, seed, style):
    order = "random" if style == "rewriting" else "chain"
    products = arithmetic.generate(12, shape, seed, order=order)
    words = arithmetic.vocabulary(shape)
    for (prompt, steps, answer), truth in zip(
        texts(arithmetic.symbols(products, words, style), words), products.answer, strict=True
    ):
        groups = read_prompt(prompt)
        assert all(1 <= number < shape.modulus for group in groups for number in group)
        assert shape.fewest_groups <= len(groups) <= shape.groups
        assert all(shape.fewest_numbers <= len(group) <= shape.numbers for group in groups)
        exact = math.prod(math.prod(group) for group in groups) % shape.modulus
        assert answer == f"[A] {exact} <eos>" and truth == exact
        lists = {number: list(group) for number, group in enumerate(groups)}
        for step, group in zip(steps, shape.step_groups, strict=True):
            if group == shape.groups:  # joins: by now each group is down to one number
                lists.setdefault(group, [lists[number][0] for number in range(len(groups))])
            current = lists.get(group, [])
            if len(current) < 2:
                assert step == []
                continue
            place = int(step[0][1:]) if style == "rewriting" else 0
            left, right = current[place : place + 2]
            current[place : place + 2] = [left * right % shape.modulus]
            expected = {
                "terse": [current[0]],
                "verbose": [left, right, current[0], ";"],
                "rewriting": [f"@{place}", *current, ";"],
            }[style]
            assert step == list(map(str, expected))
        assert all(len(rest) == 1 for rest in lists.values())


def test_places_of_random_merges_are_uniform():
    products = arithmetic.generate(20000, Shape(11, 1, 5), 0, order="random")
    for step, count in enumerate([4, 3, 2, 1]):
        shares = np.bincount(products.place[:, step], minlength=count) / 20000
        assert len(shares) == count and abs(shares - 1 / count).max() < 5 * 0.5 / 20000**0.5


def test_noise_has_its_stated_rates():
    noise, shape = Noise(hard=0.35, wrong=0.45, systematic=0.7), Shape(19, 1, 7)
    facts = noise.facts(19)
    assert facts.sum() == round(0.35 * 18 * 18) and not facts[0].any() and not facts[:, 0].any()
    products = arithmetic.generate(30000, shape, 0, noise=noise, order="random")
    exact = products.left * products.right % 19
    wrong = products.result != exact
    assert (products.hard == facts[products.left, products.right]).all()
    assert not wrong[~products.hard].any()
    assert wrong[products.hard].mean() == pytest.approx(0.45, abs=0.01)
    double = (products.result == 2 * exact % 19)[wrong].mean()
    assert double == pytest.approx(0.7 + 0.3 / 17, abs=0.01)  # the rest: any of the 17 other wrong numbers
    other = (products.result * np.array([pow(int(x), -1, 19) if x else 0 for x in range(19)])[exact] % 19)[wrong]
    shares = np.bincount(other, minlength=19) / len(other)
    assert shares[[0, 1]].sum() == 0
    assert abs(shares[3:] - 0.3 / 17).max() < 0.003
    assert (products.answer == products.written).mean() < 0.7


def test_a_trace_goes_on_from_its_own_values():
    shape, noise = Shape(7, 2, 4), Noise(hard=1.0, wrong=0.5)
    products = arithmetic.generate(500, shape, 0, noise=noise)
    for step in (1, 2, 4, 5):  # within a group each left factor is what was written before
        assert (products.left[:, step] == products.result[:, step - 1]).all()
    assert (products.left[:, 6] == products.result[:, 2]).all() and (
        products.right[:, 6] == products.result[:, 5]
    ).all()
    assert (products.written == products.result[:, 6]).all()
    words = arithmetic.vocabulary(shape)
    examples = arithmetic.symbols(products, words, "verbose")
    assert (examples.answer[:, 1] == torch.as_tensor(words["0"] + products.written)).all()


def test_several_traces_of_one_question_differ_in_the_facts_they_meet():
    shape, noise = Shape(19, 1, 7), Noise(hard=0.35)
    one = arithmetic.generate(1, shape, 3).numbers
    rng = np.random.default_rng(0)
    random = arithmetic.solve(one.repeat(400, axis=0), shape, rng, noise=noise, order="random")
    assert (random.numbers == one).all() and len(set(random.answer)) == 1
    assert len(set(random.hard.sum(axis=1))) > 2
    sure = arithmetic.solve(one.repeat(400, axis=0), shape, rng, noise=Noise(hard=0.35, wrong=0.0), order="chain")
    assert len(set(sure.hard.sum(axis=1))) == 1 and (sure.written == sure.answer).all()


def test_step_groups_are_independent():
    """Numbers of one group do not change another group's steps."""
    shape = Shape(11, 3, 4)
    assert shape.step_groups.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3]
    numbers = arithmetic.generate(200, shape, 0).numbers
    changed = numbers.copy()
    changed[:, 1] = arithmetic.generate(200, shape, 1).numbers[:, 1]
    words = arithmetic.vocabulary(shape)
    before, after = (
        arithmetic.symbols(arithmetic.solve(n, shape, np.random.default_rng(0)), words, "verbose").steps
        for n in (numbers, changed)
    )
    same = (before == after).flatten(2).all(dim=2)
    others = torch.as_tensor(np.isin(shape.step_groups, [0, 2]))
    assert same[:, others].all() and not same[:, ~others].all(dim=1).any()


def test_a_seed_names_items_and_a_step_names_a_batch():
    shape = Shape(7, 2, 3)
    first, again, other = (arithmetic.generate(50, shape, seed, noise=Noise(0.5)) for seed in (0, 0, 1))
    assert (first.result == again.result).all() and not (first.numbers == other.numbers).all()
    words = arithmetic.vocabulary(shape)
    one, two = (arithmetic.stream(shape, words, "terse", 4, 32) for _ in range(2))
    batches = [one(step).prompt for step in (0, 1, 128, 500)]
    assert all(torch.equal(two(step).prompt, batch) for step, batch in zip((0, 1, 128, 500), batches, strict=True))
    assert len({tuple(batch.flatten().tolist()) for batch in batches}) == 4


def test_numbers_are_uniform():
    products = arithmetic.generate(5000, Shape(7, 2, 3), 0)
    counts = np.bincount(products.numbers.ravel(), minlength=7)
    assert counts[0] == 0 and abs(counts[1:] - 5000).max() < 5 * 5000**0.5
    answers = np.bincount(products.answer, minlength=7)[1:] / 5000
    assert abs(answers - 1 / 6).max() < 0.03  # nothing to guess


@pytest.mark.parametrize("modulus", [2, 3, 4, 9, 15])
def test_other_moduli_are_refused(modulus):
    with pytest.raises(ValueError, match="no prime above 3"):
        Shape(modulus)


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="no sizes to draw from"):
        Shape(7, 2, 3, fewest_groups=3)
    with pytest.raises(ValueError, match="no product"):
        Shape(7, 1, 1)


def test_extra_words_join_the_vocabulary():
    words = arithmetic.vocabulary(Shape(7, 3, 2), ["<latent>", "<join>"])
    assert words["<latent>"] != words["<join>"] and words.produced == len(words)
    assert words.read("@1 <join> 6 =") == [words["@1"], words["<join>"], words["6"], words["="]]
