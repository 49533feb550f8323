"""From scored traces to an answer: confidence filtering and weighted voting (DeepConf offline, arXiv 2508.15260).

Answers are codes [..., K]: K traces of one working set, -1 where a trace has no answer (`answers.codes`). Leading axes
batch working sets (resamples of a pool, questions). A filter keeps the top eta % by a measure, its cut-off recomputed
in every working set over the traces that have an answer; V(a) sums the kept traces' scores; the answer is argmax V.
Equal sums go to the answer seen first, as in the public code.

Options, off as published, and the failure each cures (seen by an independent replication):
- canonical codes (`answers.codes`): the same number spelled in two ways splits its votes;
- `floor`, a least number of ballots: the bar admits two of nineteen finishers and one wrong ballot decides;
- `fallback`, plain majority of whatever has an answer: no trace passes the bar and the question has no answer at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from methods.deepconf.confidence import TIE

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]
Bools = NDArray[np.bool_]


class Rule(NamedTuple):
    """A voting rule: which measure filters and weighs, which share (percent) is kept, whether votes are weighted.

    `Rule()` is the plain majority. `Rule("lowest", 10, weighted=False)` is what the public package returns by default:
    the plain majority of the survivors in place of the paper's weighted vote.
    """

    measure: str | None = None
    keep: float | None = None
    weighted: bool = True


class Outcome(NamedTuple):
    """What a vote says, one a working set."""

    answer: Ints  # code, -1 where nothing could be voted on
    share: Floats  # beta = V(answer) / sum_a V(a); NaN without ballots
    ballots: Ints  # traces that voted
    fell_back: Bools  # the plain majority answered in place of an empty pool


def paper_rules(measures: Sequence[str], keep: Sequence[float] = (10, 90)) -> dict[str, Rule]:
    """The plain majority, and every measure without a filter and at each share: `majority`, `tail`, `tail@10`."""
    rules = {"majority": Rule()}
    for name in measures:
        rules[name] = Rule(name)
        rules.update({f"{name}@{eta:g}": Rule(name, eta) for eta in keep})
    return rules


def vote_all(
    codes: ArrayLike,
    scores: Mapping[str, ArrayLike],
    rules: Mapping[str, Rule],
    *,
    floor: int = 0,
    fallback: bool = False,
) -> dict[str, Outcome]:
    """Every rule over the same working sets at once: codes [..., K], scores name -> [..., K].

    A trace whose score is NaN (no log-probs) has no ballot under that measure. Raises ValueError on a measure that is
    not in `scores`, on negative scores (they would turn votes around) and on scores of another shape.
    """
    codes = np.asarray(codes)
    answered = codes >= 0
    weights = np.ones((len(rules), *codes.shape))
    kept = np.broadcast_to(answered, weights.shape).copy()
    for place, (name, rule) in enumerate(rules.items()):
        if rule.measure is None:
            continue
        if rule.measure not in scores:
            raise ValueError(f"vote_all: rule {name!r} needs the measure {rule.measure!r}, there is {list(scores)}")
        own = np.asarray(scores[rule.measure], dtype=np.float64)
        if own.shape != codes.shape:
            raise ValueError(f"vote_all: {rule.measure!r} has shape {own.shape}, the codes {codes.shape}")
        kept[place] &= keep_top(own, rule.keep, answered, floor)
        if rule.weighted:
            weights[place] = own
    outcome = vote(np.broadcast_to(codes, weights.shape), weights, kept, fallback=fallback)
    return {name: Outcome(*(part[place] for part in outcome)) for place, name in enumerate(rules)}


def keep_top(scores: ArrayLike, eta: float | None, valid: ArrayLike | None = None, floor: int = 0) -> Bools:
    """Which of the K traces [..., K] score at least the (100 - eta)-th percentile of their working set's valid ones.

    The percentile interpolates linearly; ties at the cut-off, up to rounding, are all kept. NaN is never valid. `floor` admits the best
    valid ones, first seen first, until there are that many. eta=None keeps all. Raises ValueError unless
    0 < eta <= 100.
    """
    scores = np.asarray(scores, dtype=np.float64)
    valid = ~np.isnan(scores) & (True if valid is None else np.asarray(valid))
    if eta is None:
        return valid
    if not 0 < eta <= 100:
        raise ValueError(f"keep_top: eta is a percentage in (0, 100], got {eta}")
    cut = percentile(scores, 100 - eta, valid)
    return fill_up(valid & (scores >= cut[..., None] - TIE), scores, valid, floor)


def fill_up(kept: Bools, scores: Floats, valid: Bools, floor: int) -> Bools:
    """Admits the best-scored valid traces, first seen first, where fewer than `floor` are kept. All [..., K]."""
    if floor <= 0:
        return kept
    order = np.argsort(np.where(valid, -scores, np.inf), axis=-1, kind="stable")
    best = np.zeros_like(kept)
    np.put_along_axis(best, order[..., :floor], True, axis=-1)
    return kept | (best & valid & (kept.sum(-1) < floor)[..., None])


def percentile(scores: Floats, q: float, valid: Bools) -> Floats:
    """numpy.percentile(scores[valid], q) along the last axis, bit for bit; NaN where nothing is valid."""
    ordered = np.sort(np.where(valid, scores, np.inf), axis=-1)
    count = valid.sum(-1)
    index = np.maximum(count - 1, 0) * (q / 100)
    low = np.floor(index).astype(np.int64)
    fraction = index - low
    a = np.take_along_axis(ordered, low[..., None], -1)[..., 0]
    b = np.take_along_axis(ordered, np.minimum(low + 1, np.maximum(count - 1, 0))[..., None], -1)[..., 0]
    with np.errstate(invalid="ignore"):
        cut = np.where(fraction < 0.5, a + (b - a) * fraction, b - (b - a) * (1 - fraction))
    return np.where(count > 0, cut, np.nan)


def vote(codes: ArrayLike, weights: ArrayLike, kept: ArrayLike, *, fallback: bool = False) -> Outcome:
    """argmax_a V(a), V(a) the sum of the weights of the kept traces that answer a; all arguments [..., K].

    Sums run in the order of the traces. `fallback`: where nothing is kept, the plain majority of all that have an
    answer. Raises ValueError where a kept trace's weight is negative or NaN.
    """
    codes, weights = np.asarray(codes), np.asarray(weights, dtype=np.float64)
    answered = codes >= 0
    kept = np.asarray(kept) & answered
    if not (weights[kept] >= 0).all():
        raise ValueError("vote: weights must be numbers >= 0")
    empty = ~kept.any(-1)
    fell_back = empty & answered.any(-1) if fallback else np.zeros_like(empty)
    kept = np.where(fell_back[..., None], answered, kept)
    weights = np.where(fell_back[..., None], 1.0, weights)

    answers = int(codes.max(initial=-1)) + 1
    shape, K = codes.shape[:-1], codes.shape[-1]
    sets = int(np.prod(shape))
    cell = (np.arange(sets)[:, None] * answers + codes.reshape(sets, K))[kept.reshape(sets, K)]
    place = np.broadcast_to(np.arange(K), (sets, K))[kept.reshape(sets, K)]
    votes = np.bincount(cell, weights[kept], minlength=sets * answers).reshape(sets, answers)
    first = np.full(sets * answers, K)
    first[cell[::-1]] = place[::-1]  # where several write, the last stays: the earliest trace
    first = first.reshape(sets, answers)
    if answers == 0:
        return Outcome(np.full(shape, -1), np.full(shape, np.nan), np.zeros(shape, dtype=np.int64), fell_back)
    most = votes.max(axis=1, keepdims=True)
    winner = np.where((votes == most) & (first < K), first, K).argmin(axis=1)
    ballots = kept.sum(-1)
    with np.errstate(invalid="ignore"):
        share = (most[:, 0] / votes.sum(axis=1)).reshape(shape)
    return Outcome(np.where(ballots > 0, winner.reshape(shape), -1), share, ballots, fell_back)
