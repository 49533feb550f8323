"""Algorithm 2 against a trace-by-trace, token-by-token transcription, and what each named option changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.deepconf.confidence import TIE, Measure, Ragged, score
from methods.deepconf.online import (
    MODES,
    Policy,
    Replay,
    StopRule,
    consensus_only,
    decide,
    first_below,
    kept_share,
    majority_at_tokens,
    random_stop,
    replay,
    shuffled,
    threshold,
)


@st.composite
def pools(draw: st.DrawFn) -> tuple[Ragged, np.ndarray]:
    """Traces whose confidences often tie exactly, some without an answer, some without tokens."""
    lengths = draw(st.lists(st.integers(0, 12), min_size=5, max_size=14).filter(lambda found: min(found[:3]) > 0))
    level = st.sampled_from([1.0, 2.0, 2.5]) | st.floats(0, 9)
    rows = [draw(st.lists(level, min_size=size, max_size=size)) for size in lengths]
    return Ragged.of(rows), np.array(draw(st.lists(st.integers(-1, 3), min_size=len(rows), max_size=len(rows))))


def transcription(traces: list[list[float]], codes: list[int], policy: Policy) -> tuple[int, int, int, list[int]]:
    """Algorithm 2 in plain Python: answer, tokens, traces started, stop positions. No vectors, no prefix tricks."""
    n, W = policy.window, policy.warmup

    def lowest(trace: list[float]) -> float:
        sums = np.cumsum([0.0, *trace]).tolist()
        if len(trace) < n:
            return sums[-1] / len(trace) if trace else float("nan")
        return min((sums[t] - sums[t - n]) / n for t in range(n, len(sums)))

    bar = float(np.percentile([lowest(trace) for trace in traces[:W] if trace], 100 - policy.eta)) - policy.tie
    votes: dict[int, float] = {}
    tokens, stops, ballots = sum(map(len, traces[:W])), [0] * W, 0

    def ballot(place: int) -> None:
        nonlocal ballots
        if codes[place] >= 0:
            weight = lowest(traces[place]) if policy.weighted else 1.0
            votes[codes[place]] = votes.get(codes[place], 0.0) + weight
            ballots += 1

    def agreed() -> bool:
        total = sum(votes.values())
        return policy.tau is not None and ballots > 0 and total > 0 and max(votes.values()) / total >= policy.tau

    for place in range(W):
        if lowest(traces[place]) >= bar:
            ballot(place)
    if not (policy.check_after_warmup and agreed()):
        for place in range(W, len(traces)):
            trace, total, sums, stop = traces[place], 0.0, [0.0], 0
            for t, value in enumerate(trace, 1):
                total += value
                sums.append(total)
                if t >= n and (sums[t] - sums[t - n]) / n < bar:
                    stop = t
                    break
            stops.append(stop)
            tokens += stop or len(trace)
            if not stop and trace and not (policy.short == "drop" and lowest(trace) < bar):
                ballot(place)
            if agreed():
                break
    return (max(votes, key=votes.__getitem__) if votes else -1), tokens, len(stops), stops


POLICIES = st.builds(
    Policy,
    eta=st.sampled_from([10.0, 50.0, 90.0]),
    warmup=st.integers(1, 4),
    window=st.integers(1, 5),
    tau=st.sampled_from([None, 0.5, 0.95]),
    weighted=st.booleans(),
    short=st.sampled_from(["keep", "drop"]),
    check_after_warmup=st.booleans(),
    tie=st.sampled_from([0.0, TIE]),
)


@settings(max_examples=120)
@given(pools(), POLICIES, st.randoms(use_true_random=False))
def test_replay_is_the_transcription_over_many_orders_at_once(pool, policy: Policy, random) -> None:
    confidences, codes = pool
    traces = [row.tolist() for row in confidences]
    orders = []
    for _ in range(4):
        order = list(range(len(traces)))
        random.shuffle(order)
        if any(traces[row] for row in order[: policy.warmup]):
            orders.append(order)
    if not orders:
        orders = [list(range(len(traces)))]
    found = replay(confidences, codes, np.array(orders), policy)
    for place, order in enumerate(orders):
        answer, tokens, started, stops = transcription([traces[r] for r in order], codes[order].tolist(), policy)
        assert found.tokens[place] == tokens and found.traces[place] == started
        assert found.stops[place, :started].tolist() == stops
        assert found.outcome.answer[place] == answer


@settings(max_examples=80)
@given(pools(), st.integers(1, 5), st.floats(0, 9))
def test_the_streaming_rule_stops_where_the_replay_stops(pool, window: int, bar: float) -> None:
    """Bit for bit: also where a window's mean equals the bar."""
    confidences, _ = pool
    traces = list(confidences)
    lowest = score(confidences, {"l": Measure("lowest", window)})["l"]
    for s in {bar, *lowest[~np.isnan(lowest)].tolist()}:
        rule, stops = StopRule(s, window, len(traces)), np.zeros(len(traces), dtype=int)
        for t in range(max(confidences.lengths)):
            rows = [row for row in range(len(traces)) if t < len(traces[row]) and not stops[row]]
            if rows:
                halt = rule.push(np.array([traces[row][t] for row in rows]), rows)
                stops[np.array(rows)[halt]] = t + 1
        assert stops.tolist() == first_below(confidences, s, window)[0].tolist()
        whole = stops == 0
        assert np.array_equal(rule.lowest[whole], lowest[whole], equal_nan=True)


@settings(max_examples=60)
@given(pools(), POLICIES)
def test_a_live_run_decides_as_the_replay_of_its_traces(pool, policy: Policy) -> None:
    """Token by token with what an engine knows at that moment: stopped traces have the scores of their stumps."""
    confidences, codes = pool
    traces, W, K = list(confidences), policy.warmup, len(confidences)
    warm = StopRule(-np.inf, policy.window, W)
    for row in range(W):
        for value in traces[row]:
            warm.push([value], [row])
    if np.isnan(warm.lowest).all():
        return
    bar = threshold(warm.lowest, policy.eta, policy.tie)
    later, stops, lengths = StopRule(bar, policy.window, K - W), np.zeros(K, dtype=int), np.zeros(K, dtype=int)
    lengths[:W] = warm.count
    for row in range(W, K):
        for value in traces[row]:
            lengths[row] += 1
            if later.push([value], [row - W])[0]:
                stops[row] = lengths[row]
                break
    lowest = np.concatenate([warm.lowest, later.lowest])
    kept = np.where((np.arange(K) >= W) & (policy.short == "keep"), ~np.isnan(lowest) & (stops == 0), lowest >= bar)
    live = decide(codes[None], lowest[None], kept[None], stops[None], lengths[None], bar[None], policy)
    again = replay(confidences, codes, np.arange(K)[None], policy)
    for mine, theirs in zip((*live.outcome, *live[1:]), (*again.outcome, *again[1:]), strict=True):
        assert np.array_equal(mine, theirs, equal_nan=True)


def test_the_stop_is_strict_and_costs_the_windows_last_token() -> None:
    pool = Ragged.of([[4.0, 2.0, 2.0, 4.0], [4.0, 2.0, 1.9, 4.0], [0.0]])
    assert first_below(pool, [2.0, 3.0, 3.1], 2).tolist() == [[0, 3, 0], [3, 3, 0], [2, 2, 0]]


def test_a_trace_as_sure_as_the_bar_is_not_below_it_whatever_the_batch_rounds() -> None:
    """Forty times the same tokens, as float32 reads them in batches of other sizes: one rule for all of them."""
    rng = np.random.default_rng(0)
    traces = np.array([5.0, 3.0, 2.0, 4.0]) + rng.uniform(-3e-6, 3e-6, (40, 4))
    pool, codes, order = Ragged.of([*traces, [5.0, 2.0, 1.9, 4.0]]), np.zeros(41, dtype=int), np.arange(41)[None]
    for eta in MODES.values():
        policy = Policy(eta=eta, warmup=4, window=2, tau=None)
        found = replay(pool, codes, order, policy)
        assert found.stops[0].tolist() == [0] * 40 + [3] and found.kept[0].tolist() == [True] * 40 + [False]
        bare = replay(pool, codes, order, replace(policy, tie=0.0))
        assert found.bar[0] == bare.bar[0] - TIE
        assert 0 < (bare.stops[0, 4:40] > 0).sum() < 36  # the bare comparison stops some of them


def test_low_and_high_sit_between_the_published_ranks_of_sixteen() -> None:
    """Linear interpolation: the 90th percentile of 16 sorted values is at index 13.5, the 10th at 1.5."""
    lowest = np.arange(16.0)
    assert threshold(lowest, MODES["low"], 0.0) == 13.5 and threshold(lowest, MODES["high"], 0.0) == 1.5
    with pytest.raises(ValueError, match="no warm-up trace"):
        threshold([np.nan, np.nan], 10)


def test_one_percentile_means_low_in_one_public_script_and_high_in_the_other() -> None:
    lowest = np.arange(16.0)
    assert threshold(lowest, kept_share(90, "reproduce"), 0.0) == np.percentile(lowest, 90)  # DeepConf-low
    assert threshold(lowest, kept_share(90, "package"), 0.0) == np.percentile(lowest, 10)  # DeepConf-high, its default
    assert kept_share(10, "package") == kept_share(90, "reproduce") == kept_share(10) == MODES["low"]
    with pytest.raises(ValueError, match="paper, reproduce, package"):
        kept_share(10, "readme")


def constant(levels: list[float], length: int = 4) -> Ragged:
    return Ragged.of([[level] * length for level in levels])


def run(pool: Ragged, codes: list[int], **options) -> Replay:
    return replay(pool, codes, np.arange(len(codes))[None], Policy(**{"window": 2, "warmup": 2, "tau": None} | options))


def test_no_adaptive_end_in_public_code() -> None:
    pool, codes = constant([5.0] * 8), [1] * 8
    public, paper = run(pool, codes), run(pool, codes, tau=0.95)
    assert public.traces == 8 and public.tokens == 32
    assert paper.traces == 3 and paper.tokens == 12  # after the first later trace
    assert run(pool, codes, tau=0.95, check_after_warmup=True).traces == 2


def test_a_short_finished_trace_is_kept_by_the_paper_and_dropped_by_the_code() -> None:
    pool = Ragged.of([[5.0] * 4, [5.0] * 4, [1.0], [1.0], [1.0]])
    codes = [0, 0, 1, 1, 1]
    paper, code = run(pool, codes, weighted=False), run(pool, codes, weighted=False, short="drop")
    assert paper.stops.sum() == code.stops.sum() == 0 and paper.tokens == code.tokens == 11
    assert paper.outcome.answer == 1 and code.outcome.answer == 0


def test_weighted_and_plain_votes_of_survivors_differ() -> None:
    pool, codes = constant([9.0, 3.0, 3.1, 3.2]), [0, 1, 1, 1]
    options = {"eta": 100.0}
    assert run(pool, codes, **options, weighted=False).outcome.answer == 1
    assert run(pool, codes, **options).outcome.answer == 1
    heavier = constant([10.0, 3.0, 3.1, 3.2])
    assert run(heavier, codes, **options).outcome.answer == 0


def test_a_floor_cures_one_ballot_that_agrees_with_itself() -> None:
    """The bar admits one of two warm-up traces; that ballot alone has beta = 1."""
    pool, codes = constant([9.0, 5.0, 1.0, 8.9, 8.8, 8.7]), [7, 3, 3, 3, 3, 3]
    published = run(pool, codes, tau=0.95)
    assert published.traces == 3 and published.outcome.answer == 7 and published.outcome.ballots == 1
    floored = run(pool, codes, tau=0.95, floor=3)
    assert floored.traces == 6 and floored.outcome.ballots == 4 and floored.outcome.answer == 3


def test_a_floor_is_filled_up_with_the_best_finished_traces() -> None:
    pool, codes = constant([9.0, 5.0, 6.0, 1.0, 1.0]), [7, 3, 3, 2, 2]
    options = {"warmup": 3, "eta": 10.0}
    assert run(pool, codes, **options).outcome.ballots == 1
    found = run(pool, codes, **options, floor=4)  # every later trace was stopped: three finished ones are all there is
    assert found.outcome.ballots == 3 and found.outcome.answer == 3
    assert run(pool, codes, **options, floor=2).outcome.share == pytest.approx(9 / 15)  # the best barred one is 6.0


def test_a_fallback_cures_the_pool_in_which_only_barred_traces_have_answers() -> None:
    pool, codes = constant([9.0, 5.0, 1.0, 1.0]), [-1, 3, 2, 2]
    assert run(pool, codes).outcome.answer == -1
    mended = run(pool, codes, fallback=True)
    assert mended.outcome.answer == 3 and mended.outcome.fell_back  # a stopped trace has no answer to fall back on


def test_traces_without_an_answer_cost_tokens_and_have_no_ballot() -> None:
    found = run(constant([5.0] * 4), [-1, -1, 2, -1])
    assert found.tokens == 16 and found.outcome.ballots == 1 and found.outcome.answer == 2


def test_too_few_traces_are_refused() -> None:
    with pytest.raises(ValueError, match="2 traces, warm-up 2"):
        run(constant([1.0, 1.0]), [0, 0])


# --- controls --------------------------------------------------------------------------------------------------------


def pilot(seed: int, R: int = 96, answers: int = 4) -> tuple[Ragged, np.ndarray]:
    """Confident traces answer 0, unsure ones anything; lengths differ."""
    rng = np.random.default_rng(seed)
    sure = rng.random(R) < 0.3
    codes = np.where(sure | (rng.random(R) < 0.2), 0, rng.integers(1, answers, R))
    codes[rng.random(R) < 0.05] = -1
    rows = [rng.gamma(20, 0.5, size) + 3 * s for s, size in zip(sure, rng.integers(20, 60, R), strict=True)]
    return Ragged.of(rows), codes


POLICY = Policy(window=8, warmup=8, tau=None)


def orders_of(seed: int, S: int, R: int = 96, K: int = 48) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(R)[:K] for _ in range(S)])


@pytest.mark.parametrize(("eta", "tau"), [(10.0, None), (10.0, 0.95), (90.0, None), (90.0, 0.8)])
def test_random_stopping_spends_exactly_the_same_tokens(eta: float, tau: float | None) -> None:
    (pool, codes), orders = pilot(0), orders_of(1, 32)
    policy = Policy(eta=eta, window=8, warmup=8, tau=tau)
    real = replay(pool, codes, orders, policy)
    control = random_stop(pool, codes, orders, real, policy, np.random.default_rng(2))
    assert (control.tokens == real.tokens).all()
    assert (control.traces == real.traces).all()
    lengths = pool.lengths[orders]
    assert (control.stops <= lengths).all() and (control.stops[:, :8] == 0).all()
    warm = slice(0, 8)
    assert (control.kept[:, warm].sum(1) == real.kept[:, warm].sum(1)).all()
    assert ((control.stops > 0).sum(1) >= (real.stops > 0).sum(1) - 1).all()


def test_random_stopping_with_equal_lengths_stops_equally_many() -> None:
    rng = np.random.default_rng(0)
    pool, codes = Ragged.of(rng.gamma(20, 0.5, (60, 30))), rng.integers(0, 4, 60)
    orders = orders_of(1, 16, 60, 40)
    real = replay(pool, codes, orders, POLICY)
    control = random_stop(pool, codes, orders, real, POLICY, rng)
    assert ((control.stops > 0).sum(1) == (real.stops > 0).sum(1)).all() and (control.tokens == real.tokens).all()


def test_confidence_beats_its_controls_where_it_is_informative_and_shuffling_takes_that_away() -> None:
    (pool, codes), orders = pilot(3), orders_of(4, 200)
    rng = np.random.default_rng(5)
    real = replay(pool, codes, orders, POLICY)
    random = random_stop(pool, codes, orders, real, POLICY, rng)
    dealt = np.stack([shuffled(codes, rng) for _ in range(200)])
    blind = [replay(pool, row, order[None], POLICY).outcome.answer[0] for row, order in zip(dealt, orders, strict=True)]
    right = {
        name: np.mean(np.asarray(a) == 0)
        for name, a in [("real", real.outcome.answer), ("random", random.outcome.answer), ("blind", blind)]
    }
    assert right["real"] > 0.95
    assert right["random"] < right["real"] - 0.05 and right["blind"] < right["real"] - 0.05


def test_shuffling_keeps_who_answered_and_the_answers() -> None:
    codes = np.array([[3, -1, 2, 2, -1, 0]])
    found = shuffled(codes, np.random.default_rng(0))
    assert ((found < 0) == (codes < 0)).all() and sorted(found[0]) == sorted(codes[0])
    assert codes.tolist() == [[3, -1, 2, 2, -1, 0]]


def test_consensus_only_counts_heads_until_tau() -> None:
    codes, lengths = np.array([1, 1, 0, 1, 1, 1, 1, 1]), np.full(8, 5)
    policy = Policy(window=2, warmup=2, tau=0.8)
    found = consensus_only(codes, lengths, np.arange(8)[None], policy)
    assert found.traces == 5 and found.tokens == 25  # shares 2/3, 3/4, 4/5
    assert found.outcome.answer == 1 and found.outcome.share == pytest.approx(0.8)


def test_majority_at_tokens_pays_for_whole_traces() -> None:
    codes, lengths = np.array([0, 1, 1, 1]), np.array([10, 10, 10, 10])
    orders = np.tile(np.arange(4), (3, 1))
    found = majority_at_tokens(codes, lengths, orders, [5, 29, 30])
    assert found.ballots.tolist() == [1, 2, 3] and found.answer.tolist() == [0, 0, 1]
