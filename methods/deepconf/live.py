"""Algorithm 2 on a running engine: warm-up traces to their end, a bar, later traces stopped while they are written.

Questions advance together: one stream for all warm-up traces, then one a wave of later ones. The confidences that decide
are those of the tokens as they come, by the same sums as a replay, so a replay of what was written stops at the same
places (`disagreement` counts where it does not).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from methods.deepconf.answers import canonical, codes
from methods.deepconf.confidence import Floats, Ragged, token_confidence
from methods.deepconf.online import Policy, StopRule, consensus_end, decide, first_below, threshold
from tycho.engines import Completion, Engine, Settings
from tycho.errors import TychoError


@dataclass
class Live:
    """One question as it went, in the order the traces were started."""

    prompt: str
    place: int  # among the questions
    warmup: int
    completions: list[Completion] = field(default_factory=list)
    confidences: list[Floats] = field(default_factory=list)
    lowest: list[float] = field(default_factory=list)
    stops: list[int] = field(default_factory=list)  # tokens at which a trace was stopped, 0 where it was not
    bar: float = float("nan")
    ended: bool = False
    answer: str | None = None
    share: float = float("nan")
    ballots: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """All that was generated, warm-up and stopped parts included."""
        return sum(made.tokens for made in self.completions)

    @property
    def sequential_tokens(self) -> int:
        """The longest warm-up trace, then the longest later one: each group runs side by side."""
        lengths = [made.tokens for made in self.completions]
        return max(lengths[: self.warmup], default=0) + max(lengths[self.warmup :], default=0)


def think(
    engine: Engine,
    prompts: Sequence[str],
    budget: int,
    settings: Settings,
    policy: Policy,
    find: Callable[[str], str | None],
    *,
    k: int = 20,
    wave: int = 0,
    key: Callable[[str], str] | None = canonical,
    noise: Any = None,
) -> list[Live]:
    """One `Live` a prompt.

    budget: traces a question may have. wave: later traces started together, after each of which tau is asked (0: all at
    once, where tau saves nothing; 1 is the paper's). find: answer in a text; key: spelling under which answers are
    counted. noise [questions, budget, most] goes to an engine that takes it. Raises TychoError where the budget is not
    above the warm-up, or where no warm-up trace of any question came with log-probs.
    """
    if budget <= policy.warmup:
        raise TychoError(f"a budget of {budget} traces leaves none behind a warm-up of {policy.warmup}: raise it")
    settings = Settings(**{**vars(settings), "top_logprobs": settings.top_logprobs or k})
    lives = [Live(prompt, place, policy.warmup) for place, prompt in enumerate(prompts)]
    _run(engine, lives, policy.warmup, settings, policy, k, noise)
    for live in lives:
        known = np.array(live.lowest)
        if np.isnan(known).all():
            live.ended = True
            live.problems.append("no warm-up trace came with log-probs: the plain majority answers")
        else:
            live.bar = float(threshold(known, policy.eta, policy.tie))
    if all(live.ended for live in lives):
        errors = [made.error for live in lives for made in live.completions if made.error]
        raise TychoError(errors[0] if errors else "no trace came with log-probs: ask the engine for them")
    done = policy.warmup
    while done < budget and not all(live.ended for live in lives):
        count = min(wave or budget, budget - done)
        _run(engine, [live for live in lives if not live.ended], count, settings, policy, k, noise)
        done += count
        for live in lives:
            live.ended = live.ended or _settled(live, policy, find, key)
    for live in lives:
        _vote(live, policy, find, key)
    return lives


def disagreement(live: Live, policy: Policy) -> int:
    """Traces whose stop a replay of the same confidences puts elsewhere (the stump's last token is where it stopped)."""
    W = policy.warmup
    if np.isnan(live.bar) or len(live.completions) <= W:
        return 0
    replayed = first_below(Ragged.of(live.confidences[W:]), live.bar, policy.window)[0]
    return int((replayed != np.array(live.stops[W:])).sum())


# --- inside ----------------------------------------------------------------------------------------------------------


def _run(engine: Engine, lives: list[Live], count: int, settings: Settings, policy: Policy, k: int, noise: Any) -> None:
    """`count` more traces of each question, stopped below its bar (no bar yet: never)."""
    rows = [live for live in lives for _ in range(count)]
    bars = np.array([-np.inf if np.isnan(live.bar) else live.bar for live in rows])
    rule = StopRule(bars, policy.window, len(rows))
    heard: list[list[float]] = [[] for _ in rows]
    stops = np.zeros(len(rows), dtype=np.int64)
    options = {}
    if noise is not None:
        begun = len(lives[0].completions)
        options["noise"] = noise[[live.place for live in lives], begun : begun + count].flatten(0, 1)
    with engine.stream([live.prompt for live in rows], settings, **options) as stream:
        for step in stream:
            sure = confidence_of(step.top_logprobs, k)
            for row, value in zip(step.rows, sure, strict=True):
                heard[row].append(float(value))
            halt = step.rows[rule.push(sure, step.rows)]
            stops[halt] = rule.count[halt]
            if len(halt):
                stream.abort(halt)
    for row, (live, made) in enumerate(zip(rows, stream.completions, strict=True)):
        if made.finish == "error":
            live.problems.append(made.error)
        stopped = int(stops[row]) if made.finish == "abort" else 0
        known = np.array(heard[row])
        if np.isnan(known).any():  # from there on nothing is known: never stopped, and no ballot by confidence
            live.problems.append("a token came without log-probs: its trace votes in the plain majority only")
            known = known[: np.isnan(known).argmax()]
        live.completions.append(made)
        live.confidences.append(known)
        live.lowest.append(float("nan") if made.finish == "error" else float(rule.lowest[row]))
        # A trace whose last token both ends it and falls below the bar has been stopped: it does not vote.
        live.stops.append(stopped or int(stops[row]))


def confidence_of(top_logprobs: Any, k: int) -> Floats:
    """C [b] of log-probs [b, K] of which a server may have sent fewer (NaN); NaN where it sent none."""
    rows = np.asarray(top_logprobs)
    known = np.isfinite(rows)
    if known.all():
        return np.asarray(token_confidence(rows, k), dtype=np.float64)
    found = [
        float(token_confidence(row[own], k)) if own.any() else np.nan for row, own in zip(rows, known, strict=True)
    ]
    return np.array(found, dtype=np.float64)


def _arrays(
    live: Live, policy: Policy, find: Callable[[str], str | None], key: Callable[[str], str] | None
) -> tuple[Any, ...]:
    """(codes, lowest, kept, stops, lengths) [1, n] as `decide` takes them, and the answers by code."""
    texts = [None if made.finish == "error" else find(made.text) for made in live.completions]
    found, spelled = codes(texts, key)
    lowest, stops = np.array(live.lowest), np.array(live.stops)
    later = np.arange(len(stops)) >= policy.warmup
    passed = lowest >= live.bar
    kept = np.where(later & (policy.short == "keep"), ~np.isnan(lowest) & (stops == 0), passed)
    lengths = np.array([made.tokens for made in live.completions])
    return tuple(part[None] for part in (found, lowest, kept, stops, lengths)), spelled


def _settled(live: Live, policy: Policy, find: Callable[[str], str | None], key: Callable[[str], str] | None) -> bool:
    """Whether the votes so far agree by tau."""
    if policy.tau is None or np.isnan(live.bar):
        return False
    (found, lowest, kept, stops, _), _ = _arrays(live, policy, find, key)
    found = np.where(stops == 0, found, -1)
    weights = lowest if policy.weighted else np.ones_like(lowest)
    ends = consensus_end(np.append(found, [[-1]], axis=1), np.append(weights, [[0.0]], axis=1), np.append(kept, [[False]], axis=1), policy)  # fmt: skip
    return bool(ends[0] <= found.shape[1])


def _vote(live: Live, policy: Policy, find: Callable[[str], str | None], key: Callable[[str], str] | None) -> None:
    (found, lowest, kept, stops, lengths), spelled = _arrays(live, policy, find, key)
    if np.isnan(live.bar):  # nothing is known of any trace
        lowest, kept = np.ones_like(lowest), found >= 0
    made = decide(found, lowest, kept, stops, lengths, np.array([live.bar]), Policy(**{**vars(policy), "tau": None}))
    code = int(made.outcome.answer[0])
    live.answer = spelled[code] if code >= 0 else None
    live.share, live.ballots = float(made.outcome.share[0]), int(made.outcome.ballots[0])
