"""Where results come from: commit, environment, machine.

Every stage's record in a job's status.json names its commit, its lock file and the machine it ran on; beside the jobs lie
the lock files and the settings themselves (`results/<scale>/provenance/`). Seeds and knobs stand in the job's path and its
config.json, threads in the costs as well.
"""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tycho import __version__
from tycho.cost import cpu_count
from tycho.errors import TychoError
from tycho.files import content_hash, read_json, write_json, write_text
from tycho.sources import ROOT

if TYPE_CHECKING:
    from tycho.config import Settings

LOCK = ROOT / "envs" / "lock.txt"


@functools.cache
def code_state() -> dict[str, object]:
    """Commit, whether the tree had changes, and the environment's hash; stands in every job's status."""
    return {
        "commit": _git("rev-parse", "HEAD") or "none",
        "dirty": bool(_git("status", "--porcelain", "-uno")),
        "lock": lock_hash(),
    }


@functools.cache
def machine() -> dict[str, object]:
    """The hardware this process has, and the versions on which rounding depends; stands in every job's status."""
    return {
        "host": platform.node(),
        "processor": _processor(),
        "cores": cpu_count(),
        "gpus": _gpus(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": _version("torch"),
        "numpy": _version("numpy"),
    }


def leave_provenance(settings: Settings) -> None:
    """Puts the lock file and the settings beside the results. Each lock file that was ever used stays, by its hash."""
    place = settings.folder / "provenance"
    if LOCK.exists() and not (place / f"lock-{lock_hash()}.txt").exists():
        write_text(place / f"lock-{lock_hash()}.txt", LOCK.read_text(encoding="utf-8"))
    shown = settings.model_dump(mode="json")
    if not (place / "settings.json").exists() or read_json(place / "settings.json") != shown:
        write_json(place / "settings.json", shown)


def left_settings(folder: Path) -> dict[str, Any]:
    """The settings that made the results in a scale's folder, as `load_settings` takes them.

    Raises:
        TychoError: there are none.
    """
    path = folder / "provenance" / "settings.json"
    if not path.exists():
        raise TychoError(f"{path} is not there: these results do not say with what settings they were made")
    found = read_json(path)
    if not isinstance(found, dict):
        raise TychoError(f"{path} holds no settings")
    return found


def lock_hash() -> str:
    return content_hash(LOCK)[:16] if LOCK.exists() else "none"


def environment() -> dict[str, object]:
    """The machine and its software, for the report."""
    return {
        "tycho": __version__,
        **code_state(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": cpu_count(),
        "packages": {
            name: _version(name) for name in ("torch", "transformers", "numpy", "snakemake", "mlflow", "lm_eval")
        },
    }


def _git(*words: str) -> str:
    try:
        answer = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def _gpus() -> list[str]:
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.split(" (UUID")[0] for line in listing.splitlines() if line.startswith("GPU ")]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or os.uname().machine


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
