"""Saved traces of any engine under every rule, without a model."""

from __future__ import annotations

import numpy as np
import pandas as pd

from methods.deepconf import rules
from methods.deepconf.answers import canonical, codes, equal
from methods.deepconf.online import Policy
from methods.deepconf.traces import Traces
from tycho.errors import TychoError


def reanalyse(traces: Traces, policy: Policy, *, resamples: int, merge: bool, seed: int = 0) -> pd.DataFrame:
    """question, rule, answer, share right (NaN without a target), tokens, ballots: one row a question and rule.

    A question's working set is all its traces, in `resamples` random orders; questions with no more traces than the
    warm-up, or without log-probs in it, are voted on offline only. `merge` counts spellings of one value as one answer.
    """
    rows = []
    for question, places in traces.pools():
        frame = traces.frame.iloc[places]
        answers = [answer if isinstance(answer, str) else None for answer in frame["answer"]]
        found, spelled = codes(answers, canonical if merge else None)
        target = frame["target"].dropna()
        right = np.array([len(target) > 0 and equal(word, target.iloc[0]) for word in [*spelled, None]], dtype=bool)
        own = traces.confidences.take(places)
        rng = np.random.default_rng(seed)
        order = rules.orders(rng, resamples, len(places), len(places))
        said = list(rules.offline(own, found, order, policy.window))
        silent = own.lengths == 0
        online = len(places) > policy.warmup and not silent[order[:, : policy.warmup]].all(axis=1).any()
        said += list(rules.online(own, found, order, policy, rng)) if online else []
        lengths = frame["tokens"].to_numpy()[order].sum(axis=1).mean()  # also of traces without log-probs
        for one in said:
            code = int(one.codes[0])
            offline = one.rule == "majority" or "@" in one.rule
            rows.append(
                {
                    "question": question,
                    "rule": one.rule,
                    "answer": spelled[code] if code >= 0 else None,
                    "right": float(right[one.codes].mean()) if len(target) else np.nan,
                    "tokens": lengths if offline and one.rule != "pass@1" else float(np.mean(one.tokens)),
                    "ballots": float(np.mean(one.ballots)),
                }
            )
    return pd.DataFrame(rows)


def summarise(found: pd.DataFrame) -> pd.DataFrame:
    """rule, questions, accuracy with Wilson's 95 % interval, tokens a question, share of the majority's tokens saved."""
    from scipy.stats import norm

    z = norm.ppf(0.975)
    rows = []
    for rule, mine in found.groupby("rule", sort=False):
        n, p = int(mine.right.notna().sum()), mine.right.mean()
        middle, half = np.nan, np.nan
        if n:
            middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
            half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
        same = found[(found.rule == "majority") & found.question.isin(mine.question)].tokens.mean()
        rows.append(
            {
                "rule": rule, "questions": len(mine), "accuracy": p, "low": middle - half, "high": middle + half,
                "tokens": mine.tokens.mean(), "saved": 1 - mine.tokens.mean() / same if same else np.nan,
                "ballots": mine.ballots.mean(),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def check(warmup: int, window: int, tau: float) -> None:
    """Raises TychoError on settings that no rule can have."""
    if warmup < 1 or window < 1 or not 0 < tau <= 1:
        raise TychoError(f"--warmup and --window are at least 1 and --tau in (0, 1], not {warmup}, {window}, {tau:g}")
