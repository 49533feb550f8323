"""One pool of traces, all rules over it, and the online rule once more on the live engine."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd

from methods.deepconf import pools, rules
from methods.deepconf.collect import collect
from methods.deepconf.flops import counter
from methods.deepconf.live import disagreement, think
from methods.deepconf.online import MODES, Policy, replay
from methods.deepconf.tasks import GROUND, ON_GROUND
from tycho.adapter import Run
from tycho.engines.local import Local
from tycho.errors import TychoError

log = logging.getLogger("tycho")


def policy(config) -> Policy:
    return Policy(warmup=config.warmup, window=config.window, tau=config.tau)


def evaluate(run: Run) -> None:
    config = run.config
    if not config.warmup < config.budget <= config.pool:
        raise TychoError(
            f"warmup {config.warmup} < budget {config.budget} <= pool {config.pool} does not hold: a rule needs traces "
            "behind its warm-up, and no more than there are"
        )
    problem, engine = pools.problem(run), pools.engine(run)
    settings = pools.settings(config, problem.stop)
    prompts = problem.items["prompt"].tolist()
    noise = None
    if isinstance(engine, Local):
        import torch

        noise = torch.rand(len(prompts), config.pool, config.most, generator=run.generator("traces"))
    made = collect(run, engine, prompts, settings, noise)
    failed = [one.error for one in made if one.error]
    run.metric("failed_traces", len(failed))
    whole = pools.pool(problem, made)
    pool = pools.usable(whole, config.warmup)
    if not len(pool.codes):
        why = failed[0] if failed else "no trace came with log-probs: ask the engine for them"
        raise TychoError(f"no question has traces enough for a warm-up of {config.warmup}: {why}")
    left_out = len(whole.codes) - len(pool.codes)
    run.metric("questions_left_out", left_out)
    if left_out:
        log.warning("%s: %d questions are left out, too few of their traces came with log-probs", run.key, left_out)
    frame = rules.samples(
        pool,
        budget=config.budget,
        resamples=config.resamples,
        policy=policy(config),
        windows=[window for window in config.windows if window != config.window],
        rng=run.rng("orders"),
        flops=counter(engine),
        budgets=[fewer for fewer in config.budgets if config.warmup < fewer < config.budget],
    )
    if run.key.task in GROUND:
        frame = frame[frame.variant.isin(ON_GROUND) & (frame.setting == "")]
    ballots = frame.groupby(["variant", "setting"]).ballots.mean()
    for (variant, where), value in ballots.items():
        run.metric("ballots", value, variant=variant, setting=where)
    frame = frame.drop(columns="ballots")
    if config.live:
        try:
            told = live(run, engine, pool, settings, noise)
        except TychoError as error:  # a server that has died since; the next start goes on from the collected traces
            raise TychoError(f"the live run, without which no replay counts, cannot be made: {error}") from error
        # A handful of questions is no row of the common ground.
        frame = frame if run.key.task in GROUND else pd.concat([frame, told], ignore_index=True)
    run.samples(frame)
    for name, values in rules.auc(pool, config.window).items():
        if len(values):
            run.metric("auc", float(values.mean()), variant=name)
    run.metric("answered", float((pool.codes >= 0).mean()))
    run.table("confidences", curves(pool, config))
    if config.keep_traces:
        traces = whole.traces()  # `tycho deepconf` reads this file
        run.table("pool", traces.frame.assign(confidences=list(traces.confidences)))


def live(run: Run, engine, pool: pools.Pool, settings, noise) -> pd.DataFrame:
    """The online rule on the engine, for the first questions, a few at a time. In process it draws the pool's own numbers,
    so that the same traces are written, up to where they are stopped, and its stops can be held against the replay's."""
    config, few = run.config, min(run.config.live, len(pool.codes))
    together = max(1, config.rows // config.budget)  # what they write is in memory with all its log-probs
    items = pool.problem.items.iloc[:few]
    prompts = items["prompt"].tolist()
    flops = counter(engine)
    rows, replays, unlike, own, traces = [], 0, 0, 0, 0
    for mode, eta in MODES.items():
        rule = Policy(eta=eta, warmup=config.warmup, window=config.window, tau=None)
        for first in range(0, few, together):
            part = slice(first, min(first + together, few))
            told = None if noise is None else noise[part, : config.budget]
            done = think(
                engine, prompts[part], config.budget, settings, rule, pool.problem.find,
                k=config.k, key=pool.problem.key, noise=told,
            )  # fmt: skip
            for place, (item, one) in enumerate(zip(items[part].itertuples(index=False), done, strict=True), first):
                right = one.answer is not None and pool.problem.right(one.answer, item.target)
                rows.append(
                    {
                        "variant": f"live {mode}", "setting": "", "item": item.item, "prompt": item.prompt, "response": "",
                        "answer": one.answer or "", "target": item.target, "correct": right, "score": float(right),
                        "generated_tokens": one.tokens, "sequential_tokens": one.sequential_tokens,
                        "flops": float(flops(one.prompt, [made.tokens for made in one.completions])),
                    }
                )  # fmt: skip
                own += disagreement(one, rule)
                traces += len(one.stops)
                if told is not None:
                    confidences, codes = pool.question(place)
                    expected = replay(confidences, codes, np.arange(config.budget)[None], rule)
                    unlike += int((expected.stops[0] != np.array(one.stops)).sum())
                    replays += len(one.stops)
                run.count(generated_tokens=one.tokens)
    # Against the same tokens, and (in process) against the whole traces that the pool has of the same random numbers.
    run.metric("stops_unlike_replay", own / traces)
    if replays:
        run.metric("stops_unlike_pool", unlike / replays)
    return pd.DataFrame(rows)


def curves(pool: pools.Pool, config, questions: int = 3, traces: int = 24) -> pd.DataFrame:
    """Group confidences over the tokens of some later traces of the first questions that have right and wrong ones."""
    from methods.deepconf.confidence import paper_measures, score
    from methods.deepconf.online import threshold

    rows, shown = [], 0
    for place in range(len(pool.codes)):
        confidences, codes = pool.question(place)
        hit = np.append(pool.right[place], False)[codes]
        if shown == questions or (not 0.2 < hit.mean() < 0.8 and shown + len(pool.codes) - place > questions):
            continue
        shown += 1
        lowest = score(confidences, {"l": paper_measures(config.window)["lowest"]})["l"]
        if np.isnan(lowest[: config.warmup]).all():
            continue
        bar = float(threshold(lowest[: config.warmup], MODES["low"]))
        for trace in range(config.warmup, min(config.warmup + traces, pool.size)):
            own = next(iter(confidences.take([trace])))
            sums = np.cumsum([0.0, *own])
            if len(own) < config.window:
                continue
            means = (sums[config.window :] - sums[: -config.window]) / config.window
            below = np.flatnonzero(means < bar)
            stop = int(below[0]) if len(below) else -1
            rows += [
                {
                    "question": f"question {place + 1}", "trace": trace, "token": config.window + step,
                    "confidence": float(value), "bar": bar, "right": bool(hit[trace]),
                    "stopped": stop >= 0 and step > stop, "stop": step == stop,
                }
                for step, value in enumerate(means)
            ]  # fmt: skip
    columns = ["question", "trace", "token", "confidence", "bar", "right", "stopped", "stop"]
    return pd.DataFrame(rows, columns=columns)
