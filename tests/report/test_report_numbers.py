"""Numbers show what the interval warrants, and never say something else than the record."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from reports.numbers import aligned, number, over_seeds, p_value, with_interval

SIZES = st.floats(-1e12, 1e12, allow_nan=False).filter(lambda x: x == 0 or abs(x) > 1e-9)


def read(text: str) -> float:
    return float(text.replace("−", "-").replace(",", "").replace("∞", "inf").replace("+", ""))


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ((0.12345, 0.0812, 0.1633), ("0.123", "0.081", "0.163")),
        ((56789.0, 55000.0, 58000.0), ("56,800", "55,000", "58,000")),
        ((1.23456e9, 1.1e9, 1.3e9), ("1.235e9", "1.100e9", "1.300e9")),
        ((-0.0004, -0.1, 0.1), ("0.000", "−0.100", "0.100")),
        ((0.3, -math.inf, 0.5), ("0.30", "−∞", "0.50")),
        ((4.0, math.nan, math.nan), ("4", "–", "–")),
        ((math.nan, math.nan, math.nan), ("–", "–", "–")),
    ],
)
def test_digits_follow_the_interval(given, shown):
    assert with_interval(*given) == shown


@given(SIZES, st.floats(1e-6, 1e9), st.floats(1e-6, 1e9))
def test_what_is_shown_is_within_a_tenth_of_the_half_width(value, down, up):
    low, high = value - down, value + up
    grain = 1e-6 * max(abs(value), abs(low), abs(high))  # six decimals at most
    assume(min(down, up) > 1e-4)
    for text, true in zip(with_interval(value, low, high), (value, low, high), strict=True):
        assert abs(read(text) - true) <= 0.0501 * min(down, up) + grain


@given(st.floats(-1, 1), st.floats(0.001, 1), st.floats(-1, 1))
def test_an_end_beside_the_margin_shows_its_side(value, half, bound):
    low = value - half
    assume(abs(low - bound) > 1e-5)
    shown = read(with_interval(value, low, value + half, bounds=(bound,))[1])
    assert (shown > bound) == (low > bound) or abs(shown - bound) <= 1e-6
    low = bound + 1e-4
    assert read(with_interval(0.5, low, 1 - low, bounds=(bound,))[1]) > bound


@given(SIZES)
def test_number_keeps_three_digits(value):
    assert math.isclose(read(number(value)), value, rel_tol=0.0051, abs_tol=0)


def test_a_column_has_equal_decimals():
    rows = [(0.8353, 0.83, 0.8406), (0.709, 0.68, 0.738)]
    assert [row[0] for row in aligned(rows)] == ["0.835", "0.709"]
    far = [(1e6, 9e5, 1.1e6), (0.5, 0.4, 0.6)]
    assert aligned(far) == [with_interval(*row) for row in far]
    small = [(3.9e-4, 3.5e-4, 4.3e-4), (0.010, -0.005, 0.026)]  # no value that is not 0 reads 0.000
    assert aligned(small) == [with_interval(*row) for row in small]


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8))
def test_interval_over_seeds_is_students(values):
    assume(np.ptp(values) > 1e-6)
    mean, low, high = over_seeds(values)
    expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    np.testing.assert_allclose((mean, low, high), (np.mean(values), *expected), rtol=1e-9, atol=1e-9)


def test_interval_over_seeds_is_unknown_without_spread():
    assert over_seeds([3.0])[0] == 3.0 and math.isnan(over_seeds([3.0])[1])
    assert over_seeds([2.0, 2.0])[0] == 2.0 and math.isnan(over_seeds([2.0, 2.0])[2])
    assert math.isnan(over_seeds([])[0]) and over_seeds([1.0, math.nan, 3.0])[0] == 2.0


def test_p_values():
    assert [p_value(p) for p in (0.0004, 0.0312, 0.31, math.nan)] == ["< 0.001", "0.031", "0.31", "–"]
