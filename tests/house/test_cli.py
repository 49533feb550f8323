"""The command line: what the user can mend is one line and a non-zero exit."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from tycho import cli
from tycho.sources import ROOT

COMMAND = [sys.executable, "-m", "tycho"]


@pytest.fixture
def tycho(monkeypatch, capsys, tmp_path):
    """Runs a command in this process; gives its exit code, output and errors. Results go to the test's folder."""
    log = logging.getLogger("tycho")
    before = log.level, log.handlers[:]
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tycho", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    yield call
    log.setLevel(before[0])
    log.handlers[:] = before[1]


def fails(answer: tuple[int, str, str], *parts: str) -> None:
    code, out, err = answer
    lines = [line for line in err.splitlines() if line.startswith("tycho: ")]
    assert code == 1 and len(lines) == 1 and "Traceback" not in err + out, err
    assert [part for part in parts if part not in lines[0]] == [], lines[0]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["run", "tyo"], ["unknown method 'tyo'", "did you mean 'toy'?"]),
        (["run", "toy", "--arm", "step"], ["unknown arm of toy 'step'", "did you mean 'steep'?"]),
        (["run", "toy", "--task", "lime"], ["unknown task of toy 'lime'", "did you mean 'line'?"]),
        (["run", "toy", "--scale", "smok"], ["unknown scale 'smok'", "did you mean 'smoke'?"]),
        (["run", "toy", "--device", "cdua"], ["unknown device 'cdua'", "did you mean 'cuda'?"]),
        (["run", "toy", "--threads", "-1"], ["threads", "given: -1"]),
        (["run", "toy", "--threads", "two"], ["--threads", "integer"]),
        (["run", "toy", "--seeds", "few"], ["--seeds takes a number or seeds apart by commas, not 'few'"]),
        (["run", "toy", "--seeds", "1,,"], ["--seeds takes"]),
        (["run", "toy", "--seeds", "0"], ["seeds are a positive number"]),
        (["run", "toy", "--seeds", "1,1"], ["different numbers"]),
        (["run", "toy", "--set", "stepz=3"], ["'stepz'", "did you mean 'steps'?"]),
        (["run", "toy", "--set", "steps"], ["--set takes name=value, not 'steps'"]),
        (["run", "toy", "--set", "steps=many"], ["steps", "integer", "given: 'many'"]),
        (["run", "toy", "--set", "steps=[1"], ["--set steps=[1"]),
        (["run", "toy", "--set", "steps=0"], ["steps", "greater than or equal to 1"]),
        (["run", "toy", "--model", "/m"], ["unknown key in toy", "'model'"]),
        (["run", "toy", "--data", "/d"], ["unknown key in toy", "'data'"]),
        (["run", "toy", "--see", "3"], ["No such option: --see", "--seeds"]),
        (["run"], ["Missing argument"]),
        (["rum"], ["No such command 'rum'", "Did you mean 'run'?"]),
        (["list", "tyo"], ["unknown method 'tyo'", "did you mean 'toy'?"]),
        (["config", "--scale", "qick"], ["unknown scale 'qick'", "did you mean 'quick'?"]),
        (["job", "toy", "steep", "line", "--seeds", "7"], ["scale quick plans no process toy/steep/line with seeds 7"]),
        (["new-method", "My-Method"], ["not 'My-Method'"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line(toys, tycho, words, parts):
    fails(tycho(*words), *parts)


def test_help_is_no_failure(tycho):
    code, out, err = tycho("--help")
    assert code == 0 and "new-method" in out and err == ""


def test_without_a_command_there_is_help(tycho):
    code, out, err = tycho()
    assert code != 0 and "new-method" in out and err == ""


def test_a_run_prints_its_metrics(toys, tycho, tmp_path):
    options = ["--scale", "smoke", "--arm", "flat", "--seeds", "4,5", "--set", "steps=3", "--results", "here"]
    code, out, err = tycho("run", "toy", *options)
    assert code == 0 and "Traceback" not in err
    assert any(line.split() == ["flat", "line", "colours", "3", "2"] for line in out.splitlines()), out
    jobs = tmp_path / "here" / "smoke" / "jobs" / "toy"
    assert sorted(os.listdir(jobs / "flat" / "line")) == ["receipts", "seed4", "seed5"]
    assert yaml.safe_load((jobs / "flat" / "line" / "seed4" / "config.json").read_text())["steps"] == 3


def test_a_single_seed_may_be_run(toys, tycho, tmp_path):
    assert tycho("run", "toy", "--scale", "smoke", "--arm", "flat", "--seeds", "7,", "--results", "here")[0] == 0
    assert sorted(os.listdir(tmp_path / "here/smoke/jobs/toy/flat/line")) == ["receipts", "seed7"]


def test_a_knob_that_is_set_outranks_the_scale_by_task_and_by_arm(rooms, tycho, tmp_path):
    """It did not: a recipe by task was kept without a word. What makes an arm stays what it is."""
    arms = '{"one": Arm("a"), "two": Arm("b", config={"size": 7})}'
    scales = "smoke: {config: {size: 2}, task_config: {t: {size: 3, items: 9}}, arm_config: {one: {size: 4, items: 5}}}"
    rooms.write("mine", rooms.adapter("mine", arms=arms), scales)
    assert tycho("run", "mine", "--scale", "smoke", "--set", "size=5", "--results", "here")[0] == 0
    found = {
        arm: yaml.safe_load((tmp_path / f"here/smoke/jobs/mine/{arm}/t/seed0/config.json").read_text())
        for arm in ("one", "two")
    }
    assert {arm: (config["size"], config["items"]) for arm, config in found.items()} == {"one": (5, 5), "two": (7, 9)}


def test_a_failed_job_is_named_and_ends_non_zero(toys, tycho):
    answer = tycho("run", "toy", "--scale", "smoke", "--arm", "flat", "--seeds", "1", "--set", "crash_at=1")
    fails((answer[0], "", answer[2].replace("Traceback", "")), "smoke/toy/flat/line/seed0 failed: RuntimeError")


def test_a_results_folder_that_cannot_be_written_is_one_line(toys, tycho, tmp_path):
    (tmp_path / "file").write_text("mine")
    answer = tycho("run", "toy", "--scale", "smoke", "--results", str(tmp_path / "file"))
    fails(answer, "results cannot be written to", "--config results=FOLDER")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_job_planned_before_the_code_changed_is_not_run(toys, tycho):
    words = ["job", "toy", "steep", "line", "--seeds", "0to1", "--settings", '{"scale": "smoke"}', "--digest", "0" * 16]
    fails(tycho(*words, "--log", "job.log"), "toy/steep/line", "changed since the DAG was planned")


def test_methods_are_listed(toys, tycho):
    code, out, _ = tycho("list")
    assert code == 0 and any(line.split()[:3] == ["toy", "arXiv", "2501.00001"] for line in out.splitlines())
    code, out, _ = tycho("list", "toy")
    assert code == 0 and "crash_at" in out and "https://arxiv.org/abs/2501.00001" in out


def test_brackets_are_text(rooms, tycho):
    """Shapes like [n] are no markup."""
    rooms.write("toy", rooms.adapter("toy", arms='{"one": Arm("weights [n]")}').replace('"a size"', '"units [m]"'))
    _, out, _ = tycho("list", "toy")
    assert "weights [n]" in out and "units [m]" in out


def test_a_broken_room_is_named_by_list_and_by_where(rooms, tycho):
    rooms.write("cracked", "raise ValueError('a long reason ' * 20)\n")
    rooms.write("sound")
    code, out, _ = tycho("list")
    (line,) = [line for line in out.splitlines() if "cracked" in line]
    assert code == 1 and line.count("a long reason") == 20 and "sound" in out
    code, _, err = tycho("where", "--scale", "smoke")
    assert code == 1 and "cracked" in err


def test_a_process_of_its_own_ends_with_the_same_code(rooms):
    """`make report` and CI see exit codes only."""
    rooms.write("cracked", "import no_such_module\n")
    listed = subprocess.run([*COMMAND, "list"], cwd=ROOT, capture_output=True, text=True)
    assert listed.returncode == 1 and "method 'cracked' cannot be loaded" in listed.stdout
    unknown = subprocess.run([*COMMAND, "run", "crackt"], cwd=ROOT, capture_output=True, text=True)
    assert unknown.returncode == 1
    assert unknown.stderr == "tycho: unknown method 'crackt': did you mean 'cracked'?\n" and unknown.stdout == ""


def test_doctor_ends_non_zero_where_something_is_bad(rooms, tycho):
    rooms.write("sound")
    assert tycho("doctor", "--results", "here")[0] == 0
    rooms.write("cracked", "import no_such_module\n")
    code, out, _ = tycho("doctor", "--results", "here")
    assert code == 1 and "BAD  method cracked" in out


def test_ctrl_c_ends_with_130_and_says_so_in_the_status(toys, tmp_path):
    words = ["run", "toy", "--scale", "smoke", "--arm", "flat", "--seeds", "1", "--set", "seconds=0.05"]
    command = [*COMMAND, *words, "--set", "steps=2000", "--results", str(tmp_path)]
    # Started in the background, tests are deaf to Ctrl-C, and so would be what they start.
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until = time.monotonic() + 60
    while not list(tmp_path.glob("smoke/work/toy/flat/line/seed0/train/out")) and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in err
    status = (tmp_path / "smoke" / "jobs" / "toy" / "flat" / "line" / "seed0" / "status.json").read_text()
    assert '"failed"' in status and "KeyboardInterrupt" in status


def test_config_prints_the_plan(rooms, tycho):
    rooms.write("toy", scales="smoke: {seeds: 3}")
    code, out, _ = tycho("config", "--scale", "smoke")
    found = yaml.safe_load(out)
    assert code == 0 and found["checkpoint_seconds"] == 5 and found["methods"]["toy"]["seeds"] == [0, 1, 2]


def test_config_writes_its_files(rooms, tycho, monkeypatch, tmp_path):
    shutil.copytree(ROOT / "config", tmp_path / "config")
    for name in ("default.yaml", "schema.json"):
        (tmp_path / "config" / name).write_text("old")
    monkeypatch.setattr("tycho.sources.ROOT", tmp_path)
    assert tycho("config", "--write")[0] == 0
    for name in ("default.yaml", "schema.json"):
        assert (tmp_path / "config" / name).read_text() == (ROOT / "config" / name).read_text()


def test_a_new_room_is_laid_out_once(rooms, tycho):
    code, out, _ = tycho("new-method", "coin", "--into", str(rooms.folder))
    assert code == 0 and str(rooms.folder / "coin" / "method.py") in out.split()
    fails(tycho("new-method", "coin", "--into", str(rooms.folder)), "coin is there already")
