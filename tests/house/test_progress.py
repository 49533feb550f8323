"""Progress with remaining time where somebody looks, and none where nobody does."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import termios

import pytest

from tycho import progress as module
from tycho.progress import progress, remaining

# Five items of a tenth of a second each; what came out goes to a file.
CODE = """
import sys, time
from tycho import progress as p
p.EVERY = 0.15
found = []
for item in p.progress(range({begin}, {end}), "work", total={total}, start={begin}):
    time.sleep(0.1)
    found.append(item)
open(sys.argv[1], "w").write(str(found))
"""


def environment(**more: str) -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if name not in ("CI", "TYCHO_QUIET", "TYCHO_LINES")
    } | more


def piped(tmp_path, begin=0, end=5, total=5, **env) -> str:
    code = CODE.format(begin=begin, end=end, total=total)
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    done = subprocess.run(command, env=environment(**env), capture_output=True, text=True, check=True)
    assert (tmp_path / "out").read_text() == str(list(range(begin, end))) and done.stdout == ""
    return done.stderr


def on_a_terminal(tmp_path, **env) -> str:
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (24, 80))
    command = [sys.executable, "-c", CODE.format(begin=0, end=5, total=5), str(tmp_path / "out")]
    process = subprocess.Popen(command, env=environment(**env), stderr=child)
    os.close(child)
    shown = b""
    try:
        while more := os.read(parent, 4096):
            shown += more
    except OSError:  # the other end is closed
        pass
    os.close(parent)
    assert process.wait() == 0
    assert (tmp_path / "out").read_text() == "[0, 1, 2, 3, 4]"
    return shown.decode()


def test_lines_with_remaining_time_where_there_is_no_terminal(tmp_path):
    lines = piped(tmp_path).splitlines()
    assert 1 <= len(lines) <= 3
    assert all(re.fullmatch(r"work: [1-5] of 5, [0-9]+ s left", line) for line in lines), lines


def test_lines_count_what_was_done_before(tmp_path):
    """Remaining time comes from the items done now, not from those of an earlier start."""
    lines = piped(tmp_path, begin=10_000, end=10_005, total=10_105).splitlines()
    assert lines and all(re.fullmatch(r"work: 1000[1-5] of 10105, (9|\d\d+) s left", line) for line in lines), lines


def test_lines_without_a_total_have_no_remaining_time(tmp_path):
    lines = piped(tmp_path, total=None).splitlines()
    assert lines and all(re.fullmatch(r"work: [1-5]( of 5, [0-9]+ s left)?", line) for line in lines), lines


@pytest.mark.parametrize("variable", ["CI", "TYCHO_QUIET"])
def test_silent_where_nobody_looks(tmp_path, variable):
    assert piped(tmp_path, **{variable: "true"}) == "" == on_a_terminal(tmp_path, **{variable: "true"})


def test_a_bar_on_a_terminal(tmp_path):
    shown = on_a_terminal(tmp_path)
    assert "work" in shown and "%|" in shown and "/5 [" in shown and re.search(r"\d\d:\d\d<\d\d:\d\d", shown)


def test_lines_on_a_terminal_that_asks_for_them(tmp_path):
    assert re.search(r"work: [1-5] of 5, \d+ s left", on_a_terminal(tmp_path, TYCHO_LINES="1"))


@pytest.mark.parametrize("quiet", [True, False])
def test_items_pass_unchanged_and_one_at_a_time(monkeypatch, quiet):
    """Items are not asked for before they are wanted, and an early end closes the source."""
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    for name in ("CI", "TYCHO_QUIET", "TYCHO_LINES"):
        monkeypatch.delenv(name, raising=False)
    if quiet:
        monkeypatch.setenv("CI", "1")
    monkeypatch.setattr(module, "EVERY", 0.0)
    asked = []

    def source():
        try:
            for item in (object(), None, [1]):
                asked.append(item)
                yield item
        finally:
            asked.append("closed")

    shown = progress(source(), "work")
    assert next(shown) is asked[0] and len(asked) == 1
    assert next(shown) is None
    shown.close()
    assert asked[2:] == ["closed"]
    assert list(progress([], "work")) == [] and list(progress(iter("ab"), "work", total=1)) == ["a", "b"]
    assert (sys.stderr.getvalue() == "") == quiet


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (61, "1 min 01 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 00 min"),
        (86_399, "23 h 59 min"),
        (360_000, "100 h 00 min"),
        (-5, "0 s"),
    ],
)
def test_seconds_as_a_person_says_them(seconds, said):
    assert remaining(seconds) == said
