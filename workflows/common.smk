# What is to be run, and what the rules need to know of it.
import json
import os
import sys
from pathlib import Path

from tycho.config import load_settings
from tycho.errors import TychoError
from tycho.jobs import plan
from tycho.worker import drop_stale_receipts

try:
    SETTINGS = load_settings(config)
    PLAN = plan(SETTINGS)
    drop_stale_receipts(PLAN, Path(workflow.overwrite_workdir or "."))
except TychoError as error:
    raise WorkflowError(str(error))
for reason in PLAN.broken.values():
    print(f"tycho: left out: {reason}", file=sys.stderr)

# Jobs are told by the environment what the user gave: in `params` a change of one method's knob would re-run all.
os.environ.update(
    TYCHO_SETTINGS=json.dumps(config),
    TYCHO_LINES="1",  # several jobs write to one terminal: lines, not bars
    PATH=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]),
)
if SETTINGS.tracking_uri:
    os.environ.update(MLFLOW_TRACKING_URI=SETTINGS.tracking_uri)
FOLDER = str(SETTINGS.folder)
RECEIPTS = [str(SETTINGS.folder / process.receipt) for process in PLAN.processes]
REPORT = f"{FOLDER}/report/index.html"
PUBLISHED = f"{FOLDER}/logs/published"


def upstream_receipts(method):
    """The receipts a process of `method` waits for, as an input function."""

    def receipts(wildcards):
        process = PLAN.process(method, wildcards.arm, wildcards.task, wildcards.seeds)
        return [
            str(SETTINGS.folder / found.receipt) for found in PLAN.upstream(process)
        ]

    return receipts


def longest_first(method):
    """What is ready first is what most time hangs on, or a long job would run alone at the end."""

    def priority(wildcards):
        process = PLAN.process(method, wildcards.arm, wildcards.task, wildcards.seeds)
        return PLAN.ahead[process.receipt]

    return priority


def growing(amount):
    """What a job gets: at each further attempt more, or it would end at the same limit."""
    return lambda wildcards, attempt: amount * attempt


def sources(*patterns):
    """Code that a rule's outcome depends on, for its input."""
    return sorted(
        str(path)
        for pattern in patterns
        for path in Path(workflow.basedir).glob(pattern)
    )
