"""Trajectories of the test items inside lm-eval, with their cost under each convention, and the first ones as traces."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from methods.threadweaver.metrics import critical_path
from methods.threadweaver.orchestrator import Rollout
from methods.threadweaver.packing import reuse, token_units
from methods.threadweaver.problems import problems, tests
from methods.threadweaver.serve import Weaver, delay
from tycho.adapter import Run
from tycho.harness import Options, measure
from tycho.lm import small

SHOWN = 8  # test items whose trajectories are kept as traces

# How the path is counted, by variant: every tag on it (official, the default), tags with their thread, and only what
# the model decodes step by step (what the machine puts in costs no step).
CONVENTIONS = ("", "tags travel", "decoded")


def evaluate(run: Run) -> None:
    config = run.config
    if config.against:
        return clocked(run)
    task = problems(run.key.task, config)
    folder = run.inputs["start"].model if config.kind == "none" else run.job.model
    model = small.load(folder, device=run.device)[0].eval()
    weaver = Weaver(model, task.words, config.most, config.closing, "plain" if _plain(run) else "fork")
    options = Options(temperature=config.temperature, seed=run.seed("sampling"))
    if config.respawn != "none":
        _respawning(run, weaver, task, options)
    frames, rollouts = [], []
    for where, items, n in tests(task, config.test_items):
        found = measure(
            weaver, items, task=run.key.task, answer=task.answer, correct=task.right, most=config.most,
            options=replace(options, n=n),
        )  # fmt: skip
        frames += [_counted(found, weaver, name).assign(setting=where) for name in CONVENTIONS]
        if not rollouts:
            run.traces(_traces(weaver, items, n))
        rollouts += weaver.rollouts
        for name in ("accuracy", "stderr"):
            run.metric(f"lm_eval_{name}", found.attrs["lm_eval"][name], setting=where)
        run.count(
            generated_tokens=float(found.generated_tokens.sum()),
            forward_passes=float(found.forward_passes.sum()),
            flops=float(found.flops.sum()),
        )
    run.samples(pd.concat(frames, ignore_index=True))
    run.metric("cached_context", _cached(rollouts, weaver))


def clocked(run: Run) -> None:
    """Seconds of both decodings of the same test items, in turns: a table called `costs`, since timings stand nowhere else."""
    from methods.threadweaver.clock import in_turns, speedups

    config, task = run.config, problems(run.key.task, run.config)
    options = Options(temperature=config.temperature, seed=run.seed("sampling"))
    weavers = {}
    for name, mode in (("against", "plain"), ("start", "fork")):
        model = small.load(run.inputs[name].model, device=run.device)[0].eval()
        arm = getattr(config, name)
        weavers[arm] = Weaver(model, task.words, config.most, config.closing, mode)  # type: ignore[arg-type]
    rows = []
    for count in config.together:
        prompts = list(task.items(count, "test").prompt)
        decodings = {arm: partial(weaver, prompts, options) for arm, weaver in weavers.items()}
        times = in_turns(decodings, config.turns)
        paths = {arm: sum(one.sequential_tokens for one in decode()) for arm, decode in decodings.items()}
        shorter = paths[config.against] / max(paths[config.start], 1)
        run.metric("shorter_path", shorter, setting=f"together={count}")
        seconds = times.groupby("decoding").wall_seconds.median()
        rows.append(
            {"items together": count}
            | {f"seconds, {arm}": seconds[arm] for arm in weavers}
            | {"path, ratio of means": shorter}
            | speedups(times, config.against, config.start)
        )
    run.table("costs", pd.DataFrame(rows))


def _plain(run: Run) -> bool:
    return run.config.form == "plain" or run.config.rl_mode == "plain"


def _counted(found: pd.DataFrame, weaver: Weaver, convention: str) -> pd.DataFrame:
    """The samples with their tokens counted by a convention."""
    frame = found.copy()
    if convention == "tags travel":
        paths = [
            critical_path(weaver.words.encode(r.text) + [0] * (r.ended == "eos"), weaver.words.tags, "thread")
            for r in weaver.rollouts
        ]
        frame["sequential_tokens"] = [path.longest + delay(r) for path, r in zip(paths, weaver.rollouts, strict=True)]
    elif convention == "decoded":
        frame["sequential_tokens"] = [rollout.sequential_tokens for rollout in weaver.rollouts]
        frame["generated_tokens"] = [rollout.generated_tokens for rollout in weaver.rollouts]
    return frame.assign(variant=convention)


def _respawning(run: Run, weaver: Weaver, task: Any, options: Options) -> None:
    """Sets the rule by which threads are started again: a bar from the threads of validation items, or chance."""
    from methods.deepconf.online import threshold
    from methods.threadweaver.engine import Watch

    config = run.config
    prompts = list(task.items(config.warmup_items, "validation").prompt)
    weaver.watch = Watch(-np.inf, config.window, config.top)
    _, lowest = weaver.watched(prompts, options)
    share = 1 - config.eta / 100
    if config.respawn == "confidence" and lowest:
        weaver.watch = Watch(float(threshold(lowest, config.eta)), config.window, config.top)
        weaver.respawns = config.respawns
        run.metric("bar", weaver.watch.bar)
        return
    weaver.watch, weaver.respawns = None, config.respawns
    rng = run.rng("respawn")
    weaver.respawn = lambda reply: bool(rng.random() < share)


def _traces(weaver: Weaver, items: pd.DataFrame, n: int = 1) -> pd.DataFrame:
    """Requests of the first trajectories as segments; `variant` says which are threads."""
    rows = []
    for item, rollout in list(zip(items.item, weaver.rollouts[::n], strict=True))[:SHOWN]:
        parents = segment_parents(rollout)
        for place, (unit, parent) in enumerate(zip(rollout.units, parents, strict=True)):
            ids = [*weaver.words.encode(unit.completion), *[weaver.words.end] * unit.ends]
            name = "sequence" if unit.kind == "sequence" else f"thread {unit.number}"
            rows.append({"item": item, "variant": name, "segment": place, "parent": parent, "tokens": ids})
    frame = pd.DataFrame(rows)
    return frame.assign(parent=frame.parent.astype("Int64"), confidences=[[] for _ in rows])


def segment_parents(rollout: Rollout) -> list[int | None]:
    """The unit each unit follows: a thread the sequence that planned it or its own first attempt, a sequence the last
    sequence."""
    found: list[int | None] = []
    last: int | None = None
    attempts: dict[tuple[int, int], int] = {}
    for place, unit in enumerate(rollout.units):
        thread = (unit.block, unit.thread)
        found.append(attempts[thread] if unit.attempt else last)
        if unit.kind == "sequence":
            last = place
        else:
            attempts[thread] = place
    return found


def _cached(rollouts: list[Rollout], weaver: Weaver) -> float:
    """Share of the context tokens of all requests that a prefix cache would already hold (the prompt's not counted)."""
    asked = prefilled = 0
    for rollout in rollouts:
        units = token_units(rollout.units, weaver.words.encode, weaver.words.end)
        prompt = len(weaver.words.encode(rollout.prompt))
        more = reuse(units)
        asked, prefilled = asked + more[0] - prompt, prefilled + more[1] - prompt
    return 1 - prefilled / asked if asked else 0.0
