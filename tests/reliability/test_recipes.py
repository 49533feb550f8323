"""The recipes install what the lock says; they cannot be built here, so what they say is compared."""

from __future__ import annotations

import re

import yaml
from packaging.requirements import Requirement

from tycho.sources import ROOT

ENVS = ROOT / "envs"
LOCK = [Requirement(line) for line in (ENVS / "lock.txt").read_text().splitlines() if line.strip() and line[0] != "#"]


def torch_pin() -> str:
    (pin,) = re.findall(r"^torch==(\S+)$", (ENVS / "requirements.in").read_text(), re.MULTILINE)
    return pin


def test_every_line_of_the_lock_is_one_version():
    assert len(LOCK) > 150
    assert [str(pin) for pin in LOCK if len(pin.specifier) != 1 or not str(pin.specifier).startswith("==")] == []
    assert not {"torch", "tycho"} & {pin.name for pin in LOCK}


def test_what_tycho_asks_for_is_locked_within_its_bounds():
    locked = {pin.name.lower().replace("_", "-"): str(pin.specifier).removeprefix("==") for pin in LOCK}
    lines = [line for line in (ENVS / "requirements.in").read_text().splitlines() if line.strip() and line[0] != "#"]
    for wanted in map(Requirement, lines):
        if wanted.name != "torch":
            assert wanted.specifier.contains(locked[wanted.name.lower()], prereleases=True), wanted


def test_make_conda_and_apptainer_have_one_torch():
    makefile, recipe = (ROOT / "Makefile").read_text(), (ENVS / "tycho.def").read_text()
    conda = yaml.safe_load((ENVS / "tycho.yaml").read_text())
    pip = next(entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict))
    found = re.findall(r"torch==(\S+)", "\n".join([makefile, recipe, *pip]))
    assert set(found) == {torch_pin()} and len(found) >= 3


def test_torch_comes_before_the_lock_and_the_lock_without_a_resolver():
    conda = yaml.safe_load((ENVS / "tycho.yaml").read_text())
    pip = next(entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict))
    assert pip[0].startswith("torch==") and pip[1] == "-r lock.txt"
    post = (ENVS / "tycho.def").read_text().split("%post")[1].split("%environment")[0]
    assert post.index("torch==") < post.index("--no-deps -r /opt/tycho/envs/lock.txt") < post.index("--editable")


def test_pythons_are_those_tycho_runs_on():
    conda = yaml.safe_load((ENVS / "tycho.yaml").read_text())
    versions = [
        *re.findall(r"^From: python:(3\.\d+)", (ENVS / "tycho.def").read_text(), re.MULTILINE),
        *(entry.removeprefix("python=") for entry in conda["dependencies"] if str(entry).startswith("python=")),
    ]
    assert len(versions) == 2 and set(versions) <= {"3.11", "3.12", "3.13"}


def test_apptainer_copies_what_a_run_needs():
    """Every folder and file that the front door reads is in the image, from a path that exists."""
    files = (ENVS / "tycho.def").read_text().split("%files")[1].split("%post")[0].split("\n")
    copied = {word for line in files for word in line.split() if not word.startswith("/opt")}
    assert {"Snakefile", "workflows", "config", "methods", "reports", "tycho", "envs", "profiles"} <= copied
    assert all((ROOT / name).exists() for name in copied)
