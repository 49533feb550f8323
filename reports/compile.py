"""One page a reader can trust, from the collected tables, the claims and the figures the jobs left. Reads records only."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import pandas as pd
from markdown_it import MarkdownIt
from markupsafe import Markup

from reports import estimands, sections
from reports.claims import All, Claim, Compare, Exact, One, Ordered, Ratio, Slope, arms_named
from reports.collect import Collected, claims_by_method, lookup, read_claims_table, read_collected, rooms
from reports.figures import forest
from reports.numbers import MINUS, number, p_value, with_interval
from tycho import registry
from tycho.files import write_json, write_text
from tycho.jobs import Plan
from tycho.provenance import environment

TEMPLATES = Path(__file__).parent / "templates"
NAN = math.nan
# What a reader meets, in this order: a verdict, and for a supported claim whether a control does as well.
STATES = {
    "supported": "supported",
    "not-attributable": "supported, not attributable",
    "contradicted": "contradicted",
    "inconclusive": "inconclusive",
    "not-learnt": "not learnt at this scale",
    "not-run": "not run",
    "suppressed": "suppressed",
}
SLUGS = {word: slug for slug, word in STATES.items()}
READ = {"paper": "read in the paper", "code": "read in the paper's code", "second-hand": "second-hand"}


def compile_report(plan: Plan) -> Path:
    """Writes report/index.html, report/claims.csv, report/claims.md and provenance.json; returns the page's path."""
    folder = plan.settings.folder
    collected, verdicts = read_collected(folder), read_claims_table(folder)
    claims, problems = claims_by_method(plan)
    rows = [claim_row(row, _claim_of(row, claims), collected, plan) for row in verdicts.to_dict("records")]
    origin = provenance(plan, collected.statuses)
    page = render(
        {
            "head": header(plan, collected, origin),
            "summary": summary(rows, plan),
            "claims": rows,
            "fidelities": sorted({row["fidelity"] for row in rows}),
            "states": STATES,
            "directions": [direction(name, plan, collected, claims.get(name, []), rows) for name in rooms(plan)],
            "budgets": sections.budgets(plan, collected.costs),
            "failures": failures(plan, collected.statuses),
            "problems": [*plan.broken.values(), *problems],
            "origin": origin,
        }
    )
    write_json(folder / "provenance.json", origin)
    write_text(folder / "report" / "claims.csv", verdicts.to_csv(index=False, lineterminator="\n"))
    write_text(folder / "report" / "claims.md", claims_markdown(rows))
    write_text(folder / "report" / "index.html", page)
    return folder / "report" / "index.html"


def render(context: dict[str, Any]) -> str:
    """The page. Every string is escaped; the policy in its head lets nothing run but our own script, and nothing load."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    setting = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    fixed = {"script": Markup(script), "script_digest": digest, "style": Markup(style), "slug": slug}
    return setting.get_template("page.html").render(context | fixed)


def provenance(plan: Plan, statuses: pd.DataFrame) -> dict[str, Any]:
    """Where the records come from, as JSON."""
    done = statuses[statuses["state"] == "done"]
    commits = sorted({commit for text in done["commit"] for commit in text.split()})
    locks = sorted({lock for text in done["lock"] for lock in text.split()})
    return {
        "environment": environment(),
        "settings": plan.settings.model_dump(mode="json"),
        "commits": commits,
        "locks": locks,
        "dirty": bool(done["dirty"].any()),
        "mixed": len(commits) > 1 or len(locks) > 1,
        "broken": plan.broken,
    }


def header(plan: Plan, collected: Collected, origin: dict[str, Any]) -> dict[str, Any]:
    days = sorted({started[:10] for started in collected.costs["started"]})
    states = collected.statuses["state"].value_counts()
    return {
        "scale": plan.settings.scale,
        "only": plan.settings.only,
        "days": " to ".join(dict.fromkeys([days[0], days[-1]])) if days else "",
        "commits": [commit[:10] for commit in origin["commits"]],
        "devices": sorted(set(collected.costs["device"])),
        "jobs": {state: int(states.get(state, 0)) for state in ("done", "failed", "missing")},
    }


# --- claims ----------------------------------------------------------------------------------------------------------


def claim_row(row: dict[str, Any], claim: Claim | None, collected: Collected, plan: Plan) -> dict[str, Any]:
    """One row of the scorecard from one row of claims.parquet and, for margins and levels, the claim itself."""
    state = state_of(row)
    paper, source = _loaded(row["paper"], {}), _loaded(row["source"], {})
    parts = _loaded(row["parts"], [])
    lines = parts or [row]
    bounds = _bounds(claim, len(lines))
    interval = _interval_text(row, bounds[0] if len(lines) == 1 else (None, None))
    arxiv = str(source.get("arxiv", ""))
    return {
        "id": row["id"],
        "anchor": f"claim-{slug(row['id'])}",
        "method": row["method"],
        "direction": slug(row["method"]),
        "says": row["says"],
        "kind": row["kind"],
        "state": state,
        "word": STATES.get(state, row["verdict"]),
        "reason": row["reason"],
        "aside": _aside(row, claim, collected, plan),
        "fidelity": row["fidelity"],
        "paper": [{"arm": arm, "value": str(value).replace("-", MINUS)} for arm, value in paper.items() if arm != "note"],
        "paper_note": paper.get("note", ""),
        "where": source.get("where", ""),
        "arxiv": arxiv,
        "arxiv_href": f"https://arxiv.org/abs/{quote(arxiv)}",
        "read": READ.get(source.get("read", ""), source.get("read", "")),
        "interval": interval,
        "measure": _measure(row, claim),
        "levels": _levels(claim, row, collected, plan.settings.scale),
        "forests": _forests(lines, bounds),
        "parts": [_part(part) for part in parts],
        "controls": [_control(control) for control in _loaded(row["controls"], [])],
        "seeds": int(row["seeds"]),
        "items": int(row["items"]),
        "p": p_value(_real(row["p"])),
        "q": p_value(_real(row["q"])),
        "decides": row["decides"],
        "is_bound": bool(row["bound"]),
        "source": f"claims.parquet: id={row['id']}",
    }


def state_of(row: dict[str, Any]) -> str:
    if row["verdict"] == "supported" and not pd.isna(row["attributable"]) and not row["attributable"]:
        return "not-attributable"
    return SLUGS.get(str(row["verdict"]), "not-run")


def _aside(row: dict[str, Any], claim: Claim | None, collected: Collected, plan: Plan) -> str:
    """Why a claim has not been run, in three words: never asked for at this scale, or gone wrong."""
    if row["verdict"] != "not run" or claim is None:
        return ""
    if row["method"] in plan.broken:
        return "method cannot be loaded"
    mine = collected.statuses[collected.statuses["method"] == row["method"]]
    states = {pair: set(found["state"]) for pair, found in mine.groupby(["arm", "task"])}
    named = [states.get(pair) for pair in arms_named(claim)]
    if any(found and "failed" in found for found in named):
        return "a job failed"
    if any(found is None for found in named):
        return f"not part of scale {plan.settings.scale}"
    return "a job is missing" if any(found != {"done"} for found in named) else ""


def _bounds(claim: Claim | None, lines: int) -> list[tuple[float | None, float | None]]:
    """Between which numbers each line of the forest plot must lie, on the scale that is shown."""
    tests: list[One] = []
    if claim is not None:
        tests = claim.test.parts if isinstance(claim.test, All) else [claim.test]
        tests = [part for test in tests for part in (test.pairs() if isinstance(test, Ordered) and lines > 1 else [test])]
    if len(tests) != lines:
        return [(None, None)] * lines
    return [_bounds_of(test) for test in tests]


def _bounds_of(test: One) -> tuple[float | None, float | None]:
    if isinstance(test, Exact):
        return None, test.tolerance
    above, below = (test.pairs()[0] if isinstance(test, Ordered) else test).bounds()
    if test.scale == "log" and not isinstance(test, Slope):
        above, below = (None if bound is None else math.exp(bound) for bound in (above, below))
    return above, below


def _forests(lines: list[dict[str, Any]], bounds: list[tuple[float | None, float | None]]) -> list[Markup]:
    """One drawing; parts that are not measured in the same unit have an axis each."""
    units: dict[str, list[int]] = {}
    for place, line in enumerate(lines):
        units.setdefault(str(line["unit"]), []).append(place)
    drawn = []
    for unit, places in units.items():
        rows = []
        for place in places:
            text = _interval_text({"kind": "", **lines[place]}, bounds[place])
            says = f"{_measure({'kind': '', **lines[place]})}: {text['effect']}" + (
                f", interval {text['low']} to {text['high']}" if text["known"] else ""
            )
            rows.append((*(_real(lines[place][end]) for end in ("effect", "low", "high")), *bounds[place], says))
        drawn.append(forest(rows, log=unit.startswith("ratio of ")))
    return [drawing for drawing in drawn if drawing]


def _interval_text(row: dict[str, Any], bounds: tuple[float | None, float | None]) -> dict[str, str]:
    """Effect and interval as text; differences carry a sign, ratios a times sign."""
    ratio, exact = str(row["unit"]).startswith("ratio of "), row["kind"] == "exact"
    ends = tuple(_real(row[end]) for end in ("effect", "low", "high"))
    effect, low, high = with_interval(*ends, signed=not (ratio or exact), bounds=bounds)
    if exact and math.isfinite(ends[0]):
        effect = number(ends[0])
    if ratio and math.isfinite(ends[0]):
        effect = f"{effect} ×"
    known = not (math.isnan(ends[1]) or math.isnan(ends[2]))
    return {"effect": effect, "low": low, "high": high, "known": known}


def _measure(row: dict[str, Any], claim: Claim | None = None) -> str:
    """What the effect is, in words."""
    unit, of, than = str(row["unit"]), row["of"] or "", row["than"] or ""
    name = unit.removeprefix("ratio of ")
    sides = list(claim.test.sides()) if claim is not None and isinstance(claim.test, Compare | Ratio) else []
    if len(sides) == 2 and sides[0].estimand != sides[1].estimand:
        of, than = (sections.side_name(side, sides) for side in sides)
        name = ""
    if row["kind"] == "exact":
        return f"largest {unit}" + (f": {of} against {than}" if than not in ("", "0") else f": {of}")
    sign = "÷" if unit.startswith("ratio of ") else "−"
    contrast = f"{of} {sign} {than}" if than else of
    return ": ".join(part for part in (name, contrast) if part)


def _levels(claim: Claim | None, row: dict[str, Any], collected: Collected, scale: str) -> list[dict[str, Any]]:
    if claim is None or row["verdict"] == "not run":
        return []
    mine = estimands.Records.of(collected, scale, row["method"])
    return sections.levels(claim, lambda side: estimands.values(mine, side, lookup))


def _part(part: dict[str, Any]) -> dict[str, Any]:
    state = SLUGS.get(part.get("verdict", ""), "not-run")
    filled = {"unit": "", "of": "", "than": "", "kind": ""} | part
    return {"measure": _measure(filled), "state": state, "word": STATES[state], "reason": part.get("reason", "")} | {
        "interval": _interval_text(filled, (None, None))
    }


def _control(control: dict[str, Any]) -> dict[str, Any]:
    filled = {"kind": "", "unit": "", "reason": "", "says": "", "arm": ""} | control
    return filled | {"interval": _interval_text(filled, (None, None))}


def _claim_of(row: dict[str, Any], claims: dict[str, list[Claim]]) -> Claim | None:
    return next((claim for claim in claims.get(row["method"], []) if claim.id == row["id"]), None)


def _loaded(text: Any, empty: Any) -> Any:
    return json.loads(text) if isinstance(text, str) and text else empty


def _real(value: Any) -> float:
    return NAN if value is None or pd.isna(value) else float(value)


def claims_markdown(rows: list[dict[str, Any]]) -> str:
    """The scorecard as a Markdown table."""

    def cell(text: Any) -> str:
        flat = " ".join(str(text).split())
        return re.sub(r"([\\|`*_<>\[\]])", r"\\\1", flat)

    lines = ["| verdict | claim | direction | paper | here | controls | seeds × items | p | q |", "|" + "---|" * 9]
    for row in rows:
        interval = row["interval"]
        here = f"{interval['effect']} [{interval['low']}, {interval['high']}] {row['measure']}" if row["seeds"] else row["reason"]
        paper = ", ".join(f"{entry['arm']} {entry['value']}" for entry in row["paper"])
        paper = f"{paper} ({row['where']}, arXiv {row['arxiv']})".strip()
        controls = "; ".join(f"{control['says'] or control['arm']}: {control['outcome']}" for control in row["controls"])
        cells = [row["word"], row["says"], row["method"], paper, here, controls, f"{row['seeds']} × {row['items']}", row["p"], row["q"]]
        lines.append("| " + " | ".join(cell(text) for text in cells) + " |")
    return "\n".join(lines) + "\n"


# --- the other sections ----------------------------------------------------------------------------------------------


def summary(rows: list[dict[str, Any]], plan: Plan) -> dict[str, Any]:
    """How many claims ended how: all together, and a mark a claim by direction."""
    counts = [{"state": state, "word": word, "n": sum(row["state"] == state for row in rows)} for state, word in STATES.items()]
    titles = {name: _title(name, plan) for name in rooms(plan)}
    by_direction = [
        {"name": name, "anchor": f"direction-{slug(name)}", "title": title, "claims": [row for row in rows if row["method"] == name]}
        for name, title in titles.items()
    ]
    judged = [count for count in counts if count["n"]]
    return {"total": len(rows), "counts": judged, "all": {count["state"]: count["n"] for count in counts}, "directions": by_direction}


def direction(
    name: str, plan: Plan, collected: Collected, claims: list[Claim], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """One direction's section; of a method that cannot be loaded only the reason."""
    found: dict[str, Any] = {
        "name": name,
        "anchor": f"direction-{slug(name)}",
        "title": _title(name, plan),
        "claims": [row for row in rows if row["method"] == name],
        "broken": plan.broken.get(name, ""),
        "planned": name in plan.methods,
        "notes": notes(rooms(plan)[name]),
    }
    if found["broken"]:
        return found
    method = registry.method(name)
    about = sections.Direction(plan, method, collected, claims)
    groups = sections.metric_groups(about)
    return found | {
        "says": method.says,
        "paper": method.paper,
        "tasks": method.tasks,
        "arms": sections.arms(about),
        "figures": sections.figures(about),
        "groups": groups[: sections.MOST_GROUPS],
        "more_groups": groups[sections.MOST_GROUPS :],
        "samples": sections.sample_browsers(about),
        "tables": sections.tables(about),
        "costs": sections.arm_costs(about),
        "configuration": sections.configuration(about),
        "experiment": f"tycho-{plan.settings.scale}",
    }


def notes(room: Path) -> Markup:
    """The room's README as HTML; HTML inside it is shown, not obeyed. Headings sink below the page's own."""
    path = room / "README.md"
    if not path.exists():
        return Markup("")
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(path.read_text(encoding="utf-8"))
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + 3, 6)}"
        for child in token.children or []:
            if child.type == "image":  # nothing is loaded from elsewhere
                child.type, child.tag, child.nesting, child.content = "text", "", 0, child.content or "image"
    return Markup(reader.renderer.render(tokens, reader.options, {}))


def failures(plan: Plan, statuses: pd.DataFrame) -> list[dict[str, Any]]:
    """Jobs that are not done, those of one arm that ended alike in one row, with the log where there is one."""
    bad = statuses[statuses["state"] != "done"]
    grouped = bad.groupby(["state", "method", "arm", "task", "stage", "reason"], sort=True)["seed"].apply(list)
    found = []
    for (state, method, arm, task, stage, reason), seeds in grouped.items():
        logs = []
        for process in plan.processes:
            name = f"{arm}-{task}-{process.seeds}-{process.digest}.log"
            mine = (process.method, process.arm, process.task) == (method, arm, task)
            if mine and {job.key.seed for job in process.jobs} & set(seeds) and (plan.settings.folder / "logs" / method / name).exists():
                logs.append(quote(f"../logs/{method}/{name}"))
        found.append(
            {"state": state, "job": f"{method}/{arm}/{task}", "seeds": ", ".join(map(str, seeds)), "stage": stage}
            | {"reason": reason, "logs": logs}
        )
    return found


def _title(name: str, plan: Plan) -> str:
    return name if name in plan.broken else registry.method(name).title


def slug(text: object) -> str:
    """Fit for an id: small letters, digits and '-'."""
    return re.sub(r"[^a-z0-9]+", "-", str(text).lower()).strip("-") or "x"
