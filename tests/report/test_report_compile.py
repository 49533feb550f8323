"""The page: whole, self-contained, escaped, equal for equal records, and every number from a record."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
from page import Page
from scipy import stats

from reports import __main__ as command
from reports.claims import load_claims
from reports.collect import read_collected
from reports.compile import compile_report
from reports.costs import arm_costs
from reports.scorecard import STATES, claim_row, state_of
from reports.sections import Direction, metric_groups, sample_browsers
from tycho import records, registry
from tycho.files import read_json, write_json

HOSTILE = "</script></title><img src=x onerror=alert(1)>'\"<svg onload=alert(1)>{{ 7 * 7 }}\u202e"


def folder(results: Path) -> Path:
    return results / "quick"


@pytest.fixture
def page(compiled) -> Page:
    return Page(folder(compiled) / "report" / "index.html")


def about(results: Path, name: str) -> Direction:
    plan, method = synthetic.planned(results), registry.method(name)
    claims = load_claims(synthetic.ROOMS / name / "claims.yaml")
    return Direction(plan, method, read_collected(folder(results)), claims)


def test_page_is_well_formed_and_loads_nothing(page):
    assert page.wrong == []
    assert page.count("script") == 1 and page.count("style") == 1


def test_policy_lets_our_script_run_and_no_other(page):
    policy = next(found["content"] for tag, found in page.tags if tag == "meta" and "http-equiv" in found)
    digest = base64.b64encode(hashlib.sha256(page.scripts.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_second_compile_gives_the_same_bytes(compiled, own_copy):
    made = ("report/index.html", "report/claims.csv", "report/claims.md", "provenance.json")
    first = {name: (folder(own_copy) / name).read_bytes() for name in made}
    for name in made:
        (folder(own_copy) / name).unlink()
    settings = json.dumps(synthetic.given(own_copy))
    assert compile_report(command._plan(settings, None))[1] == []
    for name in made:
        again = (folder(own_copy) / name).read_bytes()
        assert again.replace(str(own_copy).encode(), str(compiled).encode()) == first[name], name


def test_every_verdict_is_on_the_page(page, compiled):
    frame = records.read(folder(compiled) / "claims.parquet")
    states = {state_of(row) for row in frame.to_dict("records")}
    assert states == set(STATES) - {"suppressed"}  # only scale smoke suppresses
    rows = [found for tag, found in page.tags if tag == "tr" and "claim" in (found.get("class") or "").split()]
    assert len(rows) == len(frame)
    assert {row["data-verdict"] for row in rows} == states
    for name in frame.id:
        assert f"claims.parquet: id={name}" in {row["data-source"] for row in rows}
    for verdict in STATES.values():
        assert verdict == "suppressed" or verdict in page.text
    assert "Ending as many traces at random does as well." in page.text and "explains the claim away" in page.text
    for aside in ("a job failed", "a job is missing", "method cannot be loaded", "not part of scale quick"):
        assert aside in page.text


def test_the_effect_shown_is_the_record(compiled):
    frame = records.read(folder(compiled) / "claims.parquet").set_index("id")
    text = (folder(compiled) / "report" / "index.html").read_text()
    for name, row in frame[frame.kind == "greater"].dropna(subset="effect").iterrows():
        part = text[text.index(f'data-source="claims.parquet: id={name}"') :]
        shown = re.search(r'effect-text">([^<]*)</span> <span class="range">\[([^,]*), ([^\]]*)\]', part).groups()
        values = [float(number.replace("−", "-")) for number in shown]
        np.testing.assert_allclose(values, row[["effect", "low", "high"]].astype(float), atol=0.006)


def test_final_metrics_are_means_with_students_interval(compiled):
    samples = read_collected(folder(compiled)).samples
    group = next(g for g in metric_groups(about(compiled, "latent")) if g["name"] == "accuracy")
    assert [row["arm"] for row in group["rows"]] == ["latent", "written", "direct", "pause", "base"]
    mine = samples[(samples.method == "latent") & (samples.arm == "written")]
    seeds = mine.groupby("seed")["correct"].mean()
    low, high = stats.t.interval(0.95, len(seeds) - 1, seeds.mean(), stats.sem(seeds))
    row = group["rows"][1]
    shown = [float(row[name].replace("−", "-")) for name in ("mean", "low", "high")]
    np.testing.assert_allclose(shown, [seeds.mean(), low, high], atol=0.006)
    assert row["seeds"] == len(seeds) == 3 and "arm=written" in row["source"]


def test_metrics_that_claims_rest_on_come_first_and_bounds_are_marked(compiled):
    groups = metric_groups(about(compiled, "updates"))
    assert [group["name"] for group in groups] == ["error", "identity_error", "steps_to_zero"]
    assert [row["point"] for row in groups[0]["rows"]] == [f"width={width}" for width in (8, 16, 32, 64, 128)]
    assert [row["bounds"] for row in groups[2]["rows"]] == [0, 0, 0, 0, 3]


def test_samples_shown_are_the_first_of_each_kind(compiled):
    frame = read_collected(folder(compiled)).samples
    for browser in sample_browsers(about(compiled, "latent")):
        mine = frame[(frame.method == "latent") & (frame.arm == browser["arm"])]
        assert browser["total"] == len(mine) and browser["right"] == mine.correct.sum()
        right = [row for row in browser["rows"] if row["correct"]]
        assert len(browser["rows"]) == 40 and 0 < len(right) < 40
        first = mine[mine.correct].sort_values(["seed", "item"]).head(len(right))
        assert sorted((row["seed"], row["item"]) for row in right) == list(zip(first.seed, first.item, strict=True))


def test_costs_count_ingredients_once_and_name_them(compiled):
    costs = read_collected(folder(compiled)).costs
    costs = costs[costs.method == "latent"]
    rows = {row["arm"]: row for row in arm_costs(about(compiled, "latent"))}
    own = costs[costs.arm == "latent"].cpu_seconds.sum()
    base = costs[(costs.arm == "base") & (costs.stage == "train")].cpu_seconds.sum()  # its evaluation was not needed
    assert 0 < base < costs[costs.arm == "base"].cpu_seconds.sum()
    assert rows["latent"]["ingredients"] == ["base"] and rows["base"]["ingredients"] == []

    def read(text: str) -> float:
        return float(text.removesuffix(" s"))

    assert math.isclose(read(rows["latent"]["cpu"]), own, rel_tol=0.01)
    assert math.isclose(read(rows["latent"]["borrowed"]), base, rel_tol=0.01)
    assert math.isclose(read(rows["latent"]["total"]), own + base, rel_tol=0.01)
    assert rows["synthesis"]["borrowed"] == "–"  # what it looks across is not its own cost


def test_figures_stand_with_caption_and_maker(page, compiled):
    made = list(folder(compiled).glob("jobs/*/*/*/seed0/*/figures/*.json"))
    assert page.count("figure") == len(made) > 20
    for path in made:
        assert read_json(path)["usermeta"]["says"] in page.text
        assert f"../{path.relative_to(folder(compiled))}" in page.links


def test_budget_overrun_failures_and_provenance_are_told(page):
    assert "over" in page.text[page.text.index("Costs against the budgets") :].split("Failed and missing")[0]
    assert "RuntimeError: loss is not finite at step 21" in page.text
    assert "stopping/cut/chains" in page.text and "not run yet" in page.text
    assert "tags.`tycho.method` = 'latent'" in page.text


def test_exports_hold_every_claim(compiled):
    frame = records.read(folder(compiled) / "claims.parquet")
    with (folder(compiled) / "report" / "claims.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == list(frame.id)
    assert [float(row["effect"] or "nan") for row in rows] == pytest.approx(list(frame.effect), nan_ok=True)
    lines = (folder(compiled) / "report" / "claims.md").read_text().splitlines()
    assert len(lines) == len(frame) + 2
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {10}


def test_mixed_commits_are_flagged(own_copy):
    status = folder(own_copy) / "jobs" / "latent" / "direct" / "chains" / "seed0" / "status.json"
    changed = read_json(status)
    changed["stages"]["train"] |= {"commit": "f" * 40, "dirty": True}
    write_json(status, changed)
    plan = synthetic.planned(own_copy)
    assert [*command._collect(plan), *command._judge(plan), *command._compile(plan)] == []
    origin = read_json(folder(own_copy) / "provenance.json")
    assert origin["mixed"] and origin["dirty"] and "f" * 40 in origin["commits"]
    text = Page(folder(own_copy) / "report" / "index.html").text
    assert "Mixed commits." in text and "Uncommitted changes." in text


def test_hostile_strings_stay_strings(own_copy):
    """In claims, reasons, prompts, answers, table cells, figure captions and settings of a record."""
    place = folder(own_copy)
    for name, columns in {
        "claims": ["id", "says", "reason", "verdict", "decides", "of", "unit", "fidelity"],
        "samples": ["prompt", "response", "answer", "target", "item", "setting"],
        "metrics": ["name", "variant"],
        "statuses": ["reason", "commit"],
    }.items():
        frame = records.read(place / f"{name}.parquet")
        for column in columns:
            frame.loc[frame.index[::3], column] = HOSTILE
        if name == "claims":
            frame["paper"] = json.dumps({HOSTILE: HOSTILE, "note": HOSTILE})
            frame["source"] = json.dumps({"arxiv": HOSTILE, "where": HOSTILE, "read": HOSTILE})
            frame["controls"] = json.dumps([{"says": HOSTILE, "arm": HOSTILE, "outcome": HOSTILE, "reason": HOSTILE}])
            frame["parts"] = json.dumps([dict.fromkeys(("kind", "verdict", "reason", "unit", "of", "than"), HOSTILE)])
            frame.loc[frame.index[1:3], "effect"] = [math.inf, math.nan]
            frame["parts"] = frame["parts"].str.replace("}]", ', "effect": 1.0, "low": null, "high": 2.0}]')
        records.write(place / f"{name}.parquet", frame)
    latent = place / "jobs" / "latent"
    figure = latent / "synthesis" / "all" / "seed0" / "synthesise" / "figures" / "tradeoff.json"
    write_json(figure, read_json(figure) | {"usermeta": {"says": HOSTILE}, "title": HOSTILE})
    table = figure.parent.parent / "tables" / "points.parquet"
    records.write(table, pd.DataFrame({HOSTILE: [HOSTILE, [HOSTILE], {HOSTILE: 1}]}).astype(str))
    path, problems = compile_report(synthetic.planned(own_copy))
    page = Page(path)
    assert problems == []
    assert [wrong for wrong in page.wrong if "arxiv" not in wrong] == []
    assert page.count("script") == 1 and page.text.count("<img src=x onerror=alert(1)>") > 100
    assert "49" not in page.text[page.text.index("{{ 7") : page.text.index("{{ 7") + 12]
    assert HOSTILE.splitlines()[0] in (place / "report" / "claims.csv").read_text().replace('""', '"')
    assert "<img" not in re.sub(r"\\<", "", (place / "report" / "claims.md").read_text())


def test_a_control_and_its_absence_of_words(compiled):
    """A control without a sentence of its own gets one from its test."""
    frame = records.read(folder(compiled) / "claims.parquet")
    row = frame[frame.id == "latent.beats-written"].to_dict("records")[0]
    claim = load_claims(synthetic.ROOMS / "latent" / "claims.yaml")[0]
    row["controls"] = json.dumps([{"says": "", "arm": "pause", "outcome": "ruled out"}])
    shown = claim_row(row, claim, read_collected(folder(compiled)), synthetic.planned(compiled))
    assert shown["controls"][0]["says"] == "pause does as well"
    assert [level["arm"] for level in shown["levels"]] == ["latent", "written"]
    assert shown["measure"] == "accuracy: latent − written" and len(shown["forests"]) == 1
