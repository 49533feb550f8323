"""A method that measures nothing and tells on itself: what starts and ends where, on which GPU, with what in memory.

Every start and end of a training is a line in the file that PROBE_FILE names, so that a test sees attempts whose records
are not kept.
"""

from __future__ import annotations

import json
import os
import sys
import time

from tycho.adapter import Arm, Method, MethodConfig, Paper, knob


class Config(MethodConfig):
    seconds: float = knob(1.0, "how long a training takes", unit="s")
    megabytes: int = knob(0, "what it holds in memory", unit="MB")


class Probe(Method):
    name = "probe"
    title = "Probe"
    says = "Starts, waits and ends."
    paper = Paper("A probe", "2501.00001", 2025)
    Config = Config
    arms = {arm: Arm(f"the {arm} of equals") for arm in ("first", "second", "third", "fourth")}
    tasks = {"wait": "nothing but time"}

    def stages(self, arm: str) -> tuple[str, ...]:
        return ("train",)

    def train(self, run) -> None:
        tell(run, "start")
        held = bytearray(run.config.megabytes * 2**20)
        held[::4096] = b"x" * len(held[::4096])  # touched, or it is no memory
        time.sleep(run.config.seconds)
        run.metric("held", len(held) / 2**20)
        tell(run, "end")


def tell(run, what: str) -> None:
    line = {
        "what": what,
        "arm": run.key.arm,
        "seed": run.key.seed,
        "at": time.time(),
        "job": os.environ.get("SLURM_JOB_ID", ""),
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        "device": run.device,
        "heavy": sorted({"mlflow", "snakemake"} & set(sys.modules)),
    }
    with open(os.environ["PROBE_FILE"], "a", encoding="utf-8") as handle:
        handle.write(json.dumps(line) + "\n")
