"""Greedy completions of the test puzzles, through lm-eval."""

from __future__ import annotations

import numpy as np

from methods.spg.learner import Learner
from methods.spg.serve import Served
from methods.spg.train import load_policy
from tycho import harness
from tycho.adapter import Run

BASE_ROLLOUTS = 10  # of the base, to know the training reward it starts from


def evaluate(run: Run) -> None:
    config = run.config
    policy = load_policy(run.job.model, run.key.task, config, run.device).eval()
    puzzles = policy.world.held_out(config.test_items, "test")
    rows = range(len(puzzles))
    items = harness.make_items([puzzles.prompt(r) for r in rows], [puzzles.target(r) for r in rows])
    if not items.item.is_unique:  # the same puzzle drawn twice is asked once
        rows = items.index[~items.item.duplicated()].tolist()
        items = items.loc[rows].reset_index(drop=True)
    frame = harness.measure(
        Served(policy, block=config.block, block_steps=config.block_steps),
        items,
        task=f"spg_{run.key.task}",
        answer=lambda text: puzzles.answer(text) or "",
        correct=puzzles.solved,
        most=policy.world.n,
    )
    row_of = dict(zip(items.item, rows, strict=True))
    frame["score"] = [puzzles.reward(row_of[row.item], row.response) for row in frame.itertuples()]
    run.samples(frame)
    run.metric("test_reward", frame.score.mean())
    run.metric("test_solved", frame.correct.mean())
    run.metric("lm_eval_stderr", frame.attrs["lm_eval"]["stderr"])
    run.count(generated_tokens=frame.generated_tokens.sum(), flops=frame.flops.sum())
    if run.key.arm == "base":
        run.metric("train_reward", base_reward(run, policy))


def base_reward(run: Run, policy: object) -> float:
    """Mean reward of the base's own samples on training prompts, as the arms' rollouts are rewarded."""
    seeds = {axis: run.seed(axis) for axis in ("order", "rollout", "masks")}
    learner = Learner(policy, policy.world, run.config, seeds, run.seed("data"))
    for number in range(BASE_ROLLOUTS):
        learner.roll_out(number)
    return float(np.mean(learner.rewards))
