"""Collecting: whatever is there is together, whatever is not says why, and one broken file takes nothing else away."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from reports import __main__ as command
from reports.collect import STALE, collect, judge, read_collected, write_collected
from tycho import records
from tycho.config import load_settings
from tycho.errors import TychoError
from tycho.files import read_json, write_json
from tycho.jobs import Plan, job_folder, plan, work_folder
from tycho.keys import JobKey
from tycho.worker import run_process


def planned(results: Path, **change) -> Plan:
    given = {"scale": "smoke", "results": str(results), "only": ["toy"], "methods": {"toy": change}}
    return plan(load_settings(given))


def run(results: Path, **change) -> Plan:
    found = planned(results, **change)
    for process in found.ordered():
        run_process(found, process)
    return found


def states(statuses: pd.DataFrame) -> dict[tuple[str, int], tuple[str, str, str]]:
    return {(row.arm, row.seed): (row.state, row.stage, row.reason) for row in statuses.itertuples()}


def report(found: Plan) -> list[str]:
    return [*command._collect(found), *command._judge(found), *command._compile(found)]


def digests(folder: Path) -> dict[str, str]:
    paths = [*folder.glob("*.parquet"), *folder.glob("report/**/*"), folder / "provenance.json"]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()
    }


def test_everything_is_together_once(toys, tmp_path):
    found = run(tmp_path)
    collected, problems = collect(found)
    assert problems == [] and set(collected.statuses.state) == {"done"}
    for kind in ("metrics", "samples", "costs"):
        single = [found.view(key).record(kind) for key in sorted(found.jobs)]
        together = getattr(collected, kind)
        assert len(together) == sum(map(len, single)) > 0
        pd.testing.assert_frame_equal(together, records.tidy(kind, pd.concat(single)), check_dtype=False)
    assert len(collected.statuses) == len(found.jobs) == 9  # three arms, their base, the synthesis
    commits = set(collected.statuses.commit)
    assert len(commits) == 1 and commits == {
        read_json(_folder(found, "steep") / "status.json")["stages"]["train"]["commit"]
    }


def test_written_tables_read_back_and_are_byte_equal(toys, tmp_path):
    found = run(tmp_path, seeds=1)
    assert report(found) == []
    first = digests(found.settings.folder)
    assert len(first) > 20
    back, collected = read_collected(found.settings.folder), collect(found)[0]
    for kind in ("metrics", "samples", "costs", "statuses"):
        pd.testing.assert_frame_equal(getattr(back, kind), getattr(collected, kind), check_dtype=False)
    assert report(found) == [] and digests(found.settings.folder) == first


def test_a_failed_job_says_why_and_its_dependants_wait(toys, tmp_path):
    found = run(tmp_path, seeds=1, arm_config={"base": {"crash_at": 3}})
    told = states(collect(found)[0].statuses)
    assert told["base", 0] == ("failed", "train", "RuntimeError: the toy was told to crash")
    assert told["tuned", 0][0] == "failed" and "has not been run" in told["tuned", 0][2]
    assert told["steep", 0] == ("done", "analyse", "")
    # A scheduler does not start what waits for a failed job at all.
    (_folder(found, "tuned") / "status.json").unlink()
    state, stage, reason = states(collect(found)[0].statuses)["tuned", 0]
    assert (state, stage) == ("missing", "train")
    assert reason == "waits for toy/base/line/seed0, which is failed (RuntimeError: the toy was told to crash)"


def test_stages_of_other_code_or_config_are_left_out(toys, tmp_path):
    run(tmp_path, seeds=1, arms=["steep", "flat"])
    recoloured, _ = collect(planned(tmp_path, seeds=1, arms=["steep", "flat"], arm_config={"flat": {"colour": "blue"}}))
    assert states(recoloured.statuses)["flat", 0] == ("missing", "analyse", STALE)
    assert set(recoloured.metrics[recoloured.metrics.arm == "flat"].stage) == {"train"}
    assert set(recoloured.samples.arm) == {"steep", "flat"}
    resloped, _ = collect(planned(tmp_path, seeds=1, arms=["steep", "flat"], arm_config={"flat": {"slope": 0.5}}))
    assert states(resloped.statuses)["flat", 0] == ("missing", "train", STALE)
    assert set(resloped.samples.arm) == set(resloped.costs.arm) == {"steep"}


def test_what_was_not_run_or_was_killed_says_so(toys, tmp_path):
    found = planned(tmp_path, seeds=2, arms=["steep"])
    work_folder(found.settings, JobKey("smoke", "toy", "steep", "line", 1), "train").mkdir(parents=True)
    told = states(collect(found)[0].statuses)
    assert told["steep", 0] == ("missing", "train", "not run yet")
    assert told["steep", 1][2].startswith("interrupted in train")
    assert told["synthesis", 0][2] == "waits for toy/steep/line/seed0, which is missing (not run yet)"


def test_a_vanished_folder_is_missing(toys, tmp_path):
    found = run(tmp_path, seeds=1, arms=["steep"])
    (_folder(found, "steep") / "evaluate").rename(tmp_path / "away")
    state, stage, reason = states(collect(found)[0].statuses)["steep", 0]
    assert (state, stage) == ("missing", "evaluate") and "is gone, run again" in reason


@pytest.mark.parametrize("damage", ["parquet", "status", "figure", "table"])
def test_one_broken_file_is_named_and_takes_only_its_own_away(toys, tmp_path, damage, capsys):
    found = run(tmp_path, seeds=1, arms=["steep", "flat"])
    place = {
        "parquet": "evaluate/samples.parquet",
        "status": "status.json",
        "figure": "analyse/figures/curve.json",
        "table": "analyse/tables/curve.parquet",
    }
    broken = _folder(found, "flat") / place[damage]
    broken.write_bytes(broken.read_bytes()[:40])
    problems = report(found)
    assert len(set(problems)) == 1 and str(broken) in problems[0] and "and run again" in problems[0]
    assert "\n" not in problems[0]
    page = (found.settings.folder / "report" / "index.html").read_text()
    assert str(broken) in page and "steep" in page
    collected = read_collected(found.settings.folder)
    assert "steep" in set(collected.samples.arm)
    if damage == "parquet":
        assert states(collected.statuses)["flat", 0][:2] == ("failed", "evaluate")
        assert "flat" not in set(collected.samples.arm) and "flat" in set(collected.metrics.arm)


def test_the_commands_as_snakemake_calls_them(toys, tmp_path):
    """Real processes: nothing there, half there, broken; one line and an exit code."""
    given = {"scale": "smoke", "results": str(tmp_path), "only": ["toy"], "methods": {"toy": {"seeds": 1}}}

    def call(what: str, *more: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-m", "reports", what, *more], capture_output=True, text=True)

    settings = ("--settings", json.dumps(given))
    early = call("compile", *settings)
    assert early.returncode == 1 and "run `python -m reports collect` first" in early.stderr
    assert early.stderr.count("\n") == 1
    log = tmp_path / "smoke" / "logs" / "all.log"
    nothing = call("all", *settings, "--log", str(log))
    assert nothing.returncode == 0 and "missing" in log.read_text() and nothing.stderr == ""
    page = (tmp_path / "smoke" / "report" / "index.html").read_text()
    assert "not run" in page and "9 missing" not in page and "5 missing" in page
    wrong = call("collect", "--settings", "{")
    assert (
        wrong.returncode == 1
        and wrong.stderr.startswith("tycho: --settings takes JSON")
        and wrong.stderr.count("\n") == 1
    )
    assert call("colect").returncode == 1


def test_a_room_that_cannot_be_loaded_is_the_reason_of_its_claims(rooms, tmp_path):
    rooms.write("good", scales="smoke: {}")
    room = rooms.write("bad", method="import a_package_that_is_not_there\n")
    claim = [
        {
            "id": "bad.claim",
            "says": "It would.",
            "source": {"arxiv": "2501.00001", "where": "nowhere", "read": "code"},
            "fidelity": "analogue",
            "test": {"kind": "greater", "estimand": "accuracy", "task": "t", "of": "one", "than": "two"},
        }
    ]
    write_json(room / "claims.yaml", claim)  # JSON is YAML
    found = plan(load_settings({"scale": "smoke", "results": str(tmp_path / "r")}))
    for process in found.ordered():
        run_process(found, process)
    collected, _ = collect(found)
    verdicts, problems = judge(found, collected)
    assert problems == [] and list(verdicts.verdict) == ["not run"]
    assert "cannot be loaded" in verdicts.reason[0] and "a_package_that_is_not_there" in verdicts.reason[0]
    write_collected(found.settings.folder, collected)
    assert list(read_collected(found.settings.folder).statuses.method) == ["good"]
    (room / "claims.yaml").write_text("- {id: bad.claim, sayz: x}\n")
    verdicts, problems = judge(found, collected)
    assert len(verdicts) == 0 and len(problems) == 1 and "sayz" in problems[0]


def test_no_rooms_no_jobs_still_a_report(rooms, tmp_path):
    found = plan(load_settings({"scale": "smoke", "results": str(tmp_path / "r")}))
    assert report(found) == []
    page = (tmp_path / "r" / "smoke" / "report" / "index.html").read_text()
    assert "There are no claims to judge yet" in page and "No jobs are planned" in page


def test_tables_of_an_older_schema_are_refused_by_name(toys, tmp_path):
    found = run(tmp_path, seeds=1, arms=["steep"])
    report(found)
    path = found.settings.folder / "claims.parquet"
    pd.read_parquet(path).to_parquet(path)
    with pytest.raises(TychoError, match=r"claims\.parquet has record schema none"):
        command._compile(found)


def _folder(found: Plan, arm: str) -> Path:
    return job_folder(found.settings, JobKey("smoke", "toy", arm, "line", 0))
