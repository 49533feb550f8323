"""What docs/review.md tells a reviewer to type finds what it says, and the report stands in the scale's experiment."""

from __future__ import annotations

import re
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from reports import __main__ as command
from tycho.config import load_settings
from tycho.jobs import plan
from tycho.sources import ROOT
from tycho.tracking import sync_results
from tycho.worker import run_process

REVIEW = ROOT / "docs" / "review.md"


@pytest.fixture
def published(toys, tmp_path) -> Path:
    """A reported and published run of the toy."""
    methods = {"toy": {"seeds": 2}}
    found = plan(load_settings({"scale": "smoke", "results": str(tmp_path), "only": ["toy"], "methods": methods}))
    for process in found.ordered():
        run_process(found, process)
    assert [*command._collect(found), *command._judge(found), *command._compile(found)] == []
    sync_results(tmp_path, "", [])
    return tmp_path


def client(results: Path) -> mlflow.MlflowClient:
    # Not mlflow.set_tracking_uri, which stays set for all tests of this process.
    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{results / 'mlflow.db'}")


def search(results: Path, query: str) -> list:
    there = client(results)
    return list(there.search_runs([there.get_experiment_by_name("tycho-smoke").experiment_id], query))


def test_every_query_of_the_page_finds_runs(published):
    """The queries are read from the page; its names are put into the toy's."""
    queries = re.findall(r'filter_string="([^"]*)"', REVIEW.read_text())
    assert len(queries) >= 5
    names = {"grokking": "toy", "weight_decay": "steep", "z71": "line", "quick": "smoke"}
    for query in queries:
        for theirs, ours in names.items():
            query = query.replace(f"'{theirs}", f"'{ours}").replace(f"/{theirs}", f"/{ours}")
        query = query.replace("analyse/test_accuracy", "train/final_level")
        assert len(search(published, query)) > 0, query


def test_metrics_of_the_queries_are_what_a_direction_records():
    """Their names above are put into the toy's; these are the page's own."""
    metrics = pd.read_parquet(ROOT / "records" / "standard" / "metrics.parquet", columns=["method", "stage", "name"])
    pairs = re.findall(r"method` = '(\w+)' AND metrics\.`(\w+)/(\w+)`", REVIEW.read_text())
    assert pairs and all(((metrics == list(pair)).all(axis=1)).any() for pair in pairs)


def test_a_job_is_one_flat_run_with_metrics_in_sections(published):
    runs = search(published, "tags.`tycho.method` = 'toy'")
    assert len(runs) == len({run.data.tags["tycho.key"] for run in runs}) == 9
    assert not any("mlflow.parentRunId" in run.data.tags for run in runs)
    sections = {name.split("/")[0] for run in runs for name in run.data.metrics}
    assert {"train", "evaluate", "cost"} < sections <= {"train", "evaluate", "analyse", "synthesise", "cost"}


def test_the_report_is_attached_once_and_again_when_it_changes(published):
    (first,) = search(published, "tags.`tycho.report` = 'smoke'")
    there = client(published)
    assert "report/index.html" in {item.path for item in there.list_artifacts(first.info.run_id, "report")}
    assert "`report`" in there.get_experiment_by_name("tycho-smoke").tags["mlflow.note.content"]
    sync_results(published, "", [])
    (same,) = search(published, "tags.`tycho.report` = 'smoke'")
    page = published / "smoke" / "report" / "index.html"
    page.write_text(page.read_text().replace("Summary", "In short"))
    sync_results(published, "", [], report=False)  # what goes on while a report is made
    (left,) = search(published, "tags.`tycho.report` = 'smoke'")
    assert left.info.run_id == first.info.run_id
    sync_results(published, "", [])
    (other,) = search(published, "tags.`tycho.report` = 'smoke'")
    assert first.info.run_id == same.info.run_id != other.info.run_id


def test_links_follow_to_another_store(published, tmp_path):
    page = published / "smoke" / "report" / "mlflow.html"

    def numbers() -> set[str]:
        found = re.findall(
            r'href="http://127\.0\.0\.1:5000/#/experiments/([^/]*)/runs\?searchFilter=', page.read_text()
        )
        return set(found)

    assert numbers() == {client(published).get_experiment_by_name("tycho-smoke").experiment_id}
    store = f"sqlite:///{tmp_path / 'other.db'}"
    there = mlflow.MlflowClient(tracking_uri=store)
    for name in ("one", "two", "three"):
        there.create_experiment(name)
    sync_results(published, store, [])
    assert numbers() == {there.get_experiment_by_name("tycho-smoke").experiment_id} == {"4"}
