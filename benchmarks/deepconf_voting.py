"""Confidence and all voting rules of one question's pool against the sliding window by loop.

    OMP_NUM_THREADS=1 python benchmarks/deepconf_voting.py

512 traces of 32,768 tokens, window 2,048. The loop does the same work as the public code does it: a mean of 20
log-probs a token, and every window's sum taken anew (O(N n)). It runs on a few traces and is scaled up. CPU seconds,
one core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from methods.deepconf.confidence import Ragged, paper_measures, score, token_confidence
from methods.deepconf.online import Policy, replay
from methods.deepconf.voting import paper_rules, vote_all


def tokens_by_loop(logprobs: list[list[float]]) -> list[float]:
    return [-sum(row) / len(row) for row in logprobs]


def measures_by_loop(confidences: list[float], window: int) -> dict[str, float]:
    """All measures of one trace; the windows' sums are taken once for the three measures that need them."""
    groups = [sum(confidences[i : i + window]) / window for i in range(len(confidences) - window + 1)]
    ordered, tenth = sorted(groups), len(confidences) // 10
    return {
        "mean": sum(confidences) / len(confidences),
        "lowest": min(groups),
        "bottom10%": sum(ordered[: len(groups) // 10]) / (len(groups) // 10),
        "bottom50%": sum(ordered[: len(groups) // 2]) / (len(groups) // 2),
        "tail": sum(confidences[-window:]) / window,
        "tail10%": sum(confidences[-tenth:]) / tenth,
        "head10%": sum(confidences[:tenth]) / tenth,
    }


def best_of(repeats: int, work: Callable[[], Any]) -> tuple[float, Any]:
    """Least CPU seconds of several runs, and the last result."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        out = work()
        times.append(time.process_time() - start)
    return min(times), out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--traces", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--window", type=int, default=2_048)
    parser.add_argument("--loop-traces", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    R, N, n = options.traces, options.tokens, options.window

    rng = np.random.default_rng(0)
    codes = rng.integers(0, 20, R)
    lengths = np.full(R, N)
    # Twenty log-probs a token, as a server sends them: 1.3 GB in float32.
    logprobs = rng.standard_exponential((R * N, 20), dtype=np.float32)
    logprobs *= -12

    tokens_seconds, values = best_of(options.repeats, lambda: token_confidence(logprobs))
    pool = Ragged(values, lengths)
    measures = paper_measures(n)
    rules = paper_rules(list(measures))
    score_seconds, scores = best_of(options.repeats, lambda: score(pool, measures))
    vote_seconds, _ = best_of(options.repeats, lambda: vote_all(codes, scores, rules))
    policy = Policy(window=n)
    online_seconds, _ = best_of(options.repeats, lambda: replay(pool, codes, np.arange(R)[None], policy))

    few = options.loop_traces
    rows = logprobs[: few * N].astype(np.float64).reshape(few, N, 20).tolist()
    tokens_loop, confidences = best_of(1, lambda: [tokens_by_loop(row) for row in rows])
    measures_loop, found = best_of(1, lambda: [measures_by_loop(row, n) for row in confidences])
    tokens_loop, measures_loop = tokens_loop * R / few, measures_loop * R / few
    for name in measures:
        assert np.allclose([row[name] for row in found], scores[name][:few], rtol=1e-6, atol=0), name

    ours, loop = tokens_seconds + score_seconds + vote_seconds, tokens_loop + measures_loop
    windows = measures_loop / (score_seconds + vote_seconds)
    print(f"{R} traces x {N} tokens, window {n}, {len(measures)} measures, {len(rules)} voting rules; CPU seconds")
    print(f"{'':42}{'ours':>10}{'loop':>10}   (loop: from {few} traces)")
    print(f"{'token confidence from 20 log-probs':42}{tokens_seconds:10.3f}{tokens_loop:10.1f}")
    print(f"{'all measures of all traces':42}{score_seconds:10.3f}{measures_loop:10.1f}")
    print(f"{'all voting rules':42}{vote_seconds:10.3f}")
    print(f"{'together':42}{ours:10.3f}{loop:10.1f}   (< 1 wanted)")
    print(f"{'online replay of one order':42}{online_seconds:10.3f}")
    print(
        f"measures and voting: {windows:.0f}x the sliding window by loop (>= 500 wanted); together: {loop / ours:.0f}x"
    )


if __name__ == "__main__":
    main()
