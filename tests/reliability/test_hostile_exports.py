"""What the report leaves for spreadsheets holds no formula, whatever a model wrote."""

from __future__ import annotations

import csv
import io

import pandas as pd

from tycho import records

FORMULAS = ["=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", "-2+3", "\t=1"]


def test_no_export_holds_a_formula(tmp_path):
    frame = pd.DataFrame({"response": [*FORMULAS, "plain", ""], "score": [-1.5, 0, 1, 2, 3, 4, 5]})
    path = tmp_path / "out.csv"
    path.write_text(records.as_csv(frame), encoding="utf-8", newline="")
    with path.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["response"] for row in rows[: len(FORMULAS)]] == [f"'{text}" for text in FORMULAS]
    assert [row["response"] for row in rows[len(FORMULAS) :]] == ["plain", ""]
    assert [float(row["score"]) for row in rows] == list(frame.score)


def test_a_carriage_return_makes_no_row_of_its_own():
    text = records.as_csv(pd.DataFrame({"response": ["\r=1+1", "a\r\nb"]}))
    assert list(csv.reader(io.StringIO(text, newline=""))) == [["response"], ["'\r=1+1"], ["a\r\nb"]]
