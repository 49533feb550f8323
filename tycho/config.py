"""The input's schema: what to run at which scale.

Three layers, each over the one before: `config/<scale>.yaml` (the scale), a room's `scales.yaml` (what the method runs
at that scale), and what the user gives (`--config`, `--configfile`). All are validated here; a typo is named with the
nearest key.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tycho import registry
from tycho.adapter import Method, MethodConfig
from tycho.device import DEVICES, check_device
from tycho.errors import TychoError, unknown
from tycho.files import content_hash
from tycho.sources import ROOT

Scale = Literal["smoke", "quick", "standard", "paper"]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


class MethodPlan(Strict):
    """What one method runs at one scale (an entry of a room's scales.yaml)."""

    arms: list[str] | None = Field(
        None, description="Arms to run; left out: all. Ingredients come with whoever needs them."
    )
    tasks: list[str] | None = Field(None, description="Tasks to run; left out: all.")
    task_arms: dict[str, list[str]] | None = Field(
        None, description="Arms by task, for tasks that do not run those of `arms`."
    )
    task_seeds: dict[str, list[int]] | None = Field(
        None, description="Seeds by task, for tasks that do not run those of `seeds`."
    )
    seeds: int | list[int] = Field(1, description="A number n for seeds 0 to n-1, or the seeds themselves.")
    config: dict[str, Any] = Field({}, description="Knobs for all arms.")
    arm_config: dict[str, dict[str, Any]] = Field({}, description="Knobs by arm.")
    task_config: dict[str, dict[str, Any]] = Field({}, description="Knobs by task.")
    together: bool = Field(True, description="One process for all seeds of an arm; false: one a seed.")
    cpu_seconds: float | None = Field(None, description="The method's CPU budget at this scale, all jobs together.")
    memory_mb: int = Field(4000, description="Memory of one process, for schedulers.")
    minutes: int = Field(60, description="Time limit of one process, for schedulers.")
    gpus: int = Field(0, description="GPUs of one process, for schedulers.")

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, seeds: int | list[int]) -> list[int]:
        found = list(range(seeds)) if isinstance(seeds, int) else seeds
        if not found or min(found) < 0 or len(set(found)) < len(found):
            raise ValueError("seeds are a positive number or a list of different numbers from 0 on")
        return found


class Settings(Strict):
    """Everything a run of the DAG takes."""

    scale: Scale = Field("quick", description="What to run: smoke, quick, standard or paper.")
    results: str = Field("results", min_length=1, description="The folder of all results, the MLflow store included.")
    only: list[str] = Field([], description="Methods to run (a list, or names apart by commas); empty: all.")
    device: Literal[DEVICES] = Field("auto", description="auto takes a GPU where there is one.")  # type: ignore[valid-type]
    threads: int = Field(1, ge=1, description="CPU threads of one process. One and two threads give different weights.")
    checkpoint_seconds: float = Field(60.0, ge=0, description="How often a training writes its checkpoint.")
    tracking_uri: str = Field("", description="MLflow store; empty: sqlite in the results folder.")
    methods: dict[str, dict[str, Any]] = Field(
        {}, description="Changes to single methods' plans, by name (see MethodPlan)."
    )

    @field_validator("only", mode="before")
    @classmethod
    def _only(cls, only: Any) -> Any:
        return [name.strip() for name in only.split(",") if name.strip()] if isinstance(only, str) else only

    @field_validator("results")
    @classmethod
    def _results(cls, results: str) -> str:
        return os.path.expanduser(results)  # no shell does it after `--config results=`

    @field_validator("device", mode="before")
    @classmethod
    def _device(cls, device: Any) -> str:
        return check_device(str(device))

    @property
    def folder(self) -> Path:
        """Where this scale's results lie."""
        return Path(self.results) / self.scale


def load_settings(given: dict[str, Any] | None = None) -> Settings:
    """The scale's file with `given` over it, validated."""
    given = dict(given or {})
    scale = str(given.get("scale", "quick"))
    if scale not in Scale.__args__:
        raise unknown("scale", scale, Scale.__args__)
    return checked(Settings, merged(read_yaml(ROOT / "config" / f"{scale}.yaml"), given), "config")


def method_plan(name: str, settings: Settings) -> MethodPlan | None:
    """What a method runs at this scale; None where its room has no entry for the scale."""
    path = registry.rooms()[name] / "scales.yaml"
    plans = read_yaml(path) if path.exists() else {}
    for scale in plans:
        if scale not in Scale.__args__:
            raise unknown(f"scale in {path}", scale, Scale.__args__)
    own = plans.get(settings.scale, {}) or {}
    if not isinstance(own, dict):
        raise TychoError(f"{path}: {settings.scale} must hold keys and values, not {own!r}")
    change = settings.methods.get(name, {})
    if settings.scale not in plans and not change:
        return None
    plan = checked(MethodPlan, merged(own, change), f"{name} at scale {settings.scale}")
    method = registry.method(name)
    by_task = [arm for arms in (plan.task_arms or {}).values() for arm in arms]
    for kind, chosen, known in (
        ("arm", [*(plan.arms or []), *plan.arm_config, *by_task], method.arms),
        (
            "task",
            [*(plan.tasks or []), *plan.task_config, *(plan.task_arms or {}), *(plan.task_seeds or {})],
            method.tasks,
        ),
    ):
        for item in chosen:
            if item not in known:
                raise unknown(f"{kind} of {name}", item, known)
    return plan


def job_config(method: Method, plan: MethodPlan, arm: str, task: str) -> MethodConfig:
    """A job's knobs: the method's defaults, the arm's, then the plan's for all, for the task, for the arm.

    What makes an arm (its own config) is put in last: a plan's knobs for all arms must not turn a control into
    something else. Only the plan's own `arm_config` may.
    """
    values: dict[str, Any] = {}
    for layer in (plan.config, plan.task_config.get(task, {}), method.arms[arm].config, plan.arm_config.get(arm, {})):
        values = merged(values, layer)
    return checked(method.Config, values, f"{method.name}, arm {arm}, task {task}")


def described(config: MethodConfig, stages: tuple[str, ...]) -> dict[str, Any]:
    """The knobs that the given stages read, as plain JSON; a knob that names a file counts with the file's contents."""
    values = config.model_dump(mode="json")
    found: dict[str, Any] = {}
    for name, info in type(config).model_fields.items():
        if (info.json_schema_extra or {}).get("stage", "train") in stages:  # type: ignore[union-attr]
            found[name] = values[name]
            actual = getattr(config, name)
            if isinstance(actual, Path) and actual.is_file():
                found[name] = [values[name], content_hash(actual)]
    return found


def checked(model: type[Any], values: dict[str, Any], where: str) -> Any:
    """`values` as a pydantic model; the first thing wrong with them in one line."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise unknown(f"key in {where}:", place, model.model_fields) from error
        raise TychoError(f"{where}: {place}: {first['msg']} (given: {first.get('input')!r})") from error


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, dicts key by key, everything else whole."""
    found = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(found.get(key), dict)
        found[key] = merged(found[key], value) if both else value
    return found


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:  # a date that cannot be, bytes that are no text
        raise TychoError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise TychoError(f"{path} must hold keys and values, not a {type(found).__name__}")
    return found


def default_yaml() -> str:
    """config/default.yaml: every key of Settings with its default and what it means."""
    lines = [
        "# yaml-language-server: $schema=schema.json",
        "# Generated from tycho/config.py by `tycho config --write`; a test keeps the two in step.",
        "# Copy what you change into a file of your own and pass it with --configfile.",
    ]
    for name, info in Settings.model_fields.items():
        default = yaml.safe_dump({name: info.default}, default_flow_style=True).strip()[1:-1]
        lines += [f"# {info.description}", default]
    return "\n".join(lines) + "\n"


def json_schema() -> dict[str, Any]:
    """config/schema.json: Settings, with a method's entry spelled out as MethodPlan."""
    schema = Settings.model_json_schema()
    plan = MethodPlan.model_json_schema()
    schema["properties"]["methods"]["additionalProperties"] = plan
    return schema
