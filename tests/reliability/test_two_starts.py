"""Two `make report` on one folder: one runs, the other says who has it; on two folders of Snakemake's with one of results, the jobs
themselves keep apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tycho.sources import ROOT

pytestmark = pytest.mark.slow


def start(directory: Path, results: Path, log: Path) -> subprocess.Popen[bytes]:
    directory.mkdir(exist_ok=True)
    methods = {"toy": {"arms": ["steep", "flat"], "seeds": 1, "config": {"seconds": 0.1}}}
    words = ["snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(directory), "--cores", "2"]
    config = ["--config", "scale=smoke", "only=toy", f"results={results}", f"methods={json.dumps(methods)}"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = os.environ | {"TYCHO_METHODS": str(ROOT / "tests" / "toys"), "PATH": path, "CI": "true"}
    with log.open("wb") as handle:
        return subprocess.Popen([*words, *config], env=env, stdout=handle, stderr=handle)


def check(results: Path) -> None:
    """One whole set of records, each row once, and each job once in the store."""
    import mlflow

    metrics = pd.read_parquet(results / "smoke" / "metrics.parquet")
    assert set(metrics.arm) == {"steep", "flat", "synthesis"}
    assert not metrics.duplicated(["arm", "seed", "stage", "name", "step"]).any()
    assert (results / "smoke" / "report" / "index.html").exists()
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{results / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tycho-smoke").experiment_id
    runs = client.search_runs([experiment], "tags.`tycho.key` LIKE '%'")
    assert sorted(run.data.tags["tycho.arm"] for run in runs if "tycho.key" in run.data.tags) == [
        "flat",
        "steep",
        "synthesis",
    ]


def test_in_one_folder_the_second_is_told(tmp_path):
    first = start(tmp_path, tmp_path / "results", tmp_path / "first.log")
    while not list((tmp_path / ".snakemake" / "locks").glob("*.lock")) and first.poll() is None:
        time.sleep(0.05)
    second = start(tmp_path, tmp_path / "results", tmp_path / "second.log")
    assert second.wait(timeout=120) != 0
    said = (tmp_path / "second.log").read_text()
    assert "cannot be locked" in said and "--unlock" in said, said
    assert first.wait(timeout=300) == 0, (tmp_path / "first.log").read_text()
    check(tmp_path / "results")


def test_two_at_once_over_one_results_folder(tmp_path):
    """Snakemake knows nothing of the other; the second start of a job waits for the first and finds it done."""
    results = tmp_path / "results"
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    both = [start(tmp_path / log.stem, results, log) for log in logs]
    ended = [process.wait(timeout=400) for process in both]
    assert ended == [0, 0], "\n".join(log.read_text()[-3000:] for log in logs)
    check(results)
