"""One page a reader can trust, from the collected tables, the claims and the figures the jobs left. Reads records only."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markdown_it import MarkdownIt
from markupsafe import Markup, escape

from reports import costs, exports, ground, sections, trace
from reports.collect import Collected, claims_by_method, lookup, read_claims_table, read_collected, rooms
from reports.estimands import Measured
from reports.scorecard import JUDGED, STATES, scorecard, slug
from tycho import registry
from tycho.attached import LINKS, LOCAL, TARGET
from tycho.files import write_json, write_text
from tycho.jobs import Plan
from tycho.provenance import environment

MOST_LOG_LINES = 300
TEMPLATES = Path(__file__).parent / "templates"


def compile_report(plan: Plan) -> tuple[Path, list[str]]:
    """Writes the pages of the report (index.html, one a direction, one of records a direction) and what lies beside them.

    Returns index.html's path and a line for each file that cannot be read.
    """
    folder = plan.settings.folder
    report = folder / "report"
    collected, verdicts = read_collected(folder), read_claims_table(folder)
    claims, problems = claims_by_method(plan)
    measured = Measured(collected, lookup, plan.settings.scale)
    rows = scorecard(verdicts, claims, collected, plan, measured)
    origin = provenance(plan, collected.statuses)
    abouts = {
        name: sections.Direction(plan, registry.method(name), collected, claims.get(name, []), problems)
        for name in rooms(plan)
        if name not in plan.broken
    }
    directions = [direction(name, plan, abouts.get(name), rows) for name in rooms(plan)]
    common = ground.common_ground(plan, collected.samples, collected.costs, collected.metrics)
    fixed = {"head": header(plan, collected, origin), "states": STATES, "directions": directions, "origin": origin}
    fixed["traced_pages"] = set(abouts)  # directions with a page of records: ingredients of others may be of none
    index = fixed | {
        "summary": summary(rows, directions),
        "claims": rows,
        "fidelities": sorted({row["fidelity"] for row in rows}),
        "ground": common,
        "budgets": costs.budgets(plan, collected.costs),
        "failures": failures(plan, collected.statuses),
        "problems": [*plan.broken.values(), *problems],
    }
    pages = {
        "index.html": render("index.html", index),
        LINKS: render("mlflow.html", fixed | {"mlflow": _store_address(report / LINKS)}),
    }
    for found in directions:
        pages[found["page"]] = render("direction.html", fixed | {"found": found})
        about = abouts.get(found["name"])
        if about is not None:
            traced = trace.records_page(about, rows, measured)
            pages[found["records"]] = render("records.html", fixed | {"found": found, "traced": traced, "up": "../"})
    figures = [figure for found in directions for group in found.get("figures", []) for figure in group["drawn"]]
    tables = [table for found in directions for table in found.get("tables", [])]
    written = {
        *exports.write_data(folder, report, collected, verdicts),
        *exports.write_figures(report, [*figures, *(common["figures"] if common else [])]),
        *exports.write_tables(report, rows, common, plan.settings.scale),
        *exports.write_frames(report, tables),
        *(log for row in index["failures"] for log in row["logs"]),
    }
    write_json(folder / "provenance.json", origin)
    write_json(report / "data" / "provenance.json", origin)
    for name, page in pages.items():  # the front page last: it is what the workflow waits for
        if name != "index.html":
            write_text(report / name, page)
    write_text(report / "index.html", pages["index.html"])
    exports.drop_old(report, written | {"data/provenance.json", *pages})
    return report / "index.html", problems


def _store_address(page: Path) -> str:
    """Where the scale's experiment was when it was last published; until then a place that `tycho sync` fills in."""
    found = TARGET.search(page.read_text(encoding="utf-8")) if page.exists() else None
    return found[0].removeprefix('href="').rstrip("/") if found else f"{LOCAL}/#/experiments/none"


def render(template: str, context: dict[str, Any]) -> str:
    """A page. Every string is escaped; the policy in its head lets nothing run but our own script, and nothing load."""
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    fixed = {"script": Markup(script), "script_digest": digest, "style": Markup(style), "slug": slug, "up": ""}
    return _environment().get_template(template).render(fixed | context)


@functools.cache
def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(TEMPLATES)
    found = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found.filters["code"] = _code
    return found


def _code(text: str) -> Markup:
    """What stands between backticks in a sentence of a room is code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


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


# --- the other sections ----------------------------------------------------------------------------------------------


def summary(rows: list[dict[str, Any]], directions: list[dict[str, Any]]) -> dict[str, Any]:
    """How many claims ended how: all together, and by direction a mark a claim, those that held first."""
    order = {state: place for place, state in enumerate(STATES)}
    counts = [
        {"state": state, "word": word, "n": sum(row["state"] == state for row in rows)}
        for state, word in STATES.items()
    ]
    by_direction = []
    for found in directions:
        asked = [row for row in found["claims"] if row["state"] != "not-planned"]
        by_direction.append(
            {key: found[key] for key in ("name", "page", "short")}
            | {"claims": sorted(asked, key=lambda row: order[row["state"]])}
            | {"held": sum(row["held"] for row in asked), "judged": sum(row["state"] in JUDGED for row in asked)}
            | {"elsewhere": len(found["claims"]) - len(asked), "total": len(found["claims"])}
        )
    return {
        "total": len(rows),
        "held": sum(row["held"] for row in rows),
        "judged": sum(row["state"] in JUDGED for row in rows),
        "counts": [count for count in counts if count["n"]],
        "all": {count["state"]: count["n"] for count in counts},
        "directions": by_direction,
    }


def direction(name: str, plan: Plan, about: sections.Direction | None, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What a direction's page says; of a method that cannot be loaded only the reason."""
    idea, rest = notes(rooms(plan)[name])
    title = name if about is None else about.method.title
    found: dict[str, Any] = {
        "name": name,
        "page": f"{slug(name)}.html",
        "records": f"records/{slug(name)}.html",
        "title": title,
        "short": title.partition(":")[0],
        "claims": [row for row in rows if row["method"] == name],
        "broken": plan.broken.get(name, ""),
        "planned": name in plan.methods,
        "idea": idea,
        "notes": rest,
    }
    if about is None:
        return found
    groups = sections.metric_groups(about)
    return found | {
        "says": about.method.says,
        "paper": about.method.paper,
        "tasks": about.method.tasks,
        "arms": sections.arms(about),
        "figures": sections.figures(about),
        "groups": groups[: sections.MOST_GROUPS],
        "more_groups": groups[sections.MOST_GROUPS :],
        "samples": sections.sample_browsers(about),
        "tables": sections.tables(about),
        "costs": costs.arm_costs(about),
        "configuration": costs.configuration(about),
        "experiment": f"tycho-{plan.settings.scale}",
        "origin": made_by(about),
    }


def made_by(about: sections.Direction) -> dict[str, Any]:
    """Commits, environment and machine of one direction's records."""
    statuses, spent = about.of(about.records.statuses), about.of(about.records.costs)
    done = statuses[statuses["state"] == "done"]
    days = sorted({started[:10] for started in spent["started"]})
    return {
        "commits": sorted({commit for text in done["commit"] for commit in text.split()}),
        "locks": sorted({lock for text in done["lock"] for lock in text.split()}),
        "dirty": bool(done["dirty"].any()),
        "devices": sorted(set(spent["device"])),
        "threads": sorted({int(threads) for threads in spent["threads"]}),
        "days": " to ".join(dict.fromkeys([days[0], days[-1]])) if days else "",
    }


def notes(room: Path) -> tuple[Markup, Markup]:
    """The room's README as HTML in two parts: the idea (paragraphs up to the first list, table or heading), and the rest.

    HTML inside it is shown, not obeyed; only links out are links. Headings sink below the page's own.
    """
    path = room / "README.md"
    if not path.exists():
        return Markup(""), Markup("")
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(path.read_text(encoding="utf-8"))
    if tokens and tokens[0].type == "heading_open" and tokens[0].tag == "h1":  # the page has it
        tokens = tokens[3:]
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + 2, 6)}"
        inside = token.children or []
        for place, child in enumerate(inside):
            if child.type == "image":  # nothing is loaded from elsewhere
                child.type, child.tag, child.nesting, child.content = "text", "", 0, child.content or "image"
            if child.type == "link_open" and not str(child.attrs.get("href", "")).startswith("https://"):
                end = next(i for i in range(place, len(inside)) if inside[i].type == "link_close")
                for part in (child, inside[end]):
                    part.type, part.tag, part.nesting, part.content = "text", "", 0, ""
    plain = ("paragraph_open", "inline", "paragraph_close")
    cut = next((place for place, token in enumerate(tokens) if token.type not in plain), len(tokens))
    idea, rest = (reader.renderer.render(part, reader.options, {}) for part in (tokens[:cut], tokens[cut:]))
    return Markup(idea), Markup(rest)


def failures(plan: Plan, statuses: pd.DataFrame) -> list[dict[str, Any]]:
    """Jobs that are not done, those of one arm that ended alike in one row, with the end of the log where there is one."""
    bad = statuses[statuses["state"] != "done"]
    grouped = bad.groupby(["state", "method", "arm", "task", "stage", "reason"], sort=True)["seed"].apply(list)
    found = []
    for (state, method, arm, task, stage, reason), seeds in grouped.items():
        logs = []
        for process in plan.processes:
            name = f"{arm}-{task}-{process.seeds}-{process.digest}.log"
            mine = (process.method, process.arm, process.task) == (method, arm, task)
            if (
                mine
                and {job.key.seed for job in process.jobs} & set(seeds)
                and (plan.settings.folder / "logs" / method / name).exists()
            ):
                logs.append(f"logs/{slug(f'{method} {name}')}.txt")
                text = (plan.settings.folder / "logs" / method / name).read_text(encoding="utf-8", errors="replace")
                lines = text.splitlines()[-MOST_LOG_LINES:]
                write_text(plan.settings.folder / "report" / logs[-1], "\n".join(lines) + "\n")
        found.append(
            {"state": state, "job": f"{method}/{arm}/{task}", "seeds": ", ".join(map(str, seeds)), "stage": stage}
            | {"reason": reason, "logs": logs}
        )
    return found
