"""A stage leaves the same records whether it was killed or not, and nothing that it should not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tycho import records
from tycho.adapter import JobView, Method, Run, knob
from tycho.errors import TychoError
from tycho.files import read_json
from tycho.keys import JobKey, derive_seed

KEY = JobKey("smoke", "toy", "steep", "line", 3)
SAMPLES = pd.DataFrame({"item": ["i"], "prompt": "p", "target": "t", "correct": [True]})


@dataclass
class Place:
    """Where one job works and where its results go."""

    folder: Path

    @property
    def job(self) -> Path:
        return self.folder / "job"

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def journal(self) -> Path:
        return self.work / "journal.jsonl"

    @property
    def checkpoint(self) -> Path:
        return self.work / "checkpoint.safetensors"

    def run(self, stage: str = "train", every: float = 0, **more) -> Run:
        return Run(KEY, stage, None, job=self.view(), work=self.work, checkpoint_seconds=every, **more)

    def view(self) -> JobView:
        return JobView(KEY, self.job)

    def bytes(self) -> dict[str, bytes]:
        """Everything but the timings."""
        files = [path for path in self.job.rglob("*") if path.is_file() and path.name != "costs.parquet"]
        return {str(path.relative_to(self.job)): path.read_bytes() for path in files}


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(tmp_path)


def walk(run: Run, steps: int, saves: set[int], dies_at: int = -1) -> bool:
    """A random walk that logs, counts and saves now and then. False: killed on the way."""
    generator, level, start = run.generator("noise"), torch.zeros(2, dtype=torch.bfloat16), 0
    run.metric("before", 1 / 3)
    restored = run.restore()
    if restored:
        start, state = restored
        level = state["level"]
        generator.set_state(state["generator"])
    for step in range(start, steps):
        if step == dies_at:
            run.flush()  # as far as a kill may have come
            return False
        level = level + torch.randn(2, generator=generator).bfloat16()
        run.log(step, level=level[0], other=float("nan") if step % 3 else -0.0)
        run.log(step, variant="v", setting="M=2", seed=step % 2, level=level.double().sum())
        run.count(forward_passes=1, flops=10)
        if step in saves:
            run.checkpoint(step + 1, lambda level=level: {"level": level, "generator": generator.get_state()})
    run.metric("after", level[1], censored=True)
    run.samples(SAMPLES)
    run.table("walk", pd.DataFrame({"level": level.float().numpy()}))
    run.finish(run.job.folder)
    return True


@settings(max_examples=25)
@given(
    steps=st.integers(0, 8),
    saves=st.sets(st.integers(0, 7)),
    kills=st.lists(st.integers(0, 7), max_size=3),
    torn=st.binary(max_size=20),
)
def test_killed_at_any_step_the_records_are_the_same(steps, saves, kills, torn):
    with tempfile.TemporaryDirectory() as folder:
        calm, killed = Place(Path(folder, "calm")), Place(Path(folder, "killed"))
        assert walk(calm.run(), steps, set())
        for dies_at in kills:
            if walk(killed.run(), steps, saves, dies_at):
                break
            if killed.journal.exists():  # a kill in the middle of a line
                killed.journal.write_bytes(killed.journal.read_bytes() + torn)
        else:
            assert walk(killed.run(), steps, saves)
        assert calm.bytes() == killed.bytes() and len(calm.bytes()) == 3
        counts = [place.view().record("costs")[["forward_passes", "flops"]] for place in (calm, killed)]
        pd.testing.assert_frame_equal(*counts)
        assert counts[0].forward_passes.tolist() == ([steps] if steps else [pd.NA])
        assert not killed.work.exists()


def test_records_after_a_checkpoint_are_forgotten_and_those_before_are_kept(place):
    run = place.run()
    run.log(0, level=1.0)
    run.checkpoint(1, lambda: "state")
    run.log(1, level=2.0)
    run.flush()
    run.table("half", pd.DataFrame({"x": [1]}))
    again = place.run()
    assert again.restore() == (1, "state")
    assert len(place.journal.read_text().splitlines()) == 1
    again.log(1, level=3.0)
    again.flush()
    assert [json.loads(line)["value"] for line in place.journal.read_text().splitlines()] == [1.0, 3.0]
    again.finish(place.job)
    assert place.view().record("metrics").value.tolist() == [1.0, 3.0]
    with pytest.raises(TychoError, match="has no table 'half'"):
        place.view().table("half")


def test_a_first_start_restores_nothing_and_forgets_an_old_journal(place):
    place.work.mkdir()
    place.journal.write_text('{"of": "another time"}\n')
    run = place.run()
    assert run.restore() is None and not place.journal.exists()
    run.log(0, level=1)
    run.flush()
    assert [json.loads(line)["name"] for line in place.journal.read_text().splitlines()] == ["level"]


def test_checkpoints_wait_for_their_time(place):
    run = place.run(every=3600)
    asked = []
    assert not run.checkpoint(1, lambda: asked.append(1)) and asked == [] and not place.checkpoint.exists()
    assert place.run(every=0).checkpoint(1, lambda: None)


@pytest.mark.parametrize("left", ["", '{"name": "a"}\n', None, '{"na\n{"me"\n', "\xff\n\xfe\n"])
def test_a_journal_that_does_not_fit_its_checkpoint_is_named(place, left):
    run = place.run()
    run.log(0, a=1, b=2)
    run.checkpoint(1, lambda: None)
    place.journal.unlink()
    if left is not None:
        place.journal.write_bytes(left.encode("latin-1"))
    with pytest.raises(TychoError) as error:
        place.run().restore()
    assert f"{place.journal} " in str(error.value) and f"delete {place.work} and run again" in str(error.value)


def test_a_broken_checkpoint_is_named(place):
    run = place.run()
    run.checkpoint(1, lambda: torch.zeros(100))
    place.checkpoint.write_bytes(place.checkpoint.read_bytes()[:100])
    with pytest.raises(TychoError, match=r"checkpoint\.safetensors cannot be read .* delete it and run again"):
        place.run().restore()


def test_what_a_checkpoint_cannot_hold_leaves_the_one_before(place):
    run = place.run()
    run.checkpoint(1, lambda: "good")
    with pytest.raises(TypeError):
        run.checkpoint(2, lambda: object())
    assert place.run().restore() == (1, "good")


def test_costs_add_up_over_starts(place):
    run = place.run()
    run.count(generated_tokens=np.int64(5), flops=torch.tensor(2.5))
    run.meter.spent = {"wall_seconds": 100.0, "cpu_seconds": 50.0}
    run.checkpoint(1, lambda: None)
    again = place.run()
    again.restore()
    again.count(generated_tokens=2)
    again.finish(place.job)
    (cost,) = place.view().record("costs").itertuples()
    assert 100 < cost.wall_seconds < 110 and 50 < cost.cpu_seconds < 60
    assert (cost.generated_tokens, cost.flops) == (7, 2.5) and pd.isna(cost.forward_passes)
    assert (cost.stage, cost.device, cost.threads) == ("train", "cpu", 1) and cost.peak_memory_mb > 10


# --- what goes out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["samples", "traces"])
def test_records_are_handed_over_once(place, kind):
    frame = SAMPLES if kind == "samples" else pd.DataFrame({"item": ["i"], "tokens": [[1]], "confidences": [[0.5]]})
    run = place.run()
    getattr(run, kind)(frame)
    with pytest.raises(TychoError, match=f"smoke/toy/steep/line/seed3 train hands over {kind} twice: concatenate"):
        getattr(run, kind)(frame)


def test_wrong_records_are_refused_at_once(place):
    with pytest.raises(TychoError, match=r"samples\.correct"):
        place.run().samples(SAMPLES.assign(correct="False"))


def test_keys_are_filled_in_and_a_batched_seed_stands(place):
    run = place.run()
    run.samples(pd.concat([SAMPLES.assign(seed=s) for s in (3, 4)]))
    run.log(np.int64(2), seed=np.int64(4), level=np.float32(0.5))
    run.metric("final", torch.tensor(2), variant="v", setting="M=2")
    run.flush()
    run.finish(place.job)
    view = place.view()
    assert view.record("samples").seed.tolist() == [3, 4]
    metrics = view.record("metrics")
    assert (
        metrics.seed.tolist() == [4, 3] and metrics.step.tolist() == [2, pd.NA] and metrics.value.tolist() == [0.5, 2]
    )
    for frame in (metrics, view.record("samples"), view.record("costs")):
        assert set(zip(frame.scale, frame.method, frame.arm, frame.task, strict=True)) == {
            ("smoke", "toy", "steep", "line")
        }


def test_a_stage_without_metrics_leaves_only_its_cost(place):
    place.run().finish(place.job)
    assert os.listdir(place.job / "train") == ["costs.parquet"]
    assert len(place.view().record("metrics")) == 0 and place.view().record("metrics").dtypes["value"] == "float64"


def test_a_figure_says_what_to_see(place):
    import altair as alt

    run = place.run("analyse")
    frame = pd.DataFrame({"x": range(6000), "y": 1.0})
    run.figure("curve", alt.Chart(frame).mark_line().encode(x="x:Q", y="y:Q"), "It is flat.")
    run.finish(place.job)
    spec = read_json(place.job / "analyse" / "figures" / "curve.json")
    assert spec["usermeta"]["says"] == "It is flat." and spec["mark"]["type"] == "line"
    assert [len(rows) for rows in spec["datasets"].values()] == [6000]


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".x", "a b", "/x"])
def test_names_that_are_no_file_are_refused(place, name):
    run = place.run()
    with pytest.raises(TychoError, match="cannot name a file"):
        run.table(name, SAMPLES)


def test_tables_are_read_back_from_the_latest_stage(place):
    for stage, value in (("train", 1), ("analyse", 2)):
        run = place.run(stage)
        run.table("M-23.5", pd.DataFrame({"x": [value]}))
        run.finish(place.job)
    assert place.view().table("M-23.5").x.tolist() == [2]


def test_a_broken_record_is_named_with_the_folder_to_delete(place):
    run = place.run()
    run.samples(SAMPLES)
    run.table("t", SAMPLES)
    run.finish(place.job)
    for path in (place.job / "train" / "samples.parquet", place.job / "train" / "tables" / "t.parquet"):
        path.write_bytes(b"PAR1")
    with pytest.raises(
        TychoError, match=f"samples.parquet cannot be read .* delete {place.job / 'train'} and run again"
    ):
        place.view().record("samples")
    with pytest.raises(TychoError, match=f"t.parquet cannot be read .* delete {place.job / 'train'} and run again"):
        place.view().table("t")


def save(run: Run, text: str) -> None:
    run.save_model(lambda folder: (folder / "weights.txt").write_text(text))
    run.finish(run.job.folder)


def test_a_model_is_moved_to_the_job_and_replaced(place):
    with pytest.raises(TychoError, match="smoke/toy/steep/line/seed3 has no model"):
        _ = place.view().model
    save(place.run(), "first")
    save(place.run(), "second")
    assert (place.view().model / "weights.txt").read_text() == "second"
    place.run("analyse").finish(place.job)
    assert (place.view().model / "weights.txt").exists()
    assert sorted(os.listdir(place.job)) == ["analyse", "model", "train"]


def test_a_training_that_saves_no_model_leaves_none(place):
    save(place.run(), "of earlier code")
    place.run().finish(place.job)
    with pytest.raises(TychoError, match="has no model"):
        _ = place.view().model


def test_a_stage_that_runs_again_replaces_all_of_it(place):
    run = place.run("analyse")
    run.table("old", SAMPLES)
    run.metric("old", 1)
    run.finish(place.job)
    run = place.run("analyse")
    run.metric("new", 2)
    run.finish(place.job)
    assert place.view().record("metrics").name.tolist() == ["new"]
    assert not (place.job / "analyse" / "tables").exists() and not place.work.exists()


@pytest.mark.parametrize("moment", [1, 2, 3, 4])
def test_a_kill_amid_the_end_leaves_a_stage_whole_or_undone(place, monkeypatch, moment):
    """Killed before each of the renames and removals of `finish`; the next start ends with the new results alone."""
    save(place.run(), "old")
    steps = []

    def stop(do):
        def act(*args, **more):
            steps.append(do.__name__)
            if len(steps) > moment:
                raise KeyboardInterrupt
            return do(*args, **more)

        return act

    run = place.run()
    run.metric("new", 1)
    run.save_model(lambda folder: (folder / "weights.txt").write_text("new"))
    with monkeypatch.context() as patch:
        patch.setattr("tycho.adapter.os.replace", stop(os.replace))
        patch.setattr("tycho.adapter.shutil.rmtree", stop(shutil.rmtree))
        with pytest.raises(KeyboardInterrupt):
            run.finish(place.job)
    stage = place.job / "train"
    assert not stage.exists() or (stage / "costs.parquet").exists()
    again = place.run()
    again.metric("new", 1)
    save(again, "new")
    assert (place.view().model / "weights.txt").read_text() == "new"
    assert place.view().record("metrics").name.tolist() == ["new"]
    assert sorted(os.listdir(place.job)) == ["model", "train"]


# --- what comes in ---------------------------------------------------------------------------------------------------


def test_a_stage_sees_only_the_stages_before_it(place):
    """What it left itself, or what came after it, is of an earlier start and must not show."""
    for stage in ("train", "evaluate", "analyse"):
        run = place.run(stage)
        run.metric("from", 1)
        run.table(stage, SAMPLES)
        run.finish(place.job)
    seen = {stage: place.run(stage).job.record("metrics").stage.tolist() for stage in records.STAGES}
    assert seen == {
        "train": [],
        "evaluate": ["train"],
        "analyse": ["train", "evaluate"],
        "synthesise": ["train", "evaluate", "analyse"],
    }
    with pytest.raises(TychoError, match="has no table 'analyse'"):
        place.run("evaluate").job.table("analyse")
    assert len(place.run("evaluate").job.table("train")) == 1
    assert place.view().record("metrics").stage.tolist() == ["train", "evaluate", "analyse"]


def test_random_numbers_come_by_axis(place):
    run = place.run()
    assert run.seed("data") == derive_seed("data", KEY)
    draws = [torch.rand(3, generator=run.generator(axis)).tolist() for axis in ("data", "data", "noise")]
    assert draws[0] == draws[1] != draws[2]
    assert run.rng("data").random() == run.rng("data").random() != run.rng("noise").random()


def test_inputs_and_jobs_are_views(place):
    views = {"base": JobView(KEY, place.job), "other": JobView(KEY, place.job)}
    run = place.run("synthesise", inputs=views)
    assert run.inputs == views and run.jobs == list(views.values())


def test_a_stage_that_a_room_does_not_write_says_so():
    class Bare(Method):
        name = "bare"

    for stage in records.STAGES:
        with pytest.raises(NotImplementedError, match=f"bare has no {stage} stage"):
            getattr(Bare(), stage)(None)
    assert not Bare.synthesises() and Bare().needs(KEY, None) == {}


def test_a_knob_of_no_stage_is_refused():
    with pytest.raises(ValueError, match="stage 'trian' is none of"):
        knob(1, "x", stage="trian")


@pytest.mark.parametrize(
    "what",
    [
        "import tycho.adapter",
        "from tycho.config import load_settings; from tycho.jobs import plan; plan(load_settings())",
    ],
)
def test_the_contract_and_a_plan_import_nothing_heavy(what):
    """Every process plans the whole DAG; importing torch and transformers would cost seconds each time."""
    heavy = ("torch", "mlflow", "transformers", "lm_eval", "altair", "snakemake")
    code = f"{what}; import sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
