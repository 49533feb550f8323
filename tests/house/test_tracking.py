"""MLflow is a view: complete after a sync, whatever happened before it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest

from tycho.config import load_settings
from tycho.errors import TychoError
from tycho.jobs import plan
from tycho.tracking import CURVE_POINTS, _points, metric_name, sync_results
from tycho.worker import run_process, work_folder


@pytest.fixture(scope="module")
def measured(tmp_path_factory, toys_module) -> Path:
    """Results of the toy, without a store."""
    results = tmp_path_factory.mktemp("measured")
    run_all(results)
    return results


def run_all(results: Path, **change) -> None:
    methods = {"toy": {"seeds": 2, "config": {"steps": 500}, **change}}
    found = plan(load_settings({"scale": "smoke", "results": str(results), "only": ["toy"], "methods": methods}))
    for process in found.ordered():
        assert run_process(found, process) == {}


@pytest.fixture
def results(measured, tmp_path) -> Path:
    shutil.copytree(measured, tmp_path / "results")
    return tmp_path / "results"


def client(results: Path):
    import mlflow

    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{results / 'mlflow.db'}")


def runs(results: Path) -> dict[str, object]:
    there = client(results)
    experiment = there.get_experiment_by_name("tycho-smoke")
    return {run.data.tags["tycho.key"]: run for run in there.search_runs([experiment.experiment_id])}


def test_every_job_is_a_run_with_its_values(results):
    done = sync_results(results, "", [])
    assert (done.new, done.unchanged) == (9, 0)
    found = runs(results)
    run = found["smoke/toy/steep/line/seed1"]
    records = pd.read_parquet(
        results / "smoke" / "jobs" / "toy" / "steep" / "line" / "seed1" / "train" / "metrics.parquet"
    )
    final = records.query("name == 'final_level'").value.iloc[0]
    assert run.data.metrics["train/final_level"] == final
    assert run.data.params["config.slope"] == "2.0" and run.data.params["arm"] == "steep"
    assert run.data.metrics["evaluate/accuracy"] == 1.0
    assert run.info.status == "FINISHED" and run.info.end_time >= run.info.start_time
    curve = client(results).get_metric_history(run.info.run_id, "train/level")
    kept = {point.step: point.value for point in curve}
    truth = records.query("name == 'level'").set_index("step").value
    assert len(kept) == CURVE_POINTS and min(kept) == 0 and max(kept) == 499
    assert all(truth[step] == value for step, value in kept.items())
    names = [item.path for item in client(results).list_artifacts(run.info.run_id)]
    assert {"config.json", "figures", "tables"} <= set(names)


def test_unchanged_runs_keep_their_links_and_changed_ones_are_replaced(results):
    sync_results(results, "", [])
    before = {key: run.info.run_id for key, run in runs(results).items()}
    assert sync_results(results, "", []).unchanged == 9
    run_all(results, arm_config={"flat": {"slope": 0.5}})
    done = sync_results(results, "", [])
    after = {key: run.info.run_id for key, run in runs(results).items()}
    changed = {key for key in before if before[key] != after[key]}
    assert done.replaced == len(changed) and set(before) == set(after)
    assert {key for key in changed if "/flat/" in key} == {key for key in before if "/flat/" in key}
    assert not {key for key in changed if "/steep/" in key}


def test_a_job_that_is_gone_leaves_the_store(results):
    sync_results(results, "", [])
    shutil.rmtree(results / "smoke" / "jobs" / "toy" / "flat")
    assert sync_results(results, "", []).removed == 2
    assert not [key for key in runs(results) if "/flat/" in key]


def test_a_deleted_store_is_made_again(results):
    sync_results(results, "", [])
    before = {key: run.data.metrics for key, run in runs(results).items()}
    (results / "mlflow.db").unlink()
    sync_results(results, "", [])
    assert {key: run.data.metrics for key, run in runs(results).items()} == before


@pytest.mark.slow
def test_eight_syncs_at_once_publish_each_job_once(results):
    """No store is there: all eight would make it (measured: five of eight crash without the lock)."""
    command = [sys.executable, "-m", "tycho", "sync", "--results", str(results)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(8)]
    said = [process.communicate(timeout=200)[0] for process in started]
    assert [process.returncode for process in started] == [0] * 8, said
    there = client(results)
    assert len(there.search_runs([there.get_experiment_by_name("tycho-smoke").experiment_id])) == 9
    assert len(there.search_runs(["0"])) == 0  # nothing misfiled under Default


def test_a_store_that_is_down_or_broken_is_one_line(results):
    with pytest.raises(TychoError, match=r"http://127.0.0.1:9 cannot be used .* run `tycho sync` again"):
        sync_results(results, "http://127.0.0.1:9", [])
    (results / "mlflow.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(TychoError, match=r"mlflow.db cannot be used"):
        sync_results(results, "", [])
    (results / "mlflow.db").unlink()
    # In a process of its own, as a user's second try is: MLflow keeps the broken database open in this one.
    command = [sys.executable, "-m", "tycho", "sync", "--results", str(results)]
    assert "9 runs new" in subprocess.run(command, capture_output=True, text=True).stdout


def test_nothing_to_publish_is_said(tmp_path):
    with pytest.raises(TychoError, match="holds no results"):
        sync_results(tmp_path, "", [])


def test_a_running_job_is_followed(results):
    """Its curve grows in one and the same run, and the finished job takes its place."""
    settings = load_settings({"scale": "smoke", "results": str(results), "only": ["toy"]})
    key = next(iter(plan(settings).jobs))
    shutil.rmtree(settings.folder.joinpath("jobs", key.path))
    journal = work_folder(settings, key, "train") / "journal.jsonl"
    journal.parent.mkdir(parents=True)

    def write(steps: int) -> None:
        row = {"name": "level", "variant": "", "setting": "", "seed": key.seed, "censored": False}
        journal.write_text("".join(json.dumps(row | {"step": i, "value": float(i)}) + "\n" for i in range(steps)))

    write(3)
    sync_results(results, "", [], running=True)
    first = runs(results)[str(key)]
    write(5)
    sync_results(results, "", [], running=True)
    second = runs(results)[str(key)]
    assert first.info.run_id == second.info.run_id and second.info.status == "RUNNING"
    history = client(results).get_metric_history(second.info.run_id, "train/level")
    assert [point.value for point in history] == [0.0, 1.0, 2.0, 3.0, 4.0]
    write(2)  # killed and resumed from an earlier checkpoint
    sync_results(results, "", [], running=True)
    third = runs(results)[str(key)]
    assert third.info.run_id != first.info.run_id
    run_all(results)
    sync_results(results, "", [], running=True)
    assert runs(results)[str(key)].info.status == "FINISHED"


def test_a_sync_waits_for_another(results):
    from filelock import FileLock

    done: list[object] = []
    with FileLock(results / ".mlflow.lock"):
        waiting = threading.Thread(target=lambda: done.append(sync_results(results, "", [])))
        waiting.start()
        waiting.join(0.5)
        assert not done
    waiting.join(60)
    assert done[0].new == 9


@pytest.mark.parametrize(
    ("given", "taken"), [("n=3/acc,none", "n:3/acc_none"), ("a b.c-d:e", "a b.c-d:e"), ("é%", "é_")]
)
def test_metric_names(given, taken):
    assert metric_name(given) == taken


def test_points_are_those_of_each_curve_by_itself():
    lengths = {
        ("loss", "", 0): 1,
        ("loss", "", 1): CURVE_POINTS,
        ("loss", "a", 0): CURVE_POINTS + 1,
        ("rate", "", 0): 777,
    }
    rows = [
        {
            "stage": "train",
            "name": name,
            "variant": variant,
            "setting": "n=1",
            "seed": seed,
            "step": step,
            "value": step / 7,
        }
        for (name, variant, seed), length in lengths.items()
        for step in range(length)
    ]
    frame = pd.DataFrame(rows).sample(frac=1, random_state=0).sort_values("step", kind="stable")
    frame.loc[frame.index[-1], "value"] = None  # the last of `rate` was not measured
    found: dict[str, list[int]] = {}
    for point in _points(frame, 5):
        assert point.value == point.step / 7 and point.timestamp == 5 + point.step
        found.setdefault(point.key, []).append(point.step)
    for (name, variant, seed), length in lengths.items():
        steps = found.pop("/".join(part for part in ("train", name, variant, "n:1", f"seed{seed}") if part))
        whole = list(range(length - (name == "rate")))
        assert steps == sorted(set(steps)) and (steps[0], steps[-1]) == (whole[0], whole[-1])
        assert len(steps) == min(len(whole), CURVE_POINTS)
    assert not found
