"""The DAG as a user runs it: real Snakemake, real processes, a room that the test may edit."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tycho.sources import ROOT

pytestmark = pytest.mark.slow
TOYS = ROOT / "tests" / "toys"


class House:
    """A folder with rooms of its own, in which Snakemake is started."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rooms = folder, folder / "rooms"
        shutil.copytree(TOYS, self.rooms)
        self.env = os.environ | {"TYCHO_METHODS": str(self.rooms), "CI": "true", "MLFLOW_TRACKING_URI": ""}
        self.env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def command(self, *words: str, **given: object) -> list[str]:
        config = [f"{key}={value}" for key, value in ({"scale": "smoke", "only": "toy"} | given).items()]
        start = ["snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(self.folder), "--cores", "2"]
        return [*start, *words, "--config", *config]

    def run(self, *words: str, **given: object) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(self.command(*words, **given), env=self.env, capture_output=True, text=True, timeout=300)
        done.stdout += done.stderr
        return done

    def start(self, **given: object) -> subprocess.Popen[bytes]:
        log = (self.folder / "killed.log").open("wb")
        return subprocess.Popen(self.command(**given), env=self.env, stdout=log, stderr=log, start_new_session=True)

    def tycho(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tycho", *words]
        return subprocess.run(command, env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=120)

    @property
    def results(self) -> Path:
        return self.folder / "results" / "smoke"

    def job(self, arm: str, seed: int = 0) -> Path:
        return self.results / "jobs" / "toy" / arm / "line" / f"seed{seed}"

    def inodes(self, stage: str) -> dict[str, int]:
        """Which folders hold a stage's outcome now; a stage that ran again has another."""
        return {str(path): path.stat().st_ino for path in sorted(self.results.glob(f"jobs/toy/*/*/seed*/{stage}"))}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> House:
    """A house in which everything ran once."""
    house = House(tmp_path_factory.mktemp("house"))
    done = house.run()
    assert done.returncode == 0, done.stdout
    return house


@pytest.fixture
def house(tmp_path, finished) -> House:
    """A copy of it that a test may spoil."""
    shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)
    copy = House.__new__(House)
    copy.__dict__ |= finished.__dict__
    copy.folder, copy.rooms = tmp_path / "copy", tmp_path / "copy" / "rooms"
    copy.env = finished.env | {"TYCHO_METHODS": str(copy.rooms)}
    return copy


def test_the_whole_dag_ends_in_a_report(finished):
    assert (finished.results / "report" / "index.html").stat().st_size > 5000
    metrics = pd.read_parquet(finished.results / "metrics.parquet")
    assert set(metrics.arm) == {"steep", "flat", "tuned", "base", "synthesis"}
    claims = pd.read_parquet(finished.results / "claims.parquet")
    assert list(claims.verdict) == ["suppressed"]
    assert (finished.folder / "results" / "mlflow.db").exists()


def test_a_second_start_runs_nothing(house):
    done = house.run()
    assert done.returncode == 0 and "Nothing to be done" in done.stdout, done.stdout


def test_mending_a_figure_retrains_nothing(house):
    trained, analysed = house.inodes("train"), house.inodes("analyse")
    analyse = house.rooms / "toy" / "analyse.py"
    analyse.write_text(analyse.read_text().replace("len(colour)", "len(colour) + 1"))
    done = house.run()
    assert done.returncode == 0, done.stdout
    assert house.inodes("train") == trained
    assert all(house.inodes("analyse")[path] != inode for path, inode in analysed.items())


def test_training_code_reruns_its_method_only(house):
    shutil.copytree(house.rooms / "toy", house.rooms / "other")
    for path in (house.rooms / "other").glob("*.*"):
        path.write_text(path.read_text().replace('"toy"', '"other"').replace("toy.", "other."))
    assert house.run(only="toy,other").returncode == 0
    trained = house.inodes("train")
    method = house.rooms / "other" / "method.py"
    method.write_text(method.read_text().replace("0.1 * torch", "0.2 * torch"))
    before = {p: p.stat().st_mtime_ns for p in house.results.glob("jobs/other/*/line/seed*/train/metrics.parquet")}
    done = house.run(only="toy,other")
    assert done.returncode == 0, done.stdout
    assert house.inodes("train") == trained
    assert before and all(path.stat().st_mtime_ns != time for path, time in before.items())


def test_a_comment_reruns_nothing(house):
    method = house.rooms / "toy" / "method.py"
    method.write_text(
        method.read_text().replace('"""A method that learns', '"""Another docstring: it learns') + "\n# why\n"
    )
    assert "Nothing to be done" in house.run("--rerun-triggers", "mtime", "--until", "toy").stdout


def test_a_failed_job_does_not_take_the_report_away(house):
    spoiled = {"toy": {"arm_config": {"flat": {"crash_at": 3}}}}
    done = house.run(methods=f"{spoiled}".replace("'", '"'))
    assert done.returncode != 0
    assert "smoke/toy/flat/line/seed0 failed: RuntimeError: the toy was told to crash" in done.stdout
    page = (house.results / "report" / "index.html").read_text()
    assert "the toy was told to crash" in page
    metrics = pd.read_parquet(house.results / "metrics.parquet")
    assert set(metrics.arm) >= {"steep", "tuned"} and "flat" not in set(metrics.arm)
    assert house.tycho("where", "--scale", "smoke").returncode == 1
    mended = house.run()
    assert mended.returncode == 0, mended.stdout
    assert "told to crash" not in (house.results / "report" / "index.html").read_text()


def test_a_broken_room_is_named_and_the_others_run(house):
    (house.rooms / "cracked").mkdir()
    (house.rooms / "cracked" / "method.py").write_text("import no_such_module\n")
    (house.rooms / "cracked" / "scales.yaml").write_text("smoke: {}\n")
    done = house.run(only="toy,cracked")
    assert done.returncode == 0, done.stdout
    assert "method 'cracked' cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'" in done.stdout
    assert "no_such_module" in (house.results / "report" / "index.html").read_text()


def test_killed_in_the_middle_and_started_again(tmp_path, finished):
    """SIGKILL to everything at once; the second start ends with the same records and trains nothing twice."""
    house = House(tmp_path)
    slow = {"toy": {"config": {"seconds": 0.05}}}
    given = {"checkpoint_seconds": 0, "methods": f"{slow}".replace("'", '"')}
    started = house.start(**given)
    deadline = time.monotonic() + 120
    while not list(house.results.glob("jobs/toy/base/line/seed1/train")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    trained = house.inodes("train")
    assert trained, (house.folder / "killed.log").read_text()
    assert house.run("--unlock", **given).returncode == 0
    again = house.run(**given)
    assert again.returncode == 0, again.stdout
    assert trained.items() <= house.inodes("train").items()
    for name in ("metrics", "samples"):
        calm, resumed = (pd.read_parquet(found.results / f"{name}.parquet") for found in (finished, house))
        pd.testing.assert_frame_equal(calm, resumed, check_exact=True)


def test_a_store_that_is_down_is_said_and_nothing_is_lost(house):
    (house.folder / "results" / "mlflow.db").unlink()
    method = house.rooms / "toy" / "analyse.py"
    method.write_text(method.read_text() + "\nNOTHING = 0\n")
    done = house.run(tracking_uri="http://127.0.0.1:9")
    assert done.returncode == 0, done.stdout
    assert "the MLflow store http://127.0.0.1:9 cannot be used" in done.stdout and "tycho sync" in done.stdout
    synced = house.tycho("sync")
    assert synced.returncode == 0 and "9 runs new" in synced.stdout, synced.stdout + synced.stderr


def test_corrupt_records_are_named(house):
    path = house.job("steep") / "train" / "metrics.parquet"
    path.write_bytes(path.read_bytes()[:100])
    done = house.run("--forcerun", "collect")
    assert done.returncode != 0
    assert f"{path.relative_to(house.folder)} cannot be read" in done.stdout and "delete" in done.stdout
    trained = house.inodes("train")
    shutil.rmtree(path.parent)  # what the message says
    mended = house.run()
    assert mended.returncode == 0, mended.stdout
    assert [p for p, inode in trained.items() if house.inodes("train")[p] != inode] == [str(path.parent)]


def test_plan_lint_format_and_graph_are_clean(tmp_path):
    house = House(tmp_path)
    for words in (["--dry-run"], ["--lint"], ["--rulegraph"]):
        done = house.run(*words)
        assert done.returncode == 0, done.stdout
    assert "Congratulations" in house.run("--lint").stdout
    snakefiles = ["Snakefile", *(str(path) for path in sorted((ROOT / "workflows").glob("*.smk")))]
    assert subprocess.run(["snakefmt", "--check", *snakefiles], cwd=ROOT, env=house.env).returncode == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"scale": "quik"}, "unknown scale 'quik': did you mean 'quick'?"),
        ({"devise": "cpu"}, "unknown key in config: 'devise': did you mean 'device'?"),
        ({"device": "cpuu"}, "device"),
        ({"only": "toyy"}, "unknown method 'toyy': did you mean 'toy'?"),
        ({"methods": '{"toy": {"arms": ["stepe"]}}'}, "unknown arm of toy 'stepe': did you mean 'steep'?"),
        ({"methods": '{"toy": {"config": {"slop": 1}}}'}, "did you mean 'slope'?"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, given, said):
    done = House(tmp_path).run("--dry-run", **given)
    assert done.returncode != 0
    assert [line for line in done.stdout.splitlines() if said in line], done.stdout
