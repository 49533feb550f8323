"""Records kept in the repository are enough: the report made from them alone is the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import synthetic
from page import Page

from reports import __main__ as command
from reports import kept
from reports.collect import collect
from tycho import records
from tycho.errors import TychoError
from tycho.files import read_json, write_json

REPOSITORY = Path(__file__).resolve().parents[2] / "records"


@pytest.fixture(scope="module")
def archive(_compiled, tmp_path_factory) -> Path:
    """What `tycho keep` keeps of the synthetic rooms. To be read only."""
    with synthetic.among_methods():
        kept.keep(_compiled / "quick", tmp_path_factory.mktemp("kept"))
        return kept.keep(_compiled / "quick", tmp_path_factory.mktemp("kept"))[0].parent


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_few_small_files_without_weights(archive, compiled):
    names = {path.name for path in archive.iterdir()}
    assert names == {f"{name}.parquet" for name in (*kept.TABLES, "artefacts")} | {"plan.json"}
    assert str(compiled) not in (archive / "plan.json").read_text()  # no machine's paths


def test_the_report_is_the_same_byte_for_byte(archive, compiled, tmp_path):
    page = kept.rebuild(archive, tmp_path / "again")
    first, second = files(compiled / "quick" / "report"), files(page.parent)
    assert set(first) == set(second) and len(first) > 60
    for name, content in second.items():
        assert content.replace(str(tmp_path / "again").encode(), str(compiled).encode()) == first[name], name


def test_a_rebuilt_folder_can_be_gone_on_with(archive, compiled, tmp_path):
    """Collected again from the jobs' own folders, the records are those that were kept; syntheses read them there."""
    kept.rebuild(archive, tmp_path / "again")
    found = kept.load(archive, tmp_path / "again")
    again, problems = collect(found)
    assert problems == []
    for kind in ("samples", "metrics", "costs", "statuses"):
        pd.testing.assert_frame_equal(getattr(again, kind), records.read(compiled / "quick" / f"{kind}.parquet"))
    key = next(
        key for key, job in found.jobs.items() if (compiled / "quick" / "jobs" / key.path / "config.json").exists()
    )
    assert found.view(key).config == synthetic.planned(compiled).view(key).config


def test_kept_twice_gives_the_same_bytes(archive, compiled, tmp_path):
    kept.keep(compiled / "quick", tmp_path)
    assert files(tmp_path / "quick") == files(archive)


def test_a_scale_is_kept_part_by_part(archive, own_copy, tmp_path):
    """One part's folder is lost after it was kept: what is kept next has that part as it was, and the same verdicts."""
    kept_before = Path(shutil.copytree(archive, tmp_path / "kept" / "quick"))
    shutil.rmtree(own_copy / "quick" / "jobs" / "latent")
    found = synthetic.planned(own_copy)
    assert [*command._collect(found), *command._judge(found), *command._compile(found)] == []
    lost = records.read(own_copy / "quick" / "samples.parquet")
    assert "latent" not in set(lost.method)
    kept.keep(own_copy / "quick", tmp_path / "kept")
    assert files(kept_before) == files(archive)

    plan = read_json(archive / "plan.json")  # what the plan has no more is kept no longer
    elsewhere = [
        job | {"key": ["latent", "gone", *job["key"][2:]]} for job in plan["jobs"] if job["key"][0] == "latent"
    ]
    write_json(kept_before / "plan.json", plan | {"jobs": plan["jobs"] + elsewhere})
    statuses = records.read(kept_before / "statuses.parquet")
    records.write(
        kept_before / "statuses.parquet",
        pd.concat([statuses, statuses[statuses.method == "latent"].assign(arm="gone")]),
    )
    kept.keep(own_copy / "quick", tmp_path / "kept")
    assert files(kept_before) == files(archive)


def test_a_job_of_many_networks_keeps_them_all(archive, compiled, tmp_path):
    """It records each under a seed of its own, which is no job's: such rows stay with it, rebuilt and kept part by part."""
    own = Path(shutil.copytree(archive, tmp_path / "own" / "quick"))
    metrics = records.read(own / "metrics.parquet")
    more = metrics[(metrics.method == "latent") & (metrics.seed == 0)].assign(seed=77)
    assert len(more)
    metrics = pd.concat([metrics, more], ignore_index=True).sort_values(kept.PARTS, kind="stable", ignore_index=True)
    records.write(own / "metrics.parquet", metrics)
    kept.rebuild(own, tmp_path / "again")
    found = kept.load(own, tmp_path / "again")
    again, problems = collect(found)
    assert problems == []
    ordered = again.metrics.sort_values(kept.PARTS, kind="stable", ignore_index=True)
    pd.testing.assert_frame_equal(ordered, metrics)

    shutil.rmtree(tmp_path / "again" / "quick" / "jobs" / "latent")
    assert [*command._collect(found), *command._judge(found), *command._compile(found)] == []
    kept.keep(tmp_path / "again" / "quick", tmp_path / "own")
    pd.testing.assert_frame_equal(records.read(own / "metrics.parquet"), metrics)


def test_a_knob_that_is_gone_does_not_hide_old_records(archive, compiled, tmp_path):
    own = Path(shutil.copytree(archive, tmp_path / "own"))
    plan = read_json(own / "plan.json")
    for job in plan["jobs"]:
        job["config"]["a_knob_of_old"] = 3
    write_json(own / "plan.json", plan)
    text = Page(kept.rebuild(own, tmp_path / "r")).text
    assert "claims judged here held" in text and "a_knob_of_old" not in text


def test_refusals_name_the_way_on(archive, compiled, tmp_path):
    with pytest.raises(TychoError, match="no report: run `make report`"):
        kept.keep(tmp_path / "quick", tmp_path / "kept")
    with pytest.raises(TychoError, match="`tycho keep` makes them"):
        kept.rebuild(tmp_path, tmp_path / "r")
    with pytest.raises(TychoError, match="is there already"):
        kept.rebuild(archive, compiled)
    own = Path(shutil.copytree(archive, tmp_path / "own"))
    write_json(own / "plan.json", read_json(own / "plan.json") | {"schema": 0})
    with pytest.raises(TychoError, match="keep the records again"):
        kept.rebuild(own, tmp_path / "r")


def test_kept_files_cannot_be_put_elsewhere(archive, compiled, tmp_path):
    own = Path(shutil.copytree(archive, tmp_path / "own"))
    artefacts = records.read(own / "artefacts.parquet")
    artefacts.loc[0, "name"] = "../../../../../../../../outside.json"
    records.write(own / "artefacts.parquet", artefacts)
    with pytest.raises(TychoError, match="outside its folder"):
        kept.rebuild(own, tmp_path / "r" / "results")
    assert not list(tmp_path.rglob("outside.json"))


@pytest.mark.slow
@pytest.mark.parametrize("scale", sorted(p.parent.name for p in REPOSITORY.glob("*/plan.json")))
def test_the_repositorys_own_records_make_their_report(scale, tmp_path):
    """Judged again from what is kept, every verdict is the one that was published."""
    page = kept.rebuild(REPOSITORY / scale, tmp_path)
    again, published = (
        records.read(place / "claims.parquet").set_index("id") for place in (page.parent.parent, REPOSITORY / scale)
    )
    shared = published.index.intersection(again.index)
    pd.testing.assert_series_equal(again.verdict[shared], published.verdict[shared])
    assert json.loads((page.parent / "data" / "provenance.json").read_text())["commits"]
