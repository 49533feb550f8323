"""Readers of published files: on the files themselves, on files with one fault each, and over HTTP."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tycho.errors import TychoError
from tycho.tasks import published

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("TYCHO_DATA", ROOT / "../shared/data"))

ITEM = {
    "question": "Alex is a rempus. Every rempus is a lorpus. Alex is a gorpus. Sam is a zumpus. Is Alex a lorpus or zumpus?",
    "answer": "Alex is a lorpus.",
    "steps": ["Alex is a rempus.", "Every rempus is a lorpus."],
    "idx_to_symbol": ["Alex", "Sam", "rempus", "lorpus", "gorpus", "zumpus"],
    "edges": [[0, 2], [2, 3], [0, 4], [1, 5]],
    "root": 0,
    "target": 3,
    "neg_target": 5,
    "neighbor_k": {"0": [0], "1": [2], "2": [3]},
}


def file(name):
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not here: set TYCHO_DATA to the folder with the published files")
    return path


def test_prosqa():
    items = published.read_prosqa(file("prosqa_valid.json"))
    graphs = published.graphs_of(items)
    assert len(items) == 300 and all(item.neighbor_k is None for item in items)
    assert (graphs.depth == [len(item.steps) for item in items]).all()
    assert graphs.edge_counts.tolist() == [len(re.findall(r"\.", item.question)) for item in items]


def test_prosqa_with_hops():
    """The file's `neighbor_k`, made by its authors, is what our search finds."""
    items = published.read_prosqa(file("prosqa_valid_graph_4_coconut.json"))
    graphs = published.graphs_of(items)
    assert len(items) == 257 and np.bincount(graphs.depth).tolist() == [0, 0, 0, 124, 133]
    for i, item in enumerate(items):
        found = [np.nonzero(layer)[0].tolist() for layer in graphs.neighbor_k[i, : graphs.depth[i] + 1]]
        assert found == [sorted(layer) for layer in item.neighbor_k]


def test_prontoqa():
    items = published.read_reasoning(file("prontoqa_5hop_sample.json"))
    assert len(items) == 60 and {item.answer for item in items} == {"True", "False"}
    assert all(len(item.steps) == 6 for item in items)


def test_icot_gsm8k():
    items = published.read_reasoning(file("gsm8k_icot_valid.json"))
    assert len(items) == 500 and sum("" in item.steps for item in items) == 6


def test_gsm8k():
    items = published.read_gsm8k(file("gsm8k_test.jsonl"))
    assert len(items) == 1319 and items[0].answer == "18" and len(items[0].steps) == 2
    assert all(re.fullmatch(r"-?\d+(\.\d+)?", item.answer) for item in items)


def test_icot_text_gives_the_published_json(tmp_path):
    """Written back as iCoT's text lines and read again, the items are the JSON's."""
    items = [item for item in published.read_reasoning(file("gsm8k_icot_valid.json")) if "" not in item.steps]
    lines = [f"{item.question}||{' '.join(item.steps)} #### {item.answer}" for item in items]
    path = tmp_path / "valid.txt"
    path.write_text("\n".join(lines) + "\n")
    again = published.read_icot_text(path)
    same = [a.steps == b.steps and a.answer == b.answer.replace(",", "") for a, b in zip(again, items, strict=True)]
    assert all(same)


def write(path, rows):
    path.write_text(json.dumps(rows))
    return path


def test_a_good_file(tmp_path):
    path = write(tmp_path / "good.json", [ITEM, ITEM])
    item = published.read_prosqa(path)[1]
    assert (item.root, item.target, item.distractor) == (0, 3, 5) and item.neighbor_k == ((0,), (2,), (3,))
    assert published.read_reasoning(path)[0].steps == tuple(ITEM["steps"])
    assert published.read_prosqa(write(tmp_path / "none.json", [])) == []


FAULTS = {
    "field 'question' is missing": {"question": None},
    "field 'answer' must be str, not int": {"answer": 3},
    "field 'answer' is empty": {"answer": " "},
    "field 'steps' must be list, not str": {"steps": "Alex is a rempus."},
    "field 'steps' must be a list of str": {"steps": [1]},
    "an edge is [parent, child], not [0, 2, 3]": {"edges": [[0, 2, 3]]},
    "an edge's child must be a node 0..5, not 6": {"edges": [[0, 6]]},
    "an edge's parent must be a node 0..5, not '0'": {"edges": [["0", 2]]},
    "root must be a node 0..5, not -1": {"root": -1},
    "field 'target' must be int, not bool": {"target": True},
    "target and neg_target exactly the first must be reachable": {"target": 5, "neg_target": 3, "neighbor_k": None},
    "of target and neg_target exactly the first": {"neg_target": 4},
    "must have the keys": {"neighbor_k": {"0": [0], "2": [3]}},
    "must lead from root to target": {"neighbor_k": {"0": [0], "1": [2]}},
    "neighbor_k[1] must be a node 0..5, not 17": {"neighbor_k": {"0": [0], "1": [17], "2": [3]}},
}


@pytest.mark.parametrize("message", FAULTS)
def test_a_malformed_item_is_named_by_file_and_index(tmp_path, message):
    broken = {name: value for name, value in {**ITEM, **FAULTS[message]}.items() if value is not None}
    path = write(tmp_path / "broken.json", [ITEM, ITEM, broken])
    with pytest.raises(TychoError) as caught:
        published.read_prosqa(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: item 2: ") and message in text and "\n" not in text


def test_other_broken_files(tmp_path):
    cases = {
        "list.json": ('{"question": 1}', "a list of items is wanted, not dict"),
        "cut.json": ('[{"question": "', "is not JSON"),
        "row.json": ("[3]", "item 0: an object with fields is wanted, not int"),
        "lines.jsonl": ('{"question": "a", "answer": "b\\n#### 3"}\n{"question"', "item 1: not JSON"),
        "end.jsonl": ('{"question": "a", "answer": "three"}', "item 0: field 'answer' must end in '#### number'"),
    }
    for name, (text, message) in cases.items():
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(TychoError, match=re.escape(message)) as caught:
            published.read_gsm8k(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    (tmp_path / "latin.json").write_bytes(b'["caf\xe9"]')
    with pytest.raises(TychoError, match="not UTF-8"):
        published.read_reasoning(tmp_path / "latin.json")
    (tmp_path / "icot.txt").write_text("q||<<1+1=2>> #### 2\nno bars #### 3\n")
    with pytest.raises(TychoError, match="item 1: not of the form"):
        published.read_icot_text(tmp_path / "icot.txt")
    with pytest.raises(TychoError, match="no data file"):
        published.read_reasoning(tmp_path / "missing.json")


def test_gsm8k_from_parquet(tmp_path):
    path = tmp_path / "test.parquet"
    pd.DataFrame({"question": ["How many?"], "answer": ["1,000 and 2\n#### 1,002"]}).to_parquet(path)
    assert published.read_gsm8k(path) == [published.Item("How many?", ("1,000 and 2",), "1002")]


def test_final_answer():
    assert published.final_answer("steps\n### 1,234 ") == "1234"
    assert published.final_answer("<<1+1=2>> #### -3.5") == "-3.5"


@pytest.mark.parametrize("source", ["hub://a/b/c.json", "hub://a/b@main/c.json", "hub://b@" + "0" * 40 + "/c.json"])
def test_hub_sources_are_pinned(source):
    with pytest.raises(TychoError, match="all 40 digits of the commit"):
        published.fetch(source)


class Hub(http.server.BaseHTTPRequestHandler):
    """One data set with one file at one commit, as the hub serves it."""

    commit = "0123456789abcdef0123456789abcdef01234567"
    body = json.dumps([ITEM]).encode()
    asked: list[str] = []

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, with_body):
        self.asked.append(self.path)
        found = self.path == f"/datasets/owner/name/resolve/{self.commit}/data/prosqa.json"
        self.send_response(200 if found else 404)
        if found:
            self.send_header("ETag", f'"{hashlib.sha1(self.body).hexdigest()}"')
            self.send_header("X-Repo-Commit", self.commit)
        else:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", str(len(self.body) if found else 0))
        self.end_headers()
        if with_body and found:
            self.wfile.write(self.body)

    def log_message(self, *_):
        pass


def test_the_hub_is_asked_for_the_pinned_file(tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    source = f"hub://owner/name@{Hub.commit}/data/prosqa.json"
    script = (
        "import sys; from tycho.tasks import published\n"
        "from tycho.errors import TychoError\n"
        "print(published.read_prosqa(sys.argv[1])[0].answer)\n"
        "try: published.read_prosqa(sys.argv[1] + 'x')\n"
        "except TychoError as error: print(error)\n"
    )
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", script, source]
    try:
        first = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    finally:
        server.shutdown()
    answer, error = first.stdout.splitlines()
    assert answer == ITEM["answer"] and error.startswith(f"{source}x cannot be downloaded: ")
    assert any(Hub.commit in path for path in Hub.asked)
    offline = subprocess.run(
        command, env=environment | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=120
    )
    assert offline.stdout.splitlines()[0] == ITEM["answer"]  # from the cache
