"""The documentation's pages are made from the code, whole, and lead somewhere. (`make docs` turns them into a site.)"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pandas as pd
import pytest
import typer
import yaml

from tycho.config import MethodPlan, Settings
from tycho.registry import method, rooms

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def builder():
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(builder, tmp_path_factory) -> dict[str, str]:
    to = tmp_path_factory.mktemp("docs") / "docs"
    return {path.relative_to(to).as_posix(): path.read_text() for path in builder.build(to)}


def test_every_command_and_option_is_described(pages):
    from tycho.cli import add_room_commands, app

    add_room_commands()
    text = pages["reference/cli.md"]
    for name, command in typer.main.get_command(app).commands.items():
        section = text[text.index(f"\n## {name}\n") :].split("\n## ", 2)[1]
        for param in command.params:
            if param.param_type_name == "option":
                assert all(f"{opt}" in section for opt in param.opts), (name, param.name)
    assert "\n## diff\n" in text and "\n## run\n" in text  # rooms' commands and the frame's


def test_every_setting_is_described(pages):
    text = pages["reference/config.md"]
    for model in (Settings, MethodPlan):
        for name, info in model.model_fields.items():
            assert f"| `{name}` |" in text and info.description.split(".")[0] in text.replace("\\|", "|")


def test_every_direction_has_its_page_with_all_arms_and_knobs(pages):
    for name in rooms():
        text, found = pages[f"directions/{name}.md"], method(name)
        assert (ROOT / "methods" / name / "README.md").read_text().splitlines()[0] in text
        assert all(f"| `{arm}` |" in text for arm in found.arms)
        assert all(f"| `{knob}` |" in text for knob in found.Config.model_fields)


def test_links_lead_to_pages(pages):
    for name, text in pages.items():
        for target in re.findall(r"(?<!\\)\]\(([^)\s]+)\)", text):
            if not re.match(r"[a-z]+:|#", target):
                path = (Path("/") / name).parent / target.split("#")[0]
                there = Path(
                    *[p for p in Path(re.sub(r"[^/]+/\.\./", "", path.as_posix())).parts if p != "/"]
                ).as_posix()
                assert there in pages or (ROOT / "docs" / there).exists() or there == "example/index.html", (
                    name,
                    target,
                )


def test_readme_and_pages_lead_to_the_example(pages):
    for name in ("index.md", "verdicts.md", "tutorial.md"):
        assert "](example/index.html)" in pages[name], name


@pytest.mark.slow
def test_the_example_is_the_report_of_the_kept_records(builder, tmp_path):
    page = builder.example(tmp_path)
    assert page == tmp_path / "example" / "index.html" and "claims judged held" in page.read_text()
    kept, shown = (
        pd.read_parquet(path / "claims.parquet") for path in (ROOT / "records/standard", page.parent / "data")
    )
    assert set(kept.id) & set(shown.id)


def test_the_contents_name_every_page_once(pages):
    def leaves(node):
        return (
            [node]
            if isinstance(node, str)
            else [
                leaf for part in node for leaf in leaves(part if isinstance(part, str) else next(iter(part.values())))
            ]
        )

    listed = leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(listed) == sorted(pages)


def test_the_tutorials_commands_exist(pages):
    from tycho.cli import add_room_commands, app

    add_room_commands()
    commands = typer.main.get_command(app).commands
    lines = re.findall(r"\.venv/bin/tycho (\S+)([^\n#]*)", pages["tutorial.md"])
    assert len(lines) > 10
    for name, rest in lines:
        known = {opt for param in commands[name].params for opt in param.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= known, (name, rest)
