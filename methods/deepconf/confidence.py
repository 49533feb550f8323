"""How sure a trace is of itself (Deep Think with Confidence, arXiv 2508.15260).

A token's confidence is C_i = -(1/k) sum_j log P_i(j) over the k most likely tokens at temperature 1, in nats: high
where the distribution is peaked. A group is the window of the last n tokens, stride 1, N - n + 1 of them; a trace
shorter than n is one group. Sums run left to right within each trace (prefix sums in float64), so a trace scores the
same bits alone, in a batch, and token by token (`online.StopRule`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]

# Nats within which two scores are the same. Equal tokens read in another batch differ by a few 1e-6 (float32), and where
# traces are equal a bar is one of their own scores: without this the batch would decide who is below it.
TIE = 1e-4
RETURNED = ("top_k", "returned", "drop_sampled")


def token_confidence(top_logprobs: ArrayLike, k: int = 20) -> Floats:
    """C [...] from the log-probs [..., K] of at least the k most likely tokens, in any order.

    Where K < k (a vocabulary smaller than k) all K are averaged. Raises ValueError on K = 0 or k < 1.
    """
    logprobs = np.asarray(top_logprobs)
    logprobs = logprobs if np.issubdtype(logprobs.dtype, np.floating) else logprobs.astype(np.float64)
    if k < 1 or logprobs.ndim == 0 or logprobs.shape[-1] == 0:
        raise ValueError(f"token_confidence: needs at least one log-prob and k >= 1, got {logprobs.shape} and k={k}")
    if logprobs.shape[-1] > k:
        logprobs = np.partition(logprobs, logprobs.shape[-1] - k, axis=-1)[..., -k:]
    return np.einsum("...k->...", logprobs) / -logprobs.shape[-1]


def returned_confidence(
    top_logprobs: ArrayLike, sampled: ArrayLike, sampled_in_top: ArrayLike, variant: str = "top_k"
) -> Floats:
    """C [...] as three sources read what a server returns: the top k [..., k] and the sampled token's [...] log-prob.

    - `top_k`: the k most likely (the paper; the public online processor).
    - `returned`: every distinct entry, k + 1 of them where the sampled token is outside the top k (public offline
      code).
    - `drop_sampled`: every distinct entry but the sampled token's (the paper's appendix drops entry 0). On rows that
      repeat the sampled token in front of the top k, dropping entry 0 is `top_k` itself.
    """
    top, own, inside = (np.asarray(values) for values in (top_logprobs, sampled, sampled_in_top))
    k = top.shape[-1]
    if variant == "top_k":
        return token_confidence(top, k)
    if variant == "returned":
        return -(top.sum(-1) + np.where(inside, 0.0, own)) / (k + ~inside)
    if variant == "drop_sampled":
        return -(top.sum(-1) - np.where(inside, own, 0.0)) / (k - inside.astype(int))
    raise ValueError(f"returned_confidence: variant {variant!r} is none of {', '.join(RETURNED)}")


@dataclass(frozen=True)
class Ragged:
    """R traces of different lengths, end to end: values [T], lengths [R] with sum T."""

    values: Floats
    lengths: Ints

    def __post_init__(self) -> None:
        if self.values.ndim != 1 or self.lengths.ndim != 1 or self.lengths.sum() != len(self.values):
            raise ValueError(f"Ragged: {self.lengths.sum()} tokens in all lengths, {len(self.values)} values")

    @classmethod
    def of(cls, traces: Iterable[ArrayLike]) -> Ragged:
        rows = [np.asarray(trace, dtype=np.float64) for trace in traces]
        return cls(np.concatenate([np.zeros(0), *rows]), np.array([len(row) for row in rows], dtype=np.int64))

    @property
    def offsets(self) -> Ints:
        """Where each trace begins [R + 1]."""
        return np.concatenate([[0], np.cumsum(self.lengths)])

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[Floats]:
        offsets = self.offsets
        return (self.values[a:b] for a, b in pairwise(offsets))

    def take(self, rows: ArrayLike) -> Ragged:
        """The traces at these places, in this order."""
        offsets, rows = self.offsets, np.asarray(rows, dtype=np.int64)
        parts = [self.values[offsets[row] : offsets[row + 1]] for row in rows]
        return Ragged(np.concatenate([self.values[:0], *parts]), self.lengths[rows])


class Measure(NamedTuple):
    """One way to score a trace. `window` in tokens; `share` of the groups (bottom) or of the tokens (tail, head)."""

    kind: Literal["mean", "lowest", "bottom", "tail", "head"]
    window: int | None = None
    share: float | None = None


def paper_measures(window: int = 2048) -> dict[str, Measure]:
    """The paper's measures and its ablation's, by name. `mean` is the self-certainty baseline."""
    return {
        "mean": Measure("mean"),
        "lowest": Measure("lowest", window),
        "bottom10%": Measure("bottom", window, 0.10),
        "bottom50%": Measure("bottom", window, 0.50),
        "tail": Measure("tail", window),
        "tail10%": Measure("tail", share=0.10),
        "head10%": Measure("head", share=0.10),
    }


def score(
    confidences: Ragged, measures: Mapping[str, Measure], decimals: int | None = None, empty: float = np.nan
) -> dict[str, Floats]:
    """Every measure of every trace, name -> [R].

    `decimals`: None is the paper's; 3 rounds the tokens' and the groups' means as the public offline code does.
    `empty`: what a trace without tokens scores; NaN keeps it out of every vote, the public code gives 0.
    Raises ValueError on a confidence that is not finite, an unknown kind, a window < 1 or a share outside (0, 1].
    """
    if not np.isfinite(confidences.values).all():
        row = int(np.searchsorted(confidences.offsets, np.argmin(np.isfinite(confidences.values)), side="right")) - 1
        raise ValueError(f"score: trace {row} has a confidence that is not finite")
    for name, measure in measures.items():
        _check(name, measure)
    found = {name: np.full(len(confidences), float(empty)) for name in measures}
    for rows, sums, lengths in prefix_sums(confidences, decimals):
        windows = {measure.window for measure in measures.values() if measure.kind in ("lowest", "bottom")}
        groups = {window: group_means(sums, lengths, window, decimals) for window in windows}
        for name, measure in measures.items():
            found[name][rows] = _score(measure, sums, lengths, groups)
    return found


def prefix_sums(confidences: Ragged, decimals: int | None = None) -> Iterator[tuple[Ints, Floats, Ints]]:
    """Blocks of similar length that fit the cache: which traces [B], sums [B, L + 1] with S_0 = 0, lengths [B].

    Past its end a row's sum stays. Traces without tokens are in no block.
    """
    order = np.argsort(confidences.lengths, kind="stable")
    order = order[confidences.lengths[order] > 0]
    offsets = confidences.offsets
    while len(order):
        # As many traces as keep the padded block under a quarter million cells; the longest of them sets its width.
        width = confidences.lengths[order]
        count = max(1, int(np.searchsorted(width * np.arange(1, len(width) + 1), 1 << 18, side="right")))
        rows, order = order[:count], order[count:]
        lengths = confidences.lengths[rows]
        sums = np.zeros((count, lengths[-1] + 1))
        for place, row in enumerate(rows):
            sums[place, 1 : lengths[place] + 1] = confidences.values[offsets[row] : offsets[row + 1]]
        if decimals is not None:
            np.round(sums, decimals, out=sums)
        yield rows, np.cumsum(sums, axis=1, out=sums), lengths


def group_means(sums: Floats, lengths: Ints, window: int, decimals: int | None = None) -> Floats:
    """Means of all groups [B, G] of a block; +inf past a trace's last group. Column j ends at token window + j."""
    short = lengths <= window
    whole = sums[np.arange(len(sums)), lengths] / lengths
    if short.all():
        means = whole[:, None]
    else:
        means = (sums[:, window:] - sums[:, :-window]) / window
        means[short, 0] = whole[short]
        if lengths[0] < lengths[-1]:
            means[np.arange(means.shape[1]) >= group_counts(lengths, window)[:, None]] = np.inf
    return means if decimals is None else np.round(means, decimals)


def group_counts(lengths: Ints, window: int) -> Ints:
    """How many groups traces of these lengths have."""
    return np.maximum(lengths - window + 1, 1)


def _check(name: str, measure: Measure) -> None:
    takes = {"mean": (), "lowest": ("window",), "bottom": ("window", "share"), "tail": (), "head": ()}
    if measure.kind not in takes:
        raise ValueError(f"score: measure {name!r} has kind {measure.kind!r}, it is one of {', '.join(takes)}")
    either = measure.kind in ("tail", "head") and (measure.window is None) == (measure.share is None)
    if either or any(getattr(measure, part) is None for part in takes[measure.kind]):
        raise ValueError(
            f"score: measure {name!r} = {measure} lacks a window or a share (tail and head take one of them)"
        )
    if (measure.window is not None and measure.window < 1) or not 0 < (measure.share or 1) <= 1:
        raise ValueError(f"score: measure {name!r} needs a window >= 1 and a share in (0, 1], got {measure}")


def _score(measure: Measure, sums: Floats, lengths: Ints, groups: Mapping[int, Floats]) -> Floats:
    rows = np.arange(len(sums))
    if measure.kind == "lowest":
        return groups[measure.window].min(axis=1)
    if measure.kind == "bottom":
        return _mean_of_lowest(groups[measure.window], group_counts(lengths, measure.window), measure.share)
    if measure.kind == "mean":
        count = lengths
    elif measure.share is not None:
        count = np.maximum(1, np.floor(measure.share * lengths).astype(np.int64))
    else:
        count = np.minimum(measure.window, lengths)
    if measure.kind == "head":
        return sums[rows, count] / count
    return (sums[rows, lengths] - sums[rows, lengths - count]) / count


def _mean_of_lowest(means: Floats, counts: Ints, share: float) -> Floats:
    """Mean of the lowest max(1, floor(share * G)) of each row's G groups."""
    lowest = np.maximum(1, np.floor(share * counts).astype(np.int64))
    ordered = np.partition(means, np.unique(lowest) - 1, axis=1)[:, : lowest.max()]
    ordered[np.arange(lowest.max()) >= lowest[:, None]] = 0
    return ordered.sum(axis=1) / lowest
