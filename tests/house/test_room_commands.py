"""Commands that rooms offer: found by looking, imported when asked for, and no other's harm when broken."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tycho import cli
from tycho.sources import ROOT

GREETER = """
from tycho.terminal import make_app
app = make_app("Greets.")

@app.command()
def greet(name: str):
    print("hello", name)
"""


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tycho", *words])
        before = list(cli.app.registered_commands)
        try:
            with pytest.raises(SystemExit) as ended:
                cli.main()
        finally:
            cli.app.registered_commands[:] = before
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


def test_a_room_adds_a_command(rooms, call):
    rooms.write("polite", cli=GREETER)
    assert call("greet", "you") == (0, "hello you\n", "")
    assert "greet" in call("--help")[1]


def test_a_broken_room_takes_only_its_own_commands_away(rooms, call):
    rooms.write("polite", cli=GREETER)
    rooms.write("rude", cli="import nothing_of_that_name")
    code, out, err = call("greet", "you")
    assert (code, out) == (0, "hello you\n") and "commands of rude" in err and "nothing_of_that_name" in err


def test_the_frames_own_commands_import_no_room(rooms, call):
    rooms.write("rude", cli="raise SystemExit(3)")
    assert call("list")[0] == 0


def test_diff_and_intervene_are_there_and_light():
    code = (
        "import sys; sys.argv = ['tycho', 'diff', '--help']\n"
        "from tycho import cli\n"
        "try:\n    cli.main()\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'transformers', 'mlflow', 'lm_eval') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "TUNED" in done.stdout and done.stdout.strip().endswith("[]"), done.stdout + done.stderr
