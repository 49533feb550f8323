"""ThreadWeaver's supervised stage over two processes, each with half of the model: the stage of one process, whatever is killed."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
from safetensors.torch import load_file
from test_paper_scaled_down import contents, planned

from methods.threadweaver import shares
from methods.threadweaver.method import ThreadWeaver
from tycho.errors import TychoError
from tycho.jobs import Plan
from tycho.lm.sharded import ShardedTrainer
from tycho.worker import run_process

pytestmark = pytest.mark.slow
ARMS = ("sequential", "parallel")


@pytest.fixture(scope="module", autouse=True)
def trained_only():
    """What follows the training needs no second process, and every arm's is run by the test of scaled-down copies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ThreadWeaver, "stages", lambda room, arm: ("train",))
        patch.setattr(ThreadWeaver, "synthesises", lambda room: False)
        yield


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A plan of two arms, the second going on from the first, over so many processes; in float32, to be compared."""
    folder = tmp_path_factory.mktemp("copy")
    model = tiny.causal(folder / "model", "qwen3", says="\n\\boxed{5}")
    file = tiny.trajectories(folder)
    config = {
        "model": model, "data": file, "longest": 600, "most": 16, "batch": 4, "warmup": 1, "first_steps": 3,
        "more_steps": 2, "learning_rate": 3e-3, "more_rate": 1e-3, "validation_items": 3, "validate_every": 1,
        "log_every": 1, "bf16": False,
    }  # fmt: skip

    def made(processes: int, results: Path, arms: tuple[str, ...] = ARMS, **more: float) -> Plan:
        start = {"sequential": "", "parallel": "sequential"}
        each = {arm: {"processes": processes, "start": start[arm]} for arm in arms}
        return planned("threadweaver", {"arms": list(arms), "arm_config": each, "config": config}, results, **more)

    return made


@pytest.fixture(scope="module")
def shared(copy, tmp_path_factory):
    """The undisturbed run over two processes, and which part of the weights the first held after each training."""
    held, keep = [], ShardedTrainer.keep_best
    with pytest.MonkeyPatch.context() as patch:

        def noted(trainer: ShardedTrainer) -> int:
            values = list(trainer.model.parameters())
            held.append(sum(v.to_local().numel() for v in values) / sum(v.numel() for v in values))
            return keep(trainer)

        patch.setattr(ShardedTrainer, "keep_best", noted)
        found = copy(2, tmp_path_factory.mktemp("shared"))
        for process in found.ordered():
            assert run_process(found, process) == {}
    return found, held


def folder(found: Plan, arm: str) -> Path:
    return found.view(next(key for key in found.jobs if key.arm == arm)).folder


def test_it_is_the_stage_of_one_process(copy, shared, tmp_path):
    found, held = shared
    assert len(held) == 2 and all(share < 0.6 for share in held)
    alone = copy(1, tmp_path)
    for process in alone.ordered():
        assert run_process(alone, process) == {}
    base = load_file(Path(next(iter(alone.jobs.values())).config.model) / "model.safetensors")
    for arm in ARMS:
        one, two = (
            plan.view(next(key for key in plan.jobs if key.arm == arm)).record("metrics").query("stage == 'train'")
            for plan in (alone, found)
        )
        names = ["name", "step", "variant"]
        both = one.merge(two, on=names, suffixes=("", "_shared"))
        assert len(both) == len(one) == len(two) and {"loss", "norm", "validation_accuracy", "chosen_step"} <= set(
            both.name
        )
        assert both.value_shared.to_numpy() == pytest.approx(both.value.to_numpy(), rel=1e-4)
        weights, expected = (load_file(folder(plan, arm) / "model" / "model.safetensors") for plan in (found, alone))
        assert weights.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-4)
    moved = [(value - base[name]).abs().max() for name, value in expected.items() if value.shape == base[name].shape]
    assert max(moved) > 2e-3


def test_the_first_process_killed_it_ends_as_if_undisturbed(copy, shared, tmp_path, run_killed):
    again = copy(2, tmp_path, ("sequential",), checkpoint_seconds=0)
    assert [key.arm for key in run_killed(again, once=True)] == ["sequential"]
    assert contents(folder(again, "sequential")) == contents(folder(shared[0], "sequential"))


def test_another_process_killed_is_one_line_and_it_goes_on(copy, shared, tmp_path, monkeypatch):
    again = copy(2, tmp_path, ("sequential",), checkpoint_seconds=0)
    first = again.ordered()[0]

    def struck(trainer: ShardedTrainer):
        if trainer.step == 2:
            multiprocessing.active_children()[0].kill()
        return ShardedTrainer.__dict__["__next__"](trainer)

    class Struck(ShardedTrainer):
        __next__ = struck

    with monkeypatch.context() as patch:
        patch.setattr(shares, "ShardedTrainer", Struck)
        (reason,) = run_process(again, first).values()
    assert reason == "process 2 of 2 was killed by signal 9: the training goes on from its checkpoint"
    assert run_process(again, first) == {}
    assert contents(folder(again, "sequential")) == contents(folder(shared[0], "sequential"))


@pytest.mark.parametrize("kind", ["self", "rl"])
def test_what_needs_a_server_says_so(kind):
    with pytest.raises(TychoError, match="needs a server"):
        shares.train(SimpleNamespace(key="a job", config=SimpleNamespace(kind=kind)))
