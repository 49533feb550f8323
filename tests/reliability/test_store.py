"""A store that is locked, silent, slow or somebody else's: the records are safe, and a sync says so or goes on."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tycho import records
from tycho.config import load_settings
from tycho.errors import TychoError
from tycho.jobs import plan
from tycho.sources import ROOT
from tycho.tracking import sync_results
from tycho.worker import run_process


@pytest.fixture(scope="module")
def measured(tmp_path_factory, toys_module) -> Path:
    results = tmp_path_factory.mktemp("measured")
    given = {"arms": ["steep"], "seeds": 1}
    found = plan(load_settings({"scale": "smoke", "results": str(results), "only": ["toy"], "methods": {"toy": given}}))
    for process in found.ordered():
        assert run_process(found, process) == {}
    return results


@pytest.fixture
def results(measured, tmp_path) -> Path:
    shutil.copytree(measured, tmp_path / "results")
    return tmp_path / "results"


def test_a_locked_store_is_waited_for(results):
    """Another program holds SQLite's lock for three seconds."""
    sync_results(results, "", [])
    shutil.rmtree(results / "smoke/jobs/toy/synthesis")  # something to write
    other = sqlite3.connect(results / "mlflow.db", isolation_level=None, check_same_thread=False)
    other.execute("begin exclusive")
    threading.Timer(3, lambda: other.execute("commit")).start()
    start = time.monotonic()
    assert sync_results(results, "", []).removed == 1
    assert time.monotonic() - start > 2.5


@pytest.mark.slow
def test_a_store_that_stays_locked_is_said(results):
    """In a process of its own, which gives up within a minute or so; once it is free, everything is published."""
    sync_results(results, "", [])
    status = results / "smoke/jobs/toy/steep/line/seed0/config.json"
    status.write_text(json.dumps(json.loads(status.read_text()) | {"colour": "blue"}))
    other = sqlite3.connect(results / "mlflow.db", isolation_level=None)
    other.execute("begin exclusive")
    command = [sys.executable, "-m", "tycho", "sync", "--results", str(results)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    other.execute("commit")
    assert done.returncode == 1 and "locked" in done.stderr and "the records are safe" in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "1 replaced" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


@contextlib.contextmanager
def silent_server() -> Iterator[str]:
    """Takes connections and never says a word: the worst kind of slow."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_silent_store_does_not_hold_a_sync_for_ever(results, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with silent_server() as store, pytest.raises(TychoError, match=r"cannot be used .* the records are safe"):
        sync_results(results, store, [])


def test_jobs_never_open_the_store(toys, tmp_path):
    """With a store that never answers, a job runs as it does without any, and MLflow is not even imported."""
    code = (
        "import sys; from tycho.cli import app; app(sys.argv[1:], standalone_mode=False); "
        "assert not {'mlflow', 'sqlalchemy'} & set(sys.modules)"
    )
    with silent_server() as store:
        env = os.environ | {"MLFLOW_TRACKING_URI": store}
        settings = {"scale": "smoke", "results": str(tmp_path), "only": ["toy"], "tracking_uri": store}
        words = ["job", "toy", "steep", "line", "--seeds", "0to1", "--settings", json.dumps(settings)]
        done = subprocess.run(
            [sys.executable, "-c", code, *words], env=env, capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "smoke/jobs/toy/steep/line/seed1/status.json").exists()


def test_many_runs_are_published_once_and_then_left_alone(results):
    """100 here; benchmarks/tracking_publish.py measures 10,000."""
    arm = results / "smoke/jobs/toy/steep/line"
    for figure in arm.rglob("figures"):
        shutil.rmtree(figure)
    for seed in range(1, 100):
        shutil.copytree(arm / "seed0", arm / f"seed{seed}")
    done = sync_results(results, "", ["smoke"])
    assert (done.new, done.replaced, done.unchanged, done.removed) == (101, 0, 0, 0)
    start = time.process_time()
    done = sync_results(results, "", ["smoke"])
    assert (done.new, done.replaced, done.unchanged, done.removed) == (0, 0, 101, 0)
    assert time.process_time() - start < 10
    keys = published(results)
    assert len(keys) == len(set(keys)) == 101


def published(results: Path) -> list[str]:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{results / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("tycho-smoke").experiment_id], max_results=1000)
    return [run.data.tags["tycho.key"] for run in found if "tycho.key" in run.data.tags]


def test_a_table_in_the_store_holds_no_formula(results):
    place = results / "smoke/jobs/toy/steep/line/seed0/analyse/tables/hostile.parquet"
    cells = ["=1+1", " @SUM(A1)", "+1", "-2", "＝1", "plain", None]
    records.write(place, pd.DataFrame({"=HYPERLINK()": cells, "number": [-1.0, 2, 3, 4, 5, 6, 7]}))
    sync_results(results, "", [])
    (table,) = (results / "mlartifacts").rglob("hostile.csv")
    lines = table.read_text(encoding="utf-8").splitlines()
    assert lines == [
        "'=HYPERLINK(),number", "'=1+1,-1.0", "' @SUM(A1),2.0", "'+1,3.0", "'-2,4.0", "'＝1,5.0", "plain,6.0", ",7.0",
    ]  # fmt: skip


@pytest.mark.slow
def test_the_server_is_two_processes_that_heed_no_foreign_host(results):
    """`make mlflow-server`: loopback only; a page that calls itself by another name gets nothing; syncs go through it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    bin_ = Path(sys.executable).parent
    words = [
        "make",
        "-s",
        "mlflow-server",
        f"PORT={port}",
        f"RESULTS={results}",
        f"BIN={bin_}",
        f"HOSTS=our.host:80,127.0.0.1:{port}",
    ]
    log = (results / "server.log").open("wb")
    server = subprocess.Popen([*words, "-o", ".venv/ready"], cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while status(f"{address}/health", "our.host:80") != 200:
            assert time.monotonic() < deadline and server.poll() is None, (results / "server.log").read_text()
            time.sleep(0.5)
        assert status(f"{address}/api/2.0/mlflow/experiments/search?max_results=1", "evil.example") == 403
        assert "2 runs new" in str(sync_results(results, address, []))
        assert "2 unchanged" in str(sync_results(results, address, []))
        assert len(python_processes(server.pid)) == 2
        assert listening(port) == {"127.0.0.1"}
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)


def status(url: str, host: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Host": host}), timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def python_processes(group: int) -> list[int]:
    import psutil

    found = [process for process in psutil.Process(group).children(recursive=True) if process.is_running()]
    return [process.pid for process in found if "python" in process.name() or "mlflow" in process.name()]


def listening(port: int) -> set[str]:
    import psutil

    return {c.laddr.ip for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port}
