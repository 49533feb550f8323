"""Intervals, p values and verdicts over seeds and items: pure functions, explained in docs/statistics.md."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize, stats

CONFIDENCE = 0.95
ALPHA = (1 - CONFIDENCE) / 2  # one-sided
Z = float(stats.norm.isf(ALPHA))


@dataclass(frozen=True)
class Mean:
    """A mean and the two parts of its variance, each with its own degrees of freedom."""

    value: float
    seed_variance: float
    seed_df: float  # 0: one seed, nothing is known of the spread between seeds
    item_variance: float = 0.0  # items, or a floor
    item_df: float = math.inf

    def half_width(self, alpha: float = ALPHA) -> float:
        """sqrt(t(seeds)^2 V_seeds + t(items)^2 V_items); infinite where nothing tells the error."""
        if self.seed_variance <= 0 and self.item_variance <= 0:
            return math.inf
        return float(
            np.sqrt(half_width_squared(alpha, self.seed_variance, self.seed_df, self.item_variance, self.item_df))
        )

    def tail_above(self, bound: float) -> float:
        """One-sided p value for "the true mean is above `bound`": the alpha whose interval just touches the bound."""
        return self._tail(self.value - bound)

    def tail_below(self, bound: float) -> float:
        return self._tail(bound - self.value)

    def _tail(self, gap: float) -> float:
        if not math.isfinite(self.half_width()):
            return 1.0
        if gap <= 0:
            return 0.5 if gap == 0 else 1 - self._tail(-gap)
        least = math.log(1e-100)

        def excess(log_alpha: float) -> float:
            return self.half_width(math.exp(log_alpha)) - gap

        return 0.0 if excess(least) <= 0 else math.exp(optimize.brentq(excess, least, math.log(0.5), xtol=1e-12))


def half_width_squared(alpha, seed_variance, seed_df, item_variance, item_df):
    """Squared half-width of the interval with one-sided error `alpha`; arrays welcome. A variance of 0 adds nothing."""
    parts = ((seed_variance, seed_df), (item_variance, item_df))
    return sum(np.where(np.asarray(v) > 0, stats.t.isf(alpha, np.maximum(df, 1)) ** 2 * v, 0.0) for v, df in parts)


def variance_parts(values: np.ndarray, floor: float | np.ndarray = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over seeds of the means over items, and its variance due to seeds and beyond.

    Args:
        values: [..., S, I], a value per seed and item, NaN where a seed did not see an item. Items that all seeds saw
            are crossed with seeds, items one seed saw are nested in it; any mixture is allowed. I = 1: no items.
        floor: standard error that the spread does not show (see `share_floor`, `grain_floor`); added in squares.
    Returns:
        mean, seed variance, item variance: [...] each. Their sum is the variance of the mean.
    """
    seeds = values.shape[-2]
    seen = ~np.isnan(values)
    count = seen.sum(-1, keepdims=True)
    seed_mean = np.where(seen, values, 0).sum(-1, keepdims=True) / count
    error = np.where(seen, values - seed_mean, 0) / (seeds * count)  # each value's share in the error of the mean
    items = seen.any(-2).sum(-1)
    small = items / np.maximum(items - 1, 1)
    by_item = (error.sum(-2) ** 2).sum(-1)
    variance_items = by_item * small  # with balanced crossing: the variance of item means over I
    if seeds == 1:
        return seed_mean[..., 0, 0], np.zeros_like(by_item), variance_items + np.square(floor)
    variance_seeds = seed_mean[..., 0].var(-1, ddof=1) / seeds
    # Shared items make seed means agree: their covariance is missing from the variance between seeds. With balanced
    # crossing it is V_items - V_residual, so the sum is V_seeds + V_items - V_residual; without shared items it is 0.
    shared = (by_item - (error**2).sum((-1, -2))) * seeds / (seeds - 1) * small
    beyond = np.maximum(np.maximum(shared, variance_items - variance_seeds), 0)  # the sum is below neither component
    return seed_mean[..., 0].mean(-1), variance_seeds, beyond + np.square(floor)


def mean_over(values: np.ndarray, floor: float = 0.0, size: float = 1.0) -> Mean:
    """The mean of values [S, I] as in `variance_parts`. Spread below 1e-12 of `size` is rounding, not spread."""
    value, seed_variance, item_variance = (float(part) for part in variance_parts(values, floor))
    grain = (1e-12 * size) ** 2
    items = int((~np.isnan(values)).any(0).sum())
    return Mean(
        value,
        seed_variance if seed_variance > grain else 0.0,
        values.shape[0] - 1,
        item_variance if item_variance > grain else 0.0,
        items - 1 if items > 1 else math.inf,
    )


def share_floor(items: int) -> float:
    """Standard error of a share where all answers agree: Wilson's interval of 0 out of n ends at z * z / (n + z^2)."""
    return Z / (items + Z**2)


def grain_floor(resolution: float) -> float:
    """Standard error of a value rounded to a grain. More seeds do not lessen it: they may all round alike."""
    return resolution / math.sqrt(12)


@dataclass(frozen=True)
class Estimate:
    """An effect on its working scale. Where censored values leave an end open, the mean is only a bound."""

    mean: Mean
    low_known: bool = True
    high_known: bool = True
    seeds: int = 0
    items: int = 0
    notes: tuple[str, ...] = ()

    @property
    def bound(self) -> bool:
        return not (self.low_known and self.high_known)

    @property
    def effect(self) -> float:
        return self.mean.value if self.low_known or self.high_known else math.nan

    @property
    def low(self) -> float:
        return self.mean.value - self.mean.half_width() if self.low_known else -math.inf

    @property
    def high(self) -> float:
        return self.mean.value + self.mean.half_width() if self.high_known else math.inf


@dataclass(frozen=True)
class Decision:
    verdict: str
    p: float  # for "it holds": below ALPHA exactly where the interval lies inside the bounds
    against: float  # for "it does not hold"


def decide(estimate: Estimate, above: float | None, below: float | None) -> Decision:
    """Supported: the interval lies inside (above, below). Contradicted: it lies wholly outside. Else inconclusive."""
    mean, holds, fails = estimate.mean, [], []  # pairs of (does the interval say so, p value)
    if above is not None:
        holds.append((estimate.low > above, mean.tail_above(above) if estimate.low_known else 1.0))
        fails.append((estimate.high < above, mean.tail_below(above) if estimate.high_known else 1.0))
    if below is not None:
        holds.append((estimate.high < below, mean.tail_below(below) if estimate.high_known else 1.0))
        fails.append((estimate.low > below, mean.tail_above(below) if estimate.low_known else 1.0))
    verdict = (
        "supported" if all(ok for ok, _ in holds) else "contradicted" if any(ok for ok, _ in fails) else "inconclusive"
    )
    return Decision(verdict, max(p for _, p in holds), min(p for _, p in fails))


def seeds_to_decide(
    mean: float, sd: float, bound: float, fixed: float = 0.0, start: int = 2, most: int = 1000
) -> int | None:
    """Fewest seeds at which the interval would exclude `bound` if mean and spread stay as they are; None beyond `most`.

    Args:
        sd: standard deviation between seeds of the per-seed value.
        fixed: variance that more seeds do not reduce (shared items, measurement grain).
    """
    seeds = np.arange(max(start, 2), most + 1)
    half = np.sqrt(half_width_squared(ALPHA, sd**2 / seeds, seeds - 1, fixed, math.inf))
    enough = np.flatnonzero(half < abs(mean - bound))
    return int(seeds[enough[0]]) if enough.size else None


def false_discovery(p: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg q values; NaN stays NaN and is not counted."""
    from statsmodels.stats.multitest import multipletests

    p = np.asarray(p, dtype=float)
    q, known = np.full(p.shape, np.nan), ~np.isnan(p)
    if known.any():
        q[known] = multipletests(p[known], method="fdr_bh")[1]
    return q


def compare(
    of: pd.DataFrame, than: pd.DataFrame | float, log: bool = False, resolution: float | None = None
) -> Estimate:
    """Mean over seeds of each seed's mean of - than; with `log` of ln(mean of / mean than), by the delta method.

    Frames have seed, value, optionally item (equal hash: same example), and censored (true value >= value). Seeds are
    paired. Items are paired where both sides have them; an item that one side has counts for that side.
    Raises ValueError where no seed is shared or a logarithm does not exist.
    """
    sides = [of] if isinstance(than, (int, float)) else [of, than]
    seeds = sorted(set.intersection(*(set(side["seed"]) for side in sides)))
    if not seeds:
        raise ValueError(f"no seed in common: {sorted(set(of['seed']))} and {sorted(set(than['seed']))}")
    left_out = sorted(set().union(*(side["seed"] for side in sides)) - set(seeds))
    notes = [f"seeds {left_out} stand on one side only and are left out"] if left_out else []
    sides = [side[side["seed"].isin(seeds)] for side in sides]
    censored = [bool(side["censored"].any()) for side in sides] + [False]

    means = [side.groupby("seed")["value"].mean().loc[seeds] for side in sides]
    levels = [float(mean.mean()) for mean in means]
    if log and min(mean.min() for mean in means) <= 0:
        raise ValueError(f"a ratio needs values above 0, but a seed has {min(mean.min() for mean in means):g}")
    constant = [] if len(sides) == 2 else [pd.Series(float(than), seeds)]
    upper, lower = (np.log(mean) if log else mean for mean in (*means, *constant))
    matrix, items, floor = (upper - lower).to_numpy()[:, None], 0, 0.0
    if all("item" in side for side in sides):
        # Pseudo-values: their mean over a seed's items is its effect, their spread the items' share of its error.
        tables = [side.pivot(index="seed", columns="item", values="value").loc[seeds] for side in sides]
        union = tables[0].columns.union(tables[-1].columns)
        tables = [table.reindex(columns=union) for table in tables]
        seen = np.logical_or.reduce([table.notna().to_numpy() for table in tables])
        for sign, table, mean in zip((1, -1), tables, means, strict=False):
            part = table.sub(mean, axis=0).div(mean if log else 1.0, axis=0).div(table.count(axis=1), axis=0)
            matrix = matrix + sign * part.fillna(0.0).to_numpy() * seen.sum(1, keepdims=True)
        matrix = np.where(seen, matrix, np.nan)
        items = min(int(table.notna().any().sum()) for table in tables)
        if all(side["value"].between(0, 1).all() for side in sides):
            floor = share_floor(items) / (min(levels) if log else 1.0)
    if resolution is not None:
        floor = grain_floor(resolution) * math.sqrt(sum(1 / level**2 if log else 1.0 for level in levels))
    mean = mean_over(matrix, floor, 1.0 if log else max(abs(level) for level in [*levels, *map(float, lower)]))
    notes += spread_notes(mean, len(seeds), items)
    return Estimate(mean, not censored[1], not censored[0], len(seeds), items, tuple(notes))


def slope(points: pd.DataFrame, log: bool = False, resolution: float | None = None) -> Estimate:
    """Mean over seeds of each seed's least-squares slope of value over x; with `log` of ln value over ln x.

    `points` has seed, x, value, censored; several values at one seed and x are averaged. A censored value right of
    the seed's mean x leaves the slope open upwards, one left of it downwards.
    """
    points = points.groupby(["seed", "x"], as_index=False).agg(value=("value", "mean"), censored=("censored", "any"))
    if log and (points[["x", "value"]] <= 0).any(axis=None):
        raise ValueError("a slope on the log scale needs x and values above 0")
    slopes, grains, sizes, low_known, high_known = [], [], [], True, True
    for seed, mine in points.groupby("seed"):
        x, y = (np.log(mine[name]) if log else mine[name] for name in ("x", "value"))
        x, y, censored = (np.asarray(column) for column in (x - x.mean(), y, mine["censored"]))
        if len(x) < 2:
            raise ValueError(f"seed {seed} has one value of x; a slope needs two or more")
        spread = (x**2).sum()
        slopes.append((x * y).sum() / spread)
        sizes.append(np.abs(y).max() / math.sqrt(spread))
        grains.append(np.square(x / (mine["value"].to_numpy() if log else 1.0)).sum() / spread**2)
        low_known &= not (censored & (x < 0)).any()
        high_known &= not (censored & (x > 0)).any()
    floor = 0.0 if resolution is None else grain_floor(resolution) * math.sqrt(float(np.mean(grains)))
    mean = mean_over(np.array(slopes)[:, None], floor, max(sizes))
    return Estimate(mean, low_known, high_known, len(slopes), 0, spread_notes(mean, len(slopes), 0))


def spread_notes(mean: Mean, seeds: int, items: int) -> tuple[str, ...]:
    """What a reader must know of an interval whose width does not come from seeds."""
    if not math.isfinite(mean.half_width()):
        why = "one seed and no items" if seeds == 1 and not items else f"no variation over {seeds} seeds and no floor"
        return (f"{why}: the error is unknown",)
    if seeds == 1:
        return ("one seed: the interval covers items only" if items else "one seed: the interval is the floor",)
    return (
        () if mean.seed_variance > 0 else (f"no variation between {seeds} seeds: the interval is items or the floor",)
    )
