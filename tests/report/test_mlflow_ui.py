"""The MLflow pages as a reviewer sees them: a real server on loopback, a real browser."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import browser
import mlflow
import pytest

from tycho.config import load_settings
from tycho.jobs import plan
from tycho.tracking import sync_results
from tycho.worker import run_process

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def server(toys, tmp_path):
    """(address, store) of a server over the toy's results."""
    methods = {"toy": {"arms": ["steep"], "seeds": 1}}
    found = plan(load_settings({"scale": "smoke", "results": str(tmp_path), "only": ["toy"], "methods": methods}))
    for process in found.ordered():
        assert run_process(found, process) == {}
    sync_results(tmp_path, "", [])
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--workers",
        "1",
        "--port",
        str(port),
        "--backend-store-uri",
        store,
    ]
    quiet = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=quiet, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert time.monotonic() < deadline, (tmp_path / "server.log").read_text()
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}", store
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def _answers(address: str) -> bool:
    try:
        return urllib.request.urlopen(address, timeout=5).status == 200
    except (urllib.error.URLError, OSError):
        return False


def test_the_curves_of_a_run_are_drawn(server, tmp_path):
    if browser.executable() is None:
        pytest.skip("no Chromium on PATH and none could be installed")
    address, store = server
    client = mlflow.MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("tycho-smoke").experiment_id
    (run,) = client.search_runs([experiment], "tags.tycho.arm = 'steep'")
    with browser.Page() as page:
        page.look(1500, 1600)
        page.call("Page.navigate", url=f"{address}/#/experiments/{experiment}/runs/{run.info.run_id}/model-metrics")
        deadline = time.monotonic() + 120
        # A line chart of the training curve: its card names the metric and holds a drawn path.
        drawn = "document.querySelectorAll('.js-plotly-plot .scatterlayer path.js-line').length"
        while not page.evaluate(drawn):
            assert time.monotonic() < deadline, page.evaluate("document.body.innerText")[:2000]
            page.evaluate(
                "document.querySelectorAll('*').forEach(e => { if (e.scrollHeight > e.clientHeight + 50) e.scrollTop = 1e6; })"
            )
            time.sleep(1)
        text = page.evaluate("document.body.innerText")
        page.picture(Path(os.environ.get("TYCHO_PICTURES", tmp_path)) / "mlflow-run.png", whole=False)
    assert "toy/steep/line/seed0" in text and "level" in text
