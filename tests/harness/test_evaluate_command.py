"""`tycho evaluate`: what it prints, what it writes, what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import letters
import pandas as pd
import pytest

from tycho import cli
from tycho.errors import TychoError
from tycho.evaluation.command import load, published, read_data, sentence
from tycho.evaluation.suite import Score

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return letters.make(tmp_path_factory.mktemp("letters"))


def call(monkeypatch, capsys, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["tycho", "evaluate", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    return ended.value.code or 0, out, err


def test_a_folder_is_evaluated_and_a_failure_is_named_after_the_numbers(tiny, monkeypatch, capsys, tmp_path):
    items = [{"goal": "To cook", "sol1": "boil", "sol2": "paint", "label": n % 2} for n in range(4)]
    (tmp_path / "piqa.jsonl").write_text("\n".join(map(json.dumps, items)))
    code, out, err = call(
        monkeypatch, capsys, str(tiny), "--tasks", "piqa,boolq,gsm-symbolic", "--data", f"piqa={tmp_path / 'piqa.jsonl'}",
        "--limit", "2", "--max-gen-toks", "3", "--output", str(tmp_path / "out"), "--dtype", "float32",
    )  # fmt: skip
    assert code == 1 and "boolq" in err and "--data boolq=FILE" in err and len(err.strip().splitlines()) == 1, err
    assert "of 2 items (the first of 4), 0-shot, completion" in out
    assert "of 2 items, 8-shot, completion" in out and "cut at 3 tokens" in out
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert [score["task"] for score in scores] == ["piqa", "gsm-symbolic"] and scores[0]["published"] is None
    samples = pd.read_parquet(tmp_path / "out" / "samples.parquet")
    assert samples.task.tolist() == ["piqa"] * 2 + ["gsm-symbolic"] * 2


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["smollm2", "--tasks", "gsm9k"], "unknown benchmark 'gsm9k'"),
        (["smollm2", "--tasks", "piqa", "--protocol", "chat"], "completion only"),
        (["smollm2", "--tasks", "gsm8k", "--data", "piqa=f"], "--data for ['piqa']"),
        (["smollm2", "--tasks", "gsm8k", "--data", "piqa"], "--data takes TASK=FILE"),
        (["smollm2", "--tasks", "gsm8k", "--data", "gsm8k=nowhere.jsonl"], "no data file nowhere.jsonl"),
        (["gpt2", "--tasks", "gsm-symbolic"], "'gpt2' is no model"),
        (["openai/gpt2", "--tasks", "gsm-symbolic"], "owner/name@revision"),
    ],
)
def test_mistakes_are_one_line(monkeypatch, capsys, words, line):
    code, _, err = call(monkeypatch, capsys, *words)
    assert code == 1 and line in err and len(err.strip().splitlines()) == 1, err


def test_a_broken_folder_is_named(tmp_path):
    with pytest.raises(TychoError, match="cannot be loaded"):
        load(str(tmp_path))


def test_published_numbers_stand_beside_the_same_weights_and_protocol_only():
    chat = published(SMOLLM2, "chat")
    assert chat["gsm8k"].value == 2.4 and "30,000 tokens" in chat["gsm8k"].where
    assert published(SMOLLM2, "completion") == {}  # the table of base models has the base model
    assert published("HuggingFaceTB/SmolLM2-135M", "completion")["gsm8k"].value == 1.8
    assert published("", "chat") == {}


def test_a_score_is_never_a_bare_percentage():
    score = Score(
        "m", "gsm8k", "chat", 0, "acc,answer", 0.03, 0.01, 0.08, 0.017, 100, 1319, 256, 0.4, 120.0, 120.0, 1e9
    )
    assert sentence(score) == (
        "3.0% [1.0%, 8.0%] of 100 items (the first of 1319), 0-shot, chat, 40% of answers cut at 256 tokens"
    )


def test_data_files_of_three_kinds(tmp_path):
    rows = pd.DataFrame({"goal": ["a"], "label": [1]})
    rows.to_parquet(tmp_path / "d.parquet")
    (tmp_path / "d.json").write_text('[{"goal": "a", "label": 1}]')
    (tmp_path / "d.jsonl").write_text('{"goal": "a", "label": 1}\n')
    for ending in ("parquet", "json", "jsonl"):
        assert read_data("piqa", str(tmp_path / f"d.{ending}")).equals(rows)
    (tmp_path / "d.json").write_text("{")
    with pytest.raises(TychoError, match=r"d\.json cannot be read"):
        read_data("piqa", str(tmp_path / "d.json"))
