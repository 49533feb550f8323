"""A results folder with several directions, every verdict, figures, failures and missing jobs, made by really running rooms.

`python tests/report/synthetic.py FOLDER` makes it and compiles its report, to look at.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tycho.config import load_settings
from tycho.jobs import Plan, plan
from tycho.worker import run_process

ROOMS = Path(__file__).parent / "rooms"
NAMES = ("broken", "latent", "stopping", "threads", "updates")


def given(results: Path) -> dict[str, Any]:
    return {"scale": "quick", "results": str(results), "only": list(NAMES), "device": "cpu"}


def make(results: Path) -> Plan:
    """Runs every process of the synthetic rooms but one, which stays missing. The rooms must be among the methods."""
    planned = plan(load_settings(given(results)))
    for process in planned.ordered():
        if (process.method, process.arm, process.task) != ("stopping", "majority", "noisy"):
            run_process(planned, process)
    return planned


if __name__ == "__main__":
    os.environ["TYCHO_METHODS"] = str(ROOMS)
    folder = Path(sys.argv[1])
    make(folder)
    settings = json.dumps(given(folder))
    sys.exit(subprocess.run([sys.executable, "-m", "reports", "all", "--settings", settings]).returncode)
