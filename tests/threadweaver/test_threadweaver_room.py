"""What the room makes of trajectories: samples under each convention, traces, timelines, estimands."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from test_threadweaver_orchestrator import Made, Scribe
from trajectories import trajectories

from methods.threadweaver import estimands
from methods.threadweaver.evaluate import segment_parents
from methods.threadweaver.orchestrator import Completion, Rollout, weave
from methods.threadweaver.serve import delay, discarded
from methods.threadweaver.synthesise import timeline
from methods.threadweaver.train import span, tree
from reports.claims import arms_named, load_claims
from tycho.config import load_settings
from tycho.jobs import plan
from tycho.sources import ROOT


def traces(rollout: Rollout) -> pd.DataFrame:
    """Segments as the evaluation keeps them, with as many tokens as were generated."""
    names = ["sequence" if unit.kind == "sequence" else f"thread {unit.number}" for unit in rollout.units]
    frame = pd.DataFrame({"variant": names, "segment": range(len(names)), "parent": segment_parents(rollout)})
    return frame.assign(tokens=[[0] * unit.tokens for unit in rollout.units])


@settings(max_examples=40, deadline=None)
@given(trajectories())
def test_a_timeline_ends_with_the_critical_path(made: Made) -> None:
    (rollout,) = weave([made[0]], Scribe([made]))
    frame = timeline(traces(rollout))
    assert frame.end.max() == rollout.sequential_tokens and not frame.thrown.any()
    assert (frame.end - frame.start).sum() == rollout.generated_tokens
    assert delay(rollout) == 0 and not discarded(rollout)


def test_a_thread_that_is_started_again_waits_for_its_first_attempt() -> None:
    plan = "<Parallel>\n<Outlines>\n<Outline>1: o</Outline>\n<Outline>2: o</Outline>\n</Outlines>"
    left = [
        Completion(plan, 9, "stop"),
        Completion("bad", 5, "abort"),
        Completion("b</Thread>", 6, "stop"),
        Completion("good</Thread>", 4, "stop"),
        Completion("e", 3, "eos"),
    ]
    (rollout,) = weave(
        ["p"], lambda prompts, *, stop: [left.pop(0) for _ in prompts], respawn=lambda reply: reply.finish == "abort"
    )
    frame = timeline(traces(rollout))
    assert frame.to_numpy().tolist() == [
        ["sequence", 0, 9, False],
        ["thread 1", 9, 14, True],
        ["thread 2", 9, 15, False],
        ["thread 1", 14, 18, False],
        ["sequence", 18, 21, False],
    ]
    assert frame.end.max() == rollout.sequential_tokens
    assert discarded(rollout) == {(0, 0): 5} and delay(rollout) == 9 - 6
    words = SimpleNamespace(encode=lambda text: [ord(letter) for letter in text], end=0)
    told = tree(rollout, words)  # what was thrown away is not learnt from
    assert "bad" not in "".join(map(chr, told.tokens.tolist())) and "good" in "".join(map(chr, told.tokens.tolist()))


def test_arms_see_the_same_further_problems_and_scratch_sees_all() -> None:
    shape = {"first_steps": 10, "more_steps": 6, "self_steps": 2, "kind": "sft"}

    def seen(**arm: str) -> list[int]:
        start, steps = span(SimpleNamespace(**{**shape, **arm}))
        return list(range(start, start + steps))

    assert seen(budget="first") + seen(budget="more") == seen(budget="both")
    assert seen(budget="extra") == [16, 17] and len(seen(budget="more", kind="self")) == 2


def test_what_is_compared_has_been_trained_as_long() -> None:
    """Steps of training behind an arm and those it goes on from, at scale standard, on every task where both run."""
    planned = plan(load_settings({"scale": "standard", "only": ["threadweaver"]})).jobs
    jobs = {(key.task, key.arm): job.config for key, job in planned.items()}

    def steps(task: str, arm: str) -> tuple[int, int]:
        config = jobs[task, arm]
        supervised, reinforced = steps(task, config.start) if config.start else (0, 0)
        if config.kind == "rl":
            return supervised, reinforced + config.rl_steps * config.rl_prompts * config.rl_rollouts
        return supervised + (span(config)[1] if config.kind != "none" else 0), reinforced

    pairs = [("sequential_more", "parallel"), ("parallel", "scratch"), ("self_trained", "parallel_more"),
             ("p_grpo", "p_grpo_std"), ("p_grpo", "sequential_rl"), ("respawn", "parallel"), ("respawn", "respawn_random")]  # fmt: skip
    met = [
        (task, *pair)
        for task in {task for task, _ in jobs}
        for pair in pairs
        if {(task, arm) for arm in pair} <= set(jobs)
    ]
    assert {pair for _, *both in met for pair in [tuple(both)]} == set(pairs)
    for task, one, other in met:
        assert steps(task, one) == steps(task, other), (task, one, other)
        same = ("batch", "more_rate", "warmup", "validation_items", "validate_every", "stop_after", "rl_rate", "forked")
        assert [getattr(jobs[task, one], knob) for knob in same] == [getattr(jobs[task, other], knob) for knob in same]


def test_estimands_pair_items_and_read_the_format() -> None:
    well = "<Parallel>\n<Outlines>\n<Outline>1:</Outline>\n</Outlines>\n<Thread>\n1: x</Thread>\n</Parallel> y"
    rows = [
        ("sequential_more", 0, "a", 60, True, "y"), ("sequential_more", 0, "b", 50, True, "y"),
        ("parallel", 0, "a", 40, True, well), ("parallel", 0, "b", 50, False, well.replace("x", "")),
        ("parallel", 1, "a", 10, True, well),
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["arm", "seed", "item", "sequential_tokens", "correct", "response"])
    records = SimpleNamespace(samples=frame.assign(task="t", variant="", split="test"))
    of = {"task": "t", "variant": "", "setting": ""}
    ratios = estimands.speedup_by_item(records, arm="parallel", **of)
    assert ratios.value.tolist() == [1.5, 1.0] and set(ratios.seed) == {0}
    assert estimands.latency_correct(records, arm="parallel", **of).value.tolist() == [40, 10]
    assert estimands.well_formed(records, arm="parallel", **of).value.tolist() == [1.0, 0.0, 1.0]
    assert estimands.forked(records, arm="sequential_more", **of).value.tolist() == [0.0, 0.0]
    assert ratios.value.mean() > (60 + 50) / (40 + 50)  # the mean of ratios lies above the ratio of means


def test_claims_find_their_arms_at_scale_standard() -> None:
    planned = {(key.arm, key.task) for key in plan(load_settings({"scale": "standard", "only": ["threadweaver"]})).jobs}
    for claim in load_claims(ROOT / "methods/threadweaver/claims.yaml"):
        assert arms_named(claim) <= planned, claim.id


def test_the_knobs_of_given_trajectories_reach_the_trees() -> None:
    """`loss` once did not; `forked` and `form` say which items have threads."""
    from methods.threadweaver.problems import problems
    from methods.threadweaver.train import teacher

    task = problems("products-verbose")
    model = SimpleNamespace(config=task.base(0).config)
    shape = {"batch": 4, "form": "fork", "forked": 1.0, "loss": "completion", "budget": "first", "kind": "sft",
             "first_steps": 9, "more_steps": 9, "self_steps": 1}  # fmt: skip

    def batch(**changes):
        run = SimpleNamespace(config=SimpleNamespace(**{**shape, **changes}), seed=lambda axis: 3)
        counted = {"problems": 0.0, "tokens": 0.0, "flops": 0.0}
        return teacher(run, task, model, counted)(2), counted

    forked, counted = batch()
    assert forked.tokens.shape == (4, 135) and counted["problems"] == 4 and counted["tokens"] == 4 * 135
    learnt = {loss: int(batch(loss=loss)[0].loss.sum()) for loss in ("completion", "hybrid", "everything")}
    assert learnt["completion"] < learnt["hybrid"] < learnt["everything"]
    for plain, counted in (batch(form="plain"), batch(forked=0.0)):
        assert plain.tokens.shape == (4, 77) and counted["tokens"] == 4 * 77


@pytest.mark.parametrize("name", ["products-verbose", "products-mixed", "products-noisy", "countdown"])
def test_every_test_item_is_asked_once(name):
    from methods.threadweaver.problems import problems, tests

    ((where, items, samples),) = tests(problems(name), 300)
    assert (where, samples) == ("", 1) and items.item.is_unique and 280 < len(items) <= 300
    assert items.equals(problems(name).items(400, "test")[: len(items)])


@pytest.mark.parametrize("scale", ["quick", "standard"])
def test_a_given_trajectory_can_be_written_within_the_budget(scale: str) -> None:
    """Each request of it, in `most` tokens and the model's positions: else a perfect model would fail the test."""
    from methods.threadweaver.layout import text
    from methods.threadweaver.orchestrator import units_of
    from methods.threadweaver.problems import problems
    from methods.threadweaver.search import draw, piece

    jobs = plan(load_settings({"scale": scale, "only": ["threadweaver"]})).jobs
    for name, most in sorted({(key.task, jobs[key].config.most) for key in jobs if key.task != "all"}):
        task = problems(name)
        if name == "countdown":
            made = [piece(puzzle, task.words, fork=True) for puzzle in draw(200, "test", np.random.default_rng(0))]
        else:
            made = [one for step in range(8) for one in task.batches(0, 25)(step)]
        for one, fork in itertools.product(made, (True, False)):
            units = units_of(*text(one, task.words, fork=fork))
            sizes = [(len(task.words.encode(u.context)), len(task.words.encode(u.completion)) + u.ends) for u in units]
            written = [size for (_, size), unit in zip(sizes, units, strict=True) if unit.kind != "whole"]
            assert max(written) <= most and max(map(sum, sizes)) <= task.context, (name, fork)
