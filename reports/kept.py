"""Records kept in the repository: a scale's tables, figures and plan in a few small files, no weights; and the report from them alone."""

from __future__ import annotations

import functools
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from tycho import records, registry
from tycho.adapter import MethodConfig, Need
from tycho.config import MethodPlan, Settings, load_settings
from tycho.errors import TychoError
from tycho.files import read_json, write_json
from tycho.jobs import Job, Plan, job_folder, plan
from tycho.keys import JobKey

KINDS = ("samples", "metrics", "costs")
TABLES = (*KINDS, "statuses", "claims")
# What a repository's host takes is 100 MB a file.
MOST_BYTES = 95_000_000
SCHEMA = 1
PARTS = ["method", "arm", "task", "seed"]


@dataclass(frozen=True)
class Archive:
    """Kept records: the tables by name, `artefacts` among them, and the plan as JSON."""

    tables: dict[str, pd.DataFrame]
    plan: dict[str, Any]


def keep(scale: Path, to: Path) -> list[Path]:
    """Keeps what a scale's folder holds in `to`/<scale>: five tables, `artefacts.parquet` (figures and tables), `plan.json`.

    A long scale may be measured a part at a time: a job that was kept before and that this folder has not finished stays
    as it was kept, as long as the plan has it still. Verdicts are of all that is kept.

    Raises:
        TychoError: there is no report yet, the plan has changed since, or a file is too large for a repository.
    """
    if not (scale / "provenance.json").exists():
        raise TychoError(f"{scale} has no report: run `make report` or `python -m reports all` first")
    settings = read_json(scale / "provenance.json")["settings"] | {"results": str(scale.parent)}
    planned = plan(load_settings(settings))
    statuses = records.read(scale / "statuses.parquet")
    had = {JobKey(*key) for key in statuses[list(records.KEYS)].itertuples(index=False)}
    if had != set(planned.jobs):
        raise TychoError(f"{scale} was collected under another plan: run `python -m reports all` for it, then keep it")
    place = to / scale.name
    tables = {name: records.read(scale / f"{name}.parquet") for name in TABLES}
    found = Archive(tables | {"artefacts": _artefacts(planned)}, _plain(planned))
    if (place / "plan.json").exists():
        found = _beside_earlier(found, _read(place), planned)
    for name, table in found.tables.items():
        records.write(place / f"{name}.parquet", table)
    write_json(place / "plan.json", found.plan)
    made = [*(place / f"{name}.parquet" for name in (*TABLES, "artefacts")), place / "plan.json"]
    for path in made:
        if path.stat().st_size > MOST_BYTES:
            raise TychoError(
                f"{path} has {path.stat().st_size / 1e6:.0f} MB, too much for a repository: keep fewer samples"
            )
    return made


def _beside_earlier(new: Archive, old: Archive, planned: Plan) -> Archive:
    """`new`, and of `old` the jobs that were finished there and are not in `new`; judged together."""
    from reports.collect import Collected, judge

    stay = {key for key in _finished(old) - _finished(new) if JobKey(planned.settings.scale, *key) in planned.jobs}
    if not stay:
        return new

    def merged(name: str) -> pd.DataFrame:
        parts = [
            table[[(key in stay) is earlier for key in _makers(table, planned)]]
            for earlier, table in ((False, new.tables[name]), (True, old.tables[name]))
        ]
        return pd.concat(parts, ignore_index=True).sort_values(PARTS, kind="stable", ignore_index=True)

    tables = {name: merged(name) for name in new.tables if name != "claims"}
    verdicts, problems = judge(planned, Collected(**{field.name: tables[field.name] for field in fields(Collected)}))
    if problems:
        raise TychoError("; ".join(problems))
    earlier = {tuple(job["key"]): job for job in old.plan["jobs"]}
    jobs = [earlier[key] if (key := tuple(job["key"])) in stay else job for job in new.plan["jobs"]]
    return Archive(
        {name: verdicts if name == "claims" else tables[name] for name in new.tables}, new.plan | {"jobs": jobs}
    )


def _makers(table: pd.DataFrame, planned: Plan) -> list[tuple[Any, ...]]:
    """PARTS of the job that made each row: a job of many networks records each under a seed of its own, which is no job's."""
    first: dict[tuple[str, ...], int] = {}
    for key in planned.jobs:
        group = (key.method, key.arm, key.task)
        first[group] = min(first.get(group, key.seed), key.seed)
    rows = table[PARTS].itertuples(index=False, name=None)
    jobs = {(key.method, key.arm, key.task, key.seed) for key in planned.jobs}
    return [row if row in jobs else (*row[:3], first.get(row[:3], row[3])) for row in rows]


def _finished(kept: Archive) -> set[tuple[Any, ...]]:
    statuses = kept.tables["statuses"]
    return set(statuses[statuses.state == "done"][PARTS].itertuples(index=False, name=None))


def _read(place: Path) -> Archive:
    tables = {name: records.read(place / f"{name}.parquet") for name in (*TABLES, "artefacts")}
    return Archive(tables, read_json(place / "plan.json"))


def rebuild(kept: Path, results: Path) -> Path:
    """The report from kept records alone: judged again and compiled into `results`/<scale>. Returns index.html's path.

    The folder can be gone on with: what was finished stays so, syntheses find their records. Weights were not kept; a job
    that starts from another's says so.

    Raises:
        TychoError: `kept` holds no kept records, or `results` has this scale already.
    """
    from reports.collect import judge, read_collected
    from reports.compile import compile_report

    planned = load(kept, results)
    scale = planned.settings.folder
    if scale.exists() and any(scale.iterdir()):
        raise TychoError(f"{scale} is there already: name another folder with --results")
    for name in TABLES:
        (scale).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(kept / f"{name}.parquet", scale / f"{name}.parquet")
    for row in records.read(kept / "artefacts.parquet").itertuples():
        folder = job_folder(planned.settings, JobKey(planned.settings.scale, row.method, row.arm, row.task, row.seed))
        path = folder / row.stage / row.kind / row.name
        if not path.resolve().is_relative_to(scale.resolve()):
            raise TychoError(f"{kept / 'artefacts.parquet'} names a place outside its folder: {path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row.content)
    _restore_statuses(planned, records.read(kept / "statuses.parquet"))
    _restore_records(planned, kept)
    verdicts, problems = judge(planned, read_collected(scale))
    records.write(scale / "claims.parquet", verdicts)
    page, more = compile_report(planned)
    if problems or more:
        raise TychoError("; ".join([*problems, *more]))
    return page


def load(kept: Path, results: Path) -> Plan:
    """The plan under which kept records were made, its results folder put elsewhere."""
    if not (kept / "plan.json").exists():
        raise TychoError(f"{kept} holds no kept records (no plan.json): `tycho keep` makes them")
    stored = read_json(kept / "plan.json")
    if stored.get("schema") != SCHEMA:
        raise TychoError(f"{kept} has schema {stored.get('schema')}, this Tycho reads {SCHEMA}: keep the records again")
    settings = Settings.model_validate(stored["settings"] | {"results": str(results)})
    jobs: dict[JobKey, Job] = {}
    for entry in stored["jobs"]:
        key = JobKey(settings.scale, *entry["key"])
        needs = {name: Need(JobKey(settings.scale, *other), stage) for name, (other, stage) in entry["needs"].items()}
        digested = functools.partial(dict, entry["digests"])  # as they were: the code may have changed since
        jobs[key] = Job(key, _config(key.method, entry["config"]), tuple(entry["stages"]), needs, digested)
    plans = {name: MethodPlan.model_validate(values) for name, values in stored["plans"].items()}
    return Plan(settings, jobs, plans, stored["broken"])


def _config(method: str, values: dict[str, Any]) -> MethodConfig:
    """Knobs as they were. Those that a method has no more are left out, or old records could not be shown."""
    kind = registry.method(method).Config
    try:
        return kind.model_validate(values)
    except ValidationError:
        return kind.model_construct(**{name: value for name, value in values.items() if name in kind.model_fields})


def _plain(planned: Plan) -> dict[str, Any]:
    """A plan as JSON, without the place of its results."""

    def parts(key: JobKey) -> list[Any]:
        return [key.method, key.arm, key.task, key.seed]

    return {
        "schema": SCHEMA,
        "settings": planned.settings.model_dump(mode="json", exclude={"results", "tracking_uri"}),
        "broken": planned.broken,
        "plans": {name: found.model_dump(mode="json", exclude_unset=True) for name, found in planned.plans.items()},
        "jobs": [
            {
                "key": parts(key),
                "stages": list(job.stages),
                "digests": job.digests,
                "needs": {name: [parts(need.key), need.stage] for name, need in job.needs.items()},
                "config": job.config.model_dump(mode="json"),
            }
            for key, job in planned.jobs.items()  # each after those it needs
        ],
    }


def _artefacts(planned: Plan) -> pd.DataFrame:
    """Figures and tables of every stage that is done, a row a file."""
    from reports.collect import done_stages

    rows = []
    for key in sorted(planned.jobs):
        for stage in done_stages(planned, planned.jobs[key]):
            folder = job_folder(planned.settings, key) / stage
            for path in sorted([*folder.glob("figures/*.json"), *folder.glob("tables/*.parquet")]):
                rows.append(
                    {part: getattr(key, part) for part in PARTS}
                    | {"stage": stage, "kind": path.parent.name, "name": path.name, "content": path.read_bytes()}
                )
    return pd.DataFrame(rows, columns=[*PARTS, "stage", "kind", "name", "content"])


def _restore_statuses(planned: Plan, statuses: pd.DataFrame) -> None:
    """A status.json for every job, as far as the collected statuses tell: which stages are done, and why not the others."""
    for row in statuses.itertuples():
        key = JobKey(row.scale, row.method, row.arm, row.task, int(row.seed))
        job, folder = planned.jobs[key], job_folder(planned.settings, key)
        done = job.stages if row.state == "done" else job.stages[: job.stages.index(row.stage)]
        origin = {"commit": row.commit, "dirty": bool(row.dirty), "lock": row.lock}
        for stage in done:
            (folder / stage).mkdir(parents=True, exist_ok=True)
        stages = {stage: {"digest": job.digests[stage]} | origin for stage in done}
        state = {"state": row.state, "stage": row.stage, "reason": row.reason, "digest": job.digests[row.stage]}
        write_json(folder / "status.json", {"schema": 1, "stages": stages} | state)


def _restore_records(planned: Plan, kept: Path) -> None:
    """Every finished job's config and records where it left them; samples, which do not say their stage, in its `evaluate`."""
    tables = {}
    for kind in KINDS:
        table = records.read(kept / f"{kind}.parquet")
        makers = pd.Series(_makers(table, planned), index=table.index, dtype=object)
        tables[kind] = dict(list(table.groupby(makers)))
    for key, job in planned.jobs.items():
        folder = job_folder(planned.settings, key)
        made = [stage for stage in job.stages if (folder / stage).is_dir()]
        if not made:
            continue
        write_json(folder / "config.json", job.config.model_dump(mode="json"))
        for kind in KINDS:
            mine = tables[kind].get((key.method, key.arm, key.task, key.seed))
            if mine is None:
                continue
            stages = mine["stage"] if "stage" in mine else pd.Series(_sampled(made), index=mine.index)
            for stage, rows in mine.groupby(stages):
                records.write(folder / stage / f"{kind}.parquet", rows.reset_index(drop=True))


def _sampled(made: list[str]) -> str:
    return "evaluate" if "evaluate" in made else made[0]
