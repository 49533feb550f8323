"""A training over two processes, each with half of every weight, is the training of one; killed and resumed, too."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from tycho.errors import TychoError
from tycho.files import load_state, save_state
from tycho.lm import sharded
from tycho.lm.sharded import ShardedTrainer, leading, together
from tycho.lm.training import Recipe, Trainer
from tycho.sources import ROOT

RECIPE = Recipe(steps=4, rate=1e-2, warmup=1, clip=0.5, accumulate=4)


def model() -> nn.Module:
    """Qwen3-8B's architecture, made small; its layers are `model.layers`."""
    torch.manual_seed(0)
    size = {
        "vocab_size": 11,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "max_position_embeddings": 8,
    }
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    return Qwen3ForCausalLM(Qwen3Config(**size, **heads, tie_word_embeddings=False))


def batch(place: int) -> torch.Tensor:
    return torch.randint(11, (3, 8), generator=torch.Generator().manual_seed(place))


def loss(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    return model(input_ids=tokens, labels=tokens, use_cache=False).loss


def as_one_of_many(folder: Path) -> None:
    """What each process does: two steps, a checkpoint by the first, all forgotten, and on from there."""
    torch.set_num_threads(1)
    with together() as device:
        points = []
        for start in (0, 2):
            net = model().to(device)
            trainer = ShardedTrainer(net, batch, loss, RECIPE, parts=net.model.layers)
            if start:
                first = torch.distributed.get_rank() == 0
                trainer.restore(load_state(folder / "state") if first else None)
            points += [next(trainer) for _ in range(2)]
            state = trainer.state()
            if torch.distributed.get_rank() == 0:
                save_state(folder / "state", state)
            torch.distributed.barrier()
        halves = [p.to_local().numel() for p in net.parameters()]
        told = {"points": points, "held": sum(halves), "all": sum(p.numel() for p in net.parameters())}
        (folder / f"rank{torch.distributed.get_rank()}.json").write_text(json.dumps(told))


def wait_for_ever(device: torch.device) -> None:
    """What a process beside the first does in a collective that never ends."""
    time.sleep(600)


def lead() -> None:
    with leading(2, "cpu", wait_for_ever):
        print(multiprocessing.active_children()[0].pid, flush=True)
        time.sleep(600)


def test_no_process_outlives_the_first():
    """Killed outright, as by a scheduler, the first says nothing to the others."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen([sys.executable, __file__], env=env, stdout=subprocess.PIPE, text=True)
    other = int(first.stdout.readline())
    os.kill(other, 0)
    first.kill()
    first.wait()
    first.stdout.close()
    for _ in range(100):
        try:
            os.kill(other, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("it is still there")


def test_a_process_that_is_still_ending_is_the_reason(monkeypatch):
    """Its sentinel goes a moment before it has a code, in which the lost connection was reported in its place."""
    wait = sharded.wait
    monkeypatch.setattr(sharded, "wait", lambda some, timeout: list(some) if timeout > 1 else wait(some, timeout))
    with (
        pytest.raises(TychoError, match="process 2 of 2 was killed by signal 9"),
        leading(2, "cpu", wait_for_ever),
    ):
        threading.Timer(0.5, multiprocessing.active_children()[0].kill).start()
        raise RuntimeError("the connection is lost")


def test_processes_want_a_gpu_each():
    with (
        pytest.raises(TychoError, match=r"99 processes want a GPU each .*set `gpus` and `processes`"),
        leading(99, "cuda", print),
    ):
        pass


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--standalone",
        __file__,
        tmp_path,
    ]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    alone = model()
    points = [list(point) for point in Trainer(alone, batch, loss, RECIPE)]
    told = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    for one in told:
        for found, expected in zip(one["points"], points, strict=True):
            assert found[:4] == pytest.approx(expected[:4], rel=1e-4)
        assert one["held"] < 0.6 * one["all"]  # a process holds half, and a little where a dimension is odd
    weights = load_state(tmp_path / "state")["model"]
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-5)
    start = model().state_dict()
    assert any((start[name] - value).abs().max() > 1e-2 for name, value in alone.state_dict().items())


if __name__ == "__main__":
    as_one_of_many(Path(sys.argv[1])) if sys.argv[1:] else lead()
