"""What a stage's digest covers: the code its results can depend on, and nothing else."""

from __future__ import annotations

import pytest

from tycho import sources
from tycho.errors import TychoError
from tycho.records import STAGES
from tycho.sources import stage_digest, stage_files

METHOD = '''
"""The adapter."""

from methods.toy import analyse as analysis

from tycho.config import Settings


class Toy:
    """A toy."""

    def train(self, run):
        """Trains."""
        from methods.toy.idea import step

        return step(run)

    def evaluate(self, run):
        from .scoring import score

        return score(run)

    def analyse(self, run):
        return analysis.draw(run)
'''
MODULES = {
    "idea": '"""An idea."""\nfrom tycho.tasks import sums\n\nRATE = 1  # a rate\n\ndef step(x):\n    return sums.add(x)\n',
    "scoring": "import tycho.lm.sampling as s\n\ndef score(x):\n    return s.draw(x)\n",
    "analyse": "from methods.toy.plots import line\n\ndef draw(run):\n    return line(run)\n",
    "plots": "def line(x):\n    return x\n",
    "unused": "x = 1\n",
}
HOUSE = {
    "tycho/config.py": "class Settings: ...\n",
    "tycho/tasks/__init__.py": "",
    "tycho/tasks/sums.py": "def add(x):\n    return x + 1\n",
    "tycho/tasks/other.py": "y = 1\n",
    "tycho/lm/__init__.py": "from .models import Model\n",
    "tycho/lm/models.py": "class Model: ...\n",
    "tycho/lm/sampling/__init__.py": "from ..models import Model\nfrom .greedy import draw\n",
    "tycho/lm/sampling/greedy.py": "def draw(x):\n    return x\n",
    "tycho/harness.py": "z = 1\n",
}


class House:
    """A room and a house below it, both of which the test may edit."""

    def __init__(self, rooms, root):
        self.rooms, self.root = rooms, root
        for name, text in HOUSE.items():
            self.write(name, text)
        self.room = rooms.write("toy", METHOD, **MODULES)

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        sources._read.cache_clear()

    @property
    def digests(self) -> dict[str, str]:
        return {stage: stage_digest(self.room, stage) for stage in STAGES[:3]}

    def changed_by(self, file: str, old: str, new: str) -> set[str]:
        """The stages whose digest an edit changes."""
        before = self.digests
        if file in HOUSE:
            assert old in HOUSE[file]
            self.write(file, HOUSE[file].replace(old, new))
        else:
            self.rooms.edit("toy", file, old, new)
        after = self.digests
        return {stage for stage in before if before[stage] != after[stage]}


@pytest.fixture
def house(rooms, tmp_path, monkeypatch) -> House:
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    return House(rooms, tmp_path)


def test_a_stage_reaches_what_it_imports(house):
    here = "methods.toy."
    assert stage_files(house.room, "train") == [here + "idea", here + "method", "tycho.tasks.sums"]
    assert stage_files(house.room, "evaluate") == [here + "method", here + "scoring"] + [
        f"tycho.lm.{name}" for name in ("models", "sampling", "sampling.greedy")
    ]
    assert stage_files(house.room, "analyse") == [here + "analyse", here + "method", here + "plots"]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("method.py", '"""Trains."""', '"""Trains, and how."""'),
        ("method.py", '"""Trains."""\n        ', ""),
        ("method.py", '"""A toy."""\n', ""),
        ("method.py", "return step(run)", "return step(run)  # why"),
        ("method.py", "return step(run)", "return step(\n            run,\n        )"),
        ("idea.py", '"""An idea."""', '"""Another word for it."""'),
        ("idea.py", "RATE = 1  # a rate", "\n\nRATE = (1)"),
        ("idea.py", "def step(x):", 'def step(x):\n    "Steps."'),
        ("unused.py", "x = 1", "x = 2"),
        ("tycho/config.py", "class Settings: ...", "class Settings: x = 1"),
        ("tycho/tasks/other.py", "y = 1", "y = 2"),
        ("tycho/harness.py", "z = 1", "z = 2"),
    ],
)
def test_what_changes_no_digest(house, file, old, new):
    assert house.changed_by(file, old, new) == set()


@pytest.mark.parametrize(
    ("file", "old", "new", "stages"),
    [
        ("method.py", "return analysis.draw(run)", "return analysis.draw(run, 2)", {"analyse"}),
        ("method.py", "return score(run)", "return 2 * score(run)", {"evaluate"}),
        ("method.py", "return step(run)", "return step(step(run))", {"train"}),
        ("method.py", "class Toy:", "SIZE = 1\n\nclass Toy:", {"train", "evaluate", "analyse"}),
        ("method.py", '"""A toy."""', '"""A toy."""\n    rate = 2', {"train", "evaluate", "analyse"}),
        ("analyse.py", "return line(run)", "return line(line(run))", {"analyse"}),
        ("plots.py", "return x", "return -x", {"analyse"}),
        ("idea.py", "RATE = 1", "RATE = 2", {"train"}),
        ("scoring.py", "return s.draw(x)", "return s.draw(-x)", {"evaluate"}),
        ("tycho/tasks/sums.py", "x + 1", "x + 2", {"train"}),
        ("tycho/lm/sampling/greedy.py", "return x", "return -x", {"evaluate"}),
        ("tycho/lm/models.py", "class Model: ...", "class Model: size = 1", {"evaluate"}),
    ],
)
def test_what_changes_which_digests(house, file, old, new, stages):
    assert house.changed_by(file, old, new) == stages


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ("from methods.toy.helper import f", "methods.toy.helper"),
        ("from methods.toy import helper", "methods.toy.helper"),
        ("import methods.toy.helper", "methods.toy.helper"),
        ("import methods.toy.helper as h", "methods.toy.helper"),
        ("from . import helper", "methods.toy.helper"),
        ("from .helper import f", "methods.toy.helper"),
        ("from .helper import *", "methods.toy.helper"),
        ("from .. import toy", None),
        ("from ..toy.helper import f", "methods.toy.helper"),
        ("from .deep import inner", "methods.toy.deep.inner"),
        ("from .deep.inner import f", "methods.toy.deep.inner"),
        ("from methods.other.idea import f", "methods.other.idea"),
        ("from ..other import idea", "methods.other.idea"),
        ("def f():\n    if f:\n        import tycho.lm.models as m", "tycho.lm.models"),
        ("from tycho.lm import models", "tycho.lm.models"),
        ("from tycho.lm import Model", "tycho.lm.models"),
        ("from tycho import lm", "tycho.lm"),
        ("import tycho.lm", "tycho.lm"),
        ("from tycho.lm.sampling import draw", "tycho.lm.sampling.greedy"),
        ("from tycho import harness", "tycho.harness"),
        ("from tycho.harness import z", "tycho.harness"),
        ("from tycho.config import Settings", None),
        ("from tycho import config", None),
        ("import tycho", None),
        ("import numpy.linalg as la", None),
        ("from methods.nobody.idea import f", None),
        ("from .nothing import f", None),
    ],
)
def test_every_way_to_import(house, line, module):
    house.rooms.write("other", "", idea="f = 1\n")
    (house.room / "deep").mkdir()
    (house.room / "deep" / "inner.py").write_text("f = 1\n")
    house.rooms.write("toy", "x = 1\n", helper="f = 1\n")
    before = stage_files(house.room, "train")
    house.rooms.write("toy", f"{line}\n")
    found = set(stage_files(house.room, "train")) - set(before)
    assert module in found if module else found == set()


def test_modules_may_import_each_other_in_a_circle(house):
    house.rooms.write("toy", "from . import a\n", a="from . import b\n", b="from . import a\nfrom . import method\n")
    assert stage_files(house.room, "train") == ["methods.toy.a", "methods.toy.b", "methods.toy.method"]


def test_a_stages_module_belongs_to_it_even_where_others_import_it(house):
    house.rooms.edit("toy", "method.py", "from methods.toy import analyse as analysis", "from .analyse import draw")
    assert "methods.toy.analyse" not in stage_files(house.room, "train")
    assert "methods.toy.analyse" in stage_files(house.room, "analyse")


def test_functions_named_like_stages_count_outside_of_the_adapter(house):
    house.rooms.edit("toy", "idea.py", "RATE = 1", "class Loop:\n    def analyse(self): return 1\n\nRATE = 1")
    assert house.changed_by("idea.py", "def analyse(self): return 1", "def analyse(self): return 2") == {"train"}


@pytest.mark.parametrize("text", ["def f(:\n", "x = 'open\n", "\x00", "é = \udcff"])
def test_code_that_cannot_be_parsed_is_named_in_one_line(house, text):
    (house.room / "idea.py").write_bytes(text.encode("utf-8", "surrogateescape"))
    sources._read.cache_clear()
    with pytest.raises(TychoError) as error:
        stage_digest(house.room, "train")
    assert f"{house.room / 'idea.py'} cannot be parsed" in str(error.value) and "\n" not in str(error.value)
    assert stage_digest(house.room, "analyse")


def test_digests_do_not_depend_on_where_the_room_lies(house, tmp_path):
    moved = tmp_path / "elsewhere" / "toy"
    moved.parent.mkdir()
    before = house.digests
    house.room.rename(moved)
    house.room = moved
    assert house.digests == before


def test_a_linked_room_has_the_digests_of_the_real_one(house, tmp_path):
    link = tmp_path / "links" / "toy"
    link.parent.mkdir()
    link.symlink_to(house.room)
    assert stage_digest(link, "train") == stage_digest(house.room, "train")
