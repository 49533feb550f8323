"""DeepConf online (arXiv 2508.15260, Algorithm 2): a bar from warm-up traces, a stop rule, an early end.

W traces run to their end; the bar s is the (100 - eta)-th percentile of their lowest group confidences: eta = 10 is
DeepConf-low (aggressive), eta = 90 DeepConf-high. A later trace ends at the first token t >= n where the mean of its
last n confidences is strictly below s (a tie up to rounding is not below: `tie`), and costs t tokens. Warm-up traces at or above s and later traces that were not
stopped vote with their lowest group confidence; after each later trace the question ends once
beta = V(a^) / sum_a V(a) >= tau.

`StopRule` runs beside an engine; `replay` asks what the rule would have done on finished traces, over many orders at
once. Both use the same sums in the same sequence, so their stop positions agree on equal confidences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from methods.deepconf.confidence import TIE, Floats, Measure, Ragged, group_means, prefix_sums, score
from methods.deepconf.voting import Bools, Ints, Outcome, fill_up, percentile, vote

MODES = {"low": 10.0, "high": 90.0}  # eta, the percentage that is kept
CONVENTIONS = ("paper", "reproduce", "package")


@dataclass(frozen=True)
class Policy:
    """The knobs of Algorithm 2, at the paper's values, and the named options.

    - `tau=None`: no adaptive end, as in all public code (every trace is launched at once).
    - `weighted=False`: plain majority of the survivors, which the public package returns by default.
    - `short="drop"`: public code infers "stopped" from the score afterwards, so a trace that ended by itself within the
      first window is dropped below the bar though nothing stopped it. The paper's rule keeps it.
    - `check_after_warmup`: third-party ports also test tau before the first later trace.
    - `floor`: ballots needed before tau may end the question, and filled up from the best finished traces at the vote;
      cures a bar that admits one or two ballots, which agree with themselves.
    - `fallback`: plain majority of the finished traces where no ballot is left; cures an empty pool.
    - `tie`: nats that a bar is lowered by, so that a score equal to it up to rounding is not below it. 0: the bare
      comparison of floats, as in public code; of traces with equal tokens, rounding then stops some.
    """

    eta: float = MODES["low"]
    warmup: int = 16
    window: int = 2048
    tau: float | None = 0.95
    weighted: bool = True
    short: Literal["keep", "drop"] = "keep"
    check_after_warmup: bool = False
    floor: int = 0
    fallback: bool = False
    tie: float = TIE


class Replay(NamedTuple):
    """What one policy did, one value an order [S]; `stops` and `kept` [S, K] in the order's sequence."""

    outcome: Outcome
    tokens: Ints  # generated, warm-up and stopped parts included
    traces: Ints  # started before the question ended
    stops: Ints  # tokens at which a trace was stopped, 0 where it was not
    kept: Bools  # may vote: passed the bar or was never stopped (with or without an answer)
    bar: Floats


def kept_share(P: float, convention: str = "paper") -> float:
    """eta from a source's percentile parameter P.

    `paper`: P is eta. `reproduce` takes percentile(P), so its P=90 is DeepConf-low; `package` takes
    percentile(100 - P), so its default P=90 is DeepConf-high.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"kept_share: convention {convention!r} is none of {', '.join(CONVENTIONS)}")
    return 100 - P if convention == "reproduce" else P


def threshold(lowest: ArrayLike, eta: float, tie: float = TIE) -> Floats:
    """The bar s [...], less `tie`, from the warm-up traces' lowest group confidences [..., W]; NaN ones (no tokens) do
    not count.

    Raises ValueError where no warm-up trace has a confidence.
    """
    lowest = np.asarray(lowest, dtype=np.float64)
    valid = ~np.isnan(lowest)
    if not valid.any(-1).all():
        raise ValueError("threshold: no warm-up trace has a confidence")
    return percentile(lowest, 100 - eta, valid) - tie


def first_below(confidences: Ragged, bars: ArrayLike, window: int) -> Ints:
    """Tokens [S, R] after which each of R traces is stopped under each of S bars: the first t >= window whose last
    `window` confidences have a mean strictly below the bar; 0 where there is none."""
    bars = np.atleast_1d(np.asarray(bars, dtype=np.float64))
    stops = np.zeros((len(bars), len(confidences)), dtype=np.int64)
    for rows, sums, lengths in prefix_sums(confidences):
        if lengths[-1] < window:
            continue
        lows = np.minimum.accumulate(group_means(sums, lengths, window), axis=1)
        for row, low, length in zip(rows, lows, lengths, strict=True):
            if length >= window:
                group = np.searchsorted(-low, -bars, side="right")
                stops[:, row] = np.where(group < len(low), window + group, 0)
    return stops


class StopRule:
    """The stop rule beside an engine: B sequences, one confidence each at a time. `lowest` is their score so far."""

    def __init__(self, bars: ArrayLike, window: int, rows: int) -> None:
        self.bars, self.window = np.broadcast_to(np.asarray(bars, dtype=np.float64), rows), window
        self.count = np.zeros(rows, dtype=np.int64)
        self._total = np.zeros(rows)
        self._past = np.zeros((rows, window))  # S_t stands at t mod window until S_(t + window) takes its place
        self._lowest = np.full(rows, np.inf)

    def push(self, confidences: ArrayLike, rows: ArrayLike | None = None) -> Bools:
        """Takes the next token's confidence of these rows (all); True where a row must stop with this token."""
        rows = np.arange(len(self.count)) if rows is None else np.asarray(rows)
        count, total = self.count[rows] + 1, self._total[rows] + confidences
        place = count % self.window
        mean = (total - self._past[rows, place]) / self.window
        self.count[rows], self._total[rows], self._past[rows, place] = count, total, total
        full = count >= self.window
        self._lowest[rows] = np.minimum(self._lowest[rows], np.where(full, mean, np.inf))
        return full & (mean < self.bars[rows])

    @property
    def lowest(self) -> Floats:
        """Lowest group confidence [B] of what was pushed; NaN before the first token."""
        with np.errstate(invalid="ignore"):
            return np.where(self.count < self.window, self._total / self.count, self._lowest)


def replay(confidences: Ragged, codes: ArrayLike, orders: ArrayLike, policy: Policy) -> Replay:
    """Algorithm 2 on finished traces of one question: codes [R] (-1: no answer), orders [S, K] of distinct traces.

    K is the budget B. Raises ValueError where an order is not longer than the warm-up.
    """
    codes, orders = np.asarray(codes), np.atleast_2d(np.asarray(orders))
    if orders.shape[1] <= policy.warmup or policy.warmup < 1:
        raise ValueError(f"replay: {orders.shape[1]} traces, warm-up {policy.warmup}: needs 1 <= warm-up < traces")
    lowest = score(confidences, {"lowest": Measure("lowest", policy.window)})["lowest"]
    bar = threshold(lowest[orders[:, : policy.warmup]], policy.eta, policy.tie)
    stops = np.take_along_axis(first_below(confidences, bar, policy.window), orders, axis=1)
    later = np.arange(orders.shape[1]) >= policy.warmup
    stops = np.where(later, stops, 0)
    passed = lowest[orders] >= bar[:, None]
    scored = ~np.isnan(lowest[orders])
    kept = np.where(later & (policy.short == "keep"), scored & (stops == 0), passed)
    return decide(codes[orders], lowest[orders], kept, stops, confidences.lengths[orders], bar, policy)


def decide(codes: Ints, lowest: Floats, kept: Bools, stops: Ints, lengths: Ints, bar: Floats, policy: Policy) -> Replay:
    """The second half of Algorithm 2, for a replay and for what a live engine left: votes in sequence until tau or K.

    All [S, K] in the order the traces were started: codes (-1 without an answer), scores, who may vote, stop positions
    (0: ran to its end), lengths of those that did; the bar [S]. Stopped traces never vote.
    """
    K = codes.shape[1]
    weights = lowest if policy.weighted else np.ones_like(lowest)
    ends = consensus_end(codes, weights, kept, policy) if policy.tau is not None else np.full(len(codes), K)
    started = np.arange(K) < ends[:, None]
    tokens = np.where(started, np.where(stops > 0, stops, lengths), 0).sum(axis=1)
    finished = np.where(started & (stops == 0), codes, -1)
    ballots = fill_up(kept & (finished >= 0), lowest, ~np.isnan(lowest) & (finished >= 0), policy.floor)
    outcome = vote(finished, weights, ballots, fallback=policy.fallback)
    return Replay(outcome, tokens, ends, np.where(started, stops, 0), kept & started, bar)


def consensus_end(codes: Ints, weights: Floats, kept: Bools, policy: Policy) -> Ints:
    """How many of K traces [S] are started: up to the first later trace after which beta >= tau. Arguments [S, K]."""
    ballots = kept & (codes >= 0)
    sets = np.arange(len(codes))
    weight = np.where(ballots, weights, 0.0)
    # Votes only grow, so the leader's vote is the largest that any answer had when it was last voted for.
    votes = np.zeros((len(codes), max(int(codes.max(initial=-1)), 0) + 1))
    lead, total = np.zeros(len(codes)), np.zeros(len(codes))
    ends = np.full(len(codes), codes.shape[1])
    enough = np.cumsum(ballots, axis=1) >= max(policy.floor, 1)
    first = policy.warmup - policy.check_after_warmup
    for trace in range(codes.shape[1]):
        code = np.maximum(codes[:, trace], 0)
        votes[sets, code] += weight[:, trace]
        total += weight[:, trace]
        lead = np.maximum(lead, votes[sets, code])
        if trace >= first:
            beta = np.divide(lead, total, out=np.zeros_like(lead), where=total > 0)
            ends[enough[:, trace] & (beta >= policy.tau) & (ends == codes.shape[1])] = trace + 1
    return ends


# --- controls: what the same saving is worth without the confidence -------------------------------------------------


def consensus_only(codes: ArrayLike, lengths: ArrayLike, orders: ArrayLike, policy: Policy) -> Replay:
    """Adaptive self-consistency at the policy's tau and warm-up: plain votes, nothing filtered or stopped."""
    orders = np.atleast_2d(np.asarray(orders))
    ones, none = np.ones(orders.shape), np.zeros(orders.shape, dtype=np.int64)
    bar = np.full(len(orders), -np.inf)
    return decide(np.asarray(codes)[orders], ones, ones > 0, none, np.asarray(lengths)[orders], bar, policy)


def majority_at_tokens(codes: ArrayLike, lengths: ArrayLike, orders: ArrayLike, tokens: ArrayLike) -> Outcome:
    """Plain majority of as many finished traces, in order, as the budget of tokens [S] pays for, and at least one."""
    orders = np.atleast_2d(np.asarray(orders))
    spent = np.cumsum(np.asarray(lengths)[orders], axis=1)
    paid = (spent <= np.asarray(tokens)[:, None]) | (np.arange(orders.shape[1]) == 0)
    return vote(np.asarray(codes)[orders], np.ones(orders.shape), paid)


def random_stop(
    confidences: Ragged, codes: ArrayLike, orders: ArrayLike, replayed: Replay, policy: Policy, rng: np.random.Generator
) -> Replay:
    """As many traces barred and stopped as in `replayed`, but drawn at random, at the same number of tokens.

    The stopped ones are cut at one common share of their length (which may round to 0 tokens) and spend exactly the
    same tokens; where the drawn ones are too short to save that much, further ones are drawn. Weights are the
    policy's.
    """
    codes, orders = np.asarray(codes)[orders], np.asarray(orders)
    lengths = confidences.lengths[orders]
    K = orders.shape[1]
    started = np.arange(K) < replayed.traces[:, None]
    later = started & (np.arange(K) >= policy.warmup)
    warm = started & ~later
    saved = np.where(replayed.stops > 0, lengths - replayed.stops, 0).sum(axis=1)

    draw = rng.random(orders.shape)
    warm_rank = np.argsort(np.argsort(np.where(warm, draw, 2), axis=1), axis=1)
    admitted = warm & (warm_rank < (replayed.kept & warm).sum(axis=1)[:, None])

    order = np.argsort(np.where(later, draw, 2), axis=1)
    drawn = np.take_along_axis(np.where(later, lengths, 0), order, axis=1)
    before = np.cumsum(drawn, axis=1) - drawn
    count = (replayed.stops > 0).sum(axis=1)
    cut = ((np.arange(K) < count[:, None]) | (before < saved[:, None])) & (drawn > 0)
    room = np.cumsum(np.where(cut, drawn, 0), axis=1)
    share = 1 - saved / np.maximum(room[:, -1], 1)
    spent = np.floor(share[:, None] * room + 0.5).astype(np.int64)
    stops, stopped = np.zeros_like(lengths), np.zeros_like(started)
    np.put_along_axis(stops, order, np.where(cut, np.diff(spent, axis=1, prepend=0), 0), axis=1)
    np.put_along_axis(stopped, order, cut, axis=1)

    lowest = score(confidences, {"lowest": Measure("lowest", policy.window)})["lowest"][orders]
    kept = np.where(later, ~stopped, admitted) & started & ~np.isnan(lowest)
    tokens = np.where(started, np.where(stopped, stops, lengths), 0).sum(axis=1)
    finished = np.where(started & ~stopped, codes, -1)
    ballots = fill_up(kept & (finished >= 0), draw, finished >= 0, policy.floor)
    weights = lowest if policy.weighted else np.ones_like(lowest)
    outcome = vote(finished, np.where(ballots, weights, 0), ballots, fallback=policy.fallback)
    return Replay(outcome, tokens, replayed.traces, stops, kept, replayed.bar)


def shuffled(codes: ArrayLike, rng: np.random.Generator) -> Ints:
    """Codes [..., R] dealt anew among the traces that have one: every confidence then belongs to a random answer."""
    codes = np.array(codes)
    for row in codes.reshape(-1, codes.shape[-1]):
        row[row >= 0] = rng.permutation(row[row >= 0])
    return codes
