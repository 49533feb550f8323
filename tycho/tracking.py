"""Records -> MLflow. The store is a view: it can be deleted and made again, and jobs never open it.

One experiment a scale (`tycho-quick`), one flat run a job, found by its tag `tycho.key`. A run carries the hash of the
records it was made from: unchanged ones are left alone, so links to them stay; changed ones are replaced.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from tycho import records
from tycho.adapter import JobView
from tycho.attached import attach_report
from tycho.drawing import svg
from tycho.errors import TychoError, one_line
from tycho.files import read_json
from tycho.keys import JobKey

CURVE_POINTS = 200  # points of one curve in the store; the records keep all
BATCH, PARAMS = 900, 100  # MLflow takes at most 1000 entries a call, 100 of them parameters
log = logging.getLogger("tycho")


@dataclass
class Published:
    """What a sync did."""

    store: str
    new: int = 0
    replaced: int = 0
    unchanged: int = 0
    removed: int = 0

    def __str__(self) -> str:
        return (
            f"MLflow at {self.store}: {self.new} runs new, {self.replaced} replaced, "
            f"{self.unchanged} unchanged, {self.removed} removed"
        )


def store_of(results: Path, tracking_uri: str) -> str:
    return tracking_uri or f"sqlite:///{results.resolve() / 'mlflow.db'}"


def sync_results(
    results: Path, tracking_uri: str, scales: Iterable[str], running: bool = False, report: bool = True
) -> Published:
    """Publishes every job that is there, and the report. One sync at a time writes; the others wait for it.

    Raises:
        TychoError: there is nothing to publish, or the store cannot be reached or read.
    """
    from filelock import FileLock

    scales = list(scales) or sorted(folder.parent.name for folder in results.glob("*/jobs"))
    if not scales:
        raise TychoError(f"{results} holds no results: run `make report` first or name the folder with --results")
    store = store_of(results, tracking_uri)
    with FileLock(results / ".mlflow.lock"), _client(store) as client:
        done = Published(store)
        for scale in scales:
            experiment = _sync_scale(client, results, scale, done, running)
            if report:
                attach_report(client, experiment, results / scale, done.store)
    return done


def follow_results(results: Path, tracking_uri: str, scales: Iterable[str], every: float, report: bool = True) -> None:
    """Publishes again and again, running jobs included, until interrupted. A store that is down is tried again."""
    while True:
        try:
            print(sync_results(results, tracking_uri, scales, running=True, report=report), flush=True)
        except TychoError as error:
            print(f"tycho: {error}", flush=True)
        time.sleep(every)


@contextmanager
def _client(store: str) -> Iterator[Any]:
    """An MLflow client on a store that is there, with whatever goes wrong on the way said in one line."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # A store that is down is said to be down, not asked for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        yield mlflow.MlflowClient(tracking_uri=store)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise TychoError(
            f"the MLflow store {store} cannot be used ({one_line(error)[:200]}): the records are safe, "
            "run `tycho sync` again when it is back"
        ) from error


def _sync_scale(client: Any, results: Path, scale: str, done: Published, running: bool) -> str:
    """Makes the runs of a scale's experiment those of its jobs, and returns the experiment."""
    place = None if done.store.startswith("http") else (results.resolve() / "mlartifacts").as_uri()
    experiment = _experiment(client, f"tycho-{scale}", place)
    there = _runs(client, experiment)
    wanted = dict(_finished(results, scale))
    for key, view in wanted.items():
        content = _content_hash(view)
        old = there.get(str(key), [])
        if old and old[0].data.tags.get("tycho.content") == content and old[0].info.status == "FINISHED":
            done.unchanged += 1
            stale = old[1:]
        else:
            _publish(client, experiment, view, content)
            done.replaced += bool(old)
            done.new += not old
            stale = old
        for run in stale:
            client.delete_run(run.info.run_id)
    live = dict(_running(results, scale)) if running else {}
    for key, journal in live.items():
        if key not in wanted:
            _publish_live(client, experiment, key, journal, there.get(str(key), []))
    for name in set(there) - {str(key) for key in (*wanted, *live)}:
        for run in there[name]:
            client.delete_run(run.info.run_id)
            done.removed += 1
    return experiment


def _experiment(client: Any, name: str, artifacts: str | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        return client.create_experiment(name, artifact_location=artifacts)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def _runs(client: Any, experiment: str) -> dict[str, list[Any]]:
    """The experiment's runs by `tycho.key`, newest first."""
    found: dict[str, list[Any]] = {}
    token = None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        for run in page:
            found.setdefault(run.data.tags.get("tycho.key", ""), []).append(run)
        token = page.token
        if not token:
            found.pop("", None)  # runs that somebody else put there
            return found


def _finished(results: Path, scale: str) -> Iterator[tuple[JobKey, JobView]]:
    for status in sorted(results.glob(f"{scale}/jobs/*/*/*/seed*/status.json")):
        if read_json(status).get("state") == "done":
            key = _key(scale, status.parent)
            yield key, JobView(key, status.parent)


def _running(results: Path, scale: str) -> Iterator[tuple[JobKey, Path]]:
    for journal in sorted(results.glob(f"{scale}/work/*/*/*/seed*/*/journal.jsonl")):
        yield _key(scale, journal.parent.parent), journal


def _key(scale: str, folder: Path) -> JobKey:
    method, arm, task, seed = folder.parts[-4:]
    return JobKey(scale, method, arm, task, int(seed.removeprefix("seed")))


def _content_hash(view: JobView) -> str:
    """Changes when any record, table, figure or the config of a job does."""
    digest = hashlib.sha256()
    for path in sorted(view.folder.glob("*/**/*")):
        if path.is_file() and path.relative_to(view.folder).parts[0] in records.STAGES:
            digest.update(str(path.relative_to(view.folder)).encode() + path.read_bytes())
    for name in ("config.json", "status.json"):
        digest.update((view.folder / name).read_bytes())
    return digest.hexdigest()


def _publish(client: Any, experiment: str, view: JobView, content: str) -> None:
    from mlflow.entities import Metric

    key, costs, status = view.key, view.record("costs"), read_json(view.folder / "status.json")
    start = _milliseconds(costs.started.min())
    end = start + int(1000 * costs.wall_seconds.sum())
    points = [*_points(view.record("metrics"), start), *_sample_means(view.record("samples"), start)]
    for cost in costs.itertuples():
        for name in ("wall_seconds", "cpu_seconds", "peak_memory_mb", "flops", "generated_tokens", "forward_passes"):
            if not pd.isna(getattr(cost, name)):
                points.append(Metric(f"cost/{cost.stage}/{name}", float(getattr(cost, name)), end, 0))
    code = next(iter(status["stages"].values()), {})
    run = client.create_run(
        experiment,
        start_time=start,
        run_name=f"{key.method}/{key.arm}/{key.task}/seed{key.seed}",
        tags={
            "tycho.key": str(key),
            "tycho.content": content,
            "tycho.commit": str(code.get("commit", "none")),
            **{f"tycho.{part}": str(getattr(key, part)) for part in records.KEYS},
        },
    )
    run_id = run.info.run_id
    _log(client, run_id, points, _params(view))
    for stage in records.STAGES:
        for path in sorted((view.folder / stage / "tables").glob("*.parquet")):
            _table(client, run_id, path)
        for path in sorted((view.folder / stage / "figures").glob("*.json")):
            _figure(client, run_id, path)
    client.log_artifact(run_id, str(view.folder / "config.json"))
    client.set_terminated(run_id, end_time=end)


def _publish_live(client: Any, experiment: str, key: JobKey, journal: Path, old: list[Any]) -> None:
    """A running job's curves so far. The run stays the same while its journal only grows, so an open page goes on."""
    rows = [json.loads(line) for line in journal.read_text().splitlines() if line.endswith("}")]
    stage, start = journal.parent.name, int(journal.stat().st_ctime * 1000)
    live = [run for run in old if run.data.tags.get("tycho.live") == stage]
    known = int(live[0].data.tags["tycho.rows"]) if live else 0
    if live and known <= len(rows):
        run_id = live[0].info.run_id
        old = [run for run in old if run is not live[0]]
    else:
        known = 0
        tags = {"tycho.key": str(key), "tycho.live": stage} | {f"tycho.{p}": str(getattr(key, p)) for p in records.KEYS}
        run_id = client.create_run(
            experiment, start_time=start, run_name=f"{key.path} (running)", tags=tags
        ).info.run_id
    if rows[known:]:
        _log(client, run_id, list(_points(pd.DataFrame(rows[known:]).assign(stage=stage), start)), {})
    client.set_tag(run_id, "tycho.rows", str(len(rows)))
    for stale in old:
        client.delete_run(stale.info.run_id)


def _log(client: Any, run_id: str, points: list[Any], params: dict[str, str]) -> None:
    from mlflow.entities import Param

    listed = [Param(name, value[:6000]) for name, value in params.items()]
    for first in range(max(-(-len(listed) // PARAMS), -(-len(points) // BATCH))):  # a batch costs a commit
        client.log_batch(
            run_id,
            params=listed[first * PARAMS : (first + 1) * PARAMS],
            metrics=points[first * BATCH : (first + 1) * BATCH],
        )


def _points(frame: pd.DataFrame, start: int) -> Iterator[Any]:
    """Metrics as the store takes them, at most CURVE_POINTS a curve, first and last kept.

    Names are `stage/name`, with variant, setting and seed behind them where there are several: the store's pages make a
    section of whatever stands before the last slash.
    """
    from mlflow.entities import Metric

    several = frame.seed.nunique() > 1
    names = ["stage", "name", "variant", "setting", "seed"]
    curves = frame[frame.value.notna()].sort_values(names, kind="stable")
    groups = curves.groupby(names)
    last = (groups.value.transform("size") - 1).clip(lower=CURVE_POINTS - 1)
    kept = ~curves.assign(part=groups.cumcount() * (CURVE_POINTS - 1) // last).duplicated([*names, "part"])
    for row in curves[kept].itertuples():
        parts = [row.stage, row.name, row.variant, row.setting, f"seed{row.seed}" if several else ""]
        step = 0 if pd.isna(row.step) else int(row.step)
        yield Metric(metric_name("/".join(part for part in parts if part)), float(row.value), start + step, step)


def _sample_means(frame: pd.DataFrame, start: int) -> Iterator[Any]:
    from mlflow.entities import Metric

    for (variant, setting), group in frame.groupby(["variant", "setting"]):
        for column in ("correct", "score", "generated_tokens", "sequential_tokens", "forward_passes", "flops"):
            mean = group[column].astype("Float64").mean()
            if not pd.isna(mean):
                name = "accuracy" if column == "correct" else column
                parts = ("evaluate", name, str(variant), str(setting))
                yield Metric(metric_name("/".join(part for part in parts if part)), float(mean), start, 0)


def metric_name(text: str) -> str:
    """A name MLflow takes: letters, digits and `_ - . : / space`; `=` becomes `:`, anything else `_`."""
    return "".join(c if c.isalnum() or c in "_-.:/ " else ":" if c == "=" else "_" for c in text)


def _params(view: JobView) -> dict[str, str]:
    knobs = pd.json_normalize(view.config, sep=".").iloc[0].to_dict() if view.config else {}
    keys = {part: str(getattr(view.key, part)) for part in records.KEYS}
    return keys | {f"config.{name}": str(value) for name, value in knobs.items()}


def _table(client: Any, run_id: str, path: Path) -> None:
    frame = records.read(path)
    client.log_text(run_id, records.as_csv(frame.head(1000)), f"tables/{path.stem}.csv")


def _figure(client: Any, run_id: str, path: Path) -> None:
    try:
        client.log_text(run_id, svg(path.read_text(encoding="utf-8")), f"figures/{path.stem}.svg")
    except ValueError as error:
        log.warning("%s cannot be drawn and is left out of MLflow: %s", path, one_line(error)[:200])


def _milliseconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)
