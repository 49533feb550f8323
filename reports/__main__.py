"""From the jobs' records to one report: `python -m reports collect|judge|compile|all`. Everything heavy is imported inside."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tycho.errors import TychoError, one_line

if TYPE_CHECKING:
    from tycho.jobs import Plan

app = typer.Typer(
    help="Collects records, judges claims and compiles the report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Given = Annotated[str, typer.Option("--settings", envvar="TYCHO_SETTINGS", help="What the user gave Snakemake, as JSON.")]
Log = Annotated[Path | None, typer.Option(help="Where the log goes.")]


@app.command()
def collect(settings: Given = "{}", log: Log = None) -> None:
    """All jobs' records together, and what became of every job."""
    _finish(_collect(_start(settings, log)))


@app.command()
def judge(settings: Given = "{}", log: Log = None) -> None:
    """A verdict for every claim."""
    _finish(_judge(_start(settings, log)))


@app.command("compile")
def compile_(settings: Given = "{}", log: Log = None) -> None:
    """The page and its exports."""
    _finish(_compile(_start(settings, log)))


@app.command("all")
def all_(settings: Given = "{}", log: Log = None) -> None:
    """The three after each other, with whatever is there."""
    plan = _start(settings, log)
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

    page = compile_report(plan)
    logging.getLogger("tycho").info("report: %s", page)
    return []


def _start(settings: str, log: Path | None) -> Plan:
    from tycho.config import load_settings
    from tycho.jobs import plan

    _log_to(log)
    try:
        given = json.loads(settings)
    except ValueError as error:
        raise TychoError(f"--settings takes JSON: {one_line(error)}") from error
    return plan(load_settings(given))


def _finish(problems: list[str]) -> None:
    """Whatever could be written has been; what could not be read is named, and the exit code says so."""
    if problems:
        raise TychoError("; ".join(problems))


def _log_to(path: Path | None) -> None:
    log = logging.getLogger("tycho")
    log.setLevel(logging.INFO)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.StreamHandler() if path is None else logging.FileHandler(path, mode="w")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.addHandler(handler)


def main() -> None:
    """Runs a command. What the user can mend is one line; anything else keeps its traceback."""
    try:
        app(standalone_mode=False)
    except (TychoError, OSError) as error:
        logging.getLogger("tycho").debug("failed", exc_info=True)
        _fail(one_line(error))
    except typer.Exit as ended:
        sys.exit(ended.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except Exception as error:
        if hasattr(error, "format_message"):  # click's own errors: unknown option, missing argument
            _fail(error.format_message())
        raise


def _fail(text: str) -> None:
    print(f"tycho: {text}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
