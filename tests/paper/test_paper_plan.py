"""Scale `paper` as a whole: its dry run, what it asks of a cluster, and the page that describes it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_paper_models import build, parameters

from tycho.config import load_settings
from tycho.jobs import plan
from tycho.sources import ROOT

PAGE = ROOT / "docs" / "paper-scale.md"
# The papers' rooms, which are those that the README lists: a room of one's own is planned or not as its owner likes.
ROOMS = set(re.findall(r"\(methods/(\w+)/README\.md\)", (ROOT / "README.md").read_text()))


@pytest.fixture(scope="module")
def planned():
    return plan(load_settings({"scale": "paper"}))


def test_every_room_is_planned_or_its_absence_explained(planned):
    assert not planned.broken
    entries = {
        room for room in ROOMS if "paper" in yaml.safe_load((ROOT / "methods" / room / "scales.yaml").read_text())
    }
    assert len(ROOMS) == 10 and set(planned.methods) >= entries
    page = PAGE.read_text()
    left_out = page.partition("## Out of scope")[2]
    assert all(f"| {room} |" in page for room in entries)
    assert all(f"**{room}**" in left_out for room in ROOMS - entries)


def test_every_job_says_what_it_needs_of_a_cluster(planned):
    """Whatever loads a model asks for a GPU; what a server answers needs none."""
    for key, job in planned.jobs.items():
        asked = planned.plans[key.method]
        model = getattr(job.config, "model", "") or getattr(job.config, "pretrained", "")
        if model and not model.startswith("http"):
            assert asked.gpus >= 1, key


@pytest.mark.slow
def test_snakemakes_dry_run_resolves_all_jobs(planned, tmp_path):
    def dry(*words: str) -> str:
        command = [
            str(Path(sys.executable).parent / "snakemake"), "--snakefile", str(ROOT / "Snakefile"), "--directory",
            str(tmp_path), "--cores", "1", "--dry-run", *words, "--config", "scale=paper",
        ]  # fmt: skip
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    count = re.search(r"^total +(\d+)$", dry(), re.MULTILINE)
    assert int(count[1]) == len(planned.processes) + 5  # collect, judge, report, publish, all
    assert re.search(r"^download +1$", dry("download"), re.MULTILINE)


def test_the_page_says_what_processes_ask_for(planned):
    rows = re.findall(r"^\| (\w+) \|.*?\| (\d), (\d+) GB, (\d+) h \|", PAGE.read_text(), re.MULTILINE)
    asked = {name: (plan.gpus, plan.memory_mb // 1000, plan.minutes // 60) for name, plan in planned.plans.items()}
    assert {name: tuple(map(int, row)) for name, *row in rows} == asked


def test_the_pages_memory_is_counted_from_the_models():
    """Rows `| model | millions of parameters | GB of weights, gradients and Adam's moments in fp32 |`."""
    rows = re.findall(r"^\| ([\w.-]+/[\w.-]+) \| ([\d,]+) \| ([\d.]+) \|", PAGE.read_text(), re.MULTILINE)
    assert {name for name, *_ in rows} >= {"openai-community/gpt2", "meta-llama/Llama-3.2-1B", "Qwen/Qwen3-8B"}
    for name, millions, gigabytes in rows:
        count = parameters(build(name))
        assert (f"{count / 1e6:,.0f}", f"{16 * count / 1e9:.1f}") == (millions, gigabytes), name
