"""One GPU, one process at a time; and what happens without one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import weakref

import pytest
import torch
from filelock import FileLock

from tycho import device
from tycho.device import check_device, halving, slot, visible_gpus
from tycho.errors import TychoError

# Takes a slot twice and stays a while; whoever finds the GPU marked as busy was let in too early.
WORKER = """
import os, sys, time
from pathlib import Path
from tycho.device import slot
for _ in range(2):
    with slot("auto", Path(sys.argv[1]), poll=0.01) as name:
        gpu = os.environ["CUDA_VISIBLE_DEVICES"]
        busy = Path(sys.argv[1], "busy-" + gpu)
        os.close(os.open(busy, os.O_CREAT | os.O_EXCL))
        time.sleep(0.15)
        busy.unlink()
        print(name, gpu, flush=True)
"""
HOLDER = """
import sys, time
from pathlib import Path
from tycho.device import slot
with slot("cuda", Path(sys.argv[1])):
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch):
    monkeypatch.setenv("TYCHO_GPUS", "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(device, "_had", set())


@pytest.mark.parametrize(("name", "near"), [("cdua", "cuda"), ("CPU", "cpu"), ("autp", "auto")])
def test_an_unknown_device_names_the_nearest(name, near):
    with pytest.raises(TychoError, match=f"unknown device '{name}': did you mean '{near}'?"):
        check_device(name)


@pytest.mark.parametrize(
    ("given", "gpus"),
    [
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("0,1", ["0", "1"]),
        (" 2 , 3", ["2", "3"]),
        ("0,-1,1", ["0"]),
        ("GPU-8932f937,MIG-f1/2/3", ["GPU-8932f937", "MIG-f1/2/3"]),
    ],
)
def test_visible_gpus_are_read_as_cuda_does(monkeypatch, given, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_gpus() == gpus


@pytest.mark.parametrize(("listing", "gpus"), [("GPU 0: H100\nGPU 1: H100", ["0", "1"]), ("no devices", [])])
def test_without_a_variable_the_driver_is_asked(monkeypatch, tmp_path, listing, gpus):
    monkeypatch.delenv("TYCHO_GPUS")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{listing}'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert visible_gpus() == gpus
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert visible_gpus() == []


@pytest.mark.parametrize(("wanted", "name"), [("auto", "cpu"), ("cpu", "cpu"), ("mps", "mps")])
def test_without_a_gpu_there_is_nothing_to_wait_for(tmp_path, wanted, name):
    with slot(wanted, tmp_path / "locks") as found:
        assert found == name
    assert not (tmp_path / "locks").exists()


def test_a_cpu_job_leaves_the_gpus_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("TYCHO_GPUS", "0")
    with slot("cpu", tmp_path / "locks") as found:
        assert found == "cpu" and "CUDA_VISIBLE_DEVICES" not in os.environ


def test_cuda_that_is_not_there_is_one_line(tmp_path):
    with (
        pytest.raises(TychoError, match="'cuda' was asked for and no GPU is visible: use device=auto or device=cpu"),
        slot("cuda", tmp_path),
    ):
        pass


def test_four_processes_share_two_gpus(tmp_path):
    env = os.environ | {"TYCHO_GPUS": "0,1"}
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    workers = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [worker.communicate(timeout=60)[0].split("\n")[:-1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4
    assert all(first == second for first, second in said)  # torch stays with the GPU it saw first
    assert {line for lines in said for line in lines} == {"cuda 0", "cuda 1"}


def test_a_killed_process_leaves_its_gpu(tmp_path):
    env = os.environ | {"TYCHO_GPUS": "0"}
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], env=env, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"ready\n"
    os.environ["TYCHO_GPUS"] = "0"  # restored by the fixture
    taken = threading.Event()

    def take():
        with slot("cuda", tmp_path, poll=0.01):
            taken.set()

    thread = threading.Thread(target=take)
    thread.start()
    assert not taken.wait(0.3)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert taken.wait(10)
    thread.join()
    holder.stdout.close()


def test_a_process_waits_for_the_gpu_it_had(monkeypatch, tmp_path):
    """torch reads CUDA_VISIBLE_DEVICES once: with another lock in hand it would still compute on the first GPU."""
    monkeypatch.setenv("TYCHO_GPUS", "0,1")
    with slot("auto", tmp_path):
        first = os.environ["CUDA_VISIBLE_DEVICES"]
        (held,) = tmp_path.iterdir()
    lock = FileLock(held, thread_local=False)
    lock.acquire()
    threading.Timer(0.3, lock.release).start()
    began = time.monotonic()
    with slot("auto", tmp_path, poll=0.01):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == first == "0" and time.monotonic() - began > 0.25


def test_several_gpus_are_taken_together(monkeypatch, tmp_path):
    """All or none: a job that waits for the second GPU leaves the first to others."""
    monkeypatch.setenv("TYCHO_GPUS", "0,1,2")
    with slot("auto", tmp_path, count=2):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
        held = [FileLock(path, thread_local=False) for path in sorted(tmp_path.iterdir())]
    monkeypatch.setattr(device, "_had", set())
    for lock in held:
        lock.acquire()
    taken = []

    def take():
        with slot("auto", tmp_path, poll=0.01, count=2):
            taken.append(os.environ["CUDA_VISIBLE_DEVICES"])

    thread = threading.Thread(target=take)
    thread.start()
    time.sleep(0.2)
    assert not taken
    held[1].release()
    thread.join(10)
    held[0].release()
    assert taken == ["1,2"]
    monkeypatch.setenv("TYCHO_GPUS", "0")
    with pytest.raises(TychoError, match="2 GPUs were asked for, 1 visible"), slot("cuda", tmp_path, count=2):
        pass


def test_machines_and_slurm_jobs_do_not_wait_for_each_other(monkeypatch, tmp_path):
    """Their results may lie on one disk, and each counts its GPUs from 0."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with slot("auto", tmp_path):
        monkeypatch.setattr("platform.node", lambda: "elsewhere")
        with slot("auto", tmp_path):
            monkeypatch.setenv("SLURM_JOB_ID", "17")
            with slot("auto", tmp_path):
                assert len(list(tmp_path.iterdir())) == 3


def test_a_failure_gives_the_gpu_back(monkeypatch, tmp_path):
    monkeypatch.setenv("TYCHO_GPUS", "0")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), slot("auto", tmp_path):
            raise ZeroDivisionError
        assert "CUDA_VISIBLE_DEVICES" not in os.environ


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
@pytest.mark.parametrize(("batch", "fits", "tried"), [(16, 3, [16, 8, 4, 2]), (7, 1, [7, 3, 1]), (5, 5, [5])])
def test_the_batch_is_halved_until_it_fits(error, batch, fits, tried):
    seen = []

    def step(n: int) -> str:
        seen.append(n)
        if n > fits:
            raise error
        return f"{n} done"

    assert halving(step, batch) == (f"{tried[-1]} done", tried[-1]) and seen == tried


def test_a_batch_of_one_that_does_not_fit_is_an_error():
    seen = []

    def step(n: int) -> None:
        seen.append(n)
        raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError, match="full"):
        halving(step, 8)
    assert seen == [8, 4, 2, 1]


def test_other_errors_are_not_tried_again():
    seen = []

    def step(n: int) -> None:
        seen.append(n)
        raise ValueError

    with pytest.raises(ValueError):
        halving(step, 8)
    assert seen == [8]


def test_memory_is_free_before_the_cache_is_emptied(monkeypatch):
    """A tensor that the failed step still holds could not be given back."""
    alive, held = [], []

    def step(n: int) -> None:
        activations = torch.zeros(n)
        held.append(weakref.ref(activations))
        if n > 1:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(alive.append(held[-1]() is not None)))
    halving(step, 4)
    assert alive == [False, False]
