"""A model's row in the room: lm-eval's numbers as records, costs counted, data named where they are missing."""

from __future__ import annotations

import sys

import pytest

from methods.mobilellm_r1 import models
from tycho.config import load_settings
from tycho.evaluation.suite import BENCHMARKS
from tycho.jobs import plan
from tycho.sources import ROOT
from tycho.worker import run_process

sys.path.append(str(ROOT / "tests" / "harness"))
import letters


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return letters.make(tmp_path_factory.mktemp("letters"))


def run(tmp_path, task: str, **knobs):
    change = {"arms": ["smollm2"], "tasks": [task], "seeds": 1, "config": {"items": 4, "most": 3} | knobs}
    found = plan(load_settings({
        "scale": "smoke", "results": str(tmp_path), "only": ["mobilellm_r1"], "methods": {"mobilellm_r1": change},
    }))  # fmt: skip
    assert not found.broken
    failures = {}
    for process in found.ordered():
        failures |= run_process(found, process)
    return {key: found.view(key) for key in found.jobs if key.arm in ("smollm2", "synthesis")}, failures


def test_the_row_has_interval_limits_and_costs(tiny, tmp_path):
    views, failures = run(tmp_path, "gsm-symbolic", model=str(tiny))
    assert failures == {}
    view, synthesis = sorted(views.values(), key=lambda view: view.key.arm)
    metrics = view.record("metrics").set_index("name").value
    samples, costs = view.record("samples"), view.record("costs").iloc[0]
    assert len(samples) == metrics.lm_eval_items == 4 and (samples.generated_tokens <= 3).all()
    assert metrics.lm_eval_low <= metrics.lm_eval_accuracy == samples.correct.mean() <= metrics.lm_eval_high
    assert metrics.lm_eval_high == pytest.approx(0.4899, abs=1e-4)  # Wilson's, nothing of four
    assert metrics.lm_eval_shots == 8 and metrics.lm_eval_max_gen_toks == 3
    assert samples.prompt.str.count("Q: ").eq(9).all()
    table = synthesis.table("models").set_index("source")
    ours = table.loc["measured here, lm-eval"]
    assert (ours.protocol, ours["items"], ours["token limit"]) == ("completion", 4, 3) and ours.low < ours.high
    assert table.index.str.startswith("published").sum() >= 8 and table.accuracy.between(0, 1).all()
    assert costs.generated_tokens == samples.generated_tokens.sum() and costs.flops == pytest.approx(
        samples.flops.sum()
    )


def test_gsm8k_is_read_from_a_file(tiny, tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text('{"question": "How much is 1,000 + 1?", "answer": "#### 1,001"}\n')
    views, failures = run(tmp_path / "results", "gsm8k", model=str(tiny), data=str(path), protocol="chat")
    assert failures == {}
    view, synthesis = sorted(views.values(), key=lambda view: view.key.arm)
    assert synthesis.table("models").set_index("source").protocol["measured here, lm-eval"] == "chat"
    sample = view.record("samples").iloc[0]
    assert sample.prompt == "<user>How much is 1,000 + 1?<assistant>" and sample.target == "1001"
    assert view.record("metrics").set_index("name").value.lm_eval_shots == 0


def test_gsm8k_without_a_file_says_what_to_give(tiny, tmp_path):
    _, failures = run(tmp_path, "gsm8k", model=str(tiny))
    assert "knob `data`" in next(iter(failures.values()))


def test_the_published_row_is_planned():
    """All 1,319 items, 8-shot completion as in the table of base models."""
    found = plan(load_settings({"scale": "paper", "only": ["mobilellm_r1"]}))
    assert not found.broken
    (job,) = [job for key, job in found.jobs.items() if key.task not in ("stages", "all")]
    assert (job.key.arm, job.key.task, job.config.items, job.config.protocol) == (
        "smollm2",
        "gsm8k",
        1319,
        "completion",
    )
    assert BENCHMARKS["gsm8k"].shots == models.published()["scores"]["base"]["shots"]["gsm8k"] == 8
