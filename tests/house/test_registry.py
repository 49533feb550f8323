"""Rooms are found by looking; one that cannot be loaded is named with its error and takes no other along."""

from __future__ import annotations

import os

import pytest

from tycho import registry
from tycho.errors import TychoError
from tycho.sources import ROOT


def test_rooms_are_folders_with_a_method(rooms):
    rooms.write("b")
    rooms.write("a")
    (rooms.folder / "notes").mkdir()
    (rooms.folder / "notes" / "README.md").write_text("x")
    (rooms.folder / ".hidden").mkdir()
    (rooms.folder / ".hidden" / "method.py").write_text("x")
    (rooms.folder / "method.py").write_text("x")
    assert list(registry.rooms()) == ["a", "b"] and registry.rooms()["a"] == rooms.folder / "a"
    loaded, broken = registry.load_all()
    assert list(loaded) == ["a", "b"] and broken == {}


def test_tychos_own_rooms_and_the_toys_are_found(toys):
    own = {path.parent.name for path in ROOT.glob("methods/*/method.py")}
    assert own | {"toy"} == set(registry.rooms())


def test_a_linked_room_is_found(rooms, tmp_path):
    real = rooms.write("linked")
    real.rename(tmp_path / "real")
    os.symlink(tmp_path / "real", rooms.folder / "linked")
    assert registry.method("linked").name == "linked"


def test_a_method_is_made_once(rooms):
    rooms.write("a")
    assert registry.method("a") is registry.method("a")


@pytest.mark.parametrize(("name", "near"), [("toyy", "did you mean 'toy'?"), ("xxxxx", "there is: other, toy")])
def test_an_unknown_method_names_the_nearest(rooms, name, near):
    rooms.write("toy")
    rooms.write("other")
    with pytest.raises(TychoError) as error:
        registry.method(name)
    assert str(error.value) == f"unknown method {name!r}: {near}"


def test_without_rooms_there_is_nothing(rooms):
    with pytest.raises(TychoError, match="there is: nothing"):
        registry.method("toy")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda room: "import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
        (lambda room: "raise RuntimeError('two\\nlines')\n", "RuntimeError: two lines"),
        (lambda room: "def f(:\n", "SyntaxError: "),
        (lambda room: "", "method.py holds 0 Method classes, it must hold one"),
        (lambda room: room("bad") + "\nclass Second(Bad):\n    pass\n", "method.py holds 2 Method classes"),
        (lambda room: room("other"), "the class calls itself 'other', its folder 'bad'"),
        (lambda room: room("bad").replace('    title = "bad"\n', ""), "the class lacks title"),
        (lambda room: room("bad").replace('    name = "bad"\n', ""), "the class lacks name"),
        (
            lambda room: room("bad").replace("    Config = Config\n", "").replace('    says = "Nothing."\n', ""),
            "the class lacks says, Config",
        ),
        (lambda room: room("bad") + "    knob(1, 'x', stage='trian')\n", "stage 'trian' is none of"),
    ],
)
def test_a_broken_room_is_named_and_the_others_load(rooms, make, reason):
    rooms.write("bad", make(rooms.adapter))
    rooms.write("good")
    loaded, broken = registry.load_all()
    assert list(loaded) == ["good"] and list(broken) == ["bad"]
    assert broken["bad"].startswith("method 'bad' cannot be loaded: ") and reason in broken["bad"]
    assert str(rooms.folder / "bad") in broken["bad"] and "\n" not in broken["bad"]


def test_a_mended_room_loads(rooms):
    rooms.write("bad", "import no_such_module\n")
    assert registry.load_all()[1]
    rooms.write("bad")
    assert registry.load_all()[1] == {}


def test_a_base_class_from_elsewhere_is_no_method_of_the_room(rooms):
    rooms.write("a")
    rooms.write("b", rooms.adapter("b", top="from methods.a.method import A"))
    assert registry.method("b").name == "b"


def test_modules_of_a_room_by_file_name(rooms):
    rooms.write("a", estimands="def level(records):\n    return 1\n")
    assert registry.room_module("a", "estimands").level(None) == 1
    assert registry.room_module("a", "nothing") is None and registry.room_module("nobody", "estimands") is None
