"""A weighted stream over corpora whose proportions are exact at every prefix, not only on average.

After n documents each corpus has given n·w_k of them, less than one off. Drawing corpora at random, as training scripts
do, is off by √(n w (1 - w)) and needs the generator's state to resume; here the counts are the whole state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
GRAIN = 2**40  # weights are multiples of 1 / GRAIN, so that all comparisons are of whole numbers


class MixtureSampler:
    """Which corpus the next document comes from, and which of its documents that is.

    Tijdeman's rule for the chairman assignment problem (1980, Discrete Mathematics 32): of the corpora that may give the
    n-th document without coming δ = 1 - 1/(2K - 2) above their due, the one that would first fall δ below it. So
    |count_k(n) - n w_k| ≤ δ for all n and k, and no other rule has a smaller bound.

    weights: K numbers ≥ 0, of any sum > 0. Raises ValueError for others.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self.parts = quantised(weights)
        self.counts = [0] * len(self.parts)

    @property
    def taken(self) -> int:
        """Documents so far."""
        return sum(self.counts)

    def take(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """(corpus [n], document within the corpus [n]) of the next n documents."""
        positive = [k for k, part in enumerate(self.parts) if part]
        slack = max(2 * len(positive) - 2, 1)  # 1 - δ = 1 / slack; a single corpus takes everything
        parts, counts = self.parts, self.counts
        scaled = {k: parts[k] * slack for k in positive}
        deadline = {k: self._deadline(k, slack) for k in positive}
        corpus, document = np.empty(n, np.int64), np.empty(n, np.int64)
        start = self.taken
        for place in range(n):
            due = start + place + 1
            ready = [k for k in positive if due * scaled[k] - counts[k] * GRAIN * slack >= GRAIN]
            k = min(ready, key=deadline.__getitem__) if len(positive) > 1 else positive[0]
            corpus[place], document[place] = k, counts[k]
            counts[k] += 1
            deadline[k] = self._deadline(k, slack)
        return corpus, document

    def _deadline(self, k: int, slack: int) -> int:
        """The first n at which n·w_k - count_k > δ."""
        return (self.counts[k] * slack + slack - 1) * GRAIN // (self.parts[k] * slack) + 1

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on."""
        return {"counts": list(self.counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict()`. Raises ValueError if it is of another number of corpora."""
        counts = [int(count) for count in state["counts"]]
        if len(counts) != len(self.parts):
            raise ValueError(f"the state is of {len(counts)} corpora, the sampler has {len(self.parts)}")
        self.counts = counts


def quantised(weights: Sequence[float]) -> list[int]:
    """The weights' shares as whole numbers of sum GRAIN, by largest remainder."""
    values = np.asarray(weights, np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all() or (values < 0).any() or not values.sum():
        raise ValueError(f"weights are numbers ≥ 0 of a positive sum, not {list(weights)}")
    exact = values / values.sum() * GRAIN
    whole = np.floor(exact).astype(np.int64)
    order = np.argsort(-(exact - whole), kind="stable")
    order = order[values[order] > 0]
    whole[order[: GRAIN - int(whole.sum())]] += 1
    return whole.tolist()


def stream(sources: Sequence[Iterable[T]], sampler: MixtureSampler) -> Iterator[tuple[int, T]]:
    """(corpus, document) for ever, or until a corpus that is due has no more. Sources stand where the counts say:
    after `load_state_dict` they must have been moved on by as many documents."""
    iterators = [iter(source) for source in sources]
    while True:
        k = int(sampler.take(1)[0][0])
        try:
            document = next(iterators[k])
        except StopIteration:
            sampler.counts[k] -= 1  # it was not given
            return
        yield k, document
