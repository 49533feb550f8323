"""Every voting rule over one pool of traces: what it answers and what it costs, question by question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from methods.deepconf.confidence import Measure, Ragged, paper_measures, score
from methods.deepconf.flops import Counter
from methods.deepconf.online import (
    MODES,
    Policy,
    Replay,
    consensus_only,
    majority_at_tokens,
    random_stop,
    replay,
    shuffled,
)  # fmt: skip
from methods.deepconf.pools import Pool
from methods.deepconf.voting import Rule, paper_rules, vote_all

BY_BUDGET = ("majority", "lowest@10", "low", "low+tau", "high", "consensus-only")
AUC = ("mean", "lowest", "bottom10%", "tail")


class Said(NamedTuple):
    """A rule's answers and costs in S resamples of one question."""

    rule: str
    codes: np.ndarray  # [S], -1: none
    tokens: np.ndarray
    sequential: np.ndarray
    ballots: np.ndarray
    written: np.ndarray  # [S, K]: tokens of each trace, 0 where it was not started


def orders(rng: np.random.Generator, resamples: int, budget: int, size: int) -> np.ndarray:
    """[S, K]: working sets of K distinct traces, in the order they are started."""
    return np.stack([rng.permutation(size)[:budget] for _ in range(resamples)])


def offline(confidences: Ragged, codes: np.ndarray, order: np.ndarray, window: int) -> Iterator[Said]:
    """Majority, every measure as a weight, and every measure as a filter at 10 and 90 %."""
    measures = paper_measures(window)
    scores = score(confidences, measures)
    lengths = confidences.lengths[order]
    tokens, longest = lengths.sum(axis=1), lengths.max(axis=1)
    dealt = {name: values[order] for name, values in scores.items()}
    rules = paper_rules(list(measures))
    for name, outcome in vote_all(codes[order], dealt, rules).items():
        yield Said(name, outcome.answer, tokens, longest, outcome.ballots, lengths)
    for name, floor in (("lowest@10 floor 3", 3),):
        outcome = vote_all(codes[order], dealt, {"rule": rules["lowest@10"]}, floor=floor, fallback=True)["rule"]
        yield Said(name, outcome.answer, tokens, longest, outcome.ballots, lengths)
    one = codes[order[:, 0]]
    yield Said("pass@1", one, lengths[:, 0], lengths[:, 0], (one >= 0).astype(int), lengths[:, :1])


def filter_of_others(confidences: Ragged, codes: np.ndarray, order: np.ndarray, window: int) -> Said:
    """The filter at 10 % over answers that were dealt anew: a control of the offline rules."""
    scores = {"lowest": score(confidences, {"lowest": paper_measures(window)["lowest"]})["lowest"][order]}
    found = vote_all(codes[order], scores, {"rule": Rule("lowest", 10)})["rule"]
    lengths = confidences.lengths[order]
    return Said("lowest@10 shuffled", found.answer, lengths.sum(axis=1), lengths.max(axis=1), found.ballots, lengths)


def written(made: Replay, lengths: np.ndarray) -> np.ndarray:
    """Tokens [S, K] of each trace of a replay, whose own `lengths` are [S, K]: up to its stop, 0 where it was not started."""
    stopped = np.where(made.stops > 0, made.stops, lengths)
    return np.where(np.arange(lengths.shape[1]) < made.traces[:, None], stopped, 0)


def paid_for(lengths: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Lengths [S, K] of the traces that vote in `majority_at_tokens`, 0 for those that the budget does not reach."""
    paid = np.cumsum(lengths, axis=1) <= tokens[:, None]
    paid[:, 0] = True
    return np.where(paid, lengths, 0)


def online(
    confidences: Ragged, codes: np.ndarray, order: np.ndarray, policy: Policy, rng: np.random.Generator
) -> Iterator[Said]:
    """DeepConf-low and -high with and without the adaptive end, and what the same saving is worth otherwise."""

    def said(rule: str, made: Replay) -> Said:
        lengths = written(made, confidences.lengths[order])
        warm = lengths[:, : policy.warmup].max(axis=1)
        sequential = warm + lengths[:, policy.warmup :].max(axis=1)
        return Said(rule, made.outcome.answer, made.tokens, sequential, made.outcome.ballots, lengths)

    for mode, eta in MODES.items():
        for ending, tau in (("", None), ("+tau", policy.tau)):
            own = replace(policy, eta=eta, tau=tau)
            made = replay(confidences, codes, order, own)
            yield said(mode + ending, made)
            if mode == "high":
                continue
            yield said(f"random-stop{ending}", random_stop(confidences, codes, order, made, own, rng))
            dealt = np.broadcast_to(codes, (1, len(codes)))
            anew = shuffled(dealt, rng)[0]
            yield said(f"shuffled{ending}", replay(confidences, anew, order, own))
            if not ending:
                yield filter_of_others(confidences, anew, order, policy.window)
            spent = majority_at_tokens(codes, confidences.lengths, order, made.tokens)
            # Its tokens are the budget; its FLOPs and its longest trace are of those that this pays for.
            paid = paid_for(confidences.lengths[order], made.tokens)
            name, longest = f"majority at equal tokens{ending}", paid.max(axis=1)
            yield Said(name, spent.answer, made.tokens, longest, spent.ballots, paid)
    low = replace(policy, eta=MODES["low"])
    yield said("consensus-only", consensus_only(codes, confidences.lengths, order, low))
    for name, option in (
        ("low+tau floor 3", {"floor": 3, "fallback": True}),
        ("low+tau unweighted", {"weighted": False}),
        ("low+tau short dropped", {"short": "drop"}),
    ):
        yield said(name, replay(confidences, codes, order, replace(low, **option)))


def samples(
    pool: Pool,
    *,
    budget: int,
    resamples: int,
    policy: Policy,
    windows: list[int],
    rng: np.random.Generator,
    flops: Counter,
    budgets: Sequence[int] = (),
) -> pd.DataFrame:
    """One row a question and rule: `score` is the share of resamples that are right, tokens and FLOPs their mean. `answer`
    is the first resample's; a single trace (pass@1) has its text, too, so that a reader sees what the votes are over."""
    rows = []
    for place, item in enumerate(pool.problem.items.itertuples(index=False)):
        confidences, codes = pool.question(place)
        order = orders(rng, resamples, budget, pool.size)
        said = [("", one) for one in offline(confidences, codes, order, policy.window)]
        said += [("", one) for one in online(confidences, codes, order, policy, rng)]
        for window in windows:
            where = f"window={window}"
            kept = ("lowest@10", "bottom10%@10", "tail@10")
            said += [(where, one) for one in offline(confidences, codes, order, window) if one.rule in kept]
            made = replay(confidences, codes, order, replace(policy, window=window, tau=None))
            spent = np.full(len(order), np.nan)
            lengths = written(made, confidences.lengths[order])
            said.append((where, Said("low", made.outcome.answer, made.tokens, spent, made.outcome.ballots, lengths)))
        for fewer in budgets:  # the same orders, ended earlier
            where = f"budget={fewer}"
            every = (
                *offline(confidences, codes, order[:, :fewer], policy.window),
                *online(confidences, codes, order[:, :fewer], policy, rng),
            )
            said += [(where, one) for one in every if one.rule in BY_BUDGET]
        right = np.append(pool.right[place], False)  # the last one is what -1 finds
        for where, one in said:
            share = float(right[one.codes].mean())
            first = int(one.codes[0])
            steps = float(np.mean(one.sequential))
            rows.append(
                {
                    "variant": one.rule,
                    "setting": where,
                    "item": item.item,
                    "prompt": item.prompt,
                    "response": pool.texts[place * pool.size + order[0, 0]] if one.rule == "pass@1" else "",
                    "answer": pool.spelled[place][first] if first >= 0 else "",
                    "target": item.target,
                    "correct": bool(right[first]),
                    "score": share,
                    "generated_tokens": round(float(np.mean(one.tokens))),
                    "forward_passes": round(float(np.mean(one.tokens))),  # a token is one pass of its trace
                    "flops": float(np.mean(flops(item.prompt, one.written))),
                    "sequential_tokens": pd.NA if np.isnan(steps) else round(steps),
                    "ballots": float(np.mean(one.ballots)),
                }
            )
    return pd.DataFrame(rows)


def auc(pool: Pool, window: int, seed_measures: tuple[str, ...] = AUC) -> dict[str, np.ndarray]:
    """By measure, for each question with right and wrong traces: the chance that a right one scores above a wrong one."""
    measures: dict[str, Measure] = {name: paper_measures(window)[name] for name in seed_measures}
    scores = score(pool.confidences, measures)
    found: dict[str, list[float]] = {name: [] for name in measures}
    for place, codes in enumerate(pool.codes):
        hit = np.append(pool.right[place], False)[codes]
        rows = slice(place * pool.size, (place + 1) * pool.size)
        for name, values in scores.items():
            good, bad = values[rows][hit], values[rows][~hit & (codes >= 0)]
            good, bad = good[~np.isnan(good)], bad[~np.isnan(bad)]
            if len(good) and len(bad):
                above = (good[:, None] > bad).mean() + (good[:, None] == bad).mean() / 2
                found[name].append(float(above))
    return {name: np.array(values) for name, values in found.items()}
