"""Remaining time on long work: a bar on a terminal, a line now and then elsewhere, nothing under CI."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
EVERY = 20.0  # seconds between lines where there is no terminal


def progress(items: Iterable[T], what: str, total: int | None = None, start: int = 0) -> Iterator[T]:
    """Passes `items` on and shows how far they are. `start` items were done before (a resumed run)."""
    if total is None and hasattr(items, "__len__"):
        total = start + len(items)  # type: ignore[arg-type]
    if os.environ.get("CI") or os.environ.get("TYCHO_QUIET"):
        yield from items
    elif sys.stderr.isatty() and not os.environ.get("TYCHO_LINES"):
        from tqdm import tqdm

        yield from tqdm(items, desc=what, total=total, initial=start, leave=False, dynamic_ncols=True)
    else:
        yield from _lines(items, what, total, start)


def _lines(items: Iterable[T], what: str, total: int | None, start: int) -> Iterator[T]:
    begun = said = time.monotonic()
    for done, item in enumerate(items, start + 1):
        yield item
        now = time.monotonic()
        if now - said >= EVERY:
            said = now
            left = f", {remaining((now - begun) / (done - start) * (total - done))} left" if total else ""
            print(f"{what}: {done}{f' of {total}' if total else ''}{left}", file=sys.stderr, flush=True)


def remaining(seconds: float) -> str:
    """Seconds as a person says them."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
