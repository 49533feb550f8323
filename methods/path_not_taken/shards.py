"""One safetensors file, tensor by tensor: only the bytes asked for are read or written, and nothing stays mapped."""

from __future__ import annotations

import json
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tycho.errors import TychoError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
LONGEST_HEADER = 100_000_000  # bytes, the format's own limit


class Stored(NamedTuple):
    """Where a tensor lies: dtype in the format's own words, shape, first byte of the file and one past the last."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def header(path: Path) -> dict[str, Stored]:
    """What a safetensors file holds. Raises TychoError where it is truncated or something else."""
    stat = path.stat()
    return _header(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _header(path: Path, size: int, changed_at: int) -> dict[str, Stored]:
    with path.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if not 2 <= length <= min(LONGEST_HEADER, size - 8):
            raise TychoError(f"{path} is not a whole safetensors file: get it again")
        try:
            entries = json.loads(handle.read(length))
            found = {
                name: Stored(at["dtype"], tuple(at["shape"]), *(8 + length + offset for offset in at["data_offsets"]))
                for name, at in entries.items()
                if name != "__metadata__"
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TychoError(f"{path} is not a safetensors file (its header cannot be read): get it again") from error
    for name, stored in found.items():
        if not 0 <= stored.begin <= stored.end <= size:
            raise TychoError(f"tensor {name!r} lies beyond the end of {path}, which is cut off: get it again")
        if stored.dtype in DTYPES and stored.end - stored.begin != prod(stored.shape) * DTYPES[stored.dtype].itemsize:
            raise TychoError(
                f"tensor {name!r} of {path} has not the bytes of its shape {list(stored.shape)}: get it again"
            )
    return found


def read(path: Path, name: str) -> Tensor:
    """One tensor, as stored."""
    stored = header(path)[name]
    if stored.dtype not in DTYPES:
        raise TychoError(f"tensor {name!r} of {path} is stored as {stored.dtype}: save it as bf16")
    raw = np.fromfile(path, dtype=np.uint8, count=stored.end - stored.begin, offset=stored.begin)
    if not raw.size:
        return torch.empty(stored.shape, dtype=DTYPES[stored.dtype])
    return torch.from_numpy(raw).view(DTYPES[stored.dtype]).view(stored.shape)


def overwrite(path: Path, name: str, tensor: Tensor) -> None:
    """Puts a tensor of the same shape in a stored one's place, cast to its dtype."""
    stored = header(path)[name]
    if tuple(tensor.shape) != stored.shape:
        raise ValueError(f"{name} is {list(stored.shape)} in {path}, not {list(tensor.shape)}")
    raw = tensor.detach().cpu().to(DTYPES[stored.dtype]).contiguous().flatten().view(torch.uint8).numpy()
    with path.open("r+b") as handle:
        handle.seek(stored.begin)
        handle.write(raw.tobytes())
