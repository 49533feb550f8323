"""What publishing and looking cost: N jobs (10,000) into a fresh SQLite store, then again with nothing changed, then with one
changed; then searches as in docs/review.md.

    python benchmarks/tracking_publish.py [N]

Wall seconds. The records are one small job's, copied; a real job has longer curves, which cost in proportion.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tycho.config import load_settings
from tycho.jobs import plan
from tycho.sources import ROOT
from tycho.tracking import sync_results
from tycho.worker import run_process


def many(results: Path, count: int) -> None:
    """One measured job of the toy, and as many copies of it under other seeds as it takes."""
    import methods

    methods.__path__.append(str(ROOT / "tests" / "toys"))
    given = {"arms": ["steep"], "seeds": 1}
    found = plan(load_settings({"scale": "smoke", "results": str(results), "only": ["toy"], "methods": {"toy": given}}))
    for process in found.ordered():
        run_process(found, process)
    arm = results / "smoke" / "jobs" / "toy" / "steep" / "line"
    shutil.rmtree(results / "smoke" / "jobs" / "toy" / "synthesis")
    for seed in range(1, count):
        shutil.copytree(arm / "seed0", arm / f"seed{seed}", copy_function=_link)


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


def timed(what: str, results: Path) -> None:
    start = time.perf_counter()
    done = sync_results(results, "", ["smoke"])
    print(f"{what:28} {time.perf_counter() - start:8.1f} s   {done}", flush=True)


def searches(results: Path, count: int) -> None:
    """As a reviewer asks: one job, a tag with a metric, the first page of runs, all of them."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{results / 'mlflow.db'}")
    key = f"smoke/toy/steep/line/seed{count // 2}"
    asked = {
        "one job": (f"tags.`tycho.key` = '{key}'", 1),
        "a tag with a metric": ("tags.`tycho.method` = 'toy' AND metrics.`train/final_level` > -1e9", 100),
        "the first 100": ("", 100),
        "all": ("tags.`tycho.key` LIKE '%'", count),
    }
    for what, (query, most) in asked.items():
        start = time.perf_counter()
        found = mlflow.search_runs(experiment_names=["tycho-smoke"], filter_string=query, max_results=most)
        print(f"{f'search: {what}':28} {time.perf_counter() - start:8.2f} s   {len(found)} runs", flush=True)


def main(count: int = 10_000) -> None:
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        many(results, count)
        timed(f"{count} runs, new store", results)
        print(f"the store has {(results / 'mlflow.db').stat().st_size / 2**20:.0f} MB")
        timed("again, unchanged", results)
        changed = results / "smoke" / "jobs" / "toy" / "steep" / "line" / f"seed{count - 1}" / "config.json"
        config = json.loads(changed.read_text()) | {"colour": "blue"}
        changed.unlink()  # a link to the others' file
        changed.write_text(json.dumps(config))
        timed("again, one changed", results)
        searches(results, count)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
