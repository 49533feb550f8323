"""From the jobs' records to one report: `python -m reports collect|judge|compile|all`. Everything heavy is imported inside."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tycho.errors import TychoError, one_line
from tycho.terminal import log_to, make_app, start

if TYPE_CHECKING:
    from tycho.jobs import Plan

app = make_app("Collects records, judges claims and compiles the report.")
Given = Annotated[
    str, typer.Option("--settings", envvar="TYCHO_SETTINGS", help="What the user gave Snakemake, as JSON.")
]
Log = Annotated[Path | None, typer.Option(help="Where the log goes.")]


@app.command()
def collect(settings: Given = "{}", log: Log = None) -> None:
    """All jobs' records together, and what became of every job."""
    _finish(_collect(_plan(settings, log)))


@app.command()
def judge(settings: Given = "{}", log: Log = None) -> None:
    """A verdict for every claim."""
    _finish(_judge(_plan(settings, log)))


@app.command("compile")
def compile_(settings: Given = "{}", log: Log = None) -> None:
    """The page and its exports."""
    _finish(_compile(_plan(settings, log)))


@app.command("all")
def all_(settings: Given = "{}", log: Log = None) -> None:
    """The three after each other, with whatever is there."""
    plan = _plan(settings, log)
    problems = [*_collect(plan), *_judge(plan), *_compile(plan)]
    _finish(list(dict.fromkeys(problems)))


def _collect(plan: Plan) -> list[str]:
    from reports.collect import collect, write_collected

    collected, problems = collect(plan)
    write_collected(plan.settings.folder, collected)
    states = collected.statuses.state.value_counts()
    logging.getLogger("tycho").info("jobs: %s", ", ".join(f"{n} {state}" for state, n in states.items()) or "none")
    return problems


def _judge(plan: Plan) -> list[str]:
    from reports.collect import judge, read_collected
    from tycho import records

    verdicts, problems = judge(plan, read_collected(plan.settings.folder))
    records.write(plan.settings.folder / "claims.parquet", verdicts)
    counts = verdicts.verdict.value_counts()
    logging.getLogger("tycho").info("claims: %s", ", ".join(f"{n} {v}" for v, n in counts.items()) or "none")
    return problems


def _compile(plan: Plan) -> list[str]:
    from reports.compile import compile_report

    page, problems = compile_report(plan)
    logging.getLogger("tycho").info("report: %s", page)
    return problems


def _plan(settings: str, log: Path | None) -> Plan:
    from tycho.config import load_settings
    from tycho.jobs import plan

    log_to(log)
    try:
        given = json.loads(settings)
    except ValueError as error:
        raise TychoError(f"--settings takes JSON: {one_line(error)}") from error
    return plan(load_settings(given))


def _finish(problems: list[str]) -> None:
    """Whatever could be written has been; what could not be read is named, and the exit code says so."""
    if problems:
        raise TychoError("; ".join(problems))


if __name__ == "__main__":
    start(app)
