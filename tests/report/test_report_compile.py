"""The page: whole, self-contained, escaped, equal for equal records, and every number from a record."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import synthetic
from page import Page
from scipy import stats

from reports import __main__ as command
from reports.claims import load_claims
from reports.collect import read_collected
from reports.compile import _code, _environment, compile_report
from reports.costs import arm_costs
from reports.scorecard import STATES, claim_row, slug, state_of
from reports.sections import Direction, metric_groups, sample_browsers
from tycho import records, registry
from tycho.files import read_json, write_json, write_text

HOSTILE = "</script></title><img src=x onerror=alert(1)>'\"<svg onload=alert(1)>{{ 7 * 7 }}\u202e"


def folder(results: Path) -> Path:
    return results / "quick"


@pytest.fixture
def page(compiled) -> Page:
    return Page(folder(compiled) / "report" / "index.html")


@pytest.fixture
def latent(compiled) -> Page:
    return Page(folder(compiled) / "report" / "latent.html")


def pages(results: Path) -> list[Page]:
    return [Page(path) for path in sorted((folder(results) / "report").rglob("*.html"))]


def about(results: Path, name: str) -> Direction:
    plan, method = synthetic.planned(results), registry.method(name)
    claims = load_claims(synthetic.ROOMS / name / "claims.yaml")
    return Direction(plan, method, read_collected(folder(results)), claims)


def test_pages_are_well_formed_load_nothing_and_lead_somewhere(compiled):
    found = pages(compiled)
    names = {page.path.relative_to(folder(compiled) / "report").as_posix() for page in found}
    assert names == {"index.html", "mlflow.html"} | {f"{name}.html" for name in synthetic.NAMES} | {
        f"records/{name}.html" for name in synthetic.NAMES if name != "broken"
    }
    for page in found:
        assert page.wrong == [], page.path
        assert page.count("script") == 1 and page.count("style") == 1


def test_nothing_leads_out_of_the_reports_folder(compiled):
    """So that the folder can be moved, zipped and kept."""
    for page in pages(compiled):
        for link in page.links:
            if not link.startswith(("#", "https://", "http://127.0.0.1:5000/#")):
                assert (page.path.parent / link.split("#")[0]).resolve().is_relative_to(folder(compiled) / "report"), (
                    link
                )


def test_policy_lets_our_script_run_and_no_other(page):
    policy = next(found["content"] for tag, found in page.tags if tag == "meta" and "http-equiv" in found)
    digest = base64.b64encode(hashlib.sha256(page.scripts.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_second_compile_gives_the_same_bytes(compiled, own_copy):
    made = [path.relative_to(folder(own_copy)) for path in (folder(own_copy) / "report").rglob("*") if path.is_file()]
    made.append(Path("provenance.json"))
    assert len(made) > 60
    first = {name: (folder(own_copy) / name).read_bytes() for name in made}
    (folder(own_copy) / "report" / "figures" / "of-another-time.svg").write_text("<svg/>")
    for name in made:
        (folder(own_copy) / name).unlink()
    settings = json.dumps(synthetic.given(own_copy))
    assert compile_report(command._plan(settings, None))[1] == []
    assert not (folder(own_copy) / "report" / "figures" / "of-another-time.svg").exists()
    for name in made:
        again = (folder(own_copy) / name).read_bytes()
        assert again.replace(str(own_copy).encode(), str(compiled).encode()) == first[name], name


def test_every_verdict_is_on_the_page(page, compiled):
    frame = records.read(folder(compiled) / "claims.parquet")
    states = {state_of(row) for row in frame.to_dict("records")}
    assert states == set(STATES) - {"suppressed", "not-planned"}  # only scale smoke suppresses
    rows = [found for tag, found in page.tags if tag == "tr" and "claim" in (found.get("class") or "").split()]
    assert len(rows) == len(frame)
    assert {row["data-verdict"] for row in rows} == states | {"not-planned"}
    for name in frame.id:
        assert f"claims.parquet: id={name}" in {row["data-source"] for row in rows}
    for verdict in STATES.values():
        assert verdict == "suppressed" or verdict in page.text
    assert "Ending as many traces at random does as well." in page.text and "explains the claim away" in page.text
    for aside in ("a job failed", "a job is missing", "method cannot be loaded", "scale quick leaves it out"):
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
    assert [lent["name"] for lent in rows["latent"]["ingredients"]] == ["base"] and rows["base"]["ingredients"] == []

    def read(text: str) -> float:
        return float(text.removesuffix(" s"))

    assert math.isclose(read(rows["latent"]["cpu"]), own, rel_tol=0.01)
    assert math.isclose(read(rows["latent"]["borrowed"]), base, rel_tol=0.01)
    assert math.isclose(read(rows["latent"]["total"]), own + base, rel_tol=0.01)
    assert rows["synthesis"]["borrowed"] == "–"  # what it looks across is not its own cost


def test_figures_stand_with_caption_maker_and_files(compiled):
    made = list(folder(compiled).glob("jobs/*/*/*/seed0/*/figures/*.json"))
    report, found = (
        folder(compiled) / "report",
        {p.path.stem: p for p in pages(compiled) if p.path.parent.name == "report"},
    )
    assert sum(page.count("figure") for page in found.values()) == len(made) > 20
    for path in made:
        method, arm, task, _, stage, _, file = path.relative_to(folder(compiled) / "jobs").parts
        page = found[method]
        assert read_json(path)["usermeta"]["says"] in page.text
        name = "figures/" + re.sub(r"[^a-z0-9]+", "-", f"{method} {arm} {task} {stage} {file[:-5]}".lower())
        assert f"{name}.json" in page.links and read_json(report / f"{name}.json") == read_json(path)
        drawing = (report / f"{name}.svg").read_text()
        assert f"{name}.svg" in page.links and ElementTree.fromstring(drawing).tag.endswith("svg")
        assert "var(" not in drawing and "currentColor" not in drawing and "#01010" not in drawing


def test_budget_overrun_failures_and_provenance_are_told(page, latent):
    assert "over" in page.text[page.text.index("Costs against the budgets") :].split("Failed and missing")[0]
    assert "RuntimeError: loss is not finite at step 21" in page.text
    assert "stopping/cut/chains" in page.text and "not run yet" in page.text
    assert "tags.`tycho.method` = 'latent'" in latent.text and "mlflow.html#latent" in latent.links
    assert read_json(page.path.parent / "data" / "provenance.json")["commits"][0] in latent.text


def test_the_idea_is_the_readmes_first_paragraph(latent):
    assert "<b>" not in latent.text and "in nothing else." in " ".join(latent.text.split())
    idea = latent.text[latent.text.index("The idea") : latent.text.index("Claims", latent.text.index("The idea"))]
    assert "A synthetic room." in idea and "differs from the paper" not in idea
    assert "differs from the paper" in latent.text


def test_every_number_leads_to_its_seeds(compiled, latent):
    """Claims: the per-seed values' difference is the effect. Means: the values are the record's."""
    traced = (folder(compiled) / "report" / "records" / "latent.html").read_text()
    claim = records.read(folder(compiled) / "claims.parquet").set_index("id").loc["latent.beats-written"]
    part = traced[traced.index('id="claim-latent-beats-written"') :]
    test = part[part.index("The test") : part.index("</table>")]
    rows = [
        [float(cell.split(",")[0]) for cell in re.findall(r">([\d.]+[^<]*)</t[hd]>", row)]
        for row in test.split("<tr>")[2:]
    ]
    assert [row[0] for row in rows] == [0, 1, 2]
    assert np.mean([of - than for _, of, than in rows]) == pytest.approx(claim.effect, abs=1e-5)
    assert "Control: Empty tokens in place of the steps do as well" in part
    metrics = records.read(folder(compiled) / "report" / "data" / "metrics.parquet")
    groups = metric_groups(about(compiled, "latent"))
    for group in groups:
        for row in group["rows"]:
            assert f"records/latent.html#{row['anchor']}" in latent.links
            if group["file"] == "metrics.parquet":
                line = re.search(rf'id="{row["anchor"]}">.*?</tr>', traced, re.S)[0]
                shown = [float(value) for value in re.findall(r'"pair">\d+: ([^<]*)</span>', line)]
                places = [int(place) for place in re.search(r'<td class="meta">([\d, ]+)</td>', line)[1].split(", ")]
                mine = metrics.loc[places]
                assert list(mine.value) == pytest.approx(shown, rel=1e-5)
                assert set(mine.name) == {group["name"]} and set(mine.arm) == {row["arm"]}


def test_no_number_of_a_table_stands_without_a_way_to_its_records(compiled):
    """Cell by cell; counts of seeds and jobs and planned budgets are no measurements, an interval stands beside its mean."""
    bare, led = [], 0
    for page in pages(compiled):
        text = page.path.read_text()
        for kind in ("costs", "metric", "ground", "budgets"):
            for table in re.findall(
                rf'<table class="plain {kind}.*?</table>|<table class="{kind}">.*?</table>', text, re.S
            ):
                for row in re.findall(r"<tr.*?</tr>", table.partition("<tbody>")[2], re.S):
                    cells = re.findall(r'<td class="num">(.*?)</td>', row, re.S)
                    counts = {"costs": cells[:1], "budgets": cells[1:2]}.get(kind, [])
                    for cell in cells:
                        if re.search(r"\d", re.sub(r"<[^>]*>", "", cell)) and cell not in counts:
                            led += "<a " in cell
                            bare += [] if "<a " in cell else [(page.path.name, kind, cell)]
    assert bare == [] and led > 40


def test_a_number_of_a_direction_without_a_page_leads_to_the_tables():
    """What an ingredient of another method cost, in a report on one direction."""
    names = {"traced_pages": {"latent"}, "slug": slug, "up": ""}
    traced = _environment().get_template("macros.html").make_module(names).traced
    assert 'href="records/latent.html#v-1">0.5<' in traced("0.5", "latent", "v-1")
    assert 'href="index.html#data">&lt;b&gt;<' in traced("<b>", "elsewhere", "v-1")


def test_backticks_are_code_and_nothing_else_is():
    assert _code("as `parallel`, <b>`<i>`</b> 'x`") == (
        "as <code>parallel</code>, &lt;b&gt;<code>&lt;i&gt;</code>&lt;/b&gt; &#39;x`"
    )


def test_exports_hold_every_claim(compiled):
    frame = records.read(folder(compiled) / "claims.parquet")
    with (folder(compiled) / "report" / "data" / "claims.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == list(frame.id)
    assert [float(row["effect"] or "nan") for row in rows] == pytest.approx(list(frame.effect), nan_ok=True)
    lines = (folder(compiled) / "report" / "tables" / "claims.md").read_text().splitlines()
    assert len(lines) == len(frame) + 2
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {10}


def test_mixed_commits_are_flagged(own_copy):
    status = folder(own_copy) / "jobs" / "latent" / "direct" / "chains" / "seed0" / "status.json"
    changed = read_json(status)
    changed["stages"]["train"] |= {"commit": "f" * 40, "dirty": True}
    write_json(status, changed)
    plan = synthetic.planned(own_copy)
    failed = next(p for p in plan.processes if (p.method, p.arm) == ("threads", "outline"))
    log = folder(own_copy) / "logs" / "threads" / f"outline-{failed.task}-{failed.seeds}-{failed.digest}.log"
    write_text(log, "".join(f"line {number}\n" for number in range(1000)))
    assert [*command._collect(plan), *command._judge(plan), *command._compile(plan)] == []
    origin = read_json(folder(own_copy) / "provenance.json")
    assert origin["mixed"] and origin["dirty"] and "f" * 40 in origin["commits"]
    page = Page(folder(own_copy) / "report" / "index.html")
    assert "Mixed commits." in page.text and "Uncommitted changes." in page.text
    (kept,) = [link for link in page.links if link.startswith("logs/")]  # the end of a failed job's log
    assert (page.path.parent / kept).read_text().splitlines() == [f"line {number}" for number in range(700, 1000)]


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
    _, problems = compile_report(synthetic.planned(own_copy))
    assert problems == []
    shown = 0
    for page in pages(own_copy):
        assert [wrong for wrong in page.wrong if "arxiv" not in wrong] == [], page.path
        assert page.count("script") == 1
        shown += page.text.count("<img src=x onerror=alert(1)>")
        if "{{ 7" in page.text:
            assert "49" not in page.text[page.text.index("{{ 7") : page.text.index("{{ 7") + 12]
    assert shown > 200
    assert HOSTILE.splitlines()[0] in (place / "report" / "data" / "claims.csv").read_text().replace('""', '"')
    assert "<img" not in re.sub(r"\\<", "", (place / "report" / "tables" / "claims.md").read_text())


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


def test_a_controls_floor_stands_among_the_values_by_seed() -> None:
    from reports.claims import Claim
    from reports.trace import claim_tests

    base = {"estimand": "accuracy", "task": "t"}
    claim = Claim.model_validate(
        {
            "id": "m.one", "says": "x", "source": {"arxiv": "2501.00001", "where": "Table 1", "read": "paper"},
            "fidelity": "analogue", "test": {"kind": "greater", **base, "of": "a", "than": "b"},
            "explains_away": [{"arm": "c", "says": "C does.", "floor": {"kind": "greater", **base, "of": "c", "than": 0.5}}],
        }
    )  # fmt: skip
    told = claim_tests(claim, "m", lambda *_: pd.DataFrame({"seed": [0, 1], "value": [0.25, 0.5], "censored": False}))
    assert [one["says"] for one in told] == [
        "The test (greater)",
        "Control: C does (at_least)",
        "The control's floor (greater)",
    ]
    assert [row["seed"] for row in told[2]["rows"]] == [0, 1]
