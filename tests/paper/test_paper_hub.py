"""What the jobs name on the hub, and its download: from a server on the loopback, and one line where it is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fake_hub import COMMIT, FakeHub

from tycho.hub import Source, named, wanted
from tycho.sources import ROOT

QUESTIONS = b'{"problem": "1+1", "answer": "2"}\n{"problem": "1+2", "answer": "3"}\n'
REPOSITORIES = {
    "GSAI-ML/LLaDA-8B-Instruct": {"config.json": b"{}", "model.safetensors": b"weights", "modeling.py": b"code"},
    "meta-llama/Llama-3.2-1B": {"config.json": b"{}"},
    "datasets/math-ai/aime25": {"test.jsonl": QUESTIONS},
    "datasets/MathArena/aime_2025": {"data/test.jsonl": QUESTIONS},
}


def test_ids_are_told_by_their_shape_and_what_stands_beside_them(tmp_path):
    (tmp_path / "own" / "model").mkdir(parents=True)
    knobs = {
        "model": "owner/model", "revision": "main", "start": "cot", "asked": "and/or?", "pattern": r"layers\.(3|26)\.",
        "data": Path("data/none.json"), "rate": 1e-3, "tuned": f"owner/tuned@{COMMIT}",
        "sets": {"a": {"questions": "owner/set", "revision": COMMIT, "split": "train"}, "b": {"questions": "here/a.jsonl"}},
        "files": [f"hub://owner/set@{COMMIT}/deep/a.json", str(tmp_path / "own/model")],
    }  # fmt: skip
    found = list(named(knobs))
    assert [one for one, _ in found] == [
        Source("owner/model", "main", "model"),
        Path("data/none.json"),
        Source("owner/tuned", COMMIT, "model"),
        Source("owner/set", COMMIT, "dataset", "train"),
        Path("here/a.jsonl"),
        Source("owner/set", COMMIT, "file", "deep/a.json"),
    ]
    assert [one.pinned for one, _ in found if isinstance(one, Source)] == [False, True, True, True]
    (model, place), (tuned, behind), (data, inner) = found[0], found[2], found[3]
    assert place.pin(model, "C") == {"revision": "C"} and behind.pin(tuned, "C") == {"tuned": "owner/tuned@C"}
    assert inner.pin(data, "C") == {"sets": {"a": {"revision": "C"}}}
    served = {"model": "http://127.0.0.1:8000/v1", "served": "owner/served", "revision": ""}
    assert [one for one, _ in named(served)] == [Source("owner/served", "", "served", "http://127.0.0.1:8000/v1")]
    ((alone, place),) = named({"pretrained": "owner/model"})
    assert place.pin(alone, "C") == {"pretrained": "owner/model@C"}


def test_a_pin_stands_where_nothing_overrides_it(rooms):
    """An arm's own knob is laid over those of all arms, so its pin is the arm's; one repository may stand in two knobs."""
    from tycho.config import load_settings, merged
    from tycho.jobs import plan

    knobs = 'model: str = knob("", "a model")\n    tuned: str = knob("", "another")\n    colour: str = knob("red", "a colour")'
    arms = '{"one": Arm("a", config={"model": "o/base", "tuned": "o/mid"}), "two": Arm("b", config={"model": "o/mid"})}'
    text = rooms.adapter("user", arms=arms).replace('colour: str = knob("red", "a colour", stage="analyse")', knobs)
    rooms.write("user", text, "smoke: {config: {tuned: o/end}}")
    given = {"scale": "smoke", "only": ["user"]}
    planned = plan(load_settings(given))
    assert not planned.broken
    for one, places in wanted(planned).items():
        for place in places:
            given = merged(given, place.pin(one, COMMIT))
    assert given["methods"]["user"] == {
        "arm_config": {
            "one": {"model": f"o/base@{COMMIT}", "tuned": f"o/mid@{COMMIT}"}, "two": {"model": f"o/mid@{COMMIT}"},
        },
        "config": {"tuned": f"o/end@{COMMIT}"},
    }  # fmt: skip
    assert all(one.pinned for one in wanted(plan(load_settings(given))))


def test_scale_paper_names_every_published_model_and_the_other_scales_need_no_hub():
    from tycho.config import load_settings
    from tycho.jobs import plan

    found = wanted(plan(load_settings({"scale": "paper"})))
    kinds = {
        kind: {one.repository for one in found if getattr(one, "kind", "") == kind} for kind in ("model", "served")
    }
    architectures = yaml.safe_load((Path(__file__).parent / "architectures.yaml").read_text())
    assert kinds["model"] | kinds["served"] <= set(architectures)
    assert {"openai-community/gpt2", "meta-llama/Llama-3.2-1B", "Qwen/Qwen3-8B"} <= kinds["model"]
    assert kinds["served"] == {name for name, about in architectures.items() if "served" in about["used"]}
    for scale in ("smoke", "quick"):
        assert not wanted(plan(load_settings({"scale": scale})))


@pytest.fixture(scope="module")
def hub():
    with FakeHub(REPOSITORIES, gated={"meta-llama/Llama-3.2-1B"}) as server:
        yield server


def tycho(folder: Path, *words: str, code: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """The command, or code of a job, in a process with a cache of its own."""
    environment = os.environ | {
        "HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_TOKEN": "",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONPATH": str(ROOT), "TYCHO_SETTINGS": "{}",
    } | environment  # fmt: skip
    command = [sys.executable, *(["-c", code] if code else ["-m", "tycho"]), *words]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)


def settings(folder: Path, methods: dict) -> str:
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump({"methods": methods}))
    return str(path)


OFFLINE = """
import sys
from methods.spg.train import locate
from methods.threadweaver.own import read_rows
from tycho.tasks.published import fetch
commit = sys.argv[1]
print(sorted(path.name for path in locate(f"GSAI-ML/LLaDA-8B-Instruct@{commit}").iterdir()))
print(read_rows("math-ai/aime25", commit, "test"))
print(fetch(f"hub://MathArena/aime_2025@{commit}/data/test.jsonl").read_text() != "")
"""


def test_what_is_pinned_is_fetched_once_and_jobs_find_it_without_a_network(hub, tmp_path):
    others = ("aime24", "amc23", "math500", "minerva", "olympiad")
    local = {name: {"questions": str(tmp_path / "q.jsonl")} for name in others}
    (tmp_path / "q.jsonl").write_bytes(QUESTIONS)
    given = settings(tmp_path, {
        "spg": {"config": {"pretrained": f"GSAI-ML/LLaDA-8B-Instruct@{COMMIT}"}},
        "threadweaver": {"config": {"model": str(tmp_path), "sets": {"aime25": {"revision": COMMIT}} | local}},
        "deepconf": {"config": {"data": f"hub://MathArena/aime_2025@{COMMIT}/data/test.jsonl"}},
    })  # fmt: skip
    words = ["download", "--configfile", given, "--only", "spg", "--only", "threadweaver", "--only", "deepconf"]
    done = tycho(tmp_path, *words, HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("here: ") == 3 and done.stdout.count("served: ") == 5 and "not " not in done.stdout
    fetched = sorted(hub.fetched)
    assert [name for name in fetched if "LLaDA" in name] == [
        f"GSAI-ML/LLaDA-8B-Instruct/{name}" for name in ("config.json", "model.safetensors", "modeling.py")
    ]
    again = tycho(tmp_path, *words, HF_ENDPOINT=hub.url)
    assert again.returncode == 0 and sorted(hub.fetched) == fetched
    offline = tycho(tmp_path, COMMIT, code=OFFLINE, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")
    assert offline.returncode == 0, offline.stderr
    files, rows, file = offline.stdout.splitlines()
    assert files == "['config.json', 'model.safetensors', 'modeling.py']" and file == "True"
    assert rows == str([json.loads(line) for line in QUESTIONS.splitlines()])


LLAMA = {"model": "meta-llama/Llama-3.2-1B", "revision": COMMIT}


@pytest.mark.parametrize(
    ("config", "environment", "says"),
    [
        ({}, {}, "it is gated: accept its licence at {url}/meta-llama/Llama-3.2-1B, then `hf auth login` or HF_TOKEN"),
        ({}, {"HF_TOKEN": "somebody"}, "it is gated: accept its licence at {url}/meta-llama/Llama-3.2-1B"),
        ({}, {"HF_TOKEN": "wrong"}, "the hub refused the token (401): `hf auth login` again"),
        ({}, {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set, and the cache does not have it"),
        ({}, {"HF_ENDPOINT": "http://127.0.0.1:9"}, "http://127.0.0.1:9 cannot be reached: download where there is a"),
        ({"revision": "f" * 40}, {}, f"there is no commit {'f' * 40}: see {{url}}/meta-llama/Llama-3.2-1B/commits/main"),
        ({"model": "somebody/else"}, {}, "there is no such repository, or a private one: check {url}/somebody/else"),
        ({"data": f"hub://MathArena/aime_2025@{COMMIT}/a.json"}, {}, "it holds no file a.json: see {url}/datasets/Math"),
        ({"revision": "main"}, {}, "--pin FILE takes the commit that the hub has now; by hand, in a --configfile: methods: "
                                   "{{token_assorted: {{config: {{revision: COMMIT}}}}}}"),
    ],
)  # fmt: skip
def test_what_is_refused_is_one_line_that_says_what_to_do(hub, tmp_path, config, environment, says):
    given = settings(tmp_path, {"token_assorted": {"config": LLAMA | config}})
    words = ["download", "--configfile", given, "--only", "token_assorted"]
    done = tycho(tmp_path, *words, **({"HF_ENDPOINT": hub.url} | environment))
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("not ")]
    assert [says.format(url=hub.url) in line for line in lines].count(True) == 1, done.stdout
    assert done.stderr.splitlines()[-1].startswith("tycho: not here: ")


def test_with_the_token_of_an_account_that_was_let_in_the_gate_opens(hub, tmp_path):
    given = settings(tmp_path, {"token_assorted": {"config": LLAMA}})
    done = tycho(
        tmp_path, "download", "--configfile", given, "--only", "token_assorted", HF_ENDPOINT=hub.url, HF_TOKEN="let-in"
    )
    assert done.returncode == 0 and "here: meta-llama/Llama-3.2-1B@" in done.stdout, done.stdout + done.stderr


def test_pins_are_written_once_and_given_to_the_run(hub, tmp_path):
    pins = tmp_path / "pins.yaml"
    pins.write_text(yaml.safe_dump({"methods": {"token_assorted": {"config": {"revision": "a" * 40}}}}))
    words = ["--only", "spg", "--only", "token_assorted"]
    done = tycho(tmp_path, "download", "--pin", str(pins), *words, HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    found = yaml.safe_load(pins.read_text())["methods"]
    assert found["token_assorted"]["config"] == {"revision": "a" * 40}  # an older pin stays
    assert found["spg"]["config"] == {"pretrained": f"GSAI-ML/LLaDA-8B-Instruct@{COMMIT}"}
    listed = tycho(tmp_path, "download", "--list", "--configfile", str(pins), *words, HF_ENDPOINT="http://127.0.0.1:9")
    assert listed.returncode == 0 and "not pinned" not in listed.stdout and listed.stdout.count("to be fetched: ") == 2
