"""What lies beside the pages: the records as parquet and CSV, tables for LaTeX and Markdown, figures as SVG."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from reports.collect import Collected
from tycho import records
from tycho.errors import TychoError
from tycho.files import replacing, write_json, write_text

TABLES = ("claims", "metrics", "samples", "costs", "statuses")
# As CSV these stand beside the report; samples are long and come with `tycho export`.
AS_CSV = ("claims", "metrics", "costs", "statuses")
LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "−": r"$-$",
    "×": r"$\times$",
    "÷": r"$\div$",
    "≥": r"$\geq$",
    "∞": r"$\infty$",
}


# What `write_*` return are the names of the files they wrote, below the report's folder.


def write_data(scale: Path, report: Path, collected: Collected, verdicts: pd.DataFrame) -> list[str]:
    """report/data: the collected tables, byte for byte, and as CSV."""
    frames = {name: getattr(collected, name) for name in TABLES if name != "claims"} | {"claims": verdicts}
    for name in TABLES:
        with replacing(report / "data" / f"{name}.parquet") as beside:
            shutil.copyfile(scale / f"{name}.parquet", beside)
    for name in AS_CSV:
        write_text(report / "data" / f"{name}.csv", records.as_csv(frames[name]))
    return [*(f"data/{name}.parquet" for name in TABLES), *(f"data/{name}.csv" for name in AS_CSV)]


def write_figures(report: Path, figures: Iterable[dict[str, Any]]) -> list[str]:
    """report/figures: each drawing as SVG with its Vega-Lite specification."""
    written = []
    for figure in figures:
        write_json(report / f"{figure['file']}.json", figure["spec"])
        written.append(f"{figure['file']}.json")
        if figure["alone"] is not None:
            write_text(report / f"{figure['file']}.svg", figure["alone"])
            written.append(f"{figure['file']}.svg")
    return written


def write_frames(report: Path, tables: Iterable[dict[str, Any]]) -> list[str]:
    """report/tables: what rooms left as tables, whole, as CSV."""
    written = []
    for table in tables:
        write_text(report / table["file"], records.as_csv(table["frame"]))
        written.append(table["file"])
    return written


def drop_old(report: Path, written: set[str]) -> None:
    """Removes what an earlier compile made and this one did not."""
    for pattern in ("*.html", "records/*.html", "data/*", "figures/*", "tables/*", "logs/*", "claims.csv", "claims.md"):
        for path in report.glob(pattern):
            if path.relative_to(report).as_posix() not in written:
                path.unlink()


def markdown_table(header: list[str], rows: list[list[Any]]) -> str:
    def cell(text: Any) -> str:
        return re.sub(r"([\\|`*_<>\[\]])", r"\\\1", " ".join(str(text).split()))

    lines = [header, ["---"] * len(header), *([cell(text) for text in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def latex_table(header: list[str], rows: list[list[Any]], columns: str, caption: str) -> str:
    """A longtable with booktabs' rules, to `\\input`."""

    def cell(text: Any) -> str:
        return "".join(LATEX.get(sign, sign) for sign in " ".join(str(text).split()))

    def line(cells: list[Any]) -> str:
        return " & ".join(cell(text) for text in cells) + r" \\"

    head = [r"\toprule", line(header), r"\midrule", r"\endhead", r"\bottomrule", r"\endfoot"]
    return "\n".join(
        [
            "% Needs booktabs and longtable; letters outside Latin need XeLaTeX or LuaLaTeX.",
            rf"\begin{{longtable}}{{{columns}}}",
            rf"\caption{{{cell(caption)}}}\\",
            *head,
            *(line(row) for row in rows),
            r"\end{longtable}",
            "",
        ]
    )


def claims_table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The scorecard as a plain table."""
    header = ["verdict", "claim", "direction", "paper", "here", "controls", "seeds × items", "p", "q"]
    found = []
    for row in rows:
        interval = row["interval"]
        here = f"{interval['effect']} [{interval['low']}, {interval['high']}] {row['measure']}"
        paper = ", ".join(f"{entry['arm']} {entry['value']}" for entry in row["paper"])
        found.append(
            [
                row["word"],
                row["says"],
                row["method"],
                f"{paper} ({row['where']}, arXiv {row['arxiv']})".strip(),
                here if row["seeds"] else row["reason"],
                "; ".join(f"{control['says']}: {control['outcome']}" for control in row["controls"]),
                f"{row['seeds']} × {row['items']}",
                row["p"],
                row["q"],
            ]
        )
    return header, found


def ground_table(ground: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The common ground as a plain table."""
    header = ["task", "method", "arm", "accuracy, %", *ground["spent"], "seeds", "dominated"]
    rows = [
        [
            task["name"],
            row["method"],
            f"{row['arm']} {row['point']}".strip(),
            f"{row['accuracy'][0]} [{row['accuracy'][1]}, {row['accuracy'][2]}]",
            *(f"{found['mean']} {found['range']}".strip() for found in row["spent"]),
            row["seeds"],
            "yes" if row["dominated"] else "",
        ]
        for task in ground["tasks"]
        for row in task["rows"]
    ]
    return header, rows


def write_tables(report: Path, rows: list[dict[str, Any]], ground: dict[str, Any] | None, scale: str) -> list[str]:
    """The scorecard and the common ground for Markdown and LaTeX, in report/tables."""
    header, found = claims_table(rows)
    short = [[row[at] for at in (0, 1, 4, 7, 8)] for row in found]
    columns = r"p{0.12\linewidth}p{0.4\linewidth}p{0.28\linewidth}rr"
    texts = {
        "tables/claims.md": markdown_table(header, found),
        "tables/claims.tex": latex_table(
            [header[at] for at in (0, 1, 4, 7, 8)], short, columns, f"Claims at scale {scale}"
        ),
    }
    if ground:
        header, found = ground_table(ground)
        columns = "lll" + "r" * (len(header) - 3)
        texts["tables/ground.md"] = markdown_table(header, found)
        texts["tables/ground.tex"] = latex_table(header, found, columns, f"Common ground at scale {scale}")
    for name, text in texts.items():
        write_text(report / name, text)
    return list(texts)


def export(scale: Path, to: Path) -> list[Path]:
    """The report with all that lies beside it, and the samples as CSV, in a folder or a .zip.

    Raises:
        TychoError: there is no report, or `to` is a file or a folder with something in it.
    """
    report = scale / "report"
    if not (report / "index.html").exists():
        raise TychoError(f"{report} holds no report: run `make report` or `python -m reports all` first")
    zipped = to.suffix == ".zip"
    if to.exists() and (zipped or to.is_file() or any(to.iterdir())):
        raise TychoError(f"{to} is there already: name another place or remove it")
    files = sorted(path for path in report.rglob("*") if path.is_file() and not path.name.startswith("."))
    names = [path.relative_to(report).as_posix() for path in files]
    samples = records.as_csv(records.read(report / "data" / "samples.parquet", "run `python -m reports compile` again"))
    if not zipped:
        for path, name in zip(files, names, strict=True):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to / name)
        write_text(to / "data" / "samples.csv", samples)
        return [to / name for name in [*names, "data/samples.csv"]]
    with replacing(to) as beside, zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in [
            *((n, p.read_bytes()) for n, p in zip(names, files, strict=True)),
            ("data/samples.csv", samples.encode()),
        ]:
            # A fixed date, so that equal reports give equal archives.
            entry = zipfile.ZipInfo(f"{scale.name}/{name}", (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, content)
    return [to]
