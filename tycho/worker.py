"""Runs a process: every stage of its jobs that is not already there with the planned digest."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from tycho import registry
from tycho.adapter import JobView, Run
from tycho.device import slot
from tycho.errors import TychoError, one_line
from tycho.files import check_writable, read_json, write_json, write_text
from tycho.jobs import Job, Plan, Process, job_folder, work_folder
from tycho.keys import derive_seed
from tycho.provenance import code_state, leave_provenance, machine
from tycho.sources import stage_imports

log = logging.getLogger("tycho")

STATUS_SCHEMA = 1


def run_process(plan: Plan, process: Process) -> dict[str, str]:
    """Runs what is missing, leaves a receipt if all went well. Returns the failures: job -> reason.

    A job that fails does not keep the process from its other jobs; a job whose own inputs failed is not started.
    """
    settings = plan.settings
    check_writable(settings.folder)
    leave_provenance(settings)
    receipt = settings.folder / process.receipt
    for old in receipt.parent.glob(f"{process.seeds}.*.json"):
        old.unlink()
    failures: dict[str, str] = {}
    for job in process.jobs:
        try:
            run_job(plan, job)
        except Exception as error:
            log.exception("%s failed", job.key)
            failures[str(job.key)] = one_line(error)
    if not failures:
        write_json(receipt, {str(job.key): job.digests for job in process.jobs})
    return failures


def run_job(plan: Plan, job: Job) -> list[str]:
    """Runs a job's missing stages and keeps its status.json. Returns the stages that were run.

    One process at a time has a job: a second start waits, and then finds it done.
    """
    place = plan.settings.folder / "work" / job.key.path
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_suffix(".lock")):
        return _run_missing(plan, job)


def _run_missing(plan: Plan, job: Job) -> list[str]:
    settings, folder = plan.settings, job_folder(plan.settings, job.key)
    status = read_status(folder)
    if all(is_done(folder, status, job, stage) for stage in job.stages):
        return []
    write_json(folder / "config.json", job.config.model_dump(mode="json"))
    ran: list[str] = []
    for stage in job.stages:
        if is_done(folder, status, job, stage):
            continue
        status |= {"state": "running", "stage": stage, "digest": job.digests[stage], "reason": ""}
        _keep_status(folder, status)
        try:
            gpus = Path(settings.results) / ".gpus"
            # A job that asks the scheduler for a GPU must see one; one that does not ask (at scale `paper` too) needs none.
            asked = plan.plans[job.key.method].gpus
            wanted = "cuda" if settings.device == "auto" and asked else settings.device
            with (
                slot(wanted, gpus, count=max(1, asked)) as device,
                _settled(settings.threads, job, stage),
            ):
                _run_stage(plan, job, stage, device)
        except BaseException as error:
            with contextlib.suppress(OSError):  # a full disk is the error to tell, not that it is still full
                _keep_status(folder, status | {"state": "failed", "reason": one_line(error)})
            raise
        status["stages"][stage] = {
            "digest": job.digests[stage],
            **code_state(),
            "threads": settings.threads,
            "device": device,
            "machine": machine(),
        }
        _keep_status(folder, status)
        ran.append(stage)
    _keep_status(folder, status | {"state": "done"})
    return ran


def _run_stage(plan: Plan, job: Job, stage: str, device: str) -> None:
    settings, folder = plan.settings, job_folder(plan.settings, job.key)
    for name, need in job.needs.items():
        if not is_done(
            job_folder(settings, need.key), read_status(job_folder(settings, need.key)), plan.jobs[need.key], need.stage
        ):
            raise TychoError(f"its input {name!r}, {need.key} up to {need.stage}, has not been run")
    work = work_folder(settings, job.key, stage)
    marker = work / "digest"
    if work.exists() and (not marker.exists() or marker.read_text() != job.digests[stage]):
        shutil.rmtree(work)  # a checkpoint of other code or config
    work.mkdir(parents=True, exist_ok=True)
    write_text(marker, job.digests[stage])
    run = Run(
        job.key,
        stage,
        job.config,
        job=JobView(job.key, folder),
        work=work,
        inputs={name: plan.view(need.key, need.stage) for name, need in job.needs.items()},
        device=device,
        threads=settings.threads,
        checkpoint_seconds=settings.checkpoint_seconds,
    )
    log.info("%s %s starts on %s", job.key, stage, device)
    getattr(registry.method(job.key.method), stage)(run)
    run.finish(folder)
    log.info("%s %s is done", job.key, stage)


def drop_stale_receipts(plan: Plan, directory: Path) -> None:
    """Removes receipts that no longer say what is there: a stage's folder deleted by hand, or made by other code since.

    `directory`: what a relative results folder is relative to.
    """
    for process in plan.processes:
        receipt = directory / plan.settings.folder / process.receipt
        if receipt.exists() and not all(
            _all_done(directory / job_folder(plan.settings, job.key), job) for job in process.jobs
        ):
            receipt.unlink()


def _all_done(folder: Path, job: Job) -> bool:
    status = read_status(folder)
    return all(is_done(folder, status, job, stage) for stage in job.stages)


def failure(status: dict, job: Job) -> str:
    """Why a job's last start failed, if it was of the planned code and config; else nothing."""
    same = status.get("digest") == job.digests.get(status["stage"])
    return status["reason"] if status["state"] == "failed" and same else ""


def read_status(folder: Path) -> dict:
    """A job's status.json, or a fresh one."""
    path = folder / "status.json"
    fresh = {"schema": STATUS_SCHEMA, "state": "missing", "stage": "", "reason": "", "stages": {}}
    if not path.exists():
        return fresh
    found = read_json(path)
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != STATUS_SCHEMA:
        raise TychoError(
            f"{path} has schema {schema}, this Tycho reads {STATUS_SCHEMA}: move the results folder away and run again"
        )
    return found


def is_done(folder: Path, status: dict, job: Job, stage: str) -> bool:
    done = status["stages"].get(stage, {}).get("digest") == job.digests[stage]
    return done and (folder / stage).is_dir()


def _keep_status(folder: Path, status: dict) -> None:
    write_json(folder / "status.json", status)


@contextlib.contextmanager
def _settled(threads: int, job: Job, stage: str) -> Iterator[None]:
    """Makes what a stage draws and rounds independent of what its process did before: threads, global generators.

    Torch is loaded here if the stage's code imports it. In training, numbers too small to be normal count as zero on the
    CPU: weights of dead units decay into them, and products with them are many times slower.
    """
    import numpy
    from threadpoolctl import threadpool_limits

    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threadpool_limits(limits=threads)
    seed = derive_seed(f"global {stage}", job.key)
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    if "torch" not in sys.modules and not stage_imports(registry.rooms()[job.key.method], stage, "torch"):
        yield
        return
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    torch.set_flush_denormal(stage == "train")
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
