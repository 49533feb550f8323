"""Numbers as a reader should see them: as many digits as the interval warrants, no more."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from reports.statistics import mean_over

MINUS = "−"


def with_interval(
    value: float, low: float, high: float, signed: bool = False, bounds: Iterable[float | None] = ()
) -> tuple[str, str, str]:
    """Value and interval ends, all to two significant digits of the half-width; three digits where it is unknown.

    An end that lies beside one of `bounds` gets the digits that show on which side.
    """
    power = _power([value, low, high])
    decimals = _warranted(value, low, high, power)
    if decimals is None:
        text = number(value)
        return (f"+{text}" if signed and value > 0 else text), _end(low), _end(high)
    unit = 10.0**power
    near = [(end, bound) for end in (low, high) for bound in bounds if bound is not None and math.isfinite(end)]
    while decimals < 6 and any(end != bound and round((end - bound) / unit, decimals) == 0 for end, bound in near):
        decimals += 1
    texts = tuple(_fixed(x, decimals, power, signed) for x in (value, low, high))
    return texts[0], texts[1], texts[2]


def aligned(rows: list[tuple[float, float, float]]) -> list[tuple[str, str, str]]:
    """`with_interval` for a column: all with the decimals of the widest interval, where their sizes allow it."""
    sizes = [abs(value) for value, _, _ in rows if math.isfinite(value) and value]
    power = _power([x for row in rows for x in row])
    each = [_warranted(*row, power) for row in rows]
    if not sizes or max(sizes) > 30 * min(sizes) or None in each or power:
        return [with_interval(*row) for row in rows]
    decimals = min(found for found in each if found is not None)
    if min(sizes) < 10.0**-decimals:  # would read 0.000
        return [with_interval(*row) for row in rows]
    return [tuple(_fixed(x, decimals, power, False) for x in row) for row in rows]  # type: ignore[misc]


def _power(values: list[float]) -> int:
    """The power of ten that very large and very small numbers are written with; 0: none."""
    sizes = [abs(x) for x in values if math.isfinite(x) and x]
    exponent = math.floor(math.log10(max(sizes))) if sizes else 0
    return exponent if exponent >= 6 or exponent < -3 else 0


def _warranted(value: float, low: float, high: float, power: int) -> int | None:
    """Decimals that show two significant digits of the half-width; None where there is none."""
    widths = [abs(end - value) for end in (low, high) if math.isfinite(end) and end != value]
    if not widths or not math.isfinite(value):
        return None
    return min(1 - math.floor(math.log10(min(widths) / 10.0**power) + 1e-9), 6)


def _end(value: float) -> str:
    return number(value) if not math.isnan(value) else "–"


def number(value: float, digits: int = 3) -> str:
    """One number without an interval: `digits` significant ones, thousands apart, very large and small ones as 1.2e9."""
    if not math.isfinite(value):
        return _fixed(value, 0, 0, False)
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if exponent >= 6 or exponent < -4:
        return f"{value:.{digits - 1}e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e").replace("-", MINUS)
    if value == int(value) and exponent < 6:
        return f"{int(value):,}".replace("-", MINUS)
    return f"{value:,.{max(digits - 1 - exponent, 0)}f}".replace("-", MINUS)


def seconds(value: float) -> str:
    """CPU time: seconds up to ten minutes, then minutes, then hours."""
    if value < 600:
        return f"{number(value)} s"
    return f"{number(value / 60)} min" if value < 36000 else f"{number(value / 3600)} h"


def p_value(p: float) -> str:
    if not math.isfinite(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def over_seeds(values: Iterable[float]) -> tuple[float, float, float]:
    """Mean and 95 % Student t interval of one value a seed; the interval is unknown (NaN) for one seed or no spread."""
    found = np.array([value for value in values if not math.isnan(value)], dtype=float)
    if found.size == 0:
        return math.nan, math.nan, math.nan
    mean = mean_over(found[:, None], 0.0, float(np.abs(found).max()))
    half = mean.half_width() if found.size > 1 else math.inf
    if not math.isfinite(half):
        return float(found.mean()), math.nan, math.nan
    return mean.value, mean.value - half, mean.value + half


def _fixed(value: float, decimals: int, power: int, signed: bool) -> str:
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    text = f"{round(value / 10.0**power, decimals):,.{max(decimals, 0)}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    elif signed and value > 0:
        text = f"+{text}"
    return text.replace("-", MINUS) + (f"e{power}".replace("-", MINUS) if power else "")
