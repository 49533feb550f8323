"""Files that are whole or absent: written beside, then renamed. Tensors are safetensors, the rest is JSON."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tycho.errors import TychoError, one_line


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to; renames it into place if the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise TychoError(f"{path} is not readable JSON ({one_line(error)}): delete it and run again") from error


def content_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def check_writable(folder: Path) -> None:
    """Fails with one clear line where results could not be written, before any work is done."""
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b"x" * 4096)
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise TychoError(
            f"results cannot be written to {folder} ({error.strerror}): make room or free the path, "
            "or name another with --config results=FOLDER"
        ) from error


def save_state(path: Path, state: Any) -> None:
    """Saves nested dicts and lists of tensors and plain values as one safetensors file.

    The structure stands in the header as JSON; each tensor is named by its place. Dict keys may be strings or
    integers. Anything else is refused rather than pickled.
    """
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    structure = _structure(state, tensors)
    with replacing(path) as beside:
        try:
            save_file(tensors, beside, metadata={"structure": json.dumps(structure)})
        except KeyError as error:
            raise TypeError(f"a checkpoint cannot hold tensors of {error}") from error


def load_state(path: Path) -> Any:
    """What `save_state` saved, bit for bit."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as handle:
            structure = json.loads((handle.metadata() or {})["structure"])
            return _rebuild(structure, handle)
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, OSError) as error:
        raise TychoError(
            f"checkpoint {path} cannot be read ({one_line(error)}): delete it and run again, this stage then starts anew"
        ) from error


def _structure(value: Any, tensors: dict[str, Any]) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.is_meta:
            raise TypeError(f"a checkpoint holds dense tensors with data, not {value.layout} on {value.device}")
        name = str(len(tensors))
        # A clone, since safetensors refuses tensors that share storage.
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, (str, int)):
                raise TypeError(f"state keys are strings or integers, not {type(key).__name__}")
        return {"dict": [[key, _structure(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"tuple" if isinstance(value, tuple) else "list": [_structure(item, tensors) for item in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise TypeError(f"a checkpoint holds tensors, numbers, strings, lists and dicts, not {type(value).__name__}")


def _rebuild(node: dict[str, Any], handle: Any) -> Any:
    ((kind, body),) = node.items()
    if kind == "tensor":
        # A clone, since the file's own tensors are a map of it, at odd addresses.
        return handle.get_tensor(body).clone()
    if kind == "dict":
        return {key: _rebuild(item, handle) for key, item in body}
    if kind in ("list", "tuple"):
        items = [_rebuild(item, handle) for item in body]
        return tuple(items) if kind == "tuple" else items
    return body
