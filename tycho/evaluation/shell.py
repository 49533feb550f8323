"""lm-eval's own command line with Tycho's served methods among its models and Tycho's tasks among its tasks."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tycho.errors import TychoError, one_line, unknown
from tycho.evaluation.local import START, write_task


def run(words: list[str]) -> None:
    """`lm-eval WORDS...`. A room is imported only when its model is asked for."""
    import lm_eval.models  # noqa: F401 (registers lm-eval's own models)
    from lm_eval._cli import HarnessCLI
    from lm_eval.api.registry import model_registry
    from lm_eval.utils import setup_logging

    from tycho.evaluation.bridge import served
    from tycho.harness import served_rooms

    for room in served_rooms():
        if room not in model_registry:
            model_registry.register(room, target=served(room))
    setup_logging()
    sys.argv = ["lm-eval", *words]  # what lm-eval reads; it gives no other way
    cli = HarnessCLI()
    given = cli.parse_args()
    if getattr(given, "model", None) and given.model not in model_registry:
        raise unknown("model", given.model, model_registry.keys())
    names = [name for word in getattr(given, "tasks", None) or [] for name in word.split(",") if name]
    ours = [name.startswith(START) for name in names]
    with tempfile.TemporaryDirectory(prefix="tycho-tasks-") as folder, _index(not all(ours) or not ours):
        if names:
            paths = [str(write_task(n, Path(folder))) if own else n for n, own in zip(names, ours, strict=True)]
            given.tasks = paths
        try:
            cli.execute(given)
        except (KeyError, ValueError, OSError) as error:
            logging.getLogger("lm_eval").debug("failed", exc_info=True)
            raise TychoError(f"lm-eval: {one_line(error)}") from error


@contextlib.contextmanager
def _index(wanted: bool) -> Iterator[None]:
    """Where none of lm-eval's own tasks is asked for, its thousands of task files are not read: that takes half a minute."""
    import lm_eval.tasks

    whole = lm_eval.tasks.TaskManager
    if not wanted:
        lm_eval.tasks.TaskManager = functools.partial(whole, include_defaults=False)  # type: ignore[misc]
    try:
        yield
    finally:
        lm_eval.tasks.TaskManager = whole  # type: ignore[misc]
