"""Stages run once, resume after a kill as if nothing had happened, and fail without taking others along."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys

import pandas as pd
import pytest

from tycho import worker
from tycho.config import load_settings
from tycho.jobs import job_folder, plan
from tycho.keys import JobKey

STEEP = JobKey("smoke", "toy", "steep", "line", 0)


def planned(results, **change):
    given = {"scale": "smoke", "results": str(results), "checkpoint_seconds": 0, "only": ["toy"]}
    return plan(load_settings(given | {"methods": {"toy": {"seeds": 1, "arms": ["steep"], **change}}}))


def run_all(found):
    failures = {}
    for process in found.ordered():
        failures |= worker.run_process(found, process)
    return failures


def contents(folder):
    """Bytes of every record but the timings."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "costs.parquet" and "receipts" not in path.parts
    }


def test_same_seed_gives_the_same_bytes(toys, tmp_path):
    assert run_all(planned(tmp_path / "a")) == run_all(planned(tmp_path / "b")) == {}
    first, second = contents(tmp_path / "a" / "smoke" / "jobs"), contents(tmp_path / "b" / "smoke" / "jobs")
    assert first == second and len(first) > 8


@pytest.mark.parametrize("die_at", [0, 7, 19])
def test_killed_training_ends_as_if_undisturbed(toys, tmp_path, die_at):
    """A real SIGKILL in a real process; the second start goes on from the checkpoint."""
    assert run_all(planned(tmp_path / "calm")) == {}
    settings = {"scale": "smoke", "results": str(tmp_path / "killed"), "checkpoint_seconds": 0, "only": ["toy"]}
    settings["methods"] = {"toy": {"seeds": 1, "arms": ["steep"], "config": {"die_at": die_at}}}
    command = [sys.executable, "-m", "tycho", "job", "toy", "steep", "line", "--seeds", "0"]
    command += ["--settings", json.dumps(settings)]
    killed = subprocess.run(command, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    found = plan(load_settings(settings))
    journal = worker.work_folder(found.settings, STEEP, "train") / "journal.jsonl"
    if die_at == 0:  # killed before the first checkpoint: the kill would come again
        assert not journal.exists()
        return
    with journal.open("a") as handle:  # rows written after the last checkpoint must be forgotten
        handle.write('{"name": "level", "value": 99.0, "step": 99}\n')
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    calm, resumed = (tmp_path / name / "smoke" / "jobs" / STEEP.path for name in ("calm", "killed"))
    difference = {name for name, found in contents(calm).items() if contents(resumed).get(name) != found}
    # The config says when to die, and the status has the digest of that config: nothing else may differ.
    assert difference == {"config.json", "status.json"}
    assert not (tmp_path / "killed" / "smoke" / "work" / STEEP.path / "train").exists()


def test_finished_stages_are_not_run_again(toys, tmp_path):
    found = planned(tmp_path)
    run_all(found)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    run_all(planned(tmp_path))
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}


@pytest.mark.parametrize(
    ("knob", "kept"),
    [({"colour": "blue"}, {"train", "evaluate"}), ({"items": 9}, {"train"}), ({"steps": 21}, set())],
)
def test_a_knob_runs_its_stage_and_the_later_ones(toys, tmp_path, knob, kept):
    run_all(planned(tmp_path))
    folder = job_folder(planned(tmp_path).settings, STEEP)
    before = {stage: (folder / stage).stat().st_ino for stage in ("train", "evaluate", "analyse")}
    run_all(planned(tmp_path, config=knob))
    assert {stage for stage, inode in before.items() if (folder / stage).stat().st_ino == inode} == kept


def test_a_failure_is_written_down_and_others_run(toys, tmp_path):
    found = planned(tmp_path, arms=["steep", "tuned"], arm_config={"base": {"crash_at": 3}})
    failures = run_all(found)
    base, tuned = (str(JobKey("smoke", "toy", arm, "line", 0)) for arm in ("base", "tuned"))
    assert "told to crash" in failures[base]
    assert "its input 'base'" in failures[tuned] and "has not been run" in failures[tuned]
    status = worker.read_status(job_folder(found.settings, JobKey("smoke", "toy", "base", "line", 0)))
    assert (status["state"], status["stage"]) == ("failed", "train") and "told to crash" in status["reason"]
    assert worker.read_status(job_folder(found.settings, STEEP))["state"] == "done"
    assert not list(tmp_path.glob("smoke/jobs/toy/base/line/receipts/*"))
    assert list(tmp_path.glob("smoke/jobs/toy/steep/line/receipts/*"))


def test_a_failed_seed_leaves_the_other_seeds(toys, tmp_path):
    found = planned(tmp_path, seeds=2)
    process = found.processes[0]
    blocked = job_folder(found.settings, JobKey("smoke", "toy", "steep", "line", 0))
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where a folder should be")
    failures = worker.run_process(found, process)
    assert set(failures) == {str(STEEP)}
    assert worker.read_status(blocked.with_name("seed1"))["state"] == "done"


def test_a_checkpoint_of_another_config_is_not_used(toys, tmp_path):
    found = planned(tmp_path, config={"crash_at": 10})
    assert run_all(found)
    work = worker.work_folder(found.settings, STEEP, "train")
    assert (work / "checkpoint.safetensors").exists()
    run_all(planned(tmp_path, config={"slope": 5.0}, arm_config={"steep": {"slope": 5.0}}))
    run_all(planned(tmp_path / "fresh", config={"slope": 5.0}, arm_config={"steep": {"slope": 5.0}}))
    levels = [
        pd.read_parquet(root / "smoke" / "jobs" / STEEP.path / "train" / "metrics.parquet")
        for root in (tmp_path, tmp_path / "fresh")
    ]
    pd.testing.assert_frame_equal(*levels)


def test_a_broken_checkpoint_is_named(toys, tmp_path):
    run_all(planned(tmp_path, config={"crash_at": 10}))
    checkpoint = worker.work_folder(planned(tmp_path).settings, STEEP, "train") / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:50])
    failures = run_all(planned(tmp_path, config={"crash_at": 10}))
    assert "checkpoint.safetensors cannot be read" in failures[str(STEEP)] and "delete it" in failures[str(STEEP)]


def test_older_status_is_refused(toys, tmp_path):
    run_all(planned(tmp_path))
    status = job_folder(planned(tmp_path).settings, STEEP) / "status.json"
    status.write_text(json.dumps(json.loads(status.read_text()) | {"schema": 0}))
    failures = run_all(planned(tmp_path))
    assert "has schema 0" in failures[str(STEEP)] and "move the results folder away" in failures[str(STEEP)]


def test_two_starts_at_once_do_not_tread_on_each_other(toys, tmp_path):
    """Both end well, and the job is trained once."""
    settings = {"scale": "smoke", "results": str(tmp_path), "only": ["toy"], "checkpoint_seconds": 0}
    settings["methods"] = {"toy": {"seeds": 1, "arms": ["steep"], "config": {"seconds": 0.1}}}
    command = [sys.executable, "-m", "tycho", "job", "toy", "steep", "line", "--seeds", "0"]
    command += ["--settings", json.dumps(settings), "--log"]
    logs = [tmp_path / f"{name}.log" for name in "ab"]
    both = [subprocess.Popen([*command, str(log)], stderr=subprocess.PIPE, text=True) for log in logs]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted(log.read_text().count("train starts") for log in logs) == [0, 1]


def test_a_receipt_goes_when_it_no_longer_says_what_is_there(toys, tmp_path):
    """The same digest comes back, but another's results lie there: seed 0 as `red`, then as `blue`, then `red` again."""
    red, blue = planned(tmp_path), planned(tmp_path, config={"colour": "blue"}, seeds=2)
    run_all(red)
    run_all(blue)
    worker.drop_stale_receipts(red, tmp_path)
    assert not (red.settings.folder / red.processes[0].receipt).exists()


def test_global_generators_do_not_depend_on_what_ran_before(rooms, tmp_path):
    """A layer made without a generator is the same whether its job ran first or second in the process."""
    body = """
    def train(self, run):
        import random

        import numpy
        import torch

        run.metric("drawn", float(torch.rand(())) + float(numpy.random.random()) + random.random())
    """
    rooms.write("careless", rooms.adapter("careless", body))
    drawn = []
    for seeds in ([0, 1], [1]):
        results = tmp_path / str(len(seeds))
        given = {"scale": "smoke", "results": str(results), "methods": {"careless": {"seeds": seeds}}}
        found = plan(load_settings(given))
        assert run_all(found) == {}
        drawn.append(found.view(JobKey("smoke", "careless", "one", "t", 1)).record("metrics").value.iloc[0])
    assert drawn[0] == drawn[1]


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 400 KB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_fills_up_and_is_read_only_for_a_while(toys, small_disk):
    """One line each, nothing that was done is lost, and with room again the rest is done."""

    def start():
        command = [sys.executable, "-m", "tycho", "run", "toy", "--scale", "smoke", "--results", str(small_disk / "r")]
        done = subprocess.run([*command, "--set", "seconds=0"], capture_output=True, text=True)
        return done.returncode, done.stderr.splitlines()[-1]

    code, said = start()
    assert code == 1 and "No space left on device" in said
    done_then = {
        path: path.stat().st_mtime_ns for path in small_disk.glob("r/smoke/jobs/*/*/*/*/train/metrics.parquet")
    }
    assert done_then
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    assert start()[0] == 0
    assert {path: path.stat().st_mtime_ns for path in done_then} == done_then
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    code, said = start()
    assert code == 1 and "cannot be written" in said and "Read-only file system" in said


def test_small_numbers_are_back_after_a_stage(toys, tmp_path):
    """Denormals count as zero while a training runs, and only then."""
    run_all(planned(tmp_path))
    assert sys.float_info.min / 2 > 0


@pytest.mark.parametrize(("gpus", "device"), [(0, "cpu"), (1, None)])
def test_who_asks_for_a_gpu_must_see_one_and_others_need_none(toys, tmp_path, monkeypatch, gpus, device):
    """Scale `paper` has jobs of both kinds: nodes of the latter have no GPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "NoDevFiles")  # as SLURM sets it where none was asked for
    change = {"seeds": 1, "arms": ["steep"], "gpus": gpus}
    given = {"scale": "smoke", "device": "auto", "results": str(tmp_path), "only": ["toy"], "methods": {"toy": change}}
    found = plan(load_settings(given))
    failures = run_all(found)
    if device:
        assert failures == {} and set(found.view(STEEP).record("costs").device) == {device}
    else:
        assert "no GPU is visible" in failures[str(STEEP)]
