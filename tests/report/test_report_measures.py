"""What a row of the scorecard says it measured."""

from __future__ import annotations

from reports.claims import All
from reports.scorecard import BLANK, _measure, _shown

EXACT = {"kind": "exact", "estimand": "gap", "of": "x", "tolerance": 0}


def test_parts_on_several_tasks_name_theirs():
    tests = All.model_validate({"kind": "all", "parts": [EXACT | {"task": "s"}, EXACT | {"task": "t"}]}).parts
    lines = [BLANK | {"kind": "exact", "unit": "error of gap", "of": "x", "than": "0", "effect": e} for e in (0.1, 0.2)]
    found = [_measure(line, test, tests) for line, test in zip(lines, tests, strict=True)]
    assert found == ["largest error of gap: x on s", "largest error of gap: x on t"]
    assert _shown(lines[1] | {"kind": "all"}, lines) == 1


def test_sides_of_two_estimands_name_both_and_what_did_not_run_has_its_words():
    pair = {"kind": "less", "estimand": "loss", "task": "t", "of": "x", "than": {"arm": "x", "estimand": "guess"}}
    ratio = {"kind": "ratio", "estimand": "path", "task": "t", "of": "x", "than": "y", "above": 1.2}
    tests = All.model_validate({"kind": "all", "parts": [pair, EXACT | {"task": "t"}, ratio]}).parts
    assert _measure(BLANK | {"unit": "loss", "of": "x", "than": "x"}, tests[0]) == "x loss − x guess"
    assert _measure(BLANK | {"kind": "exact", "of": "x", "than": "0"}, tests[1]) == "largest error of gap: x"
    assert _measure(BLANK | {"kind": "ratio", "of": "x", "than": "y"}, tests[2]) == "path: x ÷ y"
