"""Mixed sequences against the rule written out example by example; the draws against their laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.token_assorted import mixing
from methods.token_assorted.mixing import Words
from tycho.lm.examples import IGNORED
from tycho.tasks import arithmetic, common

SHAPE = arithmetic.Shape(5, 3, 3, fewest_groups=1, fewest_numbers=2)
GROUND = arithmetic.vocabulary(SHAPE, common.SPECIAL)
EXAMPLES = arithmetic.symbols(arithmetic.generate(12, SHAPE, 3), GROUND, "verbose")
WORDS = Words(GROUND["<latent>"], GROUND["</latent>"], GROUND["<c0>"])


def traces() -> list[list[int]]:
    ids, mask = EXAMPLES.trace()
    return [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)]


@given(size=st.integers(1, 9), seed=st.integers(0, 10**6), kind=st.sampled_from(["random_left", "random_places"]))
def test_mixed_sequences_follow_the_rule(size, seed, kind):
    rng = np.random.default_rng(seed)
    tokens, kept, whole = mixing.chunked(EXAMPLES, size)
    codes = torch.from_numpy(rng.integers(0, 64, whole.shape))
    count = mixing.counts(kind, whole, [0, 2, 5], 0.0, rng)
    replaced = mixing.places(kind, whole, count, rng)
    ids, mask = mixing.mixed(tokens, kept, codes, replaced, WORDS, EXAMPLES.pad)
    batch = mixing.sequences(EXAMPLES, (ids, mask))
    for row, trace in enumerate(traces()):
        chunks = [trace[i : i + size] for i in range(0, len(trace), size)]
        assert int(whole[row].sum()) == sum(len(chunk) == size for chunk in chunks)
        assert int(replaced[row].sum()) == int(count[row]) <= int(whole[row].sum())
        wanted: list[int] = []
        for i, chunk in enumerate(chunks):
            if replaced[row, i]:
                if not (i and replaced[row, i - 1]):
                    wanted.append(WORDS.begin)
                wanted.append(WORDS.first + int(codes[row, i]))
                if not (i + 1 < len(chunks) and replaced[row, i + 1]):
                    wanted.append(WORDS.end)
            else:
                wanted += chunk
        assert ids[row][mask[row]].tolist() == wanted
        answer = EXAMPLES.answer[row, : EXAMPLES.answer_length[row]].tolist()
        prompt = EXAMPLES.prompt[row, : EXAMPLES.prompt_length[row]].tolist()
        assert batch.ids[row][batch.mask[row]].tolist() == prompt + wanted + answer
        labels = batch.labels[row][batch.mask[row]].tolist()
        assert labels == [IGNORED] * len(prompt) + wanted + answer
        if kind == "random_left" and count[row]:
            assert replaced[row, : count[row]].all() and wanted[0] == WORDS.begin


def test_nothing_replaced_is_chain_of_thought():
    tokens, kept, whole = mixing.chunked(EXAMPLES, 4)
    none = torch.zeros_like(whole)
    batch = mixing.sequences(EXAMPLES, mixing.mixed(tokens, kept, whole.long(), none, WORDS, EXAMPLES.pad))
    plain = EXAMPLES.sequences()
    assert all(torch.equal(a, b) for a, b in zip(batch, plain, strict=True))


def test_the_number_of_chunks_is_drawn_in_two_steps():
    """m_max uniform, then m uniform up to it: the law by enumeration, against 60,000 draws."""
    maxima = [0, 4, 8, 10, 12, 14, 16]
    whole = torch.ones(60_000, 14, dtype=torch.bool)
    found = mixing.counts("random_left", whole, maxima, 0.0, np.random.default_rng(0))
    law = np.zeros(15)
    for most in maxima:
        for m in range(most + 1):
            law[min(m, 14)] += 1 / len(maxima) / (most + 1)
    shares = np.bincount(found.numpy(), minlength=15) / len(whole)
    assert np.abs(shares - law).max() < 4 * np.sqrt(law.max() / len(whole))


def test_places_are_random_and_as_many():
    whole = torch.ones(20_000, 8, dtype=torch.bool)
    whole[:, 6:] = False
    count = torch.full((20_000,), 3)
    replaced = mixing.places("random_places", whole, count, np.random.default_rng(0))
    assert bool((replaced.sum(dim=1) == 3).all()) and not replaced[:, 6:].any()
    assert replaced[:, :6].double().mean(dim=0).tolist() == pytest.approx([0.5] * 6, abs=0.02)


def test_everything_and_a_growing_part():
    whole = mixing.chunked(EXAMPLES, 4)[2]
    rng = np.random.default_rng(0)
    available = whole.sum(dim=1)
    assert torch.equal(mixing.counts("everything", whole, [], 0.0, rng), available)
    grown = [mixing.counts("growing", whole, [], progress, rng) for progress in (0.0, 0.5, 1.0, 1.7)]
    assert int(grown[0].sum()) == 0 and torch.equal(grown[1], (available / 2).round().long())
    assert torch.equal(grown[2], available) and torch.equal(grown[3], available)
