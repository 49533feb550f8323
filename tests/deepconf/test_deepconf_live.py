"""Algorithm 2 on engines: in process against the replay of whole traces, over HTTP against servers that fail."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from methods.deepconf.confidence import Ragged
from methods.deepconf.live import confidence_of, disagreement, think
from methods.deepconf.online import Policy, replay
from tycho.engines import Settings
from tycho.engines.local import Local
from tycho.engines.server import Server
from tycho.errors import TychoError
from tycho.lm import small
from tycho.lm.vocabulary import Vocabulary

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))
from faulty import Faulty

WORDS = Vocabulary((*"abcdefgh", "[A]"))
PROMPTS = ["a b", "c d e", "f"]
BUDGET = 14


@pytest.fixture(scope="module")
def engine():
    model = small.build(WORDS, family="llama", width=32, heads=2).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(5 if weight.ndim > 1 else 1)
    return Local(model, WORDS.tokenizer(), rows=16)


def last(text: str) -> str | None:
    return text.split()[-1] if text.split() else None


@pytest.mark.parametrize("eta", [10.0, 50.0, 90.0])
def test_a_live_run_stops_where_the_replay_of_whole_traces_stops(engine, eta):
    """The same random numbers: the live traces are the pool's up to where they are stopped."""
    settings = Settings(most=16, temperature=1.2, top_logprobs=5)
    noise = torch.rand(3, BUDGET, 16, generator=torch.Generator().manual_seed(0))
    policy = Policy(eta=eta, warmup=5, window=3, tau=None)
    stopped = 0
    for place, live in enumerate(think(engine, PROMPTS, BUDGET, settings, policy, last, k=5, key=None, noise=noise)):
        with engine.stream([PROMPTS[place]] * BUDGET, settings, noise[place]) as stream:
            for _ in stream:
                pass
        whole = stream.completions
        confidences = Ragged.of([confidence_of(made.top_logprobs, 5) for made in whole])
        answers = [last(made.text) for made in whole]
        spelled = list(dict.fromkeys(filter(None, answers)))
        codes = np.array([spelled.index(answer) if answer else -1 for answer in answers])
        expected = replay(confidences, codes, np.arange(BUDGET)[None], policy)
        assert live.stops == expected.stops[0].tolist() and live.tokens == expected.tokens[0]
        code = int(expected.outcome.answer[0])
        assert live.answer == (spelled[code] if code >= 0 else None)
        assert live.bar == pytest.approx(expected.bar[0], abs=1e-4) and disagreement(live, policy) == 0
        for made, full in zip(live.completions, whole, strict=True):
            assert made.ids == full.ids[: made.tokens]
        stopped += sum(stop > 0 for stop in live.stops)
    assert stopped > 0


@pytest.mark.parametrize("eta", [10.0, 90.0])
def test_traces_that_tie_with_the_bar_stop_alike_in_any_batch(engine, eta):
    """Cold samples of one question are mostly equal, so the bar is a score of theirs; other batches round it otherwise."""
    settings = Settings(most=12, temperature=0.2, top_logprobs=5)
    noise = torch.rand(3, 40, 12, generator=torch.Generator().manual_seed(0))
    policy = Policy(eta=eta, warmup=8, window=3, tau=None)
    for rows in (16, 256):
        wide = Local(engine.model, engine.tokenizer, rows=rows)
        with wide.stream([prompt for prompt in PROMPTS for _ in range(40)], settings, noise.flatten(0, 1)) as stream:
            for _ in stream:
                pass
        for place, live in enumerate(think(wide, PROMPTS, 40, settings, policy, last, k=5, key=None, noise=noise)):
            whole = stream.completions[place * 40 : (place + 1) * 40]
            confidences = Ragged.of([confidence_of(made.top_logprobs, 5) for made in whole])
            expected = replay(confidences, np.zeros(40, dtype=int), np.arange(40)[None], policy)
            assert live.stops == expected.stops[0].tolist() and disagreement(live, policy) == 0


def test_consensus_ends_a_question_after_a_wave(engine):
    settings = Settings(most=16, temperature=1.2)
    policy = Policy(warmup=4, window=3, tau=0.5)
    one = think(engine, PROMPTS, 12, settings, policy, lambda text: "always", k=5, wave=2)
    assert [len(live.completions) for live in one] == [6, 6, 6] and all(live.share == 1 for live in one)
    every = think(engine, PROMPTS, 12, settings, Policy(warmup=4, window=3, tau=None), lambda text: "always", k=5)
    assert [len(live.completions) for live in every] == [12] * 3
    assert every[0].sequential_tokens <= 32 < every[0].tokens


def test_a_budget_within_the_warm_up_is_refused(engine):
    with pytest.raises(TychoError, match="a budget of 4 traces leaves none behind a warm-up of 4"):
        think(engine, PROMPTS, 4, Settings(), Policy(warmup=4), last)


def test_no_answer_at_all(engine):
    live = think(engine, ["a"], 6, Settings(most=4), Policy(warmup=3, window=2), lambda text: None, k=5)[0]
    assert live.answer is None and live.ballots == 0 and live.tokens > 0


def test_fewer_log_probs_than_asked_for():
    rows = np.array([[-1.0, -2.0, -3.0], [-1.0, -4.0, np.nan]])
    assert confidence_of(rows, 3).tolist() == [2.0, 2.5]
    rows = np.array([[-1.0, -2.0, -3.0], [np.nan] * 3, [-1.0, -3.0, -np.inf]])
    assert np.array_equal(confidence_of(rows, 3), [2.0, np.nan, 2.0], equal_nan=True)


@pytest.fixture(scope="module")
def faulty():
    with Faulty() as server:
        yield server


def test_failed_traces_cost_themselves_only(faulty):
    """One question's server path works, the other's dies after two tokens: its traces do not vote, and say why."""
    engine = Server(faulty.url, "small", tries=2, pause=0.01, patience=1.0)
    policy = Policy(warmup=3, window=2, tau=None, fallback=True)
    good, dead = think(engine, ["good", "dies"], 6, Settings(most=16), policy, last, k=3)
    assert good.answer == "three" and not good.problems and len(good.completions) == 6
    assert dead.answer is None and len(dead.problems) == 4 and "broke off in the middle" in dead.problems[0]
    assert all(made.tokens == 2 for made in dead.completions)  # what was collected is kept


@pytest.mark.parametrize("mode", ["hole", "nan"])
def test_a_trace_with_a_token_without_log_probs_has_no_ballot_by_confidence(faulty, mode):
    engine = Server(faulty.url, "small", tries=2, pause=0.01, patience=1.0)
    policy = Policy(warmup=3, window=2, tau=None, fallback=True)
    good, live = think(engine, ["good", mode], 5, Settings(most=16), policy, last, k=3)
    assert good.answer == live.answer == "three" and good.ballots == 5
    assert np.isnan(live.lowest).all() and [len(row) for row in live.confidences] == [1] * 3
    assert len(live.problems) == 4 and "a token came without log-probs" in live.problems[0]
    assert disagreement(live, policy) == 0


@pytest.mark.parametrize(
    ("mode", "says"),
    [("500", "answered 500"), ("429", "answered 429"), ("garbage", "no completion"), ("nothing", "cannot be reached"),
     ("nologprobs", "no log-probs"), ("empty", "an empty answer"), ("error", "EngineCore encountered")],
)  # fmt: skip
def test_a_server_that_never_answers_is_one_line(faulty, mode, says):
    engine = Server(faulty.url, "small", tries=2, pause=0.01, patience=1.0)
    with pytest.raises(TychoError, match=says) as found:
        think(engine, [mode], 6, Settings(most=16), Policy(warmup=3, window=2), last, k=3)
    assert "\n" not in str(found.value)
