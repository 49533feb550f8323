"""The DAG on a real SLURM, and what befalls jobs there: nothing is lost, and nothing is twice in the store."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import Site, kill, wait_for

from tycho.config import load_settings
from tycho.jobs import plan
from tycho.worker import run_process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
ALL = {"first", "second", "third", "fourth"}


def each_once(site: Site) -> None:
    """Every job of the probe has its records, and one run in the store."""
    assert set(site.metrics().arm) == ALL
    assert site.store() == {f"smoke/probe/{arm}/wait/seed0": 1 for arm in ALL}
    assert not [tale for tale in site.tales() if tale["heavy"]]  # no job opened the store: MLflow was not even imported


def probe(**config: object) -> dict[str, object]:
    plan = {key: config.pop(key) for key in ("memory_mb", "minutes", "gpus", "arms") if key in config}
    return {"probe": plan | {"config": config}}


@pytest.mark.timeout(5400)
def test_the_whole_smoke_dag(slurm, tmp_path):
    """Every method, each of its processes a SLURM job with a (fake) GPU."""
    site = Site(tmp_path, slurm, rooms=())
    site.forget_old_jobs()
    planned = plan(load_settings({"scale": "smoke"}))
    gpus = [f"{method}:gpu=1" for method in planned.methods]
    site.run("--set-resources", *gpus, seconds=5000, only="[]")
    assert site.store() == {str(key): 1 for key in planned.jobs}
    statuses = pd.read_parquet(site.results / "statuses.parquet")
    assert len(statuses) == len(planned.jobs) and set(statuses.state) == {"done"}, statuses.query("state != 'done'")
    assert site.states() == {"COMPLETED": len(planned.processes)}
    assert (site.results / "report" / "index.html").stat().st_size > 5000
    site.tycho("where", "--scale", "smoke")


def test_each_gpu_has_one_job_at_a_time(site, tmp_path):
    """Four jobs for two GPUs, in the partition that has GPUs; each sees the one it was given, and computes there."""
    partitions = tmp_path / "partitions.yaml"
    limits = {"max_runtime": 60, "max_mem_mb": 8000}
    partitions.write_text(yaml.safe_dump({"partitions": {"cpu": limits, "gpu": limits | {"max_gpu": 2}}}))
    site.run("--slurm-partition-config", str(partitions), methods=probe(seconds=4, gpus=1), device="auto")
    each_once(site)
    stays = {}
    for tale in site.tales():
        stays.setdefault((tale["gpu"], tale["arm"]), {})[tale["what"]] = tale["at"]
        assert tale["device"] == "cuda"
    assert {gpu for gpu, _ in stays} == {"0", "1"} and len(stays) == 4
    for (one, here), (other, there) in itertools.combinations(stays.items(), 2):
        assert one[0] != other[0] or here["end"] <= there["start"] or there["end"] <= here["start"]
    assert {line.split("|")[1] for line in partition_of(site)} == {"gpu"}


def partition_of(site: Site) -> list[str]:
    lines = site.cluster.run("squeue", "--states=all", "--noheader", "--format=%i|%P").splitlines()
    return [line for line in lines if line.split("|")[0] not in site.before]


def test_many_small_jobs_share_an_allocation(site):
    site.run("--groups", "probe=small", "--group-components", "small=4", methods=probe(seconds=0))
    each_once(site)
    assert site.states() == {"COMPLETED": 1}


def test_requeued_in_the_middle_of_a_training(site, tmp_path, toys):
    """It goes on from its checkpoint and leaves the same records as one that was left alone."""
    toy = {"arms": ["steep"], "seeds": 1, "config": {"seconds": 0.5}}
    started = site.start(only="toy", methods={"toy": toy}, checkpoint_seconds=0)
    journal = site.results / "work/toy/steep/line/seed0/train/journal.jsonl"
    wait_for(lambda: journal.exists() and len(journal.read_text().splitlines()) >= 3, what="for the training")
    (job,) = [job for job in site.cluster.jobs() if job["state"] == "RUNNING" and job["id"] not in site.before]
    site.cluster.run("scontrol", "requeue", job["id"])
    site.finish(started)
    assert site.states() == {"COMPLETED": 2}  # the training, requeued under the same id, and the synthesis
    undisturbed(site.metrics(), tmp_path / "calm", toy)
    assert set(site.store().values()) == {1}


def undisturbed(metrics: pd.DataFrame, folder: Path, toy: dict) -> None:
    """Asserts that the toy's metrics are those of a run without any cluster."""
    given = {"scale": "smoke", "results": str(folder), "only": ["toy"], "methods": {"toy": toy | {"config": {}}}}
    found = plan(load_settings(given))
    for process in found.ordered():
        assert run_process(found, process) == {}
    calm = pd.concat([found.view(key).record("metrics") for key in sorted(found.jobs)], ignore_index=True)
    pd.testing.assert_frame_equal(calm, metrics, check_exact=True)


def test_over_the_time_limit(site, tmp_path, toys):
    """SLURM ends it; the retry has twice the time and goes on from the checkpoint."""
    toy = {"arms": ["steep"], "seeds": 1, "minutes": 1, "config": {"seconds": 6.0}}
    site.run(only="toy", methods={"toy": toy}, checkpoint_seconds=0)
    assert site.states() == {"TIMEOUT": 1, "COMPLETED": 2}
    undisturbed(site.metrics(), tmp_path / "calm", toy)
    assert set(site.store().values()) == {1}
    cost = pd.read_parquet(site.results / "costs.parquet").query("arm == 'steep' and stage == 'train'")
    assert 115 < cost.wall_seconds.iloc[0] < 150  # what the killed attempt spent counts, what it lost does not


def killed_for_memory(site: Site) -> int:
    logs = (site.folder / ".snakemake" / "slurm_logs").rglob("*.log")
    return sum("exceeded memory limit" in log.read_text(errors="replace") for log in logs)


def test_over_the_memory(site):
    """SLURM ends it; the retry asks for twice as much. (A job carries some 400 MB of Snakemake itself.)

    Without cgroups SLURM kills the step and calls the job FAILED; with them it is OUT_OF_MEMORY. Both are failures to the
    executor.
    """
    given = probe(seconds=4, megabytes=900, memory_mb=900, arms=["first"])
    site.run(methods=given)
    assert site.states() == {"FAILED": 1, "COMPLETED": 1} and killed_for_memory(site) == 1
    assert (site.count("start"), site.count("end")) == ({"first": 2}, {"first": 1})
    assert site.store() == {"smoke/probe/first/wait/seed0": 1}


def test_a_job_that_never_fits_is_named_and_the_others_run(site):
    """Its retries are used up; the report says why, the rest is measured, and the whole ends non-zero."""
    arms = {"first": {"megabytes": 3000}}
    given = {"probe": {"memory_mb": 900, "config": {"seconds": 3}, "arm_config": arms, "arms": ["first", "second"]}}
    started = site.start("--retries", "1", methods=given)
    assert started.wait(timeout=600) != 0
    assert site.states() == {"FAILED": 2, "COMPLETED": 1} and killed_for_memory(site) == 2
    statuses = pd.read_parquet(site.results / "statuses.parquet").set_index("arm")
    assert statuses.state.to_dict() == {"first": "missing", "second": "done"}
    assert "interrupted in train" in statuses.reason["first"]
    assert site.store() == {"smoke/probe/second/wait/seed0": 1}


def test_a_drained_node_keeps_what_runs_and_starts_nothing(site):
    node = site.cluster.run("sinfo", "--noheader", "--format=%N").splitlines()[0]
    started = site.start(methods=probe(seconds=5, gpus=1))
    try:
        wait_for(lambda: len(site.tales("start")) == 2, what="for two jobs on two GPUs")
        site.cluster.run("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
        wait_for(lambda: len(site.tales("end")) == 2, what="for the two to end")
        time.sleep(15)
        assert len(site.tales("start")) == 2
    finally:
        site.cluster.run("scontrol", "update", f"nodename={node}", "state=resume")
    site.finish(started)
    each_once(site)
    assert site.count("end") == dict.fromkeys(ALL, 1)


def test_the_submitting_process_is_killed_and_started_again(site):
    """SLURM's jobs go on meanwhile. Those of the second start wait for them, find everything done and run nothing."""
    given = {"methods": probe(seconds=25)}
    started = site.start(**given)
    wait_for(lambda: len(site.tales("start")) == 4, what="for all four")
    kill(started)
    site.run("--unlock", **given)
    site.run(**given)
    assert (site.count("start"), site.count("end")) == (dict.fromkeys(ALL, 1), dict.fromkeys(ALL, 1))
    each_once(site)
    assert "0 runs new" in site.tycho("sync")  # and to publish again changes nothing


def test_interrupted_it_takes_its_jobs_back(site):
    """Ctrl-C cancels what was submitted; the next start measures all of it."""
    given = {"methods": probe(seconds=20)}
    started = site.start(**given)
    wait_for(lambda: len(site.tales("start")) == 4, what="for all four")
    started.send_signal(2)
    assert started.wait(timeout=120) != 0
    wait_for(lambda: site.states() == {"CANCELLED": 4}, what="for the jobs to be cancelled")
    assert not site.tales("end")
    site.run(methods=probe(seconds=0))
    each_once(site)


def test_with_accounting(slurm_with_accounting, tmp_path):
    """slurmdbd: states from sacct, an account that has to be named, and a job that fails over its memory there too."""
    site = Site(tmp_path, slurm_with_accounting)
    site.forget_old_jobs()
    words = ["--slurm-status-command", "sacct", "--default-resources", "slurm_account=lab", "slurm_partition=cpu"]
    arms = {"first": {"megabytes": 900}}
    methods = {"probe": {"memory_mb": 900, "config": {"seconds": 3}, "arm_config": arms}}
    site.run(*words, methods=methods)
    each_once(site)
    told = site.cluster.run("sacct", "-X", "--parsable2", "--noheader", "--format=Account,State").splitlines()
    assert sorted(told) == ["lab|COMPLETED"] * 4 + ["lab|FAILED"]
    assert killed_for_memory(site) == 1
