"""How Tycho's commands speak: one line for what the user can mend, tracebacks in the log, honest exit codes."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import typer

from tycho.errors import TychoError, one_line


def make_app(says: str) -> typer.Typer:
    return typer.Typer(help=says, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def start(app: typer.Typer) -> None:
    """Runs a command. What the user can mend is one line; anything else keeps its traceback."""
    try:
        # Without standalone_mode an Exit is not raised: its code is what the call returns.
        sys.exit(app(standalone_mode=False))
    except (TychoError, OSError) as error:
        logging.getLogger("tycho").debug("failed", exc_info=True)
        _fail(one_line(error))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        _fail(error.format_message())  # click's own errors: unknown option, missing argument


def _fail(text: str) -> None:
    if text:  # without a command, help was all there was to say
        print(f"tycho: {text}", file=sys.stderr)
    sys.exit(1)


def log_to(path: Path | None) -> None:
    """The log (with tracebacks) to a file, or to the terminal."""
    log = logging.getLogger("tycho")
    log.setLevel(logging.INFO)
    for old in list(log.handlers):  # of an earlier command in this process, whose stream may be closed
        log.removeHandler(old)
    if path is None:
        handler: logging.Handler = logging.StreamHandler()
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, mode="w")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.addHandler(handler)
