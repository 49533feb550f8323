"""Every training of scale `paper`, with its own settings but small: it takes its steps, and killed at any step it ends alike.

A copy keeps all that the entry says and changes sizes, numbers of steps and files. deepconf and superposition train nothing at
this scale; the copy of the former is in tests/deepconf (against a server), that of mobilellm_r1's row in tests/mobilellm_r1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from tycho.config import load_settings, merged
from tycho.jobs import Plan, plan
from tycho.worker import run_process

pytestmark = pytest.mark.slow
Change = dict[str, Any]


def coconut(folder: Path) -> Change:
    """Two steps behind the CoT model's one on GSM8K; on the others one in words and one with thoughts."""
    file, text = tiny.sums(folder), tiny.sums_as_text(folder)
    both = {"data": file, "validation_data": file, "test_data": file}
    short = {"first_steps": 1, "stage_steps": 1, "steps": 2, "validate_every": 1}
    return {
        "seeds": 1,
        "task_arms": {"prontoqa": ["coconut"], "prosqa-words": ["coconut"]},  # every arm on GSM8K
        "config": {"model": tiny.causal(folder / "model", "gpt2"), "batch": 2, "most": 4, "validation_items": 2, "test_items": 2,
                   "log_every": 1},
        "task_config": {"gsm8k": both | short | {"data": text, "steps": 3, "start_steps": 1}, "prontoqa": both | short,
                        "prosqa-words": both | short},
    }  # fmt: skip


def token_assorted(folder: Path) -> Change:
    file = tiny.sums(folder)
    config = {
        "model": tiny.causal(folder / "model", "llama"), "data": file, "test_data": file, "chunk": 2, "codebook": 12,
        "vq_width": 8, "vq_steps": 2, "steps": 2, "batch": 2, "validation_items": 2, "test_items": 2, "validate_every": 1,
        "most": 4, "log_every": 1,
    }  # fmt: skip
    return {"config": config}


def spg(folder: Path) -> Change:
    config = {
        "pretrained": tiny.llada(folder / "model"), "lora_rank": 2, "length": 16, "block": 8, "block_steps": 2, "puzzles": 6,
        "prompts": 2, "group": 2, "accumulate": 2, "mu": 2, "validation_items": 2, "test_items": 2, "validate_every": 2,
    }  # fmt: skip
    return {"tasks": ["sudoku"], "config": config, "task_config": {"sudoku": {"steps": 4}}}


def threadweaver(folder: Path) -> Change:
    """The base model says one answer whatever is asked, so that some of its own rollouts are right and can be trained on.

    `parallel` is shared by two processes, where the entry has eight.
    """
    file = tiny.trajectories(folder)
    sets = ("aime24", "aime25", "amc23", "math500", "minerva", "olympiad")
    config = {
        "model": tiny.causal(folder / "model", "qwen3", says="\n\\boxed{5}"), "data": file, "longest": 600, "most": 16, "batch": 2, "warmup": 1,
        "first_steps": 2, "more_steps": 2, "self_prompts": 4, "self_steps": 2, "rl_prompts": 2, "rl_rollouts": 2, "rl_steps": 2,
        "validation_items": 2, "validate_every": 1, "test_items": 1, "log_every": 1,
        "sets": {name: {"questions": file, "samples": 1} for name in sets},
    }  # fmt: skip
    return {"config": config, "arm_config": {"parallel": {"processes": 2}}}


def cogs(folder: Path) -> Change:
    small = {
        "width": 12,
        "widths": [8, 16],
        "horizons": [2],
        "snapshots": [0],
        "evaluate_every": 1,
        "instances": 1,
        "unrelated": 10,
    }
    return {"tasks": ["z23"], "seeds": 1, "config": small}


def path_not_taken(folder: Path) -> Change:
    """Nothing is trained: a pair of checkpoints is compared, the first with tied embeddings as Qwen2.5-Math-1.5B has them."""
    base, tuned = (
        tiny.causal(folder / name, "qwen2", torch.bfloat16, seed, tied=name == "base")
        for seed, name in enumerate(("base", "tuned"))
    )
    arm = "published_r1_distill"  # the others differ in the pair alone
    return {"task_arms": {"letters": [arm]}, "arm_config": {arm: {"model": base, "tuned": tuned}}}


def mobilellm_r1(folder: Path) -> Change:
    """All stages of the published training, one after the other, on a few documents of each corpus."""
    from methods.mobilellm_r1.method import MobileLLMR1

    arms = [name for name, arm in MobileLLMR1.arms.items() if "stage" in arm.config]
    entry = planned("mobilellm_r1", {}, folder)
    for key, job in entry.jobs.items():
        for name in job.config.stage.mixture if key.task == "stages" else ():
            tiny.corpus(folder / "corpora" / name, name, chats=key.arm == "general_sft")
    model = tiny.causal(folder / "model", "llama")
    small = {"batch": 2, "gpus": 2, "at_once": 2, "steps": 2, "sequence": 16, "tokenizer": model}
    taught = {"stage": small | {"teacher": model}}
    shape = {"layers": 2, "heads": 2, "kv_heads": 1, "width": 16, "feed_forward": 24, "vocabulary": 257, "context": 64}
    return {
        "tasks": ["stages"],
        "task_config": {"stages": {"stage": {"folder": str(folder / "corpora"), "shape": shape, "log_every": 1}}},
        "arm_config": {arm: taught if "midtrain" in arm else {"stage": small | {"warmup": 1}} for arm in arms},
    }


COPIES: dict[str, Callable[[Path], Change]] = {
    f.__name__: f for f in (coconut, token_assorted, spg, threadweaver, cogs, path_not_taken, mobilellm_r1)
}
SOME = {
    "path_not_taken",
    "mobilellm_r1",
}  # a copy of one arm, the others differ in what they compare; a copy of what is trained
KILLED = {
    "coconut": ["coconut"],
    "token_assorted": ["latent"],
    "spg": ["spg_mix"],
    "threadweaver": ["parallel", "p_grpo"],
    "mobilellm_r1": ["pretrain_1", "pretrain_2", "midtrain_1", "midtrain_2", "general_sft", "reasoning_sft"],
}


def planned(room: str, change: Change, results: Path, **more: Any) -> Plan:
    given = {"scale": "paper", "device": "cpu", "threads": 1, "results": str(results), "only": [room], **more}
    found = plan(load_settings(given | {"methods": {room: change}}))
    assert not found.broken
    return found


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Runs a room's copy once; asked for again, it is there already."""
    done: dict[str, tuple[Plan, Change]] = {}

    def run(room: str) -> tuple[Plan, Change]:
        if room not in done:
            folder = tmp_path_factory.mktemp(room)
            change = COPIES[room](folder)
            found = planned(room, change, folder / "results")
            for process in found.ordered():
                assert run_process(found, process) == {}
            done[room] = found, change
        return done[room]

    return run


@pytest.mark.parametrize("room", COPIES)
def test_a_scaled_down_copy_of_every_arm_runs(room, ran):
    found, _ = ran(room)
    entry = planned(room, {}, Path("nowhere"))
    assert {key.arm for key in found.jobs} == {key.arm for key in entry.jobs} or room in SOME
    for key, job in found.jobs.items():
        if "train" not in job.stages or key.arm == "base":  # a published base is taken as it is
            continue
        curves = found.view(key).record("metrics").query("stage == 'train'")
        assert curves.step.max() >= 2, f"{key} has not taken two steps"


@pytest.mark.parametrize("room", KILLED)
def test_killed_at_every_step_it_ends_as_if_undisturbed(room, ran, tmp_path, run_killed):
    """Each start of a training ends behind its next checkpoint, until none is left."""
    found, change = ran(room)
    again = planned(room, merged(change, {"arms": KILLED[room], "task_arms": None}), tmp_path, checkpoint_seconds=0)
    kills = run_killed(again)
    assert {key.arm for key in kills} >= set(KILLED[room])
    for key in again.jobs:
        if key in found.jobs and key.arm != "synthesis":
            assert contents(again.view(key).folder) == contents(found.view(key).folder), key


def contents(folder: Path) -> dict[str, str]:
    """Hashes of all that a job left, but its timings and what says when and where it ran."""
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("costs.parquet", "status.json")
    ]
    assert files
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
