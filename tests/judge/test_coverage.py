"""Coverage of the interval and false positives under the null, by simulation of the judge's own formulas.

A bootstrap over seeds stands beside as the reason why it is not used.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from reports.statistics import ALPHA, half_width_squared, share_floor, variance_parts

REPLICATES = 6000
ITEMS = 60


def cover(values: np.ndarray, truth: float, items: int, floor: float = 0.0) -> tuple[float, float]:
    """Share of intervals that hold the truth, and share that lie wholly above it; values [N, S, I]."""
    mean, seed_variance, item_variance = variance_parts(values, floor)
    seeds = values.shape[-2]
    half = np.sqrt(half_width_squared(ALPHA, seed_variance, seeds - 1, item_variance, max(items - 1, 1)))
    return float((np.abs(mean - truth) <= half).mean()), float((mean - truth > half).mean())


def nested(values: np.ndarray) -> np.ndarray:
    """[N, S, I] with items of their own for each seed, as [N, S, S * I] with NaN where a seed did not see the item."""
    n, seeds, items = values.shape
    wide = np.full((n, seeds, seeds * items), np.nan)
    for seed in range(seeds):
        wide[:, seed, seed * items : (seed + 1) * items] = values[:, seed]
    return wide


@pytest.mark.parametrize("seeds", [3, 5])
def test_seed_noise_only(seeds):
    values = np.random.default_rng(seeds).normal(size=(REPLICATES, seeds, 1))
    coverage, false = cover(values, 0.0, 1)
    assert coverage >= 0.93
    assert false <= 0.035
    assert coverage <= 0.965  # exact, not merely wide


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("seed_share", [0.0, 0.3, 1.0, 10.0])
@pytest.mark.parametrize("residual", [0.0, 2.0])
def test_items_crossed_with_seeds(seeds, seed_share, residual):
    """`seed_share`: variance of the mean due to seeds over that due to items; near 1, few degrees of freedom hurt."""
    rng = np.random.default_rng(int(seeds + 10 * seed_share + 100 * residual))
    seed_sd = np.sqrt(seed_share * seeds / ITEMS)
    shape = (REPLICATES, seeds, ITEMS)
    values = seed_sd * rng.normal(size=(REPLICATES, seeds, 1)) + rng.normal(size=(REPLICATES, 1, ITEMS))
    coverage, false = cover(values + residual * rng.normal(size=shape), 0.0, ITEMS)
    assert coverage >= 0.93
    assert false <= 0.035


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("seed_sd", [0.0, 0.1, 1.0])
def test_items_nested_in_seeds(seeds, seed_sd):
    rng = np.random.default_rng(int(seeds + 100 * seed_sd))
    values = seed_sd * rng.normal(size=(2000, seeds, 1)) + rng.normal(size=(2000, seeds, 30))
    coverage, false = cover(nested(values), 0.0, seeds * 30)
    assert coverage >= 0.93
    assert false <= 0.035


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("seed_sd", [0.0, 0.2])
def test_items_partly_shared_by_seeds(seeds, seed_sd):
    """Each seed sees a random half of the items: neither crossed nor nested."""
    rng = np.random.default_rng(int(seeds + 100 * seed_sd))
    values = seed_sd * rng.normal(size=(3000, seeds, 1)) + rng.normal(size=(3000, 1, ITEMS))
    values = values + 0.5 * rng.normal(size=(3000, seeds, ITEMS))
    values[rng.random(values.shape).argsort(-1) < ITEMS // 2] = np.nan
    coverage, false = cover(values, 0.0, ITEMS)
    assert coverage >= 0.93
    assert false <= 0.035


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("accuracy", [0.5, 0.9, 0.98, 0.995])
def test_right_or_wrong_on_crossed_items(seeds, accuracy):
    """Shares near 1, where often no answer is wrong in any seed and the plain variance is 0."""
    rng = np.random.default_rng(int(seeds + 1000 * accuracy))
    items = 150
    right = rng.beta(20 * accuracy, 20 * (1 - accuracy), size=(REPLICATES // 2, 1, items))  # by difficulty of the item
    values = (rng.random((REPLICATES // 2, seeds, items)) < right).astype(float)
    coverage, false = cover(values, accuracy, items, share_floor(items))
    assert coverage >= 0.93
    assert false <= 0.035
    if accuracy == 0.995:
        assert cover(values, accuracy, items)[0] < coverage  # the floor is what mends it


@pytest.mark.parametrize("items", [30, 100, 400])
def test_one_seed_of_right_or_wrong_by_exact_enumeration(items):
    """All outcomes of a binomial count, no simulation. Skewness near 1 leaves one side a little above 2.5 %."""
    right = np.arange(items + 1)
    values = (np.arange(items) < right[:, None]).astype(float)[:, None, :]
    mean, _, variance = variance_parts(values, share_floor(items))
    half = np.sqrt(half_width_squared(ALPHA, 0.0, 0, variance, items - 1))
    for accuracy in np.linspace(0.5, 0.999, 60):
        chance = stats.binom.pmf(right, items, accuracy)
        assert chance[np.abs(mean - accuracy) <= half].sum() >= 0.945
        assert chance[mean - accuracy > half].sum() <= 0.04


def test_a_bootstrap_over_three_seeds_covers_too_little():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(REPLICATES, 3))
    resamples = np.array(list(itertools.product(range(3), repeat=3)))  # all 27, so no Monte Carlo error
    low, high = np.quantile(values[:, resamples].mean(-1), [0.025, 0.975], axis=1)
    bootstrap = ((low <= 0) & (high >= 0)).mean()
    assert bootstrap < 0.85 < cover(values[..., None], 0.0, 1)[0]
