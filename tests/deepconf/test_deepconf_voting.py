"""Filtering and voting against dictionaries and numpy's own percentile."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from methods.deepconf.voting import Rule, keep_top, paper_rules, percentile, vote, vote_all

TRACE = st.tuples(st.integers(-1, 4), st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.7, 2.5]) | st.floats(0, 20))
SETS = st.integers(1, 12).flatmap(lambda K: st.lists(st.lists(TRACE, min_size=K, max_size=K), min_size=1, max_size=4))


def by_dictionary(codes: list[int], scores: list[float], rule: Rule) -> int:
    """The published vote: answered traces, percentile filter, sums by answer, first answer among the largest."""
    pool = [(code, value) for code, value in zip(codes, scores, strict=True) if code >= 0]
    if rule.keep is not None and pool:
        cut = np.percentile([value for _, value in pool], 100 - rule.keep)
        pool = [(code, value) for code, value in pool if value >= cut]
    votes: dict[int, float] = {}
    for code, value in pool:
        votes[code] = votes.get(code, 0.0) + (value if rule.weighted and rule.measure else 1.0)
    return max(votes, key=votes.__getitem__) if votes else -1


@given(SETS)
def test_every_rule_over_every_working_set_is_the_dictionary_vote(sets: list[list[tuple[int, float]]]) -> None:
    codes, scores = np.array([[c for c, _ in row] for row in sets]), np.array([[v for _, v in row] for row in sets])
    rules = paper_rules(["tail", "lowest"]) | {"survivors": Rule("tail", 10, weighted=False), "half": Rule("tail", 50)}
    found = vote_all(codes, {"tail": scores, "lowest": scores[:, ::-1]}, rules)
    assert set(found) == set(rules) and len(rules) == 9
    for name, rule in rules.items():
        own = scores[:, ::-1] if rule.measure == "lowest" else scores
        expected = [by_dictionary(c, v, rule) for c, v in zip(codes.tolist(), own.tolist(), strict=True)]
        assert found[name].answer.tolist() == expected, name


@given(SETS, st.sampled_from([0, 10, 25, 33.3, 50, 90, 100]))
def test_percentile_is_numpys_bit_for_bit(sets: list[list[tuple[int, float]]], q: float) -> None:
    values, valid = (
        np.array([[v for _, v in row] for row in sets]),
        np.array([[c >= 0 for c, _ in row] for row in sets]),
    )
    found = percentile(values, q, valid)
    for cut, row, mask in zip(found, values, valid, strict=True):
        assert np.isnan(cut) if not mask.any() else cut == np.percentile(row[mask], q)


def test_ten_percent_of_512_keeps_52_and_ties_at_the_cut_all_stay() -> None:
    rng = np.random.default_rng(0)
    assert keep_top(rng.random(512), 10).sum() == 52
    assert keep_top(rng.random(512), 90).sum() == 460
    assert keep_top([1.0, 2.0, 2.0, 2.0, 2.0], 10).tolist() == [False, True, True, True, True]


def test_the_cut_off_is_taken_anew_in_every_working_set() -> None:
    scores = np.array([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]])
    assert keep_top(scores, 50).tolist() == [[False, False, True, True]] * 2


def test_batched_axes_are_one_by_one() -> None:
    rng = np.random.default_rng(1)
    codes, scores = rng.integers(-1, 5, (3, 4, 30)), {"tail": rng.random((3, 4, 30))}
    rules = paper_rules(["tail"])
    whole = vote_all(codes, scores, rules)
    for place in np.ndindex(3, 4):
        alone = vote_all(codes[place], {"tail": scores["tail"][place]}, rules)
        for name in rules:
            for a, b in zip(whole[name], alone[name], strict=True):
                assert np.array_equal(a[place], b, equal_nan=True)


def test_equal_votes_go_to_the_answer_seen_first() -> None:
    """Counter.most_common and the first inserted key: the public code's tie-breaks."""
    codes = np.array([3, 1, 1, 3, 0])
    assert Counter(codes.tolist()).most_common(1)[0][0] == 3
    assert vote_all(codes, {}, {"majority": Rule()})["majority"].answer == 3
    assert vote(codes, [2.0, 1.0, 1.0, 0.0, 0.5], codes >= 0).answer == 3
    # The trace seen first need not be kept: then the first kept one counts.
    assert vote(codes, [2.0, 1.0, 1.0, 2.0, 0.5], [False, True, True, True, True]).answer == 1


def test_weighted_vote_and_the_packages_majority_of_survivors_differ() -> None:
    """The package overwrites the confidence-weighted answer by the plain majority of surviving traces."""
    codes, scores = np.array([0, 0, 1]), {"tail": np.array([1.0, 1.0, 5.0])}
    found = vote_all(codes, scores, {"paper": Rule("tail", 100), "package": Rule("tail", 100, weighted=False)})
    assert found["paper"].answer == 1 and found["package"].answer == 0
    assert found["paper"].share == pytest.approx(5 / 7) and found["paper"].ballots == 3


def test_nan_weights_have_no_ballot_where_the_public_code_lets_the_first_key_win() -> None:
    codes, scores = [0, 1, 1], [np.nan, 2.0, 3.0]
    public: dict[int, float] = {}
    for code, value in zip(codes, scores, strict=True):
        public[code] = public.get(code, 0.0) + value
    assert max(public, key=public.__getitem__) == 0  # every comparison with NaN is false
    assert vote_all(codes, {"tail": scores}, {"tail": Rule("tail")})["tail"].answer == 1


def test_a_floor_cures_the_bar_that_admits_one_wrong_ballot() -> None:
    codes = np.array([7, 3, 3, 3, 3, 2, 1, 6])
    scores = {"lowest": np.array([9.0, 8.0, 8.0, 8.0, 8.0, 1.0, 1.0, 1.0])}
    rule = {"top": Rule("lowest", 10)}
    published, floored = vote_all(codes, scores, rule)["top"], vote_all(codes, scores, rule, floor=4)["top"]
    assert published.answer == 7 and published.ballots == 1
    assert floored.answer == 3 and floored.ballots == 4
    assert keep_top([1.0, 1.0, 1.0, 5.0], 10, floor=3).tolist() == [True, True, False, True]
    assert keep_top([1.0, np.nan, 5.0], 10, floor=3).sum() == 2  # there are no more


def test_a_fallback_cures_the_empty_pool() -> None:
    codes, weights = np.array([[2, 4, 4], [-1, -1, -1]]), np.ones((2, 3))
    nothing = np.zeros((2, 3), dtype=bool)
    published, mended = vote(codes, weights, nothing), vote(codes, weights, nothing, fallback=True)
    assert published.answer.tolist() == [-1, -1] and np.isnan(published.share).all()
    assert mended.answer.tolist() == [4, -1] and mended.fell_back.tolist() == [True, False]
    everyone_silent = vote_all(codes, {"tail": np.full((2, 3), np.nan)}, {"t": Rule("tail", 10)}, fallback=True)["t"]
    assert everyone_silent.answer.tolist() == [4, -1]


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="numbers >= 0"):
        vote_all([0, 1], {"tail": [1.0, -2.0]}, {"tail": Rule("tail")})
    with pytest.raises(ValueError, match="needs the measure 'tale'"):
        vote_all([0, 1], {"tail": [1.0, 2.0]}, {"t": Rule("tale")})
    with pytest.raises(ValueError, match="shape"):
        vote_all([0, 1], {"tail": [1.0]}, {"t": Rule("tail")})
    with pytest.raises(ValueError, match="percentage"):
        keep_top([1.0], 0)
