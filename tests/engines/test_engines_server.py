"""The HTTP back end against a real server that misbehaves on demand."""

from __future__ import annotations

import time

import numpy as np
import pytest
from faulty import CHUNKS, Faulty

from tycho.engines import Settings
from tycho.engines.server import Server
from tycho.errors import TychoError

ASKED = Settings(most=16, top_logprobs=3)
TEXT = "".join(text for text, _ in CHUNKS)


@pytest.fixture(scope="module")
def faulty():
    with Faulty() as server:
        yield server


@pytest.fixture
def engine(faulty):
    return Server(faulty.url, tries=3, pause=0.01, patience=1.0)


def test_what_it_writes_and_how_sure_it_was(faulty, engine):
    assert engine.name == "small"  # the only one it serves
    made = engine.complete(["good morning", "good evening"], ASKED)
    for completion in made:
        assert completion.text == TEXT and completion.tokens == 4 and completion.finish == "eos"
        assert np.array_equal(completion.top_logprobs, [row for _, row in CHUNKS])
    body = faulty.bodies[-1]
    assert body["logprobs"] == 3 and body["max_tokens"] == 16 and body["stream"] is True and "seed" not in body


def test_chat_servers_and_token_ids(faulty):
    chat = Server(faulty.url, "small", chat=True, extra={"min_p": 0.1})
    made = chat.complete(["good morning"], Settings(most=16, top_logprobs=3, top_k=20, stop=("#",)))[0]
    assert made.text == TEXT and made.finish == "stop" and made.top_logprobs.shape == (4, 3)
    body = faulty.bodies[-1]
    assert body["top_logprobs"] == 3 and body["logprobs"] is True and body["min_p"] == 0.1 and body["top_k"] == 20
    assert Server(faulty.url).complete([[1, 2, 3]], ASKED)[0].text == TEXT
    with pytest.raises(TychoError, match="a chat server takes text"):
        chat.stream([[1, 2, 3]], ASKED)


def test_a_drawn_token_outside_the_top_is_left_out(engine):
    made = engine.complete(["extra"], ASKED)[0]
    assert np.array_equal(made.top_logprobs, [row for _, row in CHUNKS])
    wide = engine.complete(["good"], Settings(top_logprobs=5))[0].top_logprobs
    assert np.isnan(wide[:, 3:]).all() and not np.isnan(wide[:, :3]).any()


@pytest.mark.parametrize("mode", ["hole", "nan"])
def test_a_token_without_log_probs_is_nan_and_the_rest_is_kept(engine, mode):
    made = engine.complete([mode], ASKED)[0]
    assert made.text == TEXT and np.isnan(made.top_logprobs).all(axis=1).tolist() == [False, True, False, False]


def test_a_server_that_does_not_tell_why_it_stopped(engine):
    assert engine.complete(["plain"], Settings(stop=("#",)))[0].finish == "eos"
    made = engine.complete(["plain"], Settings(stop=(" three",)))[0]
    assert made.finish == "stop" and made.text == "one two"


def test_requests_at_once_are_bounded(faulty):
    faulty.most_at_once = 0
    Server(faulty.url, concurrency=5).complete(["good"] * 40, ASKED)
    assert 2 <= faulty.most_at_once <= 5


def test_closing_a_stream_aborts_the_request(faulty, engine):
    seen, ended = {0: 0, 1: 0}, False
    with engine.stream(["endless story", "good"], ASKED) as stream:
        for step in stream:
            row = int(step.rows[0])
            assert not (row == 0 and ended)
            seen[row] += 1
            if seen[0] == 6 and not ended:
                stream.abort([0])
                ended = True
    first, second = stream.completions
    assert first.finish == "abort" and first.tokens == 6 == len(first.top_logprobs)
    assert second.finish == "eos" and second.text == TEXT
    until = time.monotonic() + 5
    while not faulty.aborted["endless"] and time.monotonic() < until:
        time.sleep(0.02)
    assert faulty.aborted["endless"] == 1


def test_leaving_the_block_ends_everything(engine):
    with engine.stream(["endless a", "endless b"], ASKED) as stream:
        next(iter(stream))
    assert [made.finish for made in stream.completions] == ["abort", "abort"]
    assert not stream._thread.is_alive()


@pytest.mark.parametrize(
    ("mode", "says", "tries"),
    [
        ("500", r"answered 500 Status \(the engine is dead\), after 3 tries", 3),
        ("429", r"answered 429 Status \(slow down\), after 3 tries", 3),
        ("400", r"answered 400 Status \(top_logprobs is too large\)$", 1),
        ("nothing", r"cannot be reached \(.*\), after 3 tries", 3),
        ("silent", r"sent nothing for 0.3 s, after 3 tries", 3),
        ("empty", r"sent an empty answer, after 3 tries", 3),
        ("error", r"broke off \(.*EngineCore encountered an issue", 1),
        ("html", r"sent what is no completion \('<html>a proxy", 1),
        ("garbage", r"sent what is no completion \('\{not json'\)", 1),
        ("nologprobs", r"sends no log-probs: start it with them", 1),
    ],
)
def test_a_bad_answer_is_one_clear_line(faulty, mode, says, tries):
    engine = Server(faulty.url, "small", tries=3, pause=0.01, patience=0.3)
    before = faulty.asked[mode]
    with pytest.raises(TychoError, match=says) as found:
        engine.complete([mode], ASKED)
    assert "\n" not in str(found.value) and faulty.url in str(found.value)
    assert faulty.asked[mode] - before == tries


def test_a_passing_trouble_passes(faulty, engine):
    assert engine.complete(["busy"], ASKED)[0].text == TEXT
    assert faulty.asked["busy"] == 3


def test_a_server_that_dies_costs_only_the_unfinished(engine):
    made = engine.complete(["good", "dies", "unfinished", "good"], ASKED)
    assert [completion.finish for completion in made] == ["eos", "error", "error", "eos"]
    assert made[1].text == "one two" and made[1].tokens == 2 and "broke off in the middle" in made[1].error
    assert made[2].tokens == 4 and "without a finish reason" in made[2].error


def test_once_the_server_is_gone_the_rest_is_not_tried():
    engine = Server("http://127.0.0.1:9", "small", concurrency=1, tries=3, pause=0.05, patience=1.0)
    start = time.monotonic()
    with pytest.raises(TychoError, match="cannot be reached"):
        engine.complete(["good"] * 200, ASKED)
    assert time.monotonic() - start < 5


def test_no_server_at_all_is_one_clear_line():
    with pytest.raises(TychoError, match=r"127.0.0.1:9/v1 does not say what it serves .*is a server there"):
        Server("http://127.0.0.1:9", patience=1.0)
