"""What Snakemake and the frame add: a DAG of 200 jobs that do nothing, planned, run and reported as a user would.

    python benchmarks/dag.py [JOBS] [CORES]

Wall and CPU seconds, of processes of their own. A job here is a process: start Python, plan, import the room, leave records.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

from tycho.sources import ROOT

ROOM = """
from tycho.adapter import Arm, Method, MethodConfig, Paper

class Idle(Method):
    name = "idle"
    title = "Idle"
    says = "Does nothing."
    paper = Paper("Nothing", "2501.00001", 2025)
    Config = MethodConfig
    arms = {{f"a{{i}}": Arm(f"arm {{i}}") for i in range({jobs})}}
    tasks = {{"t": "none"}}

    def stages(self, arm):
        return ("analyse",)

    def analyse(self, run):
        run.metric("nothing", 0.0)
"""


def main(jobs: int = 200, cores: int = 2) -> None:
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder, "rooms", "idle")
        room.mkdir(parents=True)
        (room / "method.py").write_text(textwrap.dedent(ROOM.format(jobs=jobs)))
        (room / "scales.yaml").write_text("smoke: {}\n")
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        env = os.environ | {"TYCHO_METHODS": str(room.parent), "PATH": path, "CI": "true"}
        start = ["snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", folder, "--cores", str(cores)]
        config = ["--config", "scale=smoke", "only=idle"]
        plan = timed([*start, "--dry-run", "--quiet", "all", *config], env)
        print(f"to plan {jobs} jobs          {plan[0]:7.1f} s wall {plan[1]:7.1f} s CPU")
        run = timed([*start, "--quiet", "all", *config], env)
        print(f"to run them on {cores} cores     {run[0]:7.1f} s wall {run[1]:7.1f} s CPU")
        print(f"a job                     {run[0] * cores / jobs:7.2f} core-seconds {run[1] / jobs:7.2f} s CPU")
        again = timed([*start, "--quiet", "all", *config], env)
        print(f"again, nothing to do      {again[0]:7.1f} s wall {again[1]:7.1f} s CPU")


def timed(command: list[str], env: dict[str, str]) -> tuple[float, float]:
    before, started = _children(), time.perf_counter()
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started, _children() - before


def _children() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
