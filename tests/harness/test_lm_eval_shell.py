"""`tycho lm-eval` as a user types it: our methods among the models, our tasks among the tasks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tycho.errors import TychoError
from tycho.evaluation.local import write_task
from tycho.sources import ROOT

SERVE = """
from pathlib import Path
from tycho.harness import Completion

def load(pretrained, *, device="cpu", word="[A]"):
    import torch
    torch.zeros(1, device=device)  # lm-eval says cuda by itself
    table = dict(line.split("=") for line in Path(pretrained, "answers.txt").read_text().splitlines())
    return lambda prompts, options: [
        Completion(f"so {word} {table.get(p.split()[0], '0')} <eos> [A] 9", 5, 4, 3, 2.5) for p in prompts
    ]
"""
LOUD = "raise RuntimeError('imported')"


def start(*words: str, rooms: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tycho", "lm-eval", *words],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | {"TYCHO_METHODS": str(rooms)}, check=False,
    )  # fmt: skip


def test_a_served_method_runs_and_its_costs_are_in_the_samples(rooms, tmp_path):
    """The other rooms are not imported, and what follows the stop string is not read."""
    rooms.write("answering", serve=SERVE)
    rooms.write("loud", serve=LOUD)
    (tmp_path / "answers.txt").write_text("\n".join(f"{n}={n}" for n in range(7)))
    done = start(
        "--model", "answering", "--model_args", f"pretrained={tmp_path}", "--tasks", "tycho_products",
        "--limit", "6", "--output_path", str(tmp_path / "out"), "--log_samples", rooms=rooms.folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "|tycho_products|" in done.stdout
    (result,), (samples,) = (list((tmp_path / "out").rglob(name)) for name in ("results_*.json", "samples_*.jsonl"))
    found = json.loads(result.read_text())
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(rows) == 6 and [row["filtered_resps"] for row in rows] == [
        [r["arguments"]["gen_args_0"]["arg_0"][0]] for r in rows
    ]
    right = sum(row["doc"]["prompt"].split()[0] == row["doc"]["target"] for row in rows)
    assert found["results"]["tycho_products"]["exact_match,answer"] == pytest.approx(right / 6)
    cost = {"generated_tokens": 5, "sequential_tokens": 4, "forward_passes": 3, "flops": 2.5}
    assert rows[0]["arguments"]["gen_args_0"]["arg_1"]["tycho_cost"] == [cost]
    assert found["config"]["tycho_cost"] == {"completions": 6} | {name: 6 * value for name, value in cost.items()}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--model", "answerin", "--tasks", "tycho_graphs"], "unknown model 'answerin': did you mean 'answering'?"),
        (["--model", "answering", "--tasks", "tycho_graph"], "unknown task of Tycho's 'tycho_graph': did you mean 'tycho_graphs'?"),
        (["--model", "answering", "--tasks", "tycho_products"], "--model answering needs --model_args pretrained=FOLDER"),
    ],
)  # fmt: skip
def test_mistakes_get_one_line(rooms, monkeypatch, words, line):
    from tycho.evaluation import shell

    rooms.write("answering", serve=SERVE)
    monkeypatch.setattr(sys, "argv", [])
    with pytest.raises(TychoError) as raised:
        shell.run([*words, "--limit", "2"])
    assert line in str(raised.value)


def test_a_trained_checkpoint_is_the_pretrained_of_hf(tmp_path, monkeypatch, capsys):
    """lm-eval's own Hugging Face model drives a checkpoint with our word-level tokenizer."""
    from tycho.evaluation import shell
    from tycho.tasks.common import ground

    task = ground("products")
    task.base(0).save_pretrained(tmp_path / "model")
    task.words.tokenizer().save_pretrained(tmp_path / "model")
    monkeypatch.setattr(sys, "argv", [])
    shell.run([
        "--model", "hf", "--model_args", f"pretrained={tmp_path / 'model'}", "--device", "cpu", "--tasks", "tycho_products",
        "--limit", "2", "--gen_kwargs", "max_gen_toks=4", "--output_path", str(tmp_path / "out"), "--log_samples",
    ])  # fmt: skip
    (samples,) = (tmp_path / "out").rglob("samples_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(rows) == 2 and set(rows[0]["resps"][0][0].split()) <= set(task.words.tokens)


def test_gsm8k_from_a_file(tmp_path):
    lines = [{"question": f"What is {n} times 1,000?", "answer": f"So\n#### {n},000"} for n in range(3)]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = yaml.safe_load(write_task(f"tycho_gsm8k={tmp_path / 'test.jsonl'}", tmp_path / "tasks").read_text())
    assert Path(config["dataset_kwargs"]["data_files"]["test"]).is_absolute()
    with pytest.raises(TychoError, match="tycho_gsm8k=FILE"):
        write_task("tycho_gsm8k", tmp_path)
    with pytest.raises(TychoError, match="no data file"):
        write_task("tycho_gsm8k=nowhere.jsonl", tmp_path)
