"""`tycho verify` tells numbers that come again from numbers that do not."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tycho import cli, records
from tycho.config import load_settings
from tycho.errors import TychoError
from tycho.jobs import plan
from tycho.verify import compare_frames, verify
from tycho.worker import run_process


@pytest.fixture(scope="module")
def measured(tmp_path_factory, toys_module) -> Path:
    results = tmp_path_factory.mktemp("measured")
    given = {"scale": "smoke", "results": str(results), "only": ["toy"], "methods": {"toy": {"seeds": 1}}}
    found = plan(load_settings(given))
    for process in found.ordered():
        assert run_process(found, process) == {}
    return results / "smoke"


@pytest.fixture
def kept(measured, tmp_path, toys) -> Path:
    shutil.copytree(measured, tmp_path / "kept" / "smoke")
    return tmp_path / "kept" / "smoke"


def test_everything_comes_again_bit_for_bit(kept, tmp_path):
    before = {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    found = verify(kept, tmp_path / "again", sample=0, only=["toy"])
    assert found.good and not found.left_out and set(found.rows.outcome) == {"exact"}
    assert found.rows.job.nunique() == 5
    assert {"metrics", "samples", "table", "figure", "model"} == set(found.rows.kind)
    assert {"level", "final_level", "colours", "highest"} <= set(found.rows.name)
    assert {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("by", "outcome"), [(1e-9, "within"), (1e-3, "differs")])
def test_a_number_that_was_something_else_is_named(kept, tmp_path, by, outcome):
    path = kept / "jobs/toy/steep/line/seed0/train/metrics.parquet"
    frame = records.read(path)
    frame.loc[frame.name == "final_level", "value"] *= 1 + by
    records.write(path, frame)
    found = verify(kept, tmp_path / "again", sample=0, only=["toy"])
    changed = found.rows[found.rows.outcome != "exact"]
    # The job itself, and the synthesis, which reads what is kept and was made from something else.
    assert set(changed.name) == {"final_level", "highest"} and set(changed.outcome) == {outcome}
    assert changed.largest.to_numpy() == pytest.approx(by, rel=0.01)
    assert found.good == (outcome == "within")


def test_a_model_of_other_weights_is_named(kept, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    path = kept / "jobs/toy/flat/line/seed0/model/model.safetensors"
    save_file({name: tensor + torch.ones_like(tensor) for name, tensor in load_file(path).items()}, path)
    found = verify(kept, tmp_path / "again", sample=0, only=["toy"]).rows.set_index("outcome")
    assert found.loc["differs", "job"] == "smoke/toy/flat/line/seed0" and found.loc["differs", "kind"] == "model"


def test_the_draw_is_the_seeds(kept, tmp_path):
    drawn = [
        set(verify(kept, tmp_path / str(i), sample=2, seed=seed, only=["toy"]).rows.job)
        for i, seed in enumerate((0, 0, 1, 2))
    ]
    assert drawn[0] == drawn[1] and all(len(jobs) == 2 for jobs in drawn) and len(set(map(frozenset, drawn))) > 1


def test_dear_jobs_are_left_out(kept, tmp_path):
    path = kept / "jobs/toy/steep/line/seed0/train/costs.parquet"
    records.write(path, records.read(path).assign(cpu_seconds=1e6))
    found = verify(kept, tmp_path / "again", sample=0, only=["toy"], most_seconds=1000)
    assert "smoke/toy/steep/line/seed0" not in set(found.rows.job) and found.rows.job.nunique() == 4
    with pytest.raises(TychoError, match="raise --most-seconds"):
        verify(kept, tmp_path / "none", sample=0, only=["toy"], most_seconds=1e-9)


def test_what_other_code_made_is_left_out_and_said(kept, tmp_path):
    path = kept / "jobs/toy/flat/line/seed0/status.json"
    status = json.loads(path.read_text())
    status["stages"]["train"] |= {"digest": "0" * 32, "commit": "abcdef0123456789"}
    path.write_text(json.dumps(status))
    found = verify(kept, tmp_path / "again", sample=0, only=["toy"])
    assert found.left_out == {"smoke/toy/flat/line/seed0": found.left_out["smoke/toy/flat/line/seed0"]}
    assert "other code or config (commit abcdef012345)" in found.left_out["smoke/toy/flat/line/seed0"]
    assert found.good and "smoke/toy/flat/line/seed0" not in set(found.rows.job)


def test_a_job_that_fails_now_is_told(kept, tmp_path, monkeypatch):
    from tycho import registry

    def broken(self, run):
        raise RuntimeError("no longer")

    monkeypatch.setattr(type(registry.method("toy")), "analyse", broken)
    found = verify(kept, tmp_path / "again", sample=0, only=["toy"])
    failed = found.rows[found.rows.outcome == "failed"]
    assert not found.good and len(failed) == 4 and set(failed.note) == {"RuntimeError: no longer"}


def test_what_cannot_be_verified_is_one_line(kept, tmp_path):
    with pytest.raises(TychoError, match="is not there: these results do not say"):
        verify(tmp_path / "nowhere", tmp_path / "again")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(TychoError, match="is not empty"):
        verify(kept, tmp_path / "full")
    kept.rename(kept.with_name("renamed"))
    with pytest.raises(TychoError, match="its name must be that of its scale"):
        verify(kept.with_name("renamed"), tmp_path / "again")


def test_the_command(kept, tmp_path, monkeypatch, capsys):
    words = ["tycho", "verify", str(kept), "--sample", "1", "--only", "toy", "--output", str(tmp_path / "found.csv")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    said = capsys.readouterr().out
    assert "1 jobs run again" in said and " 0 within 1e-06, 0 not" in said
    assert set(pd.read_csv(tmp_path / "found.csv").outcome) == {"exact"}


def test_frames_cell_by_cell():
    kept = pd.DataFrame({"text": ["a", "b", "c"], "value": [1.0, np.nan, 100.0], "count": [1, 2, 3]})
    new = kept.assign(text=["a", "b", "x"], value=[1.0 + 1e-8, np.nan, 101.0])
    found = compare_frames(kept, new, 1e-6)
    assert {part: found[part] for part in ("values", "exact", "within", "differ")} == {
        "values": 9, "exact": 6, "within": 1, "differ": 2,
    }  # fmt: skip
    assert found["largest"] == pytest.approx(0.01) and found["outcome"] == "differs"
    assert compare_frames(kept, kept.head(2), 1.0)["note"] == "3 rows were kept, 2 came again"
    lists = pd.DataFrame({"tokens": [np.array([1, 2]), np.array([3])]})
    assert compare_frames(lists, lists.copy(), 0)["outcome"] == "exact"
    assert compare_frames(lists, lists.iloc[::-1].reset_index(drop=True), 0)["differ"] == 2
    missing = pd.DataFrame({"value": pd.array([None, 1], dtype="Int64")})
    assert compare_frames(missing, missing.copy(), 0)["exact"] == 2


def test_nan_and_infinity_are_no_small_difference():
    kept, new = pd.DataFrame({"value": [1.0, np.inf]}), pd.DataFrame({"value": [np.nan, 1.0]})
    assert compare_frames(kept, new, 1e-3)["differ"] == 2
