"""A results folder with several directions, every verdict, figures, failures and missing jobs, made by really running rooms.

`python -m tests.report.synthetic FOLDER` makes it and compiles its report, to look at.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tycho import registry
from tycho.config import load_settings
from tycho.jobs import Plan, plan
from tycho.worker import run_process

ROOMS = Path(__file__).resolve().parent / "rooms"
NAMES = ("broken", "latent", "stopping", "threads", "updates")


@contextlib.contextmanager
def among_methods(folder: Path = ROOMS) -> Iterator[None]:
    """The registry finds the rooms of a folder, too."""
    import methods

    def forget() -> None:
        registry.method.cache_clear()
        names = {place.stem for place in folder.iterdir()}
        for module in [m for m in sys.modules if m.startswith("methods.") and m.split(".")[1] in names]:
            del sys.modules[module]

    before = list(methods.__path__)
    methods.__path__[:] = [*before, str(folder)]
    forget()
    try:
        yield
    finally:
        methods.__path__[:] = before
        forget()


def given(results: Path) -> dict[str, Any]:
    """The settings, as a user would give them."""
    return {"scale": "quick", "results": str(results), "only": list(NAMES), "device": "cpu"}


def planned(results: Path) -> Plan:
    return plan(load_settings(given(results)))


def make(results: Path) -> None:
    """Runs every process of the synthetic rooms but one, which stays missing. The rooms must be among the methods."""
    found = planned(results)
    for process in found.ordered():
        if (process.method, process.arm, process.task) != ("stopping", "cut", "chains"):
            run_process(found, process)


if __name__ == "__main__":
    with among_methods():
        make(Path(sys.argv[1]))
    command = [sys.executable, "-m", "reports", "all", "--settings", json.dumps(given(Path(sys.argv[1])))]
    sys.exit(subprocess.run(command, env=os.environ | {"TYCHO_METHODS": str(ROOMS)}).returncode)
