"""Confidence measures against plain loops over tokens and windows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.deepconf.confidence import (
    Measure,
    Ragged,
    group_means,
    paper_measures,
    prefix_sums,
    returned_confidence,
    score,
    token_confidence,
)

POOLS = st.lists(st.lists(st.floats(0, 40), min_size=1, max_size=40), min_size=1, max_size=8)


def groups(trace: list[float], window: int) -> list[float]:
    if len(trace) < window:
        return [math.fsum(trace) / len(trace)]
    return [math.fsum(trace[i : i + window]) / window for i in range(len(trace) - window + 1)]


def by_loop(trace: list[float], window: int) -> dict[str, float]:
    means = groups(trace, window)

    def lowest(share: float) -> float:
        count = max(1, int(share * len(means)))
        return math.fsum(sorted(means)[:count]) / count

    tenth = max(1, int(0.1 * len(trace)))
    return {
        "mean": math.fsum(trace) / len(trace),
        "lowest": min(means),
        "bottom10%": lowest(0.1),
        "bottom50%": lowest(0.5),
        "tail": math.fsum(trace[-window:]) / min(window, len(trace)),
        "tail10%": math.fsum(trace[-tenth:]) / tenth,
        "head10%": math.fsum(trace[:tenth]) / tenth,
    }


@given(POOLS, st.integers(1, 12))
def test_measures_are_the_plain_loops(traces: list[list[float]], window: int) -> None:
    found = score(Ragged.of(traces), paper_measures(window))
    for row, trace in enumerate(traces):
        for name, value in by_loop(trace, window).items():
            assert found[name][row] == pytest.approx(value, rel=1e-12, abs=1e-12), name


@given(POOLS, st.integers(1, 12))
def test_a_trace_scores_the_same_bits_alone_and_in_a_batch(traces: list[list[float]], window: int) -> None:
    measures = {name: m for name, m in paper_measures(window).items() if m.kind != "bottom"}
    together = score(Ragged.of(traces), measures)
    for row, trace in enumerate(traces):
        alone = score(Ragged.of([trace]), measures)
        assert all(alone[name][0] == together[name][row] for name in measures)


def test_blocks_of_many_lengths_are_the_plain_loops() -> None:
    """Long enough for several blocks, and for floor(0.1 G) to differ within one."""
    rng = np.random.default_rng(0)
    traces = [rng.gamma(4, 3, size).tolist() for size in rng.integers(1, 3000, 300)]
    assert sum(1 for _ in prefix_sums(Ragged.of(traces))) > 1
    found = score(Ragged.of(traces), paper_measures(64))
    for row in range(0, 300, 17):
        for name, value in by_loop(traces[row], 64).items():
            assert found[name][row] == pytest.approx(value, rel=1e-12), name


@given(st.lists(st.floats(-30, 0), min_size=1, max_size=30), st.integers(1, 25))
def test_token_confidence_is_the_mean_of_the_k_most_likely(logprobs: list[float], k: int) -> None:
    best = sorted(logprobs, reverse=True)[:k]
    assert token_confidence(logprobs, k) == pytest.approx(-sum(best) / len(best), rel=1e-12, abs=1e-12)


def test_token_confidence_of_known_distributions() -> None:
    """A uniform distribution over V tokens has C = ln V; the more peaked, the higher."""
    assert token_confidence(np.full((3, 50), -math.log(50))) == pytest.approx([math.log(50)] * 3)
    rows = np.log(np.array([[0.25, 0.25, 0.25, 0.25], [0.97, 0.01, 0.01, 0.01]]))
    flat, peaked = token_confidence(rows)
    assert flat == pytest.approx(math.log(4)) and peaked == pytest.approx(-np.log([0.97, 0.01, 0.01, 0.01]).mean())
    assert peaked > flat


def test_what_a_server_returns_is_read_in_three_ways() -> None:
    """The paper and online code average the top k, offline code the sampled token too, the appendix all but it."""
    top = np.array([[-0.1, -3.0, -4.0], [-0.1, -3.0, -4.0]])
    sampled, inside = np.array([-3.0, -9.0]), np.array([True, False])
    read = {name: returned_confidence(top, sampled, inside, name) for name in ("top_k", "returned", "drop_sampled")}
    assert read["top_k"] == pytest.approx([7.1 / 3, 7.1 / 3])
    assert read["returned"] == pytest.approx([7.1 / 3, 16.1 / 4])  # equal only where the sampled token is in the top k
    assert read["drop_sampled"] == pytest.approx([4.1 / 2, 7.1 / 3])
    assert (returned_confidence(top, sampled, inside) == read["top_k"]).all()


def test_within_the_first_window_mean_tail_bottom_and_lowest_are_one_number() -> None:
    """The public voting code keeps 2048 whatever window was asked for: short traces then have one score."""
    rng = np.random.default_rng(1)
    pool = Ragged.of([rng.gamma(4, 3, size) for size in (5, 90, 2048)])
    fixed = score(pool, paper_measures(2048))
    for name in ("lowest", "bottom10%", "bottom50%", "tail"):
        assert (fixed[name] == fixed["mean"]).all()
    chosen = score(pool, paper_measures(16))
    assert len({chosen[name][1] for name in ("mean", "lowest", "bottom10%", "tail")}) == 4


def test_rounding_to_three_decimals_moves_traces_over_the_bar() -> None:
    """Public offline code rounds tokens and group means; its post-hoc marks then differ from the online rule."""
    pool = Ragged.of([[1.0, 1.0008], [1.0, 1.0006]])
    measure = {"lowest": Measure("lowest", 2)}
    exact, rounded = score(pool, measure)["lowest"], score(pool, measure, decimals=3)["lowest"]
    assert exact == pytest.approx([1.0004, 1.0003], rel=1e-12)
    assert rounded[0] == rounded[1] == 1.0  # both tokens round to 1.001, their mean to 1.0005 and to even
    assert (exact < 1.00035).tolist() == [False, True] and (rounded < 1.00035).all()


def test_the_public_running_sum_drifts_by_less_than_a_billionth() -> None:
    """Online code keeps one sum and never sums anew; ours are prefix sums."""
    rng = np.random.default_rng(2)
    trace = rng.gamma(4, 3, 30_000)
    ((_, sums, lengths),) = prefix_sums(Ragged.of([trace]))
    running, kept = 0.0, []
    for place, value in enumerate(trace):
        running += value - (trace[place - 2048] if place >= 2048 else 0.0)
        kept.append(running / 2048)
    found = group_means(sums, lengths, 2048)[0]
    direct = [math.fsum(trace[i : i + 2048]) / 2048 for i in range(0, len(found), 997)]
    assert np.abs(found[::997] - direct).max() < 1e-10
    assert np.abs(found - kept[2047:]).max() < 1e-9


def test_a_trace_without_tokens_scores_nan_and_zero_in_the_public_code() -> None:
    pool = Ragged.of([[], [3.0, 5.0], []])
    measures = paper_measures(2)
    assert all(np.isnan(values[[0, 2]]).all() and values[1] > 0 for values in score(pool, measures).values())
    assert score(pool, measures, empty=0.0)["lowest"].tolist() == [0.0, 4.0, 0.0]


def test_bad_input_is_refused_with_its_place() -> None:
    with pytest.raises(ValueError, match="trace 2 has a confidence that is not finite"):
        score(Ragged.of([[1.0], [], [2.0, math.nan]]), paper_measures())
    with pytest.raises(ValueError, match="lacks a window"):
        score(Ragged.of([[1.0]]), {"x": Measure("lowest")})
    with pytest.raises(ValueError, match="window >= 1"):
        score(Ragged.of([[1.0]]), {"x": Measure("tail", 0)})
    with pytest.raises(ValueError, match="kind 'botom'"):
        score(Ragged.of([[1.0]]), {"x": Measure("botom", 4, 0.1)})
    with pytest.raises(ValueError, match="at least one log-prob"):
        token_confidence(np.zeros((4, 0)))
    with pytest.raises(ValueError, match="3 tokens in all lengths"):
        Ragged(np.zeros(2), np.array([3]))


@settings(max_examples=30)
@given(POOLS, st.data())
def test_taking_rows_keeps_their_values(traces: list[list[float]], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(traces) - 1), max_size=6))
    assert [row.tolist() for row in Ragged.of(traces).take(rows)] == [traces[row] for row in rows]
