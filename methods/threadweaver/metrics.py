"""How long a trajectory takes when its threads run side by side (arXiv 2512.07843).

The critical path ("token latency") is the sequential tokens plus, block by block, the longest thread. Who pays for the
thread tags is a convention: `"sequential"` charges every thread's tags to the path, as the public evaluation does;
`"thread"` lets them travel with their thread, as the data-generation script does on text. Latency is bought with
compute: report the total beside it, and both speed-ups, since the mean of ratios exceeds the ratio of means.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating]

_BLOCK = re.compile(r"<Parallel>.*?(?:</Parallel>|\Z)", re.DOTALL)
_THREAD = re.compile(r"(<Thread>.*?(?:</Thread>|\Z))", re.DOTALL)


class Tags(NamedTuple):
    """Token ids of the four tags that matter for the path."""

    parallel: int
    end_parallel: int
    thread: int
    end_thread: int


class Path(NamedTuple):
    """`total` tokens, `longest` of them on the critical path, in a trajectory with so many blocks and threads."""

    total: int
    longest: int
    blocks: int
    threads: int


class Speedup(NamedTuple):
    """Baseline over own latency: of the means over problems, the mean over problems, and the best problem."""

    ratio_of_means: float
    mean_of_ratios: float
    largest: float


def critical_path(tokens: Sequence[int] | ArrayLike, tags: Tags, convention: str = "sequential") -> Path:
    """The path of a response in tokens.

    Outside a block everything counts. Inside, everything that is in no thread counts, and the longest thread; the
    thread tags as `convention` says ("sequential" or "thread"). A block or thread that never ends, ends with the text.
    A `<Parallel>` in a block, and `<Parallel>`, `</Parallel>` or `<Thread>` in a thread, are ordinary tokens.
    """
    if convention not in ("sequential", "thread"):
        raise ValueError(f"critical_path: convention is 'sequential' or 'thread', not {convention!r}")
    tokens = np.asarray(tokens, dtype=np.int64)
    path, blocks, threads = 0, 0, 0
    inside, begun, longest = False, -1, 0  # in a block; where the open thread's tag stands; the block's longest thread
    done = 0  # tokens before this one are accounted for
    travels = convention == "thread"

    def close(end: int, tagged: bool) -> int:
        """Length of the thread whose tag stands at `begun` and whose inner text ends before `end`."""
        return end - begun - 1 + (1 + tagged) * travels

    for place in np.flatnonzero(np.isin(tokens, tags)).tolist():
        token = tokens[place]
        if begun >= 0:
            if token == tags.end_thread:
                longest = max(longest, close(place, True))
                path += 2 * (not travels)
                begun, done = -1, place + 1
        elif inside and token == tags.thread:
            path += place - done
            begun, threads = place, threads + 1
        elif inside and token == tags.end_parallel:
            path += place + 1 - done + longest
            inside, longest, done = False, 0, place + 1
        elif not inside and token == tags.parallel:
            inside, blocks = True, blocks + 1
    if begun >= 0:
        longest = max(longest, close(len(tokens), False))
        path += not travels
    else:
        path += len(tokens) - done
    return Path(len(tokens), int(path + longest), blocks, threads)


def path_of_text(text: str, count: Callable[[str], int]) -> Path:
    """The data-generation script's path: every fragment counted apart, tags with their thread.

    Counting fragments apart splits tokens at their borders, so the numbers differ a little from `critical_path`.
    """
    total, longest, blocks, threads, done = 0, 0, 0, 0, 0
    for block in _BLOCK.finditer(text):
        outside = count(text[done : block.start()])
        fragments = _THREAD.split(block[0])  # what is in no thread, a thread, and so on in turn
        lengths = [count(fragment) for fragment in fragments]
        total += outside + sum(lengths)
        longest += outside + sum(lengths[::2]) + max(lengths[1::2], default=0)
        blocks, threads, done = blocks + 1, threads + len(fragments) // 2, block.end()
    rest = count(text[done:])
    return Path(total + rest, longest + rest, blocks, threads)


def acceleration(total: ArrayLike, longest: ArrayLike) -> Floats:
    """eta = 1 - L_longest / L_total; 0 where nothing was generated."""
    total, longest = np.asarray(total, dtype=np.float64), np.asarray(longest, dtype=np.float64)
    return np.where(total > 0, 1 - longest / np.where(total > 0, total, 1), 0.0)


def self_parallelism(total: ArrayLike, longest: ArrayLike) -> Floats:
    """L_total / L_longest = 1 / (1 - eta): against the same text decoded in sequence."""
    return 1 / (1 - acceleration(total, longest))


def problem_means(
    values: ArrayLike, problems: ArrayLike, count: int | None = None, keep: ArrayLike | None = None
) -> Floats:
    """Mean [P] of the samples' values by problem 0 … P-1; NaN where `keep` (correct ones, say) leaves none."""
    values, problems = np.asarray(values, dtype=np.float64), np.asarray(problems, dtype=np.int64)
    keep = np.ones(len(values), dtype=bool) if keep is None else np.asarray(keep, dtype=bool)
    count = int(problems.max(initial=-1)) + 1 if count is None else count
    sums = np.bincount(problems[keep], values[keep], minlength=count)
    sizes = np.bincount(problems[keep], minlength=count)
    return np.where(sizes > 0, sums / np.maximum(sizes, 1), np.nan)


def speedup(baseline: ArrayLike, own: ArrayLike) -> Speedup:
    """Speed-ups from mean latencies by problem [P]; problems that either arm lacks (NaN) are left out of all three."""
    baseline, own = np.asarray(baseline, dtype=np.float64), np.asarray(own, dtype=np.float64)
    both = ~(np.isnan(baseline) | np.isnan(own))
    if not both.any():
        return Speedup(float("nan"), float("nan"), float("nan"))
    ratios = baseline[both] / own[both]
    return Speedup(float(baseline[both].mean() / own[both].mean()), float(ratios.mean()), float(ratios.max()))


def latencies(
    sequential: ArrayLike,
    parallel: ArrayLike,
    prompt: ArrayLike,
    counting: Literal["response", "quick_eval"] = "response",
) -> tuple[Floats, Floats]:
    """Latencies of the two arms. The public quick evaluation counts the prompt in the parallel arm only."""
    if counting not in ("response", "quick_eval"):
        raise ValueError(f"latencies: counting is 'response' or 'quick_eval', not {counting!r}")
    extra = np.asarray(prompt) if counting == "quick_eval" else 0
    return np.asarray(sequential, dtype=np.float64), np.asarray(parallel, dtype=np.float64) + extra
