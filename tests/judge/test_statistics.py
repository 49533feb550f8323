"""The judge's mathematics against independent formulas, and its properties."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from reports import statistics
from reports.statistics import ALPHA, Estimate, Mean, compare, decide, mean_over, seeds_to_decide, slope


def seeds_frame(values, censored=False) -> pd.DataFrame:
    return pd.DataFrame({"seed": range(len(values)), "value": np.asarray(values, float), "censored": censored})


def items_frame(matrix, items=None) -> pd.DataFrame:
    """A frame of [S, I] values; `items` names them per seed (default: the same items for every seed)."""
    matrix = np.asarray(matrix, float)
    seeds, count = matrix.shape
    names = items if items is not None else [[f"i{i}" for i in range(count)]] * seeds
    rows = [(s, names[s][i], matrix[s, i], False) for s in range(seeds) for i in range(count)]
    return pd.DataFrame(rows, columns=["seed", "item", "value", "censored"])


def test_paired_seeds_are_students_paired_t():
    a, b = [0.91, 0.84, 0.97, 0.88], [0.80, 0.83, 0.90, 0.79]
    estimate = compare(seeds_frame(a), seeds_frame(b))
    reference = stats.ttest_rel(a, b)
    interval = reference.confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high))
    assert estimate.mean.tail_above(0) == pytest.approx(stats.ttest_rel(a, b, alternative="greater").pvalue)
    assert estimate.mean.tail_below(0) == pytest.approx(stats.ttest_rel(a, b, alternative="less").pvalue)


def test_one_side_against_a_number_is_the_one_sample_t():
    a = [0.91, 0.84, 0.97]
    estimate = compare(seeds_frame(a), 0.8)
    interval = stats.ttest_1samp(a, 0.8).confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx((interval.low + -0.8, interval.high + -0.8))


def test_ratio_is_the_t_interval_of_log_ratios():
    a, b = np.array([10.0, 12, 9]), np.array([20.0, 22, 21])
    estimate = compare(seeds_frame(a), seeds_frame(b), log=True)
    interval = stats.ttest_1samp(np.log(a / b), 0).confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high))


def test_crossed_variance_is_the_anova_estimate():
    """V_seeds + V_items - V_residual from mean squares of the two-way table, in plain loops."""
    rng = np.random.default_rng(3)
    seeds, items = 4, 12
    d = rng.normal(size=(seeds, 1)) + 3 * rng.normal(size=(1, items)) + rng.normal(size=(seeds, items))
    grand = d.mean()
    ms_seed = items * sum((d[s].mean() - grand) ** 2 for s in range(seeds)) / (seeds - 1)
    ms_item = seeds * sum((d[:, i].mean() - grand) ** 2 for i in range(items)) / (items - 1)
    residual = sum((d[s, i] - d[s].mean() - d[:, i].mean() + grand) ** 2 for s in range(seeds) for i in range(items))
    ms_error = residual / ((seeds - 1) * (items - 1))
    mean = mean_over(d)
    assert mean.seed_variance == pytest.approx(ms_seed / (seeds * items))
    assert mean.seed_variance + mean.item_variance == pytest.approx((ms_seed + ms_item - ms_error) / (seeds * items))


def test_variance_is_never_below_either_component():
    rng = np.random.default_rng(0)
    for _ in range(200):
        d = rng.normal(size=(3, 8))  # no items, no seeds: the subtraction alone would often go below
        mean = mean_over(d)
        total = mean.seed_variance + mean.item_variance
        assert total >= d.mean(1).var(ddof=1) / 3 - 1e-12
        assert total >= d.mean(0).var(ddof=1) / 8 - 1e-12


def test_nested_items_leave_the_t_interval_over_seeds():
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(5, 1)) * 2 + rng.normal(size=(5, 30))
    frame = items_frame(matrix, [[f"{s}-{i}" for i in range(30)] for s in range(5)])
    estimate = compare(frame, 0.0)
    interval = stats.ttest_1samp(matrix.mean(1), 0).confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high))
    assert estimate.items == 150


def test_one_seed_has_an_interval_over_items_and_says_so():
    values = np.random.default_rng(2).normal(size=40)
    estimate = compare(items_frame([values]), 0.0)
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high))
    assert "items only" in estimate.notes[0]


def test_one_seed_without_items_has_no_interval():
    estimate = compare(seeds_frame([3.0]), seeds_frame([1.0]))
    assert (estimate.low, estimate.high, estimate.effect) == (-math.inf, math.inf, 2.0)
    assert decide(estimate, 0, None).verdict == "inconclusive"


def test_paired_items_equal_differences_item_by_item():
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(3, 20)), rng.normal(size=(3, 20))
    paired, plain = compare(items_frame(a), items_frame(b)), compare(items_frame(a - b), 0.0)
    assert (paired.effect, paired.low, paired.high) == pytest.approx((plain.effect, plain.low, plain.high))


def test_unpaired_items_are_the_two_sample_variance():
    """One seed, different items on either side: n/(n-1) var(a)/n_a + var(b)/n_b, up to the small-sample factor."""
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=200), 2 * rng.normal(size=100)
    estimate = compare(items_frame([a]), items_frame([b], [[f"other{i}" for i in range(100)]]))
    assert estimate.effect == pytest.approx(a.mean() - b.mean())
    assert estimate.mean.item_variance == pytest.approx((a.var() / 200 + b.var() / 100) * 300 / 299)


def test_ratio_over_items_is_the_delta_method():
    rng = np.random.default_rng(7)
    a, b = 5 + rng.random(300), 9 + rng.random(300)
    estimate = compare(items_frame([a]), items_frame([b]), log=True)
    ratio = a.mean() / b.mean()
    variance = (a - ratio * b).var(ddof=1) / 300 / a.mean() ** 2  # of ln ratio, textbook ratio estimator
    assert estimate.effect == pytest.approx(math.log(ratio))
    assert estimate.mean.item_variance == pytest.approx(variance)


def test_a_perfect_share_gets_wilsons_interval():
    estimate = compare(items_frame(np.ones((1, 50))), 1.0)
    _, high = proportion_confint(0, 50, alpha=0.05, method="wilson")
    assert estimate.high - estimate.effect == pytest.approx(high, rel=0.03)  # t with 49 degrees of freedom, not normal
    assert estimate.high > estimate.low


def test_equal_seeds_get_the_measurement_grain_or_no_interval():
    none = compare(seeds_frame([100.0] * 3), seeds_frame([60.0] * 3))
    assert (none.low, none.high) == (-math.inf, math.inf)
    assert "no variation" in none.notes[0]
    some = compare(seeds_frame([100.0] * 3), seeds_frame([60.0] * 3), resolution=10.0)
    assert some.high - some.effect == pytest.approx(1.959964 * 10 * math.sqrt(2 / 12), rel=1e-5)
    # Rounding in the last digit is no spread.
    assert math.isinf(compare(seeds_frame([0.1 + 0.2, 0.3, 0.3]), 0.0).high)


def test_floors_on_the_log_scale_are_relative():
    grain = compare(seeds_frame([40.0] * 3), seeds_frame([20.0] * 3), log=True, resolution=2.0)
    assert grain.mean.item_variance == pytest.approx(2.0**2 / 12 * (1 / 40**2 + 1 / 20**2))
    # With every answer alike, ln(share) has the relative error of the smaller share.
    half = items_frame(np.full((1, 50), 0.5))
    share = compare(items_frame(np.ones((1, 50))), half, log=True)
    assert math.sqrt(share.mean.item_variance) == pytest.approx(statistics.share_floor(50) / 0.5)


def test_slope_is_least_squares_per_seed():
    rng = np.random.default_rng(8)
    x = np.array([1.0, 2, 4, 7])
    y = {seed: 0.5 * x + rng.normal(size=4) * 0.1 for seed in range(3)}
    points = pd.concat(
        [pd.DataFrame({"seed": seed, "x": x, "value": values, "censored": False}) for seed, values in y.items()]
    )
    slopes = [stats.linregress(x, values).slope for values in y.values()]
    interval = stats.ttest_1samp(slopes, 0).confidence_interval(0.95)
    estimate = slope(points)
    assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high))
    power_law = points.assign(value=3 * points["x"] ** -1.5)
    assert slope(power_law, log=True).effect == pytest.approx(-1.5)


def test_slope_with_a_grain_carries_it_to_the_slope():
    """Rounding errors of variance r^2 / 12 in each y, propagated through the least-squares weights by brute force."""
    x, r = np.array([1.0, 2, 4, 7]), 0.6
    frame = pd.DataFrame({"seed": 0, "x": x, "value": x, "censored": False})
    frame = pd.concat([frame, frame.assign(seed=1)])
    errors = np.random.default_rng(0).uniform(-r / 2, r / 2, size=(200_000, 4))
    brute = ((x - x.mean()) @ errors.T / ((x - x.mean()) ** 2).sum()).std()
    assert math.sqrt(slope(frame, resolution=r).mean.item_variance) == pytest.approx(brute, rel=0.01)


@pytest.mark.parametrize(("late", "low_known", "high_known"), [(True, True, False), (False, False, True)])
def test_censored_slope_is_a_bound_on_the_right_side(late, low_known, high_known):
    frame = pd.DataFrame({"seed": [0, 0, 0, 1, 1, 1], "x": [1.0, 2, 3] * 2, "value": [1, 2, 3, 1.1, 2, 3.2]})
    estimate = slope(frame.assign(censored=frame["x"] == (3 if late else 1)))
    assert (estimate.low_known, estimate.high_known) == (low_known, high_known)


def test_false_discovery_rate_is_benjamini_hochberg():
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.5])
    q = statistics.false_discovery(p)
    expected = [0.04, np.nan, 4 / 3 * 0.04, 4 / 3 * 0.04, 0.5]  # by hand: p * 4 / rank, made monotone from above
    np.testing.assert_allclose(q, expected)
    assert np.isnan(statistics.false_discovery(np.array([np.nan]))).all()


def test_seeds_to_decide_matches_a_search_by_scipy():
    for mean, sd, bound in [(0.1, 0.2, 0.0), (1.0, 0.5, 0.4), (-2, 1.5, 0)]:
        n = seeds_to_decide(mean, sd, bound)
        excludes = [abs(mean - bound) > stats.t.ppf(0.975, k - 1) * sd / math.sqrt(k) for k in (n - 1, n)]
        assert excludes == [False, True]
    assert seeds_to_decide(0.001, 1.0, 0.0) is None
    assert seeds_to_decide(0.1, 0.01, 0.0, fixed=0.01) is None  # the items' variance alone is too wide


numbers = st.floats(-50, 50, allow_nan=False).map(lambda value: round(value, 3))
seed_lists = st.integers(2, 6).flatmap(lambda n: st.tuples(*(st.lists(numbers, min_size=n, max_size=n),) * 2))


@settings(max_examples=60, deadline=None)
@given(seed_lists, numbers)
def test_swapping_arms_flips_and_a_common_constant_changes_nothing(pair, constant):
    a, b = (np.array(side) for side in pair)
    estimate, swapped = compare(seeds_frame(a), seeds_frame(b)), compare(seeds_frame(b), seeds_frame(a))
    assert (estimate.low, estimate.effect) == pytest.approx((-swapped.high, -swapped.effect))
    moved = compare(seeds_frame(a + constant), seeds_frame(b + constant))
    assert (moved.low, moved.high) == pytest.approx((estimate.low, estimate.high), abs=1e-9)


RANK = {"contradicted": 0, "inconclusive": 1, "supported": 2}


@settings(max_examples=60, deadline=None)
@given(seed_lists, st.floats(0.01, 40), st.floats(0.01, 40))
def test_a_wider_margin_helps_equivalence_and_hurts_difference(pair, one, two):
    estimate = compare(seeds_frame(pair[0]), seeds_frame(pair[1]))
    narrow, wide = sorted((one, two))
    before, after = decide(estimate, -narrow, narrow), decide(estimate, -wide, wide)
    assert RANK[after.verdict] >= RANK[before.verdict] and after.p <= before.p + 1e-9
    before, after = decide(estimate, narrow, None), decide(estimate, wide, None)
    assert RANK[after.verdict] <= RANK[before.verdict] and after.p >= before.p - 1e-9


@settings(max_examples=80, deadline=None)
@given(
    st.floats(-3, 3), st.floats(0, 2), st.integers(1, 9), st.floats(0, 2), st.integers(2, 200), st.floats(-3, 3)
)  # fmt: skip
def test_p_values_and_intervals_agree(value, seed_variance, seed_df, item_variance, item_df, bound):
    mean = Mean(value, seed_variance, seed_df, item_variance, item_df)
    estimate = Estimate(mean, seeds=seed_df + 1)
    if abs(min(abs(estimate.low - bound), abs(estimate.high - bound))) < 1e-9:
        return
    decision = decide(estimate, bound, None)
    assert (decision.p < ALPHA) == (estimate.low > bound) == (decision.verdict == "supported")
    assert (decision.against < ALPHA) == (estimate.high < bound) == (decision.verdict == "contradicted")
    assert 0 <= decision.p <= 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1, 100), min_size=3, max_size=5), st.data())
def test_a_censored_verdict_is_the_one_at_the_unfavourable_end(times, data):
    """`of` takes at least `times`: "longer" is supported iff it is at the recorded times; it is never contradicted."""
    censored = data.draw(st.lists(st.booleans(), min_size=len(times), max_size=len(times)))
    of = seeds_frame(times, censored)
    verdict = decide(compare(of, seeds_frame([20.0] * len(times))), 0, None).verdict
    plain = decide(compare(seeds_frame(times), seeds_frame([20.0] * len(times))), 0, None).verdict
    assert (verdict == "supported") == (plain == "supported")
    if any(censored):
        assert verdict != "contradicted"
        mirrored = decide(compare(seeds_frame([20.0] * len(times)), of), None, 0).verdict
        assert mirrored == verdict
