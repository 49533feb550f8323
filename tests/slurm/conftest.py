"""A SLURM cluster for the tests, and a place to start Snakemake in. Only with TYCHO_SLURM set, as `make test-slurm` does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from cluster import PACKAGES, Cluster, lacking, user

from tycho.sources import ROOT


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster without accounting, with two fake GPUs."""
    yield from _cluster(tmp_path_factory, accounting=False)


@pytest.fixture(scope="session")
def slurm_with_accounting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    yield from _cluster(tmp_path_factory, accounting=True)


def _cluster(places: pytest.TempPathFactory, accounting: bool) -> Iterator[Cluster]:
    if not os.environ.get("TYCHO_SLURM"):
        pytest.skip("starts SLURM's daemons: make test-slurm")
    if missing := lacking(accounting):
        pytest.fail(f"not installed: {', '.join(missing)}; as root: apt-get install --no-install-recommends {PACKAGES}")
    # A short path: munge's socket lies in it, and a socket's name may have 107 characters.
    cluster = Cluster(places.mktemp("slurm"), accounting)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


class Site:
    """A folder on the cluster's disk, from which Snakemake is started with the profile as a user does."""

    def __init__(
        self, folder: Path, cluster: Cluster, rooms: tuple[str, ...] = ("tests/slurm/rooms", "tests/toys")
    ) -> None:
        self.folder, self.cluster, self.told = folder, cluster, folder / "probe.jsonl"
        path = os.pathsep.join([str(Path(sys.executable).parent), cluster.env["PATH"]])
        self.env = cluster.env | {"PATH": path, "PROBE_FILE": str(self.told), "CI": "true"}
        self.env["TYCHO_METHODS"] = os.pathsep.join(str(ROOT / room) for room in rooms)

    def command(self, *words: str, **given: object) -> list[str]:
        config = [f"{key}={_yaml(value)}" for key, value in ({"scale": "smoke", "only": "probe"} | given).items()]
        start = ["snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(self.folder)]
        profile = ["--workflow-profile", str(ROOT / "profiles" / "slurm"), "--latency-wait", "10"]
        return [*start, *profile, "--slurm-init-seconds-before-status-checks", "1", *words, "--config", *config]

    def start(self, *words: str, **given: object) -> subprocess.Popen[bytes]:
        log = (self.folder / "snakemake.log").open("ab")
        command = self.command(*words, **given)
        # Whoever runs the tests in the background ignores Ctrl-C, and hands that on.
        heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
        return subprocess.Popen(command, env=self.env, stdout=log, stderr=log, start_new_session=True, preexec_fn=heed)

    def finish(self, started: subprocess.Popen[bytes], seconds: float = 600) -> None:
        """Waits for Snakemake and insists that it ended well."""
        try:
            assert started.wait(timeout=seconds) == 0, self.log
        finally:
            kill(started)

    def run(self, *words: str, seconds: float = 600, **given: object) -> None:
        self.finish(self.start(*words, **given), seconds)

    def tycho(self, *words: str) -> str:
        command = [sys.executable, "-m", "tycho", *words]
        done = subprocess.run(command, env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def log(self) -> str:
        return (self.folder / "snakemake.log").read_text(errors="replace")[-6000:]

    @property
    def results(self) -> Path:
        return self.folder / "results" / "smoke"

    def tales(self, what: str = "") -> list[dict[str, object]]:
        """What the probe told, of one kind or all."""
        lines = self.told.read_text().splitlines() if self.told.exists() else []
        return [tale for tale in map(json.loads, lines) if what in ("", tale["what"])]

    def count(self, what: str) -> Counter[str]:
        return Counter(str(tale["arm"]) for tale in self.tales(what))

    def states(self) -> Counter[str]:
        """How many of this site's SLURM jobs are in which state; other sites' jobs have other comments or are older."""
        return Counter(job["state"] for job in self.cluster.jobs() if job["id"] not in self.before)

    def forget_old_jobs(self) -> None:
        self.before = {job["id"] for job in self.cluster.jobs()}

    def metrics(self) -> pd.DataFrame:
        return pd.read_parquet(self.results / "metrics.parquet")

    def store(self) -> Counter[str]:
        """The jobs in the MLflow store, with how many runs each has."""
        import mlflow

        client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{self.folder / 'results' / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("tycho-smoke")
        runs = client.search_runs([experiment.experiment_id], "tags.`tycho.key` LIKE '%'", max_results=1000)
        return Counter(run.data.tags["tycho.key"] for run in runs if "tycho.key" in run.data.tags)


def wait_for(ready: Callable[[], object], seconds: float = 120, what: str = "") -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s {what}"
        time.sleep(0.3)


def kill(started: subprocess.Popen[bytes]) -> None:
    """SIGKILL to Snakemake and what it started on this side; SLURM's jobs are not among them."""
    if started.poll() is None:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def _yaml(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@pytest.fixture
def site(tmp_path: Path, slurm: Cluster) -> Iterator[Site]:
    found = Site(tmp_path, slurm)
    found.forget_old_jobs()
    yield found
    slurm.run("scancel", "--user", user(), check=False)
