"""What a diff has measured so far, a line a tensor, so that it can be stopped and go on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock, Timeout

from methods.path_not_taken import names
from methods.path_not_taken.checkpoints import Pair
from methods.path_not_taken.measure import Found
from tycho.errors import TychoError
from tycho.files import read_json, replacing, write_json

COLUMNS = ["run", "tensor", "module", "layer", "rows", "columns", "entries"]
COLUMNS += ["metric", "setting", "value", "expected", "null", "null_sd"]


@contextlib.contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Holds a folder's lock, which goes with the process; refused in one line where another diff has it."""
    try:
        with FileLock(out / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise TychoError(f"another diff is writing to {out}: wait for it or name another folder") from error


class Rows:
    """Finished tensors, a line each; a line is whole or cut off at the next start."""

    def __init__(self, out: Path, inputs: dict[str, Any]) -> None:
        self.out, self.path = out, out / "rows.jsonl"
        inputs = json.loads(json.dumps(inputs))
        described = out / "inputs.json"
        if described.exists() and self.path.exists():
            other = [key for key, value in read_json(described).items() if inputs.get(key) != value]
            if other:
                raise TychoError(
                    f"{out} holds a diff with other {' and '.join(other)}: name another folder, or delete it"
                )
        else:
            self.path.unlink(missing_ok=True)
            write_json(described, inputs)
        self.done: set[str] = set()
        whole = 0
        for line in self._lines():
            self.done.add(json.loads(line)["tensor"])
            whole += len(line)
        with self.path.open("ab") as handle:
            handle.truncate(whole)

    def _lines(self) -> Iterator[bytes]:
        if self.path.exists():
            with self.path.open("rb") as handle:
                yield from (line for line in handle if line.endswith(b"\n"))

    def add(self, tensor: str, found: Found) -> None:
        with self.path.open("ab") as handle:
            handle.write(json.dumps({"tensor": tensor, "rows": found.rows, "curves": found.curves}).encode() + b"\n")
        self.done.add(tensor)

    def finish(self, pairs: Sequence[Pair]) -> pd.DataFrame:
        """The frame in the model's order; writes both parquet files."""
        place = {pair.name: i for i, pair in enumerate(pairs)}
        found = sorted((json.loads(line) for line in self._lines()), key=lambda entry: place[entry["tensor"]])
        metrics, curves = [], []
        for entry in found:
            about = _about(pairs[place[entry["tensor"]]])
            metrics += [about | row for row in entry["rows"]]
            for curve in entry["curves"]:
                points = zip(curve["value"], curve["null"], strict=True)
                head = {"tensor": entry["tensor"], "run": curve["run"], "curve": curve["curve"]}
                curves += [head | {"index": i, "value": value, "null": null} for i, (value, null) in enumerate(points)]
        frame = pd.DataFrame(metrics)[COLUMNS].astype({name: "Int64" for name in ("layer", "rows", "columns")})
        _write(frame, self.out / "metrics.parquet")
        if curves:
            _write(pd.DataFrame(curves), self.out / "curves.parquet")
        return frame


def _about(pair: Pair) -> dict[str, Any]:
    matrix = len(pair.shape) == 2
    return {
        "tensor": pair.name,
        "module": names.module(pair.name),
        "layer": names.layer(pair.name),
        "rows": pair.shape[0] if matrix else None,
        "columns": pair.shape[1] if matrix else None,
        "entries": torch.Size(pair.shape).numel(),
    }


def _write(frame: pd.DataFrame, path: Path) -> None:
    with replacing(path) as beside:
        frame.to_parquet(beside, index=False)
