"""What the frame itself costs. The whole DAG of 200 jobs is benchmarks/dag.py; here its parts, with the same bounds."""

from __future__ import annotations

import subprocess
import sys
import time

from tycho.config import load_settings
from tycho.jobs import plan
from tycho.sources import ROOT
from tycho.worker import drop_stale_receipts, run_process

JOBS = 200
SECONDS_A_JOB, SECONDS_TO_PLAN = 3.0, 10.0
NOTHING = """
def stages(self, arm):
    return ("analyse",)
"""


def two_hundred(rooms, tmp_path):
    arms = ", ".join(f'"a{i}": Arm("arm {i}")' for i in range(JOBS))
    rooms.write("idle", rooms.adapter("idle", NOTHING, arms=f"{{{arms}}}"))
    return load_settings({"scale": "smoke", "results": str(tmp_path / "results"), "only": ["idle"]})


def test_two_hundred_jobs_are_planned_at_once(rooms, tmp_path):
    settings = two_hundred(rooms, tmp_path)
    start = time.process_time()
    found = plan(settings)
    drop_stale_receipts(found, tmp_path)
    assert len(found.processes) == JOBS
    assert time.process_time() - start < SECONDS_TO_PLAN


def test_a_job_that_does_nothing_costs_next_to_nothing(rooms, tmp_path):
    """CPU seconds of a process of its own, start-up included, out of a plan of two hundred."""
    settings = two_hundred(rooms, tmp_path)
    found = plan(settings)
    given = f'{{"scale": "smoke", "results": "{settings.results}", "only": ["idle"]}}'
    command = [sys.executable, "-m", "tycho", "job", "idle", "a7", "t", "--seeds", "0", "--settings", given]
    subprocess.run(command, check=True, cwd=ROOT)  # warms the file cache and the bytecode
    before = children_seconds()
    again = ["idle", "a8", *command[6:]]
    subprocess.run([*command[:4], *again], check=True, cwd=ROOT)
    assert children_seconds() - before < SECONDS_A_JOB
    assert found.process("idle", "a8", "t", "0").receipt.name in {
        path.name for path in (settings.folder / "jobs/idle/a8/t/receipts").iterdir()
    }


def test_within_a_process_a_job_costs_milliseconds(rooms, tmp_path):
    found = plan(two_hundred(rooms, tmp_path))
    run_process(found, found.processes[0])
    start = time.process_time()
    for process in found.processes[1:11]:
        run_process(found, process)
    assert (time.process_time() - start) / 10 < 0.5


def children_seconds() -> float:
    import resource

    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def test_the_adapter_imports_nothing_heavy():
    heavy = ("mlflow", "transformers", "lm_eval", "torch", "snakemake", "altair")
    code = f"import sys, tycho.adapter; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
