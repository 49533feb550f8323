"""What lies beside the pages can be read by other programs, and does nothing there."""

from __future__ import annotations

import re
import zipfile

import pandas as pd
import pytest

from reports import exports
from tycho import records
from tycho.errors import TychoError


def test_csv_and_parquet_are_the_records(compiled):
    data = compiled / "quick" / "report" / "data"
    for name in exports.TABLES:
        assert (data / f"{name}.parquet").read_bytes() == (compiled / "quick" / f"{name}.parquet").read_bytes()
    frame, back = records.read(data / "metrics.parquet"), pd.read_csv(data / "metrics.csv", keep_default_na=False)
    assert len(back) == len(frame) and list(back.columns) == list(frame.columns)
    assert pd.to_numeric(back.value, errors="coerce").to_numpy() == pytest.approx(frame.value.to_numpy(), nan_ok=True)


def test_latex_has_every_claim_and_nothing_of_its_own_meaning(compiled):
    text = (compiled / "quick" / "report" / "tables" / "claims.tex").read_text()
    claims = records.read(compiled / "quick" / "claims.parquet")
    body = text[text.index(r"\endfoot") : text.index(r"\end{longtable}")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(rows) == len(claims) and {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {4}
    hostile = exports.latex_table(["a"], [[r"\input{x} $5 & 3% #1 _a ^b ~c <d>"]], "l", "c")
    line = next(line for line in hostile.splitlines() if "input" in line)
    assert r"\textbackslash{}input\{x\} \$5 \& 3\% \#1 \_a \textasciicircum{}b" in line


def test_export_to_a_folder_and_to_an_archive(compiled, tmp_path):
    written = exports.export(compiled / "quick", tmp_path / "out")
    assert (tmp_path / "out" / "index.html").read_bytes() == (compiled / "quick" / "report" / "index.html").read_bytes()
    samples = pd.read_csv(tmp_path / "out" / "data" / "samples.csv")
    assert len(samples) == len(records.read(compiled / "quick" / "samples.parquet"))
    for name in ("one.zip", "two.zip"):
        exports.export(compiled / "quick", tmp_path / name)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.testzip() is None and len(archive.namelist()) == len(written)
        assert archive.read("quick/index.html") == (tmp_path / "out" / "index.html").read_bytes()
    with pytest.raises(TychoError, match="there already"):
        exports.export(compiled / "quick", tmp_path / "one.zip")
    with pytest.raises(TychoError, match="holds no report"):
        exports.export(tmp_path, tmp_path / "new")
