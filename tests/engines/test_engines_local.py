"""The in-process back end: what it writes equals plain decoding, whatever is shared, stopped or aborted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tycho.engines import Settings, connect
from tycho.engines import local as module
from tycho.engines.local import Local, _common
from tycho.errors import TychoError
from tycho.lm import small
from tycho.lm.examples import left_padded
from tycho.lm.sampling import Sampling, generate
from tycho.lm.vocabulary import Vocabulary

WORDS = Vocabulary((*"abcdefgh", "</tag>"))
TOKENIZER = WORDS.tokenizer()
MOST = 10


def sharp(family="llama"):
    """A random model whose likeliest tokens are far apart, so that rounding decides nothing."""
    model = small.build(WORDS, family=family, width=32, heads=2).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(8 if weight.ndim > 1 else 1)
    return model


MODELS = {family: sharp(family) for family in ("gpt2", "llama")}
prompts = st.lists(st.lists(st.integers(3, 11), min_size=1, max_size=9), min_size=1, max_size=7)


@pytest.mark.parametrize("family", MODELS)
@settings(max_examples=15)
@given(prompts, st.lists(st.integers(3, 11), max_size=5), st.integers(0, 10**6))
def test_reuse_changes_nothing(family, rows, lead, seed):
    """Prompts read from the caches of earlier calls, with a common beginning or twice, give the same tokens."""
    model = MODELS[family]
    engine = Local(model, TOKENIZER, rows=4)
    rows = [lead + row for row in rows]
    rows += rows[:2]
    noise = torch.rand(len(rows), MOST, generator=torch.Generator().manual_seed(seed))
    asked = Settings(most=MOST, temperature=1.5, top_logprobs=3)
    plain = generate(
        model, *left_padded(rows, 0), most=MOST, stop=[WORDS.end], sampling=Sampling(1.5), noise=noise, top_logprobs=3
    )
    for _ in range(2):  # the second time everything is in the cache
        with engine.stream(rows, asked, noise) as stream:
            seen = [row for step in stream for row in step.rows.tolist()]
        assert [list(made.ids) for made in stream.completions] == plain.rows()
        assert np.bincount(seen).tolist() == plain.lengths.tolist()
        for made, own in zip(stream.completions, plain.top_logprobs, strict=True):
            np.testing.assert_allclose(made.top_logprobs, own[: made.tokens].numpy(), atol=1e-3)
    assert engine.reused > 0 or max(map(len, rows)) == 1
    # What was written goes on as part of a prompt, as threads and joins do.
    longer = [[*row, *made.ids[:3], 4] for row, made in zip(rows, stream.completions, strict=True)]
    again = engine.complete(longer, Settings(most=4, temperature=0))
    whole = generate(model, *left_padded(longer, 0), most=4, stop=[WORDS.end])
    assert [list(made.ids) for made in again] == whole.rows()


def test_equal_prompts_and_common_beginnings_are_read_once(monkeypatch):
    monkeypatch.setattr(module, "SHARED", 4)
    engine, lead = Local(MODELS["llama"], TOKENIZER), [3, 4, 5, 6, 7, 8]
    engine.complete([[*lead, 9], [*lead, 9], [*lead, 10], [*lead, 11, 3]], Settings(most=2, temperature=0))
    assert engine.read == 6 + 1 + 1 + 2
    engine.complete([[*lead, 9]], Settings(most=2, temperature=0))
    assert engine.read == 6 + 1 + 1 + 2 + 1  # the last token is read again, for its logits


def test_rows_end_by_the_caller_and_are_freed():
    model, sizes = MODELS["llama"], []
    engine = Local(model, TOKENIZER, rows=16)
    asked = Settings(most=40, temperature=1.0, top_logprobs=2)
    noise = torch.rand(24, 40, generator=torch.Generator().manual_seed(0))
    engine.ends = set()
    with engine.stream([[3, 4]] * 24, asked, noise) as stream:
        whole = [list(step.rows) for step in stream]
    full = stream.completions
    assert all(made.finish == "length" and made.tokens == 40 for made in full) and len(whole) == 80
    handle = model.register_forward_pre_hook(lambda _, __, kw: sizes.append(len(kw["input_ids"])), with_kwargs=True)
    with engine.stream([[3, 4]] * 24, asked, noise) as stream:
        for number, step in enumerate(stream):
            if number == 4:
                stream.abort([*range(2, 16), 20])  # one of them has not begun
            assert number < 5 or not set(step.rows) & {*range(2, 16), 20}
    handle.remove()
    for row, (made, other) in enumerate(zip(stream.completions, full, strict=True)):
        length = 40 if row in (0, 1) or (row >= 16 and row != 20) else 0 if row == 20 else 5
        assert made.tokens == length and made.ids == other.ids[:length]
        assert made.finish == ("length" if length == 40 else "abort")
    assert sizes[:7] == [1, 16, 16, 16, 16, 2, 2]  # one prompt read; then fourteen rows leave at once


def test_stop_strings_by_tag_and_in_the_text():
    engine = Local(MODELS["llama"], TOKENIZER)
    free = engine.complete(["a b", "c"], Settings(most=12, temperature=0))
    text = free[0].text
    assert text.startswith(" ") and free[0].finish in ("length", "eos")
    words = text.split()
    made = engine.complete(["a b"], Settings(most=12, temperature=0, stop=(words[2],)))[0]  # a token of its own
    first = words.index(words[2])
    assert made.finish == "stop" and made.text.split() == words[:first] and made.tokens == first + 1
    pair = f"{words[3]} {words[4]}"  # two tokens: only in the text
    made = engine.complete(["a b"], Settings(most=12, temperature=0, stop=(pair,)))[0]
    assert made.finish == "stop" and made.text == text[: text.index(pair)]
    assert engine.text([3], engine.ids("b c")) == " b c"


def test_it_is_what_state_machines_ask():
    engine = Local(MODELS["llama"], TOKENIZER)
    ask = engine.asked(Settings(most=6, temperature=0))
    made = ask(["a", "b c"], stop="</tag>")
    assert [reply.tokens for reply in made] == [len(reply.ids) for reply in made]
    assert made[0]._replace(text="x").text == "x"


def test_samples_are_drawn_anew_and_seeds_repeat_them():
    def made(seed, calls):
        engine = Local(MODELS["gpt2"], TOKENIZER, seed=seed)
        return [[c.ids for c in engine.complete([[3]] * 8, Settings(most=6, temperature=3))] for _ in range(calls)]

    first = made(0, 2)
    assert first == made(0, 2) and first[0] != first[1] and first != made(1, 2)


def test_bad_input_is_one_line(tmp_path):
    engine = Local(MODELS["llama"], TOKENIZER)
    with pytest.raises(TychoError, match="a prompt is empty"):
        engine.complete([""], Settings())
    with pytest.raises(TychoError, match="no language model at"):
        connect(str(tmp_path / "nothing"))


def test_the_common_beginning():
    assert _common([[1, 2, 3], [1, 2], [1, 2, 4]]) == 2
    assert _common([[1], [2]]) == 0 and _common([[5, 6]]) == 2
