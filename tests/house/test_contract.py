"""The contract, over everything in the registry: a new method is tested for free.

Each room runs at scale `smoke`, so keep that scale within seconds. The toy room is among them, so that the contract's
own tests run even where a room is being written.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from reports.claims import arms_named, load_claims
from tycho import registry
from tycho.config import Scale, job_config, load_settings, method_plan
from tycho.jobs import ACROSS, SYNTHESIS, job_folder, plan
from tycho.records import SCHEMAS, STAGES
from tycho.sources import ROOT
from tycho.worker import run_process, work_folder

QUICK_BUDGET = 3600.0  # CPU seconds of all methods together
TOYS = ROOT / "tests" / "toys"
ROOMS = sorted([*ROOT.glob("methods/*/method.py"), *TOYS.glob("*/method.py")])


@pytest.fixture(params=[path.parent.name for path in ROOMS])
def name(request, toys) -> str:
    return request.param


@pytest.fixture(scope="module")
def smoke_runs(tmp_path_factory, toys_module):
    """Runs a method's smoke scale once, and hands out the plan; asked for again, it is there already."""
    done = {}

    def run(name: str):
        if name not in done:
            folder = tmp_path_factory.mktemp(f"smoke-{name}")
            found = plan(load_settings({"scale": "smoke", "results": str(folder), "only": [name]}))
            assert not found.broken
            failures = {}
            for process in found.ordered():
                failures |= run_process(found, process)
            assert failures == {}
            done[name] = found
        return done[name]

    return run


def test_metadata_is_complete(name):
    method = registry.method(name)
    assert method.title and method.says.endswith(".") and len(method.says) > 40
    assert method.paper.title and method.paper.year >= 2020
    assert method.arms and method.tasks
    assert all(arm.says for arm in method.arms.values()) and all(method.tasks.values())
    assert SYNTHESIS not in method.arms and ACROSS not in method.tasks
    for arm in method.arms:
        stages = method.stages(arm)
        assert stages and list(stages) == [stage for stage in STAGES if stage in stages]
    for part in ("README.md", "claims.yaml", "scales.yaml"):
        assert (registry.rooms()[name] / part).stat().st_size > 50, f"{part} is missing or empty"


def test_every_knob_says_what_it_is(name):
    method = registry.method(name)
    method.Config()  # every knob has a default
    assert method.Config.model_config["extra"] == "forbid"
    for knob, info in method.Config.model_fields.items():
        assert info.description, f"{knob} has no meaning written down"
        assert (info.json_schema_extra or {}).get("stage") in STAGES
    method.Config.model_json_schema()


def test_every_scale_resolves(name):
    method = registry.method(name)
    plans = yaml.safe_load((registry.rooms()[name] / "scales.yaml").read_text())
    assert "smoke" in plans, "a room without the scale `smoke` cannot be tested"
    for scale in plans:
        assert scale in Scale.__args__
        found = method_plan(name, load_settings({"scale": scale}))
        for arm in found.arms or method.arms:
            for task in found.tasks or method.tasks:
                job_config(method, found, arm, task)


def test_planning_loads_nothing_heavy(name):
    """200 jobs are planned in seconds because an adapter's imports are light."""
    code = (
        f"import sys; from tycho import registry; registry.method({name!r});"
        "print([m for m in ('torch', 'transformers', 'mlflow', 'lm_eval', 'altair', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_claims_are_well_formed_and_their_arms_exist(name):
    method = registry.method(name)
    claims = load_claims(registry.rooms()[name] / "claims.yaml")
    assert claims, "a direction without a claim measures nothing"
    assert len({claim.id for claim in claims}) == len(claims)
    for claim in claims:
        assert claim.id.startswith(f"{name}.")
        for arm, task in arms_named(claim):
            assert arm in {*method.arms, SYNTHESIS}, f"{claim.id} names arm {arm!r}"
            assert task in {*method.tasks, ACROSS}, f"{claim.id} names task {task!r}"


def test_smoke_leaves_records_of_the_schema(name, smoke_runs):
    found = smoke_runs(name)
    for key, job in found.jobs.items():
        view = found.view(key)
        for kind, schema in SCHEMAS.items():
            schema.validate(view.record(kind)) if len(view.record(kind)) else None
        assert set(view.record("costs").stage) == set(job.stages)
        left = [path.name for path in view.folder.glob("*/**/*") if path.is_file() and path.name != "costs.parquet"]
        assert left, f"{key} leaves nothing behind"
        for figure in view.folder.glob("*/figures/*.json"):
            says = yaml.safe_load(figure.read_text())["usermeta"]["says"]
            assert says.endswith("."), f"{figure.name} does not say what to see"


def test_same_seed_gives_the_same_bytes(name, smoke_runs, tmp_path):
    found = smoke_runs(name)
    again = plan(load_settings({"scale": "smoke", "results": str(tmp_path), "only": [name]}))
    for process in again.ordered():
        assert run_process(again, process) == {}
    assert contents(found.settings.folder) == contents(again.settings.folder)


def test_resumed_from_a_checkpoint_gives_the_same_bytes(name, smoke_runs, tmp_path, run_killed):
    """Every training is stopped after its first checkpoint and started again."""
    found = smoke_runs(name)
    again = plan(load_settings({"scale": "smoke", "results": str(tmp_path), "only": [name], "checkpoint_seconds": 0}))
    stopped = run_killed(again, once=True)
    trains = [key for key, job in again.jobs.items() if "train" in job.stages]
    curves = [found.view(key).record("metrics").query("stage == 'train'").step.nunique() for key in trains]
    assert stopped or max(curves, default=0) < 5, "training has steps and offers no checkpoint: call run.checkpoint"
    assert contents(found.settings.folder) == contents(again.settings.folder)
    assert not any(work_folder(again.settings, key, "train").exists() for key in trains)


def test_budgets_fit_the_scale_quick(toys):
    """Budgets are a plan; whether runs kept to theirs stands in the report."""
    settings = load_settings({"scale": "quick"})
    names = [path.parent.name for path in ROOT.glob("methods/*/method.py")]
    plans = {name: method_plan(name, settings) for name in names}
    missing = [name for name, found in plans.items() if found and found.cpu_seconds is None]
    assert not missing, f"no cpu_seconds for scale quick: {missing}"
    assert sum(found.cpu_seconds for found in plans.values() if found) <= QUICK_BUDGET


def contents(folder: Path) -> dict[str, str]:
    """Bytes of everything the jobs left, but the timings."""
    jobs = folder / "jobs"
    return {
        str(path.relative_to(jobs)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(jobs.rglob("*"))
        if path.is_file() and path.name != "costs.parquet"
    }


def test_a_measurement_is_read_as_it_was_written(toys, smoke_runs):
    found = smoke_runs("toy")
    key = next(key for key in found.jobs if key.arm == "steep")
    metrics = found.view(key).record("metrics")
    assert isinstance(metrics, pd.DataFrame) and job_folder(found.settings, key).is_dir()
    assert metrics.query("name == 'level'").step.tolist() == list(range(20))
