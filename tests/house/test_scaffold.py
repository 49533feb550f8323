"""A new room runs at once, and nothing that is there is touched."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tycho import registry
from tycho.config import load_settings
from tycho.errors import TychoError
from tycho.jobs import plan
from tycho.scaffold import make_room
from tycho.sources import ROOT, stage_files
from tycho.worker import run_process


@pytest.mark.parametrize("name", ["coin", "run", "method", "my_new_method2"])
def test_a_new_room_runs(rooms, tmp_path, name):
    written = make_room(name, rooms.folder)
    assert {path.name for path in written} >= {"method.py", "analyse.py", "README.md", "claims.yaml", "scales.yaml"}
    method = registry.method(name)
    assert method.name == name and set(method.arms) == {"treated", "plain"}
    found = plan(load_settings({"scale": "smoke", "results": str(tmp_path / "results")}))
    assert found.broken == {} and len(found.jobs) == 2
    for process in found.ordered():
        assert run_process(found, process) == {}
    for key in found.jobs:
        view = found.view(key)
        assert view.record("metrics").query("name == 'heads'").value.between(0, 1).all()
        assert len(view.table("sides")) == 2
        assert (view.folder / "analyse" / "figures" / "sides.json").exists()


def test_mending_the_figure_retrains_nothing(rooms):
    make_room("coin", rooms.folder)
    assert stage_files(rooms.folder / "coin", "train") == ["methods.coin.idea", "methods.coin.method"]


def test_a_new_room_is_as_tidy_as_the_others(rooms):
    make_room("coin", rooms.folder)
    command = [sys.executable, "-m", "ruff"]
    for check in (["check"], ["format", "--check"]):
        options = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
        done = subprocess.run([*command, *check, *options, str(rooms.folder)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_claims_of_a_new_room_are_well_formed(rooms):
    from reports.claims import load_claims

    make_room("coin", rooms.folder)
    (claim,) = load_claims(rooms.folder / "coin" / "claims.yaml")
    assert claim.id == "coin.treated-beats-plain"


@pytest.mark.parametrize(
    "name",
    ["", "Coin", "my-method", "2fast", "../coin", "a/b", "class", "import", "a b", "münze", "_x", "coin.flip", "x\n"],
)
def test_names_that_are_no_module_are_refused(tmp_path, name):
    with pytest.raises(TychoError, match="a method's name is its folder and its Python module"):
        make_room(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_left_alone(tmp_path):
    (tmp_path / "coin").mkdir()
    (tmp_path / "coin" / "method.py").write_text("mine")
    with pytest.raises(TychoError, match="coin is there already: choose another name or edit it"):
        make_room("coin", tmp_path)
    assert (tmp_path / "coin" / "method.py").read_text() == "mine" and len(list((tmp_path / "coin").iterdir())) == 1


def test_no_placeholder_is_left(tmp_path):
    for path in make_room("coin", tmp_path):
        text = path.read_text()
        assert "<<" not in text and ">>" not in text and text.strip() and text.endswith("\n")
        if path.suffix == ".py":
            ast.parse(text)
