"""As much of the hub's HTTP interface as a download asks for, on the loopback."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote

COMMIT = "0123456789" * 4
PATH = re.compile(
    r"/(?:(?P<api>api)/)?(?:(?P<kind>models|datasets)/)?(?P<repository>[\w.-]+/[\w.-]+)"
    r"(?:/(?P<what>resolve|tree|revision|paths-info)/(?P<revision>[^/]+)(?:/(?P<file>.*))?)?"
)


class FakeHub:
    """repositories: name -> {file: bytes}; `datasets/owner/name` for data. `gated` ones want the token `let-in`."""

    def __init__(self, repositories: dict[str, dict[str, bytes]], gated: set[str] = frozenset()) -> None:
        self.repositories, self.gated = repositories, gated
        self.fetched: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> FakeHub:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        found = PATH.fullmatch(unquote(self.path.partition("?")[0]))
        name = (
            f"datasets/{found['repository']}"
            if found and found["kind"] == "datasets"
            else found and found["repository"]
        )
        files = self.hub.repositories.get(name)
        if files is None:
            return self.send(404, code="RepoNotFound")
        token = self.headers.get("Authorization", "")
        if token == "Bearer wrong":
            return self.send(401, message="Invalid credentials in Authorization header")
        if found["revision"] not in (None, "main", COMMIT):
            return self.send(404, code="RevisionNotFound")
        if found["what"] == "tree":
            return self.send(200, [entry(path, data) for path, data in files.items()])
        if found["what"] == "paths-info":
            return self.send(200, [entry(p, files[p]) for p in parse_qs(body).get("paths", []) if p in files])
        if found["what"] != "resolve":  # what a repository is anyone may ask, a gated one's too
            return self.send(
                200, {"id": found["repository"], "sha": COMMIT, "siblings": [{"rfilename": f} for f in files]}
            )
        if name in self.hub.gated and token != "Bearer let-in":
            return self.send(403 if token else 401, code="GatedRepo")
        if found["file"] not in files:
            return self.send(404, code="EntryNotFound")
        if self.command == "GET":
            self.hub.fetched.append(f"{name}/{found['file']}")
        return self.send(200, files[found["file"]])

    def send(self, status: int, data: object = b"", code: str = "", message: str = "") -> None:
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        about = {
            "X-Error-Code": code,
            "X-Error-Message": message or code,
            "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
        }
        for name, value in (about | {"X-Repo-Commit": COMMIT, "Content-Length": str(len(data))}).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def entry(path: str, data: bytes) -> dict[str, object]:
    return {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
