"""Saved traces of any engine, to be re-analysed without a model: parquet, or JSONL (also .jsonl.gz).

One row a trace:

| column | meaning |
|---|---|
| `question` | which question the trace answers (required) |
| `text` | what was generated; the answer is looked for in it |
| `answer` | the answer itself, in place of `text` |
| `target` | the right answer, where known |
| `confidences` | one C a token |
| `top_logprobs` | in place of `confidences`: those of the most likely tokens, a list (or token -> log-prob) a token |
| `logprobs` | in place of either: the `logprobs` object of an OpenAI-compatible chat response (JSONL only) |
| `tokens` | how many were generated; the number of confidences where it is missing |

The public DeepConf package's names (`confs`, `extracted_answer`, `num_tokens`) are understood. What is wrong with some
traces is listed in `Traces.problems`, one line a kind, and every readable trace is kept: without log-probs it still
votes in the plain majority.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from methods.deepconf.answers import FORMATS, finder
from methods.deepconf.confidence import Ragged, token_confidence
from tycho.errors import TychoError, one_line, unknown
from tycho.files import replacing

COLUMNS = ("question", "text", "answer", "target", "confidences", "top_logprobs", "logprobs", "tokens")
ALIASES = {"confs": "confidences", "extracted_answer": "answer", "num_tokens": "tokens"}
SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz")

EMPTY = "are empty and count as unanswered"
SILENT = "have no log-probs and vote in the plain majority only: save confidences or top_logprobs"
GARBLED = "have log-probs that are not lists of numbers and vote in the plain majority only"
NOT_FINITE = "have NaN or infinite confidences and vote in the plain majority only"
NEGATIVE = "have negative confidences and vote in the plain majority only: C = -mean(log-probs) is positive"


@dataclass
class Traces:
    """A trace file in memory: `frame` has question, text, answer, target, tokens; `confidences` are row by row."""

    frame: pd.DataFrame
    confidences: Ragged
    problems: list[TychoError] = field(default_factory=list)

    def pools(self) -> Iterator[tuple[str, np.ndarray]]:
        """The questions in the file's order, each with the rows of its traces."""
        for question, rows in self.frame.groupby("question", sort=False).indices.items():
            yield str(question), rows


def read_traces(path: Path, answers: str = "boxed", k: int = 20, warmup: int = 16) -> Traces:
    """Reads a trace file. `answers` names the format in which `text` states its answer; `warmup` is what an online
    replay will need. Raises TychoError where the file as a whole cannot be used."""
    find = finder(answers)
    places, rows, problems = _rows(path)
    if not rows:
        why = f" ({problems[0]})" if problems else ""
        raise TychoError(f"{path} has no trace in it{why}: one row a trace is needed")
    noted: dict[str, list[str]] = defaultdict(list)
    kept, confidences = [], []
    for place, row in zip(places, rows, strict=True):
        row = {ALIASES.get(name, name): value for name, value in row.items()}
        question, text, answer = (_text(row.get(name)) for name in ("question", "text", "answer"))
        if question is None:
            noted["have no question and are left out: name one in the column 'question'"].append(place)
            continue
        found, trouble = _confidences(row, k)
        if not trouble and not len(found):
            trouble = EMPTY if not text and not answer else SILENT
        if trouble:
            noted[trouble].append(f"{place}, question {question[:40]!r}")
        if answer is None and text is not None:
            answer = find(text)
        tokens = _count(row.get("tokens"), len(found))
        target = _text(row.get("target"))
        kept.append({"question": question, "text": text, "answer": answer, "target": target, "tokens": tokens})
        confidences.append(found)
    problems += [_line(path, what, at, len(rows)) for what, at in noted.items()] + _unread(path, rows)
    if not kept:
        raise TychoError(f"{path} has no trace that can be used ({problems[0]})")
    frame = pd.DataFrame(kept).astype({"tokens": "int64"})
    if frame["text"].notna().any() and frame["answer"].isna().all():
        problems.append(
            TychoError(f"{path}: no text states an answer as {answers!r}: name another format ({', '.join(FORMATS)})")
        )
    counts = frame.groupby("question", sort=False).size()
    few = counts[counts <= warmup]
    if len(few):
        problems.append(
            TychoError(
                f"{path}: {len(few)} of {len(counts)} questions have too few traces for a warm-up of {warmup} and are "
                f"left out online (first: {few.index[0][:40]!r} has {few.iloc[0]}): save more or lower the warm-up"
            )
        )
    return Traces(frame, Ragged.of(confidences), problems)


def write_traces(path: Path, traces: Traces) -> None:
    """Writes what `read_traces` reads, as the suffix says. Raises TychoError on another suffix."""
    _suffix(path)
    frame = traces.frame.assign(confidences=[row.tolist() for row in traces.confidences])
    with replacing(path) as beside:
        if path.suffix == ".parquet":
            frame.to_parquet(beside, index=False, compression="zstd")
            return
        rows = (
            json.dumps(row, ensure_ascii=False)
            for row in frame.astype(object).where(frame.notna(), None).to_dict("records")
        )
        with (
            gzip.open(beside, "wt", encoding="utf-8")
            if path.suffix == ".gz"
            else beside.open("w", encoding="utf-8") as out
        ):
            out.writelines(row + "\n" for row in rows)


# --- inside ----------------------------------------------------------------------------------------------------------


def _suffix(path: Path) -> None:
    if not path.name.endswith(SUFFIXES):
        raise unknown("kind of trace file", path.suffix, SUFFIXES, f"({path})")


def _rows(path: Path) -> tuple[list[str], list[dict[str, Any]], list[TychoError]]:
    """Where each row stands, the rows, and the lines that are not rows."""
    _suffix(path)
    if not path.is_file():
        raise TychoError(f"{path} is not a file: name a trace file ({', '.join(SUFFIXES)})")
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            table = pq.read_table(path)
            table = table.select([name for name in table.column_names if ALIASES.get(name, name) in COLUMNS])
            rows = _from_table(table)
            return [f"row {place}" for place in range(len(rows))], rows, []
        text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text(encoding="utf-8")
    except (OSError, EOFError, ValueError) as error:  # pyarrow's errors are of these kinds
        raise TychoError(f"{path} cannot be read ({one_line(error)[:120]}): save it again") from error
    places, rows, broken = [], [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            places.append(f"line {number}")
            rows.append(row)
        else:
            broken.append(f"line {number}")
    what = "are not JSON objects and are left out: the writer may have been cut off"
    return places, rows, [_line(path, what, broken, len(rows) + len(broken))] if broken else []


def _from_table(table: Any) -> list[dict[str, Any]]:
    """Rows of a table; a column of number lists becomes views of one array in place of Python lists."""
    columns = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if hasattr(column, "offsets") and not hasattr(column.type.value_type, "value_type"):
            values = column.values.to_numpy(zero_copy_only=False)
            starts, ends = column.offsets.to_numpy()[:-1], column.offsets.to_numpy()[1:]
            present = column.is_valid().to_numpy(zero_copy_only=False)
            lists = zip(starts, ends, present, strict=True)
            columns[name] = [values[start:end] if there else None for start, end, there in lists]
        else:
            columns[name] = column.to_pylist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _text(value: Any) -> str | None:
    return None if value is None or (isinstance(value, float) and np.isnan(value)) else str(value)


def _count(tokens: Any, otherwise: int) -> int:
    """A token count from a number or the tokens themselves; the number of confidences where it is neither."""
    if isinstance(tokens, list | np.ndarray):
        return len(tokens)
    return int(tokens) if isinstance(tokens, int | float) and tokens >= 0 and np.isfinite(tokens) else otherwise


def _confidences(row: dict[str, Any], k: int) -> tuple[np.ndarray, str]:
    """A trace's confidences, and what is wrong with them; unusable ones come back empty."""
    none = np.zeros(0)
    try:
        if row.get("confidences") is not None:
            found = np.asarray(row["confidences"], dtype=np.float64)
        elif row.get("top_logprobs") is not None:
            found = _of_lists(row["top_logprobs"], k)
        elif row.get("logprobs") is not None:
            content = row["logprobs"]["content"]
            found = _of_lists([[entry["logprob"] for entry in token["top_logprobs"]] for token in content], k)
        else:
            return none, ""
    except (TypeError, ValueError, KeyError):
        return none, GARBLED
    if found.ndim != 1:
        return none, GARBLED
    if not np.isfinite(found).all():
        return none, NOT_FINITE
    return (none, NEGATIVE) if (found < 0).any() else (found, "")


def _of_lists(lists: Any, k: int) -> np.ndarray:
    """C of tokens with one list of log-probs each; lists may differ in length (20, or 21 with the sampled token)."""
    rows = [np.asarray(list(row.values()) if isinstance(row, dict) else row, dtype=np.float64) for row in lists]
    found = np.empty(len(rows))
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    for length in np.unique(lengths):
        same = np.flatnonzero(lengths == length)
        found[same] = token_confidence(np.stack([rows[place] for place in same]), k) if length else np.nan
    return found


def _line(path: Path, what: str, places: list[str], total: int) -> TychoError:
    return TychoError(f"{path}: {len(places)} of {total} traces {what} (first: {places[0]})")


def _unread(path: Path, rows: list[dict[str, Any]]) -> list[TychoError]:
    """Columns whose name is nearly one that is read."""
    import difflib

    names = {name: None for row in rows for name in row if name not in COLUMNS and name not in ALIASES}
    near = {name: difflib.get_close_matches(name, COLUMNS, n=1, cutoff=0.8) for name in names}
    return [
        TychoError(f"{path}: column {name!r} is not read: did you mean {match[0]!r}?")
        for name, match in near.items()
        if match
    ]
