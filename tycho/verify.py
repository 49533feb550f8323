"""Runs a sample of finished jobs again, in a folder of its own, and compares every number with the one that is kept.

A number reproduced *bit for bit*, or *within the tolerance* (|new - kept| <= tolerance * max(1, |kept|), the default 1e-6 is
what another processor or thread count does to a sum in double precision, not what it does to a training), or it did not.
Costs are left out: they are timings. What a job needs is taken from the results, so each job is judged by itself.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tycho import records
from tycho.config import load_settings
from tycho.errors import TychoError, one_line
from tycho.files import content_hash
from tycho.jobs import Job, Plan, job_folder, plan
from tycho.keys import JobKey
from tycho.provenance import left_settings
from tycho.worker import is_done, read_status, run_job

TOLERANCE = 1e-6
KINDS = ("metrics", "samples", "traces")
COLUMNS = ("job", "stage", "kind", "name", "outcome", "values", "exact", "within", "differ", "largest", "note")


@dataclass(frozen=True)
class Verified:
    """A row a job, stage and named number (or table, figure, model): `outcome` is exact, within, differs or failed."""

    rows: pd.DataFrame
    left_out: dict[str, str]  # jobs that could not be run again, with the reason

    @property
    def good(self) -> bool:
        return len(self.rows) > 0 and self.rows.outcome.isin(["exact", "within"]).all()


def verify(
    folder: Path,
    into: Path,
    *,
    sample: int = 5,
    only: list[str] | None = None,
    most_seconds: float = 0,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> Verified:
    """Runs `sample` jobs (0: all) of a scale's folder again below `into`.

    Args:
        most_seconds: jobs that cost more CPU-seconds than this are not drawn; 0: no limit.
        seed: of the draw.

    Raises:
        TychoError: the folder holds no results that the present code and config would make again.
    """
    if into.exists() and any(into.iterdir()):
        raise TychoError(f"{into} is not empty: name a new folder to run in")
    there = plan(load_settings(left_settings(folder) | {"results": str(folder.parent), "only": only or []}))
    if there.settings.folder.resolve() != folder.resolve():
        raise TychoError(f"{folder} holds settings of scale {there.settings.scale}: its name must be that of its scale")
    left_out: dict[str, str] = {}
    able = [key for key in sorted(there.jobs) if _can_run_again(there, there.jobs[key], left_out)]
    for status in sorted(folder.glob("jobs/*/*/*/seed*/status.json")):
        method, *rest = status.parts[-5:-1]
        name = "/".join((folder.name, method, *rest))
        if name not in {str(key) for key in there.jobs} and method in (only or [method]):
            left_out[name] = "is not planned by these settings"
    if not able:
        first = next(iter(left_out.values()), "no job is done")
        raise TychoError(f"{folder} holds nothing that can be verified: {first}")
    cheap = [key for key in able if not most_seconds or _seconds(there, key) <= most_seconds]
    if not cheap:
        raise TychoError(f"every job cost more than {most_seconds:g} CPU-seconds: raise --most-seconds")
    drawn = sorted(random.Random(seed).sample(cheap, min(sample or len(cheap), len(cheap))))
    found: list[dict[str, Any]] = []
    for key in drawn:
        # A folder each: what one needs is what was kept, not what another has just made.
        settings = there.settings.model_copy(update={"results": str(into / "-".join(key.path.parts))})
        found += _again(there, replace(there, settings=settings), there.jobs[key], tolerance)
    return Verified(pd.DataFrame(found, columns=[*COLUMNS]), left_out)


def _can_run_again(there: Plan, job: Job, left_out: dict[str, str]) -> bool:
    folder = job_folder(there.settings, job.key)
    if not (folder / "status.json").exists():
        return False  # not run: nothing to verify
    status = read_status(folder)
    if all(is_done(folder, status, job, stage) for stage in job.stages):
        return True
    made = {
        status["stages"][stage].get("commit", "none")[:12]
        for stage in job.stages
        if stage in status["stages"] and not is_done(folder, status, job, stage)
    }
    left_out[str(job.key)] = (
        f"made by other code or config (commit {', '.join(sorted(made))})" if made else f"is {status['state']}"
    )
    return False


def _seconds(there: Plan, key: JobKey) -> float:
    return float(there.view(key).record("costs").cpu_seconds.sum())


def _again(there: Plan, here: Plan, job: Job, tolerance: float) -> Iterator[dict[str, Any]]:
    """Runs a job over the kept outcome of what it needs, and compares."""
    name = str(job.key)
    for need in job.needs.values():
        link = job_folder(here.settings, need.key)
        if not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(job_folder(there.settings, need.key).resolve(), target_is_directory=True)
    place = job_folder(here.settings, job.key)
    try:
        run_job(here, job)
    except Exception as error:
        yield _row(name, "", "job", "", "failed", note=one_line(error))
        return
    kept = job_folder(there.settings, job.key)
    for stage in job.stages:
        for row in _compare_stage(kept / stage, place / stage, tolerance):
            yield _row(name, stage, *row[:2], **row[2])
    if (kept / "model").is_dir() or (place / "model").is_dir():
        for file in _files(kept / "model", place / "model", "*"):
            compare = _tensors if file.endswith(".safetensors") else _bytes
            yield _row(
                name, "train", "model", file, **compare(kept / "model" / file, place / "model" / file, tolerance)
            )


def _row(job: str, stage: str, kind: str, name: str, outcome: str, note: str = "", **counts: Any) -> dict[str, Any]:
    empty = {"values": 0, "exact": 0, "within": 0, "differ": 0, "largest": 0.0}
    return {"job": job, "stage": stage, "kind": kind, "name": name, "outcome": outcome, "note": note} | empty | counts


def _compare_stage(kept: Path, new: Path, tolerance: float) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for kind in KINDS:
        if _unlike(kept / f"{kind}.parquet", new / f"{kind}.parquet"):
            yield kind, "", _missing(kept / f"{kind}.parquet", new / f"{kind}.parquet")
        elif (kept / f"{kind}.parquet").exists():
            old, again = (records.read(folder / f"{kind}.parquet") for folder in (kept, new))
            if kind != "metrics":
                yield kind, "", compare_frames(old, again, tolerance)
                continue
            for name in sorted({*old.name, *again.name}):
                parts = [frame[frame.name == name].reset_index(drop=True) for frame in (old, again)]
                yield kind, name, compare_frames(*parts, tolerance)
    for file in _files(kept / "tables", new / "tables", "*.parquet"):
        paths = kept / "tables" / file, new / "tables" / file
        if _unlike(*paths):
            yield "table", file, _missing(*paths)
        else:
            yield "table", file.removesuffix(".parquet"), compare_frames(*map(records.read, paths), tolerance)
    for file in _files(kept / "figures", new / "figures", "*.json"):
        yield "figure", file.removesuffix(".json"), _bytes(kept / "figures" / file, new / "figures" / file, tolerance)


def compare_frames(kept: pd.DataFrame, new: pd.DataFrame, tolerance: float) -> dict[str, Any]:
    """Counts how the numbers and texts of two frames agree, cell by cell in the order of the rows."""
    if list(kept.columns) != list(new.columns) or len(kept) != len(new):
        note = f"{len(kept)} rows of {list(kept.columns)} were kept, {len(new)} of {list(new.columns)} came again"
        if list(kept.columns) == list(new.columns):
            note = f"{len(kept)} rows were kept, {len(new)} came again"
        return {"outcome": "differs", "note": note, "values": len(kept), "differ": len(kept)}
    total: dict[str, Any] = {"values": 0, "exact": 0, "within": 0, "differ": 0, "largest": 0.0}
    worst = ""
    for column in kept.columns:
        counts = _compare_columns(kept[column], new[column], tolerance)
        if counts["largest"] > total["largest"] or (counts["differ"] and not total["differ"]):
            worst = column
        for part in ("values", "exact", "within", "differ"):
            total[part] += counts[part]
        total["largest"] = max(total["largest"], counts["largest"])
    return total | {"outcome": _outcome(total), "note": worst}


def _compare_columns(kept: pd.Series, new: pd.Series, tolerance: float) -> dict[str, Any]:
    if pd.api.types.is_numeric_dtype(kept) and pd.api.types.is_numeric_dtype(new):
        return _compare_arrays(*(column.to_numpy(dtype=float, na_value=np.nan) for column in (kept, new)), tolerance)
    same = [_same(a, b) for a, b in zip(kept, new, strict=True)]
    differ = same.count(False)
    return {"values": len(same), "exact": len(same) - differ, "within": 0, "differ": differ, "largest": 0.0}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.array_equal(np.asarray(a), np.asarray(b))
    return (a is b) or bool(a == b) or bool(pd.isna(a) and pd.isna(b))


def _compare_arrays(kept: np.ndarray, new: np.ndarray, tolerance: float) -> dict[str, Any]:
    exact = (kept == new) | (np.isnan(kept) & np.isnan(new))
    with np.errstate(invalid="ignore"):
        away = np.abs(new - kept) / np.maximum(1.0, np.abs(kept))
    away = np.where(exact, 0.0, np.where(np.isnan(away), np.inf, away))
    within = ~exact & (away <= tolerance)
    counts = {"values": int(exact.size), "exact": int(exact.sum()), "within": int(within.sum())}
    return counts | {"differ": int((~exact & ~within).sum()), "largest": float(away.max(initial=0.0))}


def _tensors(kept: Path, new: Path, tolerance: float) -> dict[str, Any]:
    if _unlike(kept, new):
        return _missing(kept, new)
    if content_hash(kept) == content_hash(new):
        return {"outcome": "exact", "values": 1, "exact": 1}
    import torch
    from safetensors.torch import load_file

    old, again = load_file(kept), load_file(new)
    if {n: t.shape for n, t in old.items()} != {n: t.shape for n, t in again.items()}:
        return {"outcome": "differs", "note": "other tensors", "values": 1, "differ": 1}
    total: dict[str, Any] = {"values": 0, "exact": 0, "within": 0, "differ": 0, "largest": 0.0}
    for name, tensor in old.items():
        arrays = (t.to(torch.float64).reshape(-1).numpy() for t in (tensor, again[name]))
        counts = _compare_arrays(*arrays, tolerance)
        total = {p: max(total[p], counts[p]) if p == "largest" else total[p] + counts[p] for p in total}
    return total | {"outcome": _outcome(total)}


def _bytes(kept: Path, new: Path, tolerance: float) -> dict[str, Any]:
    if _unlike(kept, new):
        return _missing(kept, new)
    same = content_hash(kept) == content_hash(new)
    return {"outcome": "exact" if same else "differs", "values": 1, "exact": int(same), "differ": int(not same)}


def _outcome(counts: dict[str, Any]) -> str:
    return "differs" if counts["differ"] else "within" if counts["within"] else "exact"


def _files(kept: Path, new: Path, pattern: str) -> list[str]:
    return sorted({path.name for folder in (kept, new) for path in folder.glob(pattern) if path.is_file()})


def _unlike(kept: Path, new: Path) -> bool:
    return kept.exists() != new.exists()


def _missing(kept: Path, new: Path) -> dict[str, Any]:
    note = "was kept and did not come again" if kept.exists() else "came again and was not kept"
    return {"outcome": "differs", "note": note, "values": 1, "differ": 1}


def print_verified(found: Verified, tolerance: float) -> None:
    """A line a job, the numbers that did not come again by name, and the sum."""
    width = max(len(name) for name in found.rows.job)
    print(
        f"{'job':{width}}  {'values':>8}  {'bit for bit':>11}  {f'within {tolerance:g}':>12}  {'not':>8}  largest difference"
    )
    for job, rows in found.rows.groupby("job", sort=True):
        sums = rows[["values", "exact", "within", "differ"]].sum()
        shown = f"{sums['values']:8}  {sums.exact:11}  {sums.within:12}  {sums.differ:8}  {rows.largest.max():.2g}"
        print(f"{job:{width}}  {'  failed' if (rows.outcome == 'failed').any() else shown}")
    for row in found.rows[~found.rows.outcome.isin(["exact", "within"])].itertuples():
        place = " ".join(part for part in (row.stage, row.kind, row.name) if part)
        says = f"{row.differ} of {row.values} values differ, by up to {row.largest:.3g}" if row.differ else row.outcome
        print(f"not reproduced: {row.job}: {place}: {says}{f' ({row.note})' if row.note else ''}")
    if found.left_out:
        first = [f"{name} {reason}" for name, reason in list(found.left_out.items())[:3]]
        more = f" and {len(found.left_out) - 3} more" if len(found.left_out) > 3 else ""
        print(f"not verifiable: {'; '.join(first)}{more}")
    sums = found.rows[["values", "exact", "within", "differ"]].sum()
    print(
        f"{found.rows.job.nunique()} jobs run again: {sums['values']} values, {sums.exact} bit for bit, "
        f"{sums.within} within {tolerance:g}, {sums.differ} not; timings are not compared"
    )
