"""The trace file: every format in, the same traces out, and one line for each thing that is wrong."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from methods.deepconf.answers import codes
from methods.deepconf.confidence import paper_measures, score
from methods.deepconf.traces import SUFFIXES, Traces, read_traces, write_traces
from methods.deepconf.voting import paper_rules, vote_all
from tycho.errors import TychoError

GOOD = {"question": "q1", "text": r"\boxed{7}", "target": "7", "confidences": [1.5, 2.5], "tokens": 2}


def jsonl(folder: Path, *rows: object) -> Path:
    path = folder / "traces.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def lines(traces: Traces) -> list[str]:
    assert all(isinstance(problem, TychoError) and "\n" not in str(problem) for problem in traces.problems)
    return [str(problem) for problem in traces.problems]


def test_a_good_file_has_no_problems(tmp_path: Path) -> None:
    traces = read_traces(jsonl(tmp_path, GOOD, GOOD | {"question": "q2"}), warmup=0)
    assert traces.problems == [] and len(traces.confidences) == 2
    assert traces.frame["answer"].tolist() == ["7", "7"] and traces.frame["tokens"].tolist() == [2, 2]
    assert [(q, rows.tolist()) for q, rows in traces.pools()] == [("q1", [0]), ("q2", [1])]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"question": "q1", "text": r"\boxed{7}"},
            "1 of 3 traces have no log-probs and vote in the plain majority only",
        ),
        (GOOD | {"confidences": [1.0, float("nan")]}, "1 of 3 traces have NaN or infinite confidences"),
        (GOOD | {"confidences": [1.0, None]}, "1 of 3 traces have NaN or infinite confidences"),
        (GOOD | {"confidences": [-1.0]}, "1 of 3 traces have negative confidences"),
        (GOOD | {"confidences": "high"}, "1 of 3 traces have log-probs that are not lists of numbers"),
        (GOOD | {"confidences": None, "logprobs": {"content": 3}}, "have log-probs that are not lists of numbers"),
        ({"question": "q1"}, "1 of 3 traces are empty and count as unanswered"),
        ({"text": "x"}, "1 of 3 traces have no question and are left out"),
        ("{broken", "1 of 3 traces are not JSON objects and are left out"),
        ("[1, 2]", "1 of 3 traces are not JSON objects and are left out"),
    ],
)
def test_each_fault_is_one_line_and_the_rest_is_kept(tmp_path: Path, row: object, says: str) -> None:
    traces = read_traces(jsonl(tmp_path, GOOD, row, GOOD), warmup=0)
    (line,) = lines(traces)
    assert says in line and "line 2" in line and "traces.jsonl" in line
    kept = len(traces.frame)
    assert kept == (2 if "left out" in says else 3) and len(traces.confidences) == kept
    # Whatever happened, the two good traces score and vote, and the bad one never outvotes them.
    found, _ = codes(traces.frame["answer"])
    scores = score(traces.confidences, paper_measures(2))
    votes = vote_all(found, scores, paper_rules(["lowest"]))
    assert votes["lowest"].ballots == 2 and votes["majority"].answer == 0


def test_many_equal_faults_are_one_line(tmp_path: Path) -> None:
    traces = read_traces(jsonl(tmp_path, *[{"question": "q", "text": r"\boxed{1}"}] * 40))
    (line,) = lines(traces)
    assert "40 of 40 traces have no log-probs" in line


def test_fewer_than_the_warm_up_is_said_once(tmp_path: Path) -> None:
    path = jsonl(tmp_path, *[GOOD] * 20, *[GOOD | {"question": "q2"}] * 16, GOOD | {"question": "q3"})
    (line,) = lines(read_traces(path))
    assert "2 of 3 questions have too few traces for a warm-up of 16" in line and "'q2' has 16" in line
    assert len(read_traces(path).frame) == 37


def test_texts_that_state_no_answer_are_said(tmp_path: Path) -> None:
    path = jsonl(tmp_path, GOOD | {"text": "#### 7"}, GOOD | {"text": "#### 8"})
    (line,) = lines(read_traces(path, warmup=0))
    assert "no text states an answer as 'boxed'" in line and "hashes" in line
    assert read_traces(path, answers="hashes", warmup=0).frame["answer"].tolist() == ["7", "8"]


def test_a_mistyped_column_is_named(tmp_path: Path) -> None:
    row = {"question": "q", "answer": "7", "confidance": [1.0]}
    assert any(
        "'confidance' is not read: did you mean 'confidences'" in x for x in lines(read_traces(jsonl(tmp_path, row)))
    )


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("traces.jsonl", b"", "has no trace in it"),
        ("traces.jsonl", b"nonsense\n", "not JSON objects"),
        ("traces.jsonl", b'{"text": "x"}\n', "no trace that can be used"),
        ("traces.jsonl", b"\xff\xfe", "cannot be read"),
        ("traces.jsonl.gz", b"not gzip", "cannot be read"),
        ("traces.parquet", b"PAR1 broken", "cannot be read"),
        ("traces.parqet", b"", "did you mean '.parquet'"),
    ],
)
def test_a_file_of_no_use_is_one_error(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TychoError, match=says) as caught:
        read_traces(path)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_a_missing_file_and_an_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(TychoError, match="is not a file"):
        read_traces(tmp_path / "none.jsonl")
    with pytest.raises(TychoError, match="did you mean 'hashes'"):
        read_traces(jsonl(tmp_path, GOOD), answers="hash")


def test_log_probs_as_engines_save_them_give_the_same_confidences(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    top = [sorted((-rng.exponential(3, size)).tolist(), reverse=True) for size in (20, 21, 20)]
    expected = [-np.mean(sorted(row, reverse=True)[:20]) for row in top]
    chat = {"content": [{"token": "a", "top_logprobs": [{"token": "b", "logprob": x} for x in row]} for row in top]}
    rows = [
        {"question": "q", "answer": "7", "confidences": expected},
        {"question": "q", "answer": "7", "top_logprobs": top},
        {
            "question": "q",
            "answer": "7",
            "top_logprobs": [dict(zip("abcdefghijklmnopqrstuvw", row, strict=False)) for row in top],
        },
        {"question": "q", "answer": "7", "logprobs": chat},
        {"question": "q", "extracted_answer": "7", "confs": expected, "num_tokens": 3},
    ]
    traces = read_traces(jsonl(tmp_path, *rows), warmup=0)
    assert traces.problems == [] and traces.frame["tokens"].tolist() == [3] * 5
    for row in traces.confidences:
        assert row == pytest.approx(expected, rel=1e-12)
    path = tmp_path / "traces.parquet"
    pd.DataFrame(rows[1:2]).to_parquet(path)
    assert next(iter(read_traces(path, warmup=0).confidences)) == pytest.approx(expected, rel=1e-12)


TEXT = st.none() | st.text(max_size=8)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "question": st.sampled_from(["a", "b", "ü\n"]),
            "text": TEXT,
            "answer": TEXT,
            "target": TEXT,
            "confidences": st.lists(st.floats(0, 1e9), max_size=4),
        }
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(ROWS, st.sampled_from(SUFFIXES))
def test_what_is_written_is_read_again(tmp_path: Path, rows: list[dict], suffix: str) -> None:
    first = read_traces(jsonl(tmp_path, *rows), warmup=0)
    path = tmp_path / f"again{suffix}"
    write_traces(path, first)
    second = read_traces(path, warmup=0)
    assert second.frame.where(second.frame.notna(), None).equals(first.frame.where(first.frame.notna(), None))
    assert (second.confidences.lengths == first.confidences.lengths).all()
    assert (second.confidences.values == first.confidences.values).all()


def test_jsonl_may_be_compressed_and_other_suffixes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "traces.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(GOOD) + "\n").encode()))
    assert len(read_traces(path, warmup=0).frame) == 1
    with pytest.raises(TychoError, match="unknown kind of trace file"):
        write_traces(tmp_path / "traces.csv", read_traces(path))


def test_a_full_size_parquet_file_is_read_without_a_loop_over_tokens(tmp_path: Path) -> None:
    import time

    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"question": "q", "answer": "7", "confidences": list(rng.random((64, 32_768)))})
    frame.to_parquet(tmp_path / "big.parquet")
    start = time.process_time()
    traces = read_traces(tmp_path / "big.parquet")
    assert time.process_time() - start < 8 and traces.confidences.values.size == 64 * 32_768
