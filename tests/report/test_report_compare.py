"""Two result folders side by side: what is equal is silent, what moved is found, and intervals are those of the judge."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

from reports.compare import as_markdown, compare, cost_changes, open_folder, value_changes
from tycho import records
from tycho.cli import app
from tycho.errors import TychoError


@pytest.fixture
def pair(compiled, tmp_path) -> tuple[Path, Path]:
    """Two folders with equal tables."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for path in (compiled / "quick").glob("*.parquet"):
            shutil.copy(path, tmp_path / name)
    return tmp_path / "a", tmp_path / "b"


def change(folder: Path, table: str, make) -> None:
    path = folder / f"{table}.parquet"
    records.write(path, make(records.read(path)))


def test_equal_folders_differ_in_nothing(pair):
    a, b = map(open_folder, pair)
    found = compare(a, b)
    assert found.same and found.costs.empty and found.equal > 50
    assert "No verdict, value or job differs" in as_markdown(a, b, found)


def test_a_changed_verdict_is_named_with_both(pair):
    def verdicts(frame):
        frame.loc[frame.id == "latent.beats-written", ["verdict", "effect"]] = ["inconclusive", 0.01]
        frame.loc[frame.id == "stopping.beats-majority", "attributable"] = True
        return frame[frame.id != "updates.identity"]

    change(pair[1], "claims", verdicts)
    found = compare(*map(open_folder, pair)).verdicts.set_index("id")
    assert dict(zip(found.index, found.word_after, strict=True)) == {
        "latent.beats-written": "inconclusive",
        "stopping.beats-majority": "supported",
        "updates.identity": "not a claim",
    }
    assert found.word_before["stopping.beats-majority"] == "supported, not attributable"


def test_paired_values_have_students_interval_of_the_differences(pair):
    shift = {0: 0.5, 1: 0.8, 2: 0.2}

    def metrics(frame):
        mine = (frame.name == "error") & (frame.setting == "width=8")
        frame.loc[mine, "value"] += frame.loc[mine, "seed"].map(shift)
        return frame

    change(pair[1], "metrics", metrics)
    found, equal = value_changes(*map(open_folder, pair))
    assert len(found) == 1 and equal > 50
    row, moved = found.iloc[0], np.array(list(shift.values()))
    low, high = stats.t.interval(0.95, 2, moved.mean(), stats.sem(moved))
    assert (row.difference, row.low, row.high) == pytest.approx((moved.mean(), low, high))
    assert row.p == pytest.approx(stats.ttest_1samp(moved, 0).pvalue) and row.seeds == 3 and row.paired
    assert row.q == pytest.approx(min(1.0, row.p * (equal + 1)))


def test_other_seeds_are_compared_unpaired_with_welch(pair):
    def metrics(frame):
        mine = (frame.name == "error") & (frame.setting == "width=8")
        frame.loc[mine, "seed"] += 10
        frame.loc[mine, "value"] *= 1.5
        return frame

    before = records.read(pair[0] / "metrics.parquet")
    before = before[(before.name == "error") & (before.setting == "width=8")].value
    change(pair[1], "metrics", metrics)
    row = value_changes(*map(open_folder, pair))[0].iloc[0]
    test = stats.ttest_ind(1.5 * before, before, equal_var=False)
    assert not row.paired and row.p == pytest.approx(test.pvalue)
    assert (row.low, row.high) == pytest.approx(tuple(test.confidence_interval(0.95)))


def test_samples_are_paired_by_item(pair):
    """Answers that are all turned from wrong to right show; the same share on other items is compared by seed alone."""

    def better(frame):
        frame.loc[(frame.method == "latent") & (frame.arm == "direct"), "correct"] = True
        return frame

    change(pair[1], "samples", better)
    found, _ = value_changes(*map(open_folder, pair))
    row = found[(found.arm == "direct") & (found.name == "accuracy")].iloc[0]
    assert row["items"] == 200 and row.paired and row.low > 0.4
    change(pair[1], "samples", lambda frame: frame.assign(item="other-" + frame["item"]))
    found, _ = value_changes(*map(open_folder, pair))
    assert found[(found.arm == "direct") & (found.name == "accuracy")].iloc[0]["items"] == 0


def test_costs_are_ratios_over_seeds(pair):
    factor = {0: 2.0, 1: 2.2, 2: 1.9}

    def costs(frame):
        mine = (frame.method == "latent") & (frame.arm == "written")
        frame.loc[mine, "cpu_seconds"] *= frame.loc[mine, "seed"].map(factor)
        return frame

    change(pair[1], "costs", costs)
    (row,) = cost_changes(*map(open_folder, pair)).itertuples()
    logs = np.log(list(factor.values()))
    low, high = stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs))
    assert (row.ratio, row.low, row.high) == pytest.approx((math.exp(logs.mean()), math.exp(low), math.exp(high)))


def test_missing_and_failed_jobs_are_named_by_seeds(pair):
    def statuses(frame):
        frame.loc[(frame.method == "latent") & (frame.arm == "pause"), "state"] = "failed"
        return frame[~((frame.method == "updates") & (frame.seed == 2))]

    change(pair[1], "statuses", statuses)
    jobs = compare(*map(open_folder, pair)).jobs.set_index("job")
    assert tuple(jobs.loc["latent/pause/chains"]) == ("0 to 2", "done", "failed")
    assert set(jobs[jobs.index.str.startswith("updates/")].after) == {"not planned"}


def test_the_command(pair, tmp_path):
    run = CliRunner().invoke
    same = run(app, ["compare", *map(str, pair), "--exit-code"])
    assert same.exit_code == 0 and "No verdict, value or job differs" in same.output
    change(pair[1], "claims", lambda frame: frame.assign(verdict="inconclusive"))
    changed = run(app, ["compare", *map(str, pair), "--exit-code", "--output", str(tmp_path / "c.md")])
    assert changed.exit_code == 1 and "## Verdicts:" in (tmp_path / "c.md").read_text()
    with pytest.raises(TychoError, match=r"has no claims\.parquet"):
        open_folder(tmp_path)


def test_one_frame_without_seeds_in_common_and_no_spread_says_nothing_is_known():
    from reports.compare import _difference

    one, two = (pd.DataFrame({"seed": [s], "value": [v], "censored": [False]}) for s, v in ((0, 1.0), (5, 2.0)))
    row = _difference(one, two)
    assert (row["low"], row["high"], row["p"]) == (-math.inf, math.inf, 1.0) and row["difference"] == 1.0
