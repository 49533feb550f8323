"""All jobs' records together, what became of every job, and the verdicts that follow.

A file that cannot be read takes only its own stage away: it is named, the rest is reported, and the command ends
non-zero. Only stages made by the code and config now planned count.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd

from reports import judge as judging
from reports.claims import Claim, arms_named, load_claims
from reports.estimands import Estimand
from tycho import records, registry
from tycho.errors import TychoError
from tycho.jobs import Job, Plan, job_folder, work_folder
from tycho.keys import JobKey
from tycho.worker import failure, is_done, read_status

KINDS = ("samples", "metrics", "costs")
STATUS_TYPES = (
    dict.fromkeys(("scale", "method", "arm", "task"), "string")
    | {"seed": "int64"}
    | dict.fromkeys(("state", "stage", "reason", "commit"), "string")
    | {"dirty": "bool", "lock": "string"}
)
STALE = "made by other code or config, run again"


@dataclass(frozen=True)
class Collected:
    """The records of one scale, a frame a kind."""

    samples: pd.DataFrame
    metrics: pd.DataFrame
    costs: pd.DataFrame
    statuses: pd.DataFrame


def collect(plan: Plan) -> tuple[Collected, list[str]]:
    """The records of every stage that is done, the state of every planned job, and a line for each unreadable file."""
    frames: dict[str, list[pd.DataFrame]] = {kind: [records.empty(kind)] for kind in KINDS}
    states: dict[JobKey, dict[str, object]] = {}
    problems: list[str] = []
    for key, job in plan.jobs.items():  # each after those it needs
        try:
            states[key] = _state(plan, job, states)
        except TychoError as error:
            states[key] = {"state": "missing", "stage": job.stages[0], "reason": str(error)}
            problems.append(str(error))
    for key in sorted(plan.jobs):
        for stage in done_stages(plan, plan.jobs[key]):
            folder = job_folder(plan.settings, key) / stage
            try:
                found = {kind: _read(folder, kind) for kind in KINDS if (folder / f"{kind}.parquet").exists()}
            except TychoError as error:
                states[key] |= {"state": "failed", "stage": stage, "reason": str(error)}
                problems.append(str(error))
                continue
            for kind, frame in found.items():
                frames[kind].append(frame)
    rows = [_key(key) | states[key] for key in sorted(states)]
    fresh = {"commit": "", "dirty": False, "lock": "", "reason": ""}
    statuses = pd.DataFrame([fresh | row for row in rows], columns=[*STATUS_TYPES]).astype(STATUS_TYPES)
    together = {kind: pd.concat(found, ignore_index=True) for kind, found in frames.items()}
    return Collected(**together, statuses=statuses), problems


def write_collected(folder: Path, collected: Collected) -> None:
    for field in fields(collected):
        records.write(folder / f"{field.name}.parquet", getattr(collected, field.name))


def read_collected(folder: Path) -> Collected:
    """What `write_collected` wrote into a scale's folder."""
    return Collected(**{field.name: _made(folder / f"{field.name}.parquet", "collect") for field in fields(Collected)})


def read_claims_table(folder: Path) -> pd.DataFrame:
    return _made(folder / "claims.parquet", "judge")


def done_stages(plan: Plan, job: Job) -> list[str]:
    """The stages of a job that were made by the planned code and config."""
    folder = job_folder(plan.settings, job.key)
    try:
        status = read_status(folder)
    except TychoError:
        return []
    return [stage for stage in job.stages if is_done(folder, status, job, stage)]


def rooms(plan: Plan) -> dict[str, Path]:
    """The rooms a report speaks of: those asked for by name, or all."""
    found = registry.rooms()
    return {name: found[name] for name in sorted(plan.settings.only or found)}


def claims_by_method(plan: Plan) -> tuple[dict[str, list[Claim]], list[str]]:
    """Every room's claims, and a line for each file of claims that cannot be read."""
    found: dict[str, list[Claim]] = {}
    problems = []
    for name, room in rooms(plan).items():
        try:
            found[name] = load_claims(room / "claims.yaml") if (room / "claims.yaml").exists() else []
        except TychoError as error:
            problems.append(str(error))
    return found, problems


def judge(plan: Plan, collected: Collected) -> tuple[pd.DataFrame, list[str]]:
    """A verdict for every claim of every room, and a line for each file of claims that cannot be read."""
    claims, problems = claims_by_method(plan)
    statuses = pd.concat([collected.statuses, _unloadable(plan, claims)], ignore_index=True)
    known = Collected(collected.samples, collected.metrics, collected.costs, statuses)
    return judging.judge(claims, known, lookup, plan.settings.scale), problems


def lookup(method: str, estimand: str) -> Estimand | None:
    return getattr(registry.room_module(method, "estimands"), estimand, None)


def _unloadable(plan: Plan, claims: dict[str, list[Claim]]) -> pd.DataFrame:
    """Rows that say why a method which cannot be loaded has no jobs; the plan knows none of them."""
    rows = [
        {"scale": plan.settings.scale, "method": name, "arm": arm, "task": task, "seed": 0}
        | {"state": "missing", "stage": "", "reason": reason, "commit": "", "dirty": False, "lock": ""}
        for name, reason in plan.broken.items()
        for arm, task in sorted(set().union(*(arms_named(claim) for claim in claims.get(name, []))))
    ]
    return pd.DataFrame(rows, columns=[*STATUS_TYPES]).astype(STATUS_TYPES)


def _key(key: JobKey) -> dict[str, object]:
    return {part: getattr(key, part) for part in records.KEYS}


def _state(plan: Plan, job: Job, states: dict[JobKey, dict[str, object]]) -> dict[str, object]:
    """What became of a job, and if it is not done, why."""
    folder = job_folder(plan.settings, job.key)
    status, done = read_status(folder), done_stages(plan, job)
    made = [status["stages"][stage] for stage in done]
    origin = {
        "commit": " ".join(sorted({str(stage.get("commit", "none")) for stage in made})),
        "dirty": any(stage.get("dirty", False) for stage in made),
        "lock": " ".join(sorted({str(stage.get("lock", "none")) for stage in made})),
    }
    if len(done) == len(job.stages):
        return origin | {"state": "done", "stage": job.stages[-1], "reason": ""}
    stage = next(stage for stage in job.stages if stage not in done)
    if failure(status, job):
        return origin | {"state": "failed", "stage": status["stage"], "reason": status["reason"]}
    recorded = status["stages"].get(stage)
    if recorded is not None:
        same = recorded.get("digest") == job.digests[stage]
        reason = f"{folder / stage} is gone, run again" if same else STALE
        return origin | {"state": "missing", "stage": stage, "reason": reason}
    return origin | {"state": "missing", "stage": stage, "reason": _why_not_run(plan, job, stage, states)}


def _why_not_run(plan: Plan, job: Job, stage: str, states: dict[JobKey, dict[str, object]]) -> str:
    for need in job.needs.values():
        if need.stage not in done_stages(plan, plan.jobs[need.key]):
            other = states[need.key]
            why = f" ({other['reason']})" if other["reason"] else ""
            return f"waits for {need.key.path}, which is {other['state']}{why}"
    if work_folder(plan.settings, job.key, stage).exists():
        return f"interrupted in {stage}; run again, and it goes on from its last checkpoint"
    return "not run yet"


def _read(folder: Path, kind: str) -> pd.DataFrame:
    return records.read(folder / f"{kind}.parquet", f"delete {folder} and run again")


def _made(path: Path, command: str) -> pd.DataFrame:
    if not path.exists():
        raise TychoError(f"{path} is not there: run `python -m reports {command}` first, or `python -m reports all`")
    return records.read(path, f"run `python -m reports {command}` again")
