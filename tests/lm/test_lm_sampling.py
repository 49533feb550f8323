"""Batched cached generation against one row at a time without a cache."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import GenerationConfig, TopKLogitsWarper, TopPLogitsWarper

from tycho.lm import sampling as module
from tycho.lm import small
from tycho.lm.examples import left_padded
from tycho.lm.sampling import Generation, Sampling, draw, generate, steps
from tycho.lm.vocabulary import Vocabulary

WORDS = Vocabulary(tuple("abcdefgh"))
STOPS = [WORDS["a"], WORDS["b"], WORDS["c"]]
GREEDY = Sampling()
MOST = 12


def sharp(family, seed=0):
    """A random model whose likeliest tokens are far apart, so that rounding decides nothing."""
    model = small.build(WORDS, family=family, width=32, heads=2, seed=seed).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(8 if weight.ndim > 1 else 1)
    return model


MODELS = {family: sharp(family) for family in ("gpt2", "llama")}


@torch.no_grad()
def one_by_one(model, prompt, noise=None, sampling=GREEDY):
    """The plain reference: no cache, no padding, the whole text again for each token."""
    text = list(prompt)
    for place in range(MOST):
        logits = model(input_ids=torch.tensor([text])).logits[:, -1]
        text.append(draw(logits, sampling, None if noise is None else noise[place : place + 1]).item())
        if text[-1] in STOPS:
            break
    return text[len(prompt) :]


prompts = st.lists(st.lists(st.integers(3, 10), min_size=1, max_size=9), min_size=2, max_size=9)


@pytest.mark.parametrize("family", MODELS)
@settings(max_examples=12)
@given(prompts, st.integers(0, 10**6))
def test_batched_equals_one_by_one(family, rows, seed):
    model = MODELS[family]
    ids, mask = left_padded(rows, WORDS.pad)
    greedy = generate(model, ids, mask, most=MOST, stop=STOPS)
    assert greedy.rows() == [one_by_one(model, row) for row in rows]
    noise = torch.rand(len(rows), MOST, generator=torch.Generator().manual_seed(seed))
    sampling = Sampling(temperature=1.5, top_k=6, top_p=0.9)
    sampled = generate(model, ids, mask, most=MOST, stop=STOPS, sampling=sampling, noise=noise)
    assert sampled.rows() == [one_by_one(model, row, noise[i], sampling) for i, row in enumerate(rows)]
    for made in (greedy, sampled):
        assert made.lengths.tolist() == [len(row) for row in made.rows()]
        assert made.forward_passes.tolist() == made.lengths.tolist()
        assert made.calls == made.lengths.max()
        behind = torch.arange(made.tokens.shape[1]) >= made.lengths[:, None]
        assert (made.tokens[behind] == WORDS.pad).all()


def test_it_equals_hugging_face():
    model = MODELS["gpt2"]
    ids, mask = left_padded([[3, 4, 5, 6], [7], [8, 9]], WORDS.pad)
    config = GenerationConfig(max_new_tokens=MOST, do_sample=False, eos_token_id=STOPS, pad_token_id=WORDS.pad)
    theirs = model.generate(ids, attention_mask=mask.long(), generation_config=config)[:, 4:]
    assert generate(model, ids, mask, most=MOST, stop=STOPS).tokens.tolist() == theirs.tolist()


def test_ended_rows_leave_the_batch():
    """Rows stop at different lengths here, and the model is called on fewer and fewer of them."""
    model, sizes = MODELS["llama"], []
    rows = [[a, b] for a in range(3, 11) for b in range(3, 11)]
    handle = model.register_forward_pre_hook(lambda _, __, kw: sizes.append(len(kw["input_ids"])), with_kwargs=True)
    generator = torch.Generator().manual_seed(0)
    made = generate(model, *left_padded(rows, 0), most=MOST, stop=STOPS, sampling=Sampling(2.0), generator=generator)
    handle.remove()
    assert len(set(made.lengths.tolist())) > 2 and sizes[0] == 64
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < 64
    for call, size in enumerate(sizes[1:], start=1):
        going = int((made.lengths > call).sum())
        assert going <= size < 2 * going or size == sizes[call - 1]


def test_the_generator_decides():
    model = MODELS["gpt2"]
    ids, mask = left_padded([[3]] * 50, 0)

    def made(seed):
        generator = torch.Generator().manual_seed(seed)
        return generate(model, ids, mask, most=5, stop=[], sampling=Sampling(2.0), generator=generator).rows()

    assert made(0) == made(0) != made(1)
    assert len({tuple(row) for row in made(0)}) > 10


def test_draws_follow_the_distribution():
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0, -30.0])
    noise = torch.rand(40000, generator=torch.Generator().manual_seed(0))
    drawn = draw(logits.expand(40000, 5), Sampling(temperature=0.7), noise)
    expected = 40000 * torch.softmax(logits.double() / 0.7, dim=0)
    counts = torch.bincount(drawn, minlength=5)
    assert counts[4] == 0 and chisquare(counts[:4], expected[:4] / expected[:4].sum() * 40000).pvalue > 1e-3


@pytest.mark.parametrize(
    "sampling", [Sampling(1.0, top_k=3), Sampling(1.0, top_p=0.8), Sampling(0.8, top_k=4, top_p=0.6)]
)
def test_filters_keep_what_hugging_face_keeps(sampling):
    torch.manual_seed(0)
    logits = torch.randn(30, 8)
    warped = logits / sampling.temperature
    if sampling.top_k:
        warped = TopKLogitsWarper(sampling.top_k)(None, warped)
    if sampling.top_p < 1:
        warped = TopPLogitsWarper(sampling.top_p)(None, warped)
    grid = (torch.arange(4000) + 0.5) / 4000
    for row, wanted in zip(logits, warped.softmax(dim=1), strict=True):
        drawn = draw(row.expand(4000, 8), sampling, grid)
        shares = torch.bincount(drawn, minlength=8) / 4000
        assert (shares - wanted).abs().max() < 1e-3


def test_extreme_noise_stays_inside():
    logits = torch.tensor([[0.0, 5.0, 1.0]]).repeat(2, 1)
    noise = torch.tensor([0.0, 1 - 2**-24])
    assert draw(logits, Sampling(1.0), noise).tolist() == [1, 0]
    assert draw(logits, Sampling(1.0, top_k=2), noise).tolist() == [1, 2]


def test_log_probabilities_are_those_before_sampling():
    model = MODELS["gpt2"]
    rows = [[3, 4], [5], [6, 7, 8]]
    made = generate(model, *left_padded(rows, 0), most=6, stop=STOPS, sampling=Sampling(2.0), top_logprobs=3)
    for i, row in enumerate(rows):
        text = row + made.rows()[i]
        with torch.no_grad():
            whole = model(input_ids=torch.tensor([text])).logits[0].log_softmax(dim=1)
        expected = whole[len(row) - 1 : -1].topk(3, dim=1).values
        torch.testing.assert_close(made.top_logprobs[i, : made.lengths[i]], expected, atol=1e-4, rtol=1e-4)
        assert made.top_logprobs[i, made.lengths[i] :].isnan().all()


def test_suppressed_tokens_are_not_written():
    model = sharp("gpt2", seed=3)
    ids, mask = left_padded([[3, 4], [5, 6]], 0)
    likeliest = set(generate(model, ids, mask, most=8, stop=[]).tokens.flatten().tolist())
    model.generation_config.suppress_tokens = sorted(likeliest)
    assert not likeliest & set(generate(model, ids, mask, most=8, stop=[]).tokens.flatten().tolist())


def test_the_token_behind_the_last_mark():
    tokens = torch.tensor([[5, 9, 3, 9, 4], [9, 0, 0, 0, 0], [1, 2, 9, 7, 9]])
    lengths = torch.tensor([5, 1, 4])
    assert Generation(tokens, lengths, lengths, 5).after(9).tolist() == [4, -1, 7]


def test_what_does_not_fit_is_refused():
    model = MODELS["gpt2"]
    ids, mask = left_padded([[3, 4, 5], [6]], 0)
    assert generate(model, ids, mask, most=126, stop=[]).lengths.tolist() == [126, 126]
    with pytest.raises(ValueError, match="3 tokens and 127 more do not fit the model's 128 positions"):
        generate(model, ids, mask, most=127, stop=[])
    with pytest.raises(ValueError, match="at least one token"):
        generate(model, ids, mask, most=0, stop=[])


@pytest.mark.parametrize(
    "sampling",
    [Sampling(1.0), Sampling(3.0), Sampling(1.0, top_k=5), Sampling(2.0, top_p=0.7), Sampling(5.0, top_p=0.99),
     Sampling(1.0, top_k=400), Sampling(1.5, top_k=20, top_p=0.8)],
)  # fmt: skip
def test_a_wide_vocabulary_is_drawn_from_as_if_it_were_sorted_whole(sampling, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(300, 3000, generator=generator) * 4
    noise = torch.rand(300, generator=generator)
    fast = draw(logits, sampling, noise)
    monkeypatch.setattr(module, "CANDIDATES", 10**6)
    assert (fast == draw(logits, sampling, noise)).float().mean() >= 0.99  # the two sums round differently
    assert len(set(fast.tolist())) > 20


def test_rows_end_when_they_are_told_to_and_leave_the_batch():
    model, sizes = MODELS["llama"], []
    ids, mask = left_padded([[a, b] for a in range(3, 7) for b in range(3, 7)], 0)
    whole = generate(model, ids, mask, most=MOST, stop=[])
    out = model(input_ids=ids, attention_mask=mask.long(), use_cache=True)
    going = steps(model, out.past_key_values, out.logits[:, -1], mask, most=MOST, stop=[], top_logprobs=2, crowd=0.9)
    ends = torch.arange(16) % MOST + 1
    ended, seen = None, torch.zeros(16, dtype=torch.long)
    handle = model.register_forward_pre_hook(lambda _, __, kw: sizes.append(len(kw["input_ids"])), with_kwargs=True)
    while True:
        try:
            step = going.send(ended)
        except StopIteration as end:
            made = end.value
            break
        assert (seen[step.rows] < ends[step.rows]).all() and step.top_logprobs.shape == (len(step.rows), 2)
        seen[step.rows] += 1
        ended = seen[step.rows] == ends[step.rows]
    handle.remove()
    assert made.lengths.tolist() == seen.tolist() == ends.tolist()
    assert made.rows() == [row[:n] for row, n in zip(whole.rows(), ends.tolist(), strict=True)]
    assert sum(sizes) < 1.2 * int((ends - 1).sum())  # nobody pays for rows that have ended
