"""The doctor says what is wrong and what to do."""

from __future__ import annotations

import pytest

from tycho import doctor
from tycho.doctor import checks


def by_name(results) -> dict[str, doctor.Check]:
    return {check.what: check for check in checks(results)}


def test_a_sound_machine(toys, tmp_path):
    found = by_name(tmp_path / "results")
    bad = {name: check.says for name, check in found.items() if check.needed and not check.ok}
    assert bad == {}
    assert {"Python", "torch", "envs/lock.txt", "results folder", "methods", "machine"} <= set(found)
    assert "toy" in found["methods"].says and found["results folder"].says == str(tmp_path / "results")
    assert "cores" in found["machine"].says and "GiB free" in found["machine"].says


def test_a_broken_room_is_bad(rooms, tmp_path):
    rooms.write("cracked", "import no_such_module\n")
    rooms.write("sound")
    found = by_name(tmp_path)
    assert found["methods"].ok and not found["method cracked"].ok
    assert "no_such_module" in found["method cracked"].says


def test_no_rooms_are_bad(rooms, tmp_path):
    assert not by_name(tmp_path)["methods"].ok


def test_a_folder_that_cannot_be_written_is_bad(toys, tmp_path):
    (tmp_path / "file").write_text("x")
    found = by_name(tmp_path / "file" / "results")["results folder"]
    assert not found.ok and "results cannot be written to" in found.says


@pytest.mark.parametrize(
    ("lock", "says"),
    [
        ("numpy==0.1\n", "numpy is 2"),
        ("no-such-package==1.0\n", "no-such-package is missing, the lock says 1.0"),
        ("# a comment\n\nno-such-package==1.0 ; sys_platform == 'win32'\n", "as installed"),
        ("".join(f"no-such-{i}==1\n" for i in range(9)), "and 6 more"),
    ],
)
def test_the_lock_is_compared_with_what_is_installed(monkeypatch, tmp_path, lock, says):
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "lock.txt").write_text(lock)
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    found = doctor._lock()
    assert says in found.says and found.ok == (says == "as installed")
    assert found.ok or "pip install --no-deps -r envs/lock.txt" in found.says
