"""Where results come from: commit, environment, machine."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
from pathlib import Path

from tycho import __version__
from tycho.cost import cpu_count
from tycho.files import content_hash
from tycho.sources import ROOT


@functools.cache
def code_state() -> dict[str, object]:
    """Commit, whether the tree had changes, and the environment's hash; stands in every job's status."""
    return {
        "commit": _git("rev-parse", "HEAD") or "none",
        "dirty": bool(_git("status", "--porcelain", "-uno")),
        "lock": lock_hash(),
    }


def lock_hash() -> str:
    path = ROOT / "envs" / "lock.txt"
    return content_hash(path)[:16] if path.exists() else "none"


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
