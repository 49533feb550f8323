"""One page a reader can trust, from the collected tables, the claims and the figures the jobs left. Reads records only."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import pandas as pd
from markdown_it import MarkdownIt
from markupsafe import Markup

from reports import costs, ground, sections
from reports.claims import Claim
from reports.collect import Collected, claims_by_method, read_claims_table, read_collected, rooms
from reports.scorecard import STATES, claims_markdown, scorecard, slug
from tycho import registry
from tycho.files import write_json, write_text
from tycho.jobs import Plan
from tycho.provenance import environment

TEMPLATES = Path(__file__).parent / "templates"


def compile_report(plan: Plan) -> tuple[Path, list[str]]:
    """Writes report/index.html, report/claims.csv, report/claims.md and provenance.json.

    Returns the page's path and a line for each file that cannot be read.
    """
    folder = plan.settings.folder
    collected, verdicts = read_collected(folder), read_claims_table(folder)
    claims, problems = claims_by_method(plan)
    rows = scorecard(verdicts, claims, collected, plan)
    origin = provenance(plan, collected.statuses)
    directions = [direction(name, plan, collected, claims.get(name, []), rows, problems) for name in rooms(plan)]
    page = render(
        {
            "head": header(plan, collected, origin),
            "summary": summary(rows, plan),
            "claims": rows,
            "fidelities": sorted({row["fidelity"] for row in rows}),
            "states": STATES,
            "directions": directions,
            "ground": ground.common_ground(plan, collected.samples, collected.costs),
            "budgets": costs.budgets(plan, collected.costs),
            "failures": failures(plan, collected.statuses),
            "problems": [*plan.broken.values(), *problems],
            "origin": origin,
        }
    )
    write_json(folder / "provenance.json", origin)
    write_text(folder / "report" / "claims.csv", verdicts.to_csv(index=False, lineterminator="\n"))
    write_text(folder / "report" / "claims.md", claims_markdown(rows))
    write_text(folder / "report" / "index.html", page)
    return folder / "report" / "index.html", problems


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


# --- the other sections ----------------------------------------------------------------------------------------------


def summary(rows: list[dict[str, Any]], plan: Plan) -> dict[str, Any]:
    """How many claims ended how: all together, and a mark a claim by direction."""
    counts = [
        {"state": state, "word": word, "n": sum(row["state"] == state for row in rows)}
        for state, word in STATES.items()
    ]
    titles = {name: _title(name, plan) for name in rooms(plan)}
    by_direction = [
        {
            "name": name,
            "anchor": f"direction-{slug(name)}",
            "title": title,
            "claims": [row for row in rows if row["method"] == name],
        }
        for name, title in titles.items()
    ]
    judged = [count for count in counts if count["n"]]
    return {
        "total": len(rows),
        "counts": judged,
        "all": {count["state"]: count["n"] for count in counts},
        "directions": by_direction,
    }


def direction(
    name: str,
    plan: Plan,
    collected: Collected,
    claims: list[Claim],
    rows: list[dict[str, Any]],
    problems: list[str],
) -> dict[str, Any]:
    """One direction's section; of a method that cannot be loaded only the reason. Adds to `problems`."""
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
    about = sections.Direction(plan, method, collected, claims, problems)
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
        "costs": costs.arm_costs(about),
        "configuration": costs.configuration(about),
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
            if (
                mine
                and {job.key.seed for job in process.jobs} & set(seeds)
                and (plan.settings.folder / "logs" / method / name).exists()
            ):
                logs.append(quote(f"../logs/{method}/{name}"))
        found.append(
            {"state": state, "job": f"{method}/{arm}/{task}", "seeds": ", ".join(map(str, seeds)), "stage": stage}
            | {"reason": reason, "logs": logs}
        )
    return found


def _title(name: str, plan: Plan) -> str:
    return name if name in plan.broken else registry.method(name).title
