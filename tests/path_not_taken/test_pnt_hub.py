"""Hub ids through the hub's own client: from a server on the loopback, from its cache, and one line without either."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

COMMIT = "0" * 40
OPEN = """
import sys
from methods.path_not_taken.checkpoints import open_base
from tycho.errors import TychoError
for source in sys.argv[1:]:
    try:
        checkpoint = open_base(source)
        print(len(checkpoint.names), checkpoint.read("a.weight").tolist())
    except TychoError as error:
        print(error)
"""


def repository(folder: Path) -> Path:
    """Two shards with an index, and what a published repository holds beside them."""
    folder.mkdir()
    where = {}
    for number, name in enumerate(["a.weight", "b.weight"], 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: torch.full((2,), float(number))}, folder / file)
        where[name] = file
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (folder / "config.json").write_text("{}")
    for unwanted in ("consolidated.safetensors", "pytorch_model.bin", "README.md"):
        (folder / unwanted).write_bytes(b"not to be fetched")
    return folder


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as a download asks for."""

    folder: Path
    fetched: list[str]

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        file = self.folder / Path(path).name
        if not path.startswith(("/api/models/somebody/tiny/", "/somebody/tiny/resolve/")):
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            return
        if "/tree/" in path:
            listed = [
                {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0"} for f in self.folder.iterdir()
            ]
            data = json.dumps(listed).encode()
        elif path.startswith("/api/"):
            siblings = [{"rfilename": f.name} for f in self.folder.iterdir()]
            data = json.dumps({"id": "somebody/tiny", "sha": COMMIT, "siblings": siblings}).encode()
        else:
            data = file.read_bytes()
            if body:
                self.fetched.append(file.name)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    fetched: list[str] = []
    handler = type("Handler", (Hub,), {"folder": repository(tmp_path / "repository"), "fetched": fetched})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", fetched
    server.shutdown()


def ask(cache: Path, *sources: str, **environment: str) -> list[str]:
    environment = os.environ | environment | {"HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1"}
    ran = subprocess.run([sys.executable, "-c", OPEN, *sources], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip().splitlines()


def test_a_hub_id_fetches_what_it_needs_once_and_a_wrong_one_is_one_line(
    tmp_path: Path, hub: tuple[str, list[str]]
) -> None:
    endpoint, fetched = hub
    cache = tmp_path / "cache"
    first, again, wrong = ask(
        cache, "somebody/tiny", "somebody/tiny@main", "somebody/else", HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="0"
    )
    assert first == again == "2 [1.0, 1.0]"
    shards = [f"model-{n:05}-of-00002.safetensors" for n in (1, 2)]
    assert sorted(fetched) == sorted(["config.json", "model.safetensors.index.json", *shards])
    assert wrong.startswith("'somebody/else' is no folder or file here, and the hub did not give it (")
    assert ask(cache, "somebody/tiny", HF_HUB_OFFLINE="1") == ["2 [1.0, 1.0]"]
