"""docs/reliability.md promises nothing that no test injects."""

from __future__ import annotations

import ast
import re

from tycho.sources import ROOT

PAGE = ROOT / "docs" / "reliability.md"


def rows() -> list[list[str]]:
    """The table's rows as cells, headings of its parts left out."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if not row[0].startswith("**") and row[0] != "fault"]


def test_every_row_has_fault_promise_and_test():
    assert len(rows()) > 40
    for row in rows():
        assert len(row) == 3 and all(row), row
        assert re.search(r"`tests/\S+\.py::test_\w+`", row[2]), row


def test_every_test_that_is_named_exists():
    for path, name in re.findall(r"`(tests/\S+\.py)::(\w+)`", PAGE.read_text(encoding="utf-8")):
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name in names, f"{path} has no {name}"


def test_every_test_of_the_cluster_is_in_the_table_or_on_its_page():
    tree = ast.parse((ROOT / "tests/slurm/test_slurm.py").read_text(encoding="utf-8"))
    tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}
    elsewhere = {"test_the_whole_smoke_dag", "test_many_small_jobs_share_an_allocation", "test_with_accounting"}
    assert tests - elsewhere == set(re.findall(r"tests/slurm/test_slurm\.py::(\w+)", PAGE.read_text(encoding="utf-8")))
