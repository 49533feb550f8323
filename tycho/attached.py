"""The report in MLflow: a run of its own in the scale's experiment, and links from the report to the scale's runs."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from tycho.files import write_text

LOCAL = "http://127.0.0.1:5000"  # where `make ui` listens
LINKS = "mlflow.html"
TARGET = re.compile(r'href="https?://[^"#]*/#/experiments/[^"/]*/')


def attach_report(client: Any, experiment: str, folder: Path, store: str) -> bool:
    """Puts `folder`/report into a run `report` (tag `tycho.report`), unless it is there unchanged, and mends its links.

    The run has no tag `tycho.key`, so queries for jobs do not find it. Returns whether anything was put.
    """
    report = folder / "report"
    if not (report / "index.html").exists():
        return False
    point_links(report / LINKS, store, experiment)
    content = _content(report)
    there = client.search_runs([experiment], f"tags.`tycho.report` = '{folder.name}'")
    if there and there[0].data.tags.get("tycho.content") == content:
        return False
    tags = {"tycho.report": folder.name, "tycho.content": content}
    run = client.create_run(experiment, run_name="report", tags=tags).info.run_id
    client.log_artifacts(run, str(report), "report")
    client.set_terminated(run)
    for old in there:
        client.delete_run(old.info.run_id)
    note = (
        f"The report of scale {folder.name}: run `report` below, artifact `report/index.html`.\n\nRecords: `{folder}`."
    )
    client.set_experiment_tag(experiment, "mlflow.note.content", note)
    return True


def point_links(page: Path, store: str, experiment: str) -> None:
    """Puts the experiment's number, which a store that was made again changes, into the page of links."""
    if page.exists():
        server = store.rstrip("/") if store.startswith("http") else LOCAL
        before = page.read_text(encoding="utf-8")
        after = TARGET.sub(f'href="{server}/#/experiments/{experiment}/', before)
        if after != before:
            write_text(page, after)


def _content(report: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(report.rglob("*")):
        if path.is_file() and path.name != LINKS:
            digest.update(str(path.relative_to(report)).encode() + path.read_bytes())
    return digest.hexdigest()
