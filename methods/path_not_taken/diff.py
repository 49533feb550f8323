"""The weight geometry of tuned checkpoints against their base, as one tidy frame: streamed, resumable, beside nulls."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from methods.path_not_taken import names
from methods.path_not_taken.checkpoints import Pair, align, load, open_base, open_tuned
from methods.path_not_taken.folders import Checkpoint
from methods.path_not_taken.lora import Merged
from methods.path_not_taken.measure import DEFAULTS, Settings, compare
from methods.path_not_taken.store import Rows, claimed
from tycho.device import check_device
from tycho.errors import TychoError
from tycho.files import check_writable, write_json
from tycho.progress import progress

FORMAT = 1  # of the rows kept for resuming; raised when metrics change their meaning


@dataclass(frozen=True)
class Tensors:
    """Which tensors get what. Patterns are searched for in the tensor's name."""

    only: str = ""  # compare these; left out: all
    spectral: Literal["linear", "all", "none"] = "linear"  # decompositions: of matrices but embedding and head, or all
    curves: str = ""  # keep curves (angles, row and column shares) of these; left out: none

    def __post_init__(self) -> None:
        if self.spectral not in ("linear", "all", "none"):
            raise TychoError(f"spectral is linear, all or none, not {self.spectral!r}")
        for pattern in (self.only, self.curves):
            try:
                re.compile(pattern)
            except re.error as error:
                raise TychoError(f"{pattern!r} is not a pattern ({error})") from error

    def compares(self, name: str) -> bool:
        return re.search(self.only, name) is not None

    def decomposes(self, name: str, shape: tuple[int, ...]) -> bool:
        apart = names.is_embedding(name) or names.is_head(name)
        return len(shape) == 2 and self.spectral != "none" and (self.spectral == "all" or not apart)

    def keeps_curves(self, name: str) -> bool:
        return bool(self.curves) and re.search(self.curves, name) is not None


EVERY = Tensors()


def diff(
    base: str | Path,
    tuned: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    settings: Settings = DEFAULTS,
    tensors: Tensors = EVERY,
    lenient: bool = False,
    device: str = "auto",
    seed: int = 0,
) -> pd.DataFrame:
    """Measures every weight of the tuned checkpoints against the base's, one row a run, tensor and metric.

    Columns: run (the checkpoint's name; "all" across runs), tensor, module, layer, rows, columns, entries, metric,
    setting, value, expected, null, null_sd; see `measure.compare`. `out` gets the frame as metrics.parquet, curves as
    curves.parquet, what was left out with the reason as skipped.json, and rows.jsonl, from which a stopped diff goes on
    and a finished one is read at once. Raises TychoError for anything the user can mend; see `checkpoints.align` for
    `lenient`. A null's draw depends on seed, run number and tensor name only, so resuming changes nothing.
    """
    out = Path(out)
    where = _device(device)
    _return_memory()
    sources = [tuned] if isinstance(tuned, (str, Path)) else list(tuned)
    before = open_base(base)
    after = [open_tuned(source, before) for source in sources]
    runs = _labels([str(source) for source in sources])
    work, skipped = _plan(before, after, tensors, lenient)
    check_writable(out)
    inputs = {
        "format": FORMAT,
        "base": _files(before),
        "tuned": [_files(checkpoint) for checkpoint in after],
        "settings": asdict(settings),
        "tensors": asdict(tensors),
        "lenient": lenient,
        "device": where.type,
        "seed": seed,
    }
    with claimed(out):
        rows = Rows(out, inputs)
        left = [pairs for pairs in work if pairs[0].name not in rows.done]
        for pairs in progress(left, "diff", total=len(work), start=len(work) - len(left)):
            found = compare(
                load(before, pairs[0].base).to(where),
                (load(checkpoint, pair.tuned).to(where) for checkpoint, pair in zip(after, pairs, strict=True)),
                runs,
                _seeded(seed, pairs[0].name, runs, where),
                settings,
                spectral=tensors.decomposes(pairs[0].name, pairs[0].shape),
                curves=tensors.keeps_curves(pairs[0].name),
            )
            rows.add(pairs[0].name, found)
        write_json(out / "skipped.json", skipped)
        return rows.finish([pairs[0] for pairs in work])


def _return_memory() -> None:
    """glibc keeps freed blocks of up to 32 MB unless told otherwise, which doubles the peak for such matrices."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(-3, 4 << 20)  # M_MMAP_THRESHOLD


def _plan(
    base: Checkpoint, tuned: Sequence[Checkpoint | Merged], tensors: Tensors, lenient: bool
) -> tuple[list[list[Pair]], dict[str, str]]:
    """Per tensor its pair in every run, and what is left out with the reason."""
    if not tuned:
        raise TychoError("no TUNED checkpoint was given: name at least one")
    found: list[dict[str, Pair]] = []
    skipped: dict[str, str] = {}
    for checkpoint in tuned:
        aligned = align(base, checkpoint, lenient)
        found.append({pair.name: pair for pair in aligned.pairs})
        skipped |= aligned.skipped
    # What one run lacks is left out of all, so that runs are compared over the same weights.
    common = set.intersection(*map(set, found))
    skipped |= {name: "not in every run" for pairs in found for name in pairs if name not in common}
    chosen = [name for name in found[0] if name in common and tensors.compares(name)]
    if not chosen:
        raise TychoError(f"no weight's name matches {tensors.only!r}: {base.source} has {next(iter(found[0]))!r}, …")
    return [[pairs[name] for pairs in found] for name in chosen], skipped


def _labels(sources: Sequence[str]) -> list[str]:
    """A run's short name: the last part of its path or hub id where that tells runs apart, else all of it."""
    for labels in ([Path(source).name for source in sources], list(sources)):
        if len(set(labels)) == len(labels):
            return labels
    twice = next(source for source in sources if sources.count(source) > 1)
    raise TychoError(f"{twice!r} is given twice as TUNED: name each checkpoint once")


def _device(name: str) -> torch.device:
    check_device(name)
    if name == "cuda" and not torch.cuda.is_available():
        raise TychoError("device 'cuda' was asked for and no GPU is visible: use device=auto or device=cpu")
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def _seeded(seed: int, tensor: str, runs: Sequence[str], where: torch.device) -> Callable[[str, int], torch.Generator]:
    def generator(run: str, draw: int) -> torch.Generator:
        text = f"{seed}\x1f{tensor}\x1f{list(runs).index(run)}\x1f{draw}"
        number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
        return torch.Generator(where).manual_seed(number)

    return generator


def _files(checkpoint: Checkpoint | Merged) -> dict[str, Any]:
    """What tells one checkpoint from another without reading it all."""
    stats = {str(path): path.stat() for path in checkpoint.files}
    return {"source": checkpoint.source, "files": {path: [s.st_size, s.st_mtime_ns] for path, s in stats.items()}}
