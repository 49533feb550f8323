"""The documentation's source folder: these pages, the README, a page a direction, and references read from the code.

    .venv/bin/python docs/build.py build/docs

`make docs` runs it and then MkDocs over what it wrote. Nothing generated is kept, so nothing of it can be out of date.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = "example/index.html"


def build(to: Path) -> list[Path]:
    """Writes all pages into `to`, which is emptied first."""
    from tycho.registry import method, rooms

    if to.exists():
        shutil.rmtree(to)
    shutil.copytree(ROOT / "docs", to, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    pages = {
        "index.md": (ROOT / "README.md").read_text(encoding="utf-8"),
        "changes.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        "environment.md": (ROOT / "envs" / "README.md").read_text(encoding="utf-8"),
        "reference/cli.md": cli_reference(),
        "reference/config.md": config_reference(),
    }
    for name, room in rooms().items():
        readme = (room / "README.md").read_text(encoding="utf-8")
        pages[f"directions/{name}.md"] = readme.rstrip() + "\n\n" + direction_reference(method(name), room)
    for page in to.glob("*.md"):
        pages.setdefault(page.name, page.read_text(encoding="utf-8"))
    for name, text in pages.items():
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        (to / name).write_text(_links(text, name), encoding="utf-8")
    return sorted(to / name for name in pages)


def example(to: Path) -> Path:
    """The report of the records that are kept, compiled anew, beside the pages: what a reader can expect to see."""
    from reports.kept import rebuild

    with tempfile.TemporaryDirectory() as folder:
        report = rebuild(ROOT / "records" / "standard", Path(folder))
        shutil.copytree(report.parent, (to / EXAMPLE).parent)
    return to / EXAMPLE


def _links(text: str, page: str) -> str:
    """Links as they stand in the repository, made those of the site; what the site does not have becomes text."""
    up = "../" * page.count("/")

    def site(match: re.Match[str]) -> str:
        words, target = match[1], match[2]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, place = target.partition("#")
        path = path.removeprefix("./")
        while path.startswith("../"):
            path = path[3:]
        path = path.removeprefix("docs/")
        room = re.fullmatch(r"methods/(\w+)/(?:README\.md)?", path)
        there = {"CHANGELOG.md": "changes.md", "envs/README.md": "environment.md", "README.md": "index.md"}
        there["records/README.md"] = EXAMPLE
        new = f"directions/{room[1]}.md" if room else there.get(path, path)
        own = {
            "tutorial.md",
            "reference/cli.md",
            "reference/config.md",
            "changes.md",
            "environment.md",
            "index.md",
            EXAMPLE,
        }
        known = new in own or (ROOT / "docs" / new).exists() or (room and (ROOT / "methods" / room[1]).exists())
        known = known or (new.startswith("directions/") and (ROOT / "methods" / Path(new).stem).exists())
        return f"[{words}]({up}{new}{'#' + place if place else ''})" if known else words

    return re.sub(r"(?<!\\)\[([^\[\]]*)\]\(([^)\s]+)\)", site, text)


def _table(header: list[str], rows: Iterable[list[Any]]) -> str:
    def cell(text: Any) -> str:
        return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")

    lines = [header, ["---"] * len(header), *([cell(text) for text in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def cli_reference() -> str:
    """Every command with its arguments and options, from the program itself; those that rooms offer too."""
    import typer

    from tycho.cli import add_room_commands, app

    add_room_commands()
    group = typer.main.get_command(app)
    parts = ["# Commands\n\n`tycho COMMAND --help` says the same. Made from the code.\n"]
    for name, command in sorted(group.commands.items()):
        words = [str(p.name).upper() for p in command.params if p.param_type_name == "argument"]
        usage = " ".join([f"tycho {name}", *words, "[OPTIONS]"])
        says = " ".join((command.help or "").split())
        parts += [f"## {name}\n\n{says}\n", f"```\n{usage}\n```\n"]
        rows = [
            [
                f"`{str(p.name).upper() if p.param_type_name == 'argument' else ', '.join(p.opts)}`",
                _default(p),
                getattr(p, "help", "") or "",
            ]
            for p in command.params
            if not getattr(p, "hidden", False)
        ]
        if rows:
            parts.append(_table(["argument or option", "default", "meaning"], rows))
    return "\n".join(parts)


def _default(param: Any) -> str:
    if param.required:
        return "must be given"
    value = param.default() if callable(param.default) else param.default
    empty = value is None or value is False or value == "" or "Sentinel" in type(value).__name__
    return "" if empty else f"`{value}`"


def config_reference() -> str:
    """Every key of the settings and of a method's plan, from their schemas."""
    import yaml

    from tycho.config import MethodPlan, Settings

    def rows(model: Any) -> list[list[Any]]:
        return [
            [f"`{name}`", "" if info.is_required() else f"`{yaml.safe_dump(info.default, default_flow_style=True).split(chr(10))[0]}`", info.description or ""]
            for name, info in model.model_fields.items()
        ]  # fmt: skip

    scales = "\n".join(
        f"## Scale `{path.stem}`\n\n```yaml\n{path.read_text(encoding='utf-8').rstrip()}\n```\n"
        for path in sorted((ROOT / "config").glob("*.yaml"))
        if path.stem != "default"
    )
    return "\n".join(
        [
            "# Configuration\n",
            "Three layers, each over the one before: `config/<scale>.yaml`, a room's `scales.yaml`, and what you give with "
            "`--config name=value` or `--configfile FILE`. A typo is named with the nearest key. Made from the code.\n",
            "## Settings\n",
            _table(["key", "default", "meaning"], rows(Settings)),
            "## What one method runs: an entry of `methods`, or of a room's `scales.yaml`\n",
            _table(["key", "default", "meaning"], rows(MethodPlan)),
            "A method's own knobs stand on the page of its direction.\n",
            scales,
        ]
    )


def direction_reference(method: Any, room: Path) -> str:
    """Arms, tasks, claims and knobs of a direction."""
    from reports.claims import load_claims

    claims = load_claims(room / "claims.yaml") if (room / "claims.yaml").exists() else []
    knobs = []
    for name, info in method.Config.model_fields.items():
        extra = info.json_schema_extra or {}
        knobs.append(
            [
                f"`{name}`",
                f"`{info.get_default(call_default_factory=True)}`",
                extra.get("unit", ""),
                info.description or "",
            ]
        )
    papers = {c.id: ", ".join(f"{k} {v}" for k, v in (c.paper or {}).items() if k != "note") for c in claims}
    return "\n".join(
        [
            f"## Arms\n\n{method.says}\n",
            _table(["arm", "role", "what it is"], [[f"`{n}`", arm.role, arm.says] for n, arm in method.arms.items()]),
            "## Tasks\n",
            _table(["task", "what it is"], [[f"`{name}`", says] for name, says in method.tasks.items()]),
            "## Claims\n",
            _table(
                ["claim", "what the paper says", "its numbers", "where", "fidelity"],
                [
                    [f"`{c.id}`", c.says, papers[c.id], f"arXiv {c.source.arxiv}, {c.source.where}", c.fidelity]
                    for c in claims
                ],
            ),
            "## Knobs\n",
            _table(["knob", "default", "unit", "meaning"], knobs),
        ]
    )


if __name__ == "__main__":
    for path in build(Path(sys.argv[1])):
        print(path)
    print(example(Path(sys.argv[1])))
