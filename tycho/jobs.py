"""From settings to jobs: what is to be run, what each needs, and a digest that changes when its outcome may.

A *process* is what one operating-system process runs: an arm on a task, with all its seeds (or one, where a plan says
`together: false`). Its *receipt* is the only output Snakemake knows of; its name carries the digest, so a changed
digest is a missing file, and no results are deleted when a job is started again or fails.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from tycho import registry
from tycho.adapter import JobView, Method, MethodConfig, Need
from tycho.config import MethodPlan, Settings, checked, described, job_config, method_plan
from tycho.errors import TychoError, one_line, unknown
from tycho.keys import GENERATION, JobKey
from tycho.records import STAGES
from tycho.sources import stage_digest

# The reserved arm and task of a method's synthesis.
SYNTHESIS, ACROSS = "synthesis", "all"


@dataclass(frozen=True)
class Job:
    key: JobKey
    config: MethodConfig
    stages: tuple[str, ...]
    needs: dict[str, Need]
    digested: Callable[[], dict[str, str]] = field(repr=False, compare=False)

    def __hash__(self) -> int:
        return hash(self.key)

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """By stage. Made when asked for: all code behind a job is read for them, and a process runs few of a plan's jobs."""
        return self.digested()


@dataclass(frozen=True)
class Process:
    """Jobs that one process runs, in this order: each after those it needs."""

    method: str
    arm: str
    task: str
    jobs: tuple[Job, ...]

    @property
    def seeds(self) -> str:
        """The seeds, short enough for a file name: `0to4-7`."""
        runs: list[list[int]] = []
        for seed in sorted(job.key.seed for job in self.jobs):
            if runs and seed == runs[-1][-1] + 1:
                runs[-1].append(seed)
            else:
                runs.append([seed])
        return "-".join(f"{run[0]}to{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)

    @property
    def digest(self) -> str:
        return _hash([str(job.key), job.digests] for job in self.jobs)[:16]

    @property
    def receipt(self) -> Path:
        """Below the scale's folder."""
        return Path("jobs", self.method, self.arm, self.task, "receipts", f"{self.seeds}.{self.digest}.json")


@dataclass(frozen=True)
class Plan:
    settings: Settings
    jobs: dict[JobKey, Job]
    plans: dict[str, MethodPlan]
    broken: dict[str, str]  # methods that cannot be loaded, with the reason

    @functools.cached_property
    def processes(self) -> list[Process]:
        depth: dict[JobKey, int] = {}
        for key, job in self.jobs.items():  # each after those it needs
            depth[key] = 1 + max((depth[need.key] for need in job.needs.values()), default=0)
        groups: dict[tuple[str, str, str, int], list[Job]] = {}
        for job in sorted(self.jobs.values(), key=lambda job: (depth[job.key], job.key)):
            apart = -1 if self.plans[job.key.method].together else job.key.seed
            groups.setdefault((job.key.method, job.key.arm, job.key.task, apart), []).append(job)
        return [Process(method, arm, task, tuple(jobs)) for (method, arm, task, _), jobs in sorted(groups.items())]

    @functools.cached_property
    def process_of(self) -> dict[JobKey, Process]:
        return {job.key: process for process in self.processes for job in process.jobs}

    def upstream(self, process: Process) -> list[Process]:
        """The processes one waits for."""
        wanted = {need.key for job in process.jobs for need in job.needs.values()}
        return sorted({self.process_of[key] for key in wanted} - {process}, key=lambda found: found.receipt)

    def process(self, method: str, arm: str, task: str, seeds: str) -> Process:
        for found in self.processes:
            if (found.method, found.arm, found.task, found.seeds) == (method, arm, task, seeds):
                return found
        raise TychoError(f"scale {self.settings.scale} plans no process {method}/{arm}/{task} with seeds {seeds}")

    def ordered(self) -> list[Process]:
        """All processes, each after those it waits for."""
        graph = {process.receipt: [found.receipt for found in self.upstream(process)] for process in self.processes}
        by_receipt = {process.receipt: process for process in self.processes}
        try:
            return [by_receipt[receipt] for receipt in TopologicalSorter(graph).static_order()]
        except CycleError as error:
            circle = " -> ".join("/".join(receipt.parts[1:4]) for receipt in error.args[1])
            raise TychoError(
                f"processes wait for each other in a circle: {circle}; `together: false` in scales.yaml takes seeds apart"
            ) from error

    @functools.cached_property
    def ahead(self) -> dict[Path, float]:
        """By receipt: the CPU-seconds of the longest chain of processes from that one to the end, if those of a method
        share its budget evenly. Begun in this order, none that much waits for, or that is long, is left for last."""
        counts = Counter(process.method for process in self.processes)
        ahead: dict[Path, float] = {}
        for process in reversed(self.ordered()):
            own = (self.plans[process.method].cpu_seconds or 0.0) / counts[process.method]
            ahead[process.receipt] = own + ahead.get(process.receipt, 0.0)
            for found in self.upstream(process):
                ahead[found.receipt] = max(ahead.get(found.receipt, 0.0), ahead[process.receipt])
        return ahead

    def view(self, key: JobKey, upto: str = STAGES[-1]) -> JobView:
        """A job's outcome up to a stage, to read."""
        return JobView(key, job_folder(self.settings, key), STAGES[: STAGES.index(upto) + 1])

    @property
    def methods(self) -> list[str]:
        return sorted({process.method for process in self.processes})


def job_folder(settings: Settings, key: JobKey) -> Path:
    return settings.folder.joinpath("jobs", key.path)


def work_folder(settings: Settings, key: JobKey, stage: str) -> Path:
    return settings.folder.joinpath("work", key.path, stage)


def plan(settings: Settings, *, check: bool = True) -> Plan:
    """Everything to be run, ingredients included. Methods that cannot be loaded or planned are listed, not raised.

    Without `check` neither the code behind the jobs is read here nor a circle of processes looked for: enough for one
    process of a plan that was checked when Snakemake made it.

    Raises:
        TychoError: what the user gave is wrong (an unknown name, a knob that does not fit), or processes wait in a circle.
    """
    broken: dict[str, str] = {}
    for name in (*settings.methods, *settings.only):
        if name not in registry.rooms():
            raise unknown("method", name, registry.rooms())
    builder = _Builder(settings)
    for name in settings.only or registry.rooms():
        try:
            method = registry.method(name)
        except TychoError as error:
            broken[name] = str(error)
            continue
        before = dict(builder.jobs), dict(builder.plans)
        try:
            builder.add_method(method)
            if check:
                Plan(settings, builder.jobs, builder.plans, {}).ordered()
        except Exception as error:
            if name in settings.methods:
                raise
            broken[name] = f"method {name!r} cannot be planned: {one_line(error)}"
            builder.jobs, builder.plans = before
    return Plan(settings, builder.jobs, builder.plans, broken)


def chosen_keys(method: Method, chosen: MethodPlan, scale: str) -> list[JobKey]:
    """What a plan asks for by name; ingredients come with whoever needs them."""
    arms = chosen.arms
    if arms is None:
        arms = [arm for arm, about in method.arms.items() if about.role != "ingredient"]
    tasks = list(method.tasks) if chosen.tasks is None else chosen.tasks
    pairs = [(arm, task) for task in tasks for arm in (chosen.task_arms or {}).get(task, arms)]
    return [
        JobKey(scale, method.name, arm, task, seed)
        for arm, task in pairs
        for seed in (chosen.task_seeds or {}).get(task, chosen.seeds)
    ]


class _Builder:
    """Adds jobs with all they need."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.plans: dict[str, MethodPlan] = {}
        self.jobs: dict[JobKey, Job] = {}
        self._code = functools.cache(stage_digest)

    def add_method(self, method: Method) -> None:
        """What the method runs at this scale, if anything."""
        chosen = method_plan(method.name, self.settings)
        if chosen is not None:
            self.plans[method.name] = chosen
            keys = chosen_keys(method, chosen, self.settings.scale)
            self.add(keys)
            self.add_synthesis(method, keys)

    def add(self, keys: Iterable[JobKey]) -> None:
        found: dict[JobKey, tuple[MethodConfig, dict[str, Need]]] = {}
        waiting = list(keys)
        while waiting:
            key = waiting.pop()
            if key in found or key in self.jobs:
                continue
            if key.scale != self.settings.scale:
                raise TychoError(f"{key} is needed at scale {self.settings.scale}: a need stays within its scale")
            method, config = self._method(key), self._config(key)
            needs = method.needs(key, config)
            found[key] = (config, needs)
            waiting += [need.key for need in needs.values()]
        graph = {key: {need.key for need in needs.values()} for key, (_, needs) in found.items()}
        try:
            order = [key for key in TopologicalSorter(graph).static_order() if key not in self.jobs]
        except CycleError as error:
            raise TychoError(
                f"jobs need each other in a circle: {' -> '.join(str(key) for key in error.args[1])}"
            ) from error
        for key in order:
            config, needs = found[key]
            self._put(key, config, registry.method(key.method).stages(key.arm), needs)

    def add_synthesis(self, method: Method, keys: list[JobKey]) -> None:
        """The job that looks across a method's others: those asked for and what they need of the same method.

        What other methods take from this one is left out, so that a synthesis does not change with them.
        """
        if not keys or not method.synthesises():
            return
        own: set[JobKey] = set()
        waiting = list(keys)
        while waiting:
            key = waiting.pop()
            if key not in own:
                own.add(key)
                waiting += [need.key for need in self.jobs[key].needs.values()]
        mine = [key for key in sorted(own) if key.method == method.name and method.synthesis_reads(key)]
        if not mine:
            return
        needs = {str(key): Need(key, self.jobs[key].stages[-1]) for key in mine}
        key = JobKey(self.settings.scale, method.name, SYNTHESIS, ACROSS, 0)
        if key in self.jobs:
            raise TychoError(f"{key} is the name of the synthesis: call the arm or the task something else")
        where = f"the synthesis of {method.name}"
        config = checked(method.Config, self.plans[method.name].config, where)
        self._put(key, config, ("synthesise",), needs)

    def _method(self, key: JobKey) -> Method:
        method = registry.method(key.method)
        if key.arm not in method.arms:
            raise unknown(f"arm of {key.method}", key.arm, method.arms)
        if key.task not in method.tasks:
            raise unknown(f"task of {key.method}", key.task, method.tasks)
        return method

    def _config(self, key: JobKey) -> MethodConfig:
        if key.method not in self.plans:  # an ingredient of a method that is not asked for itself
            own = method_plan(key.method, self.settings)
            if own is None:
                raise TychoError(
                    f"{key} is needed, but {key.method} has no entry for scale {key.scale} in its scales.yaml"
                )
            self.plans[key.method] = own
        return job_config(registry.method(key.method), self.plans[key.method], key.arm, key.task)

    def _put(self, key: JobKey, config: MethodConfig, stages: tuple[str, ...], needs: dict[str, Need]) -> None:
        if not stages or list(stages) != [stage for stage in STAGES if stage in stages]:
            raise TypeError(f"{key}: stages {stages} must be some of {STAGES}, in that order")
        upstream = {name: self.jobs[need.key] for name, need in needs.items()}
        for name, need in needs.items():
            if need.stage not in upstream[name].stages:
                raise TychoError(f"{key} needs stage {need.stage!r} of {need.key}, which has {upstream[name].stages}")

        def digested() -> dict[str, str]:
            inputs = {name: [str(need.key), upstream[name].digests[need.stage]] for name, need in needs.items()}
            digests: dict[str, str] = {}
            room = registry.rooms()[key.method]
            for stage in stages:
                before = STAGES[: STAGES.index(stage) + 1]
                config_parts = described(config, before)
                code = self._code(room, stage)
                digests[stage] = _hash(
                    [GENERATION, str(key.path), stage, self.settings.threads, config_parts, inputs, digests, code]
                )
            return digests

        self.jobs[key] = Job(key, config, tuple(stages), dict(needs), digested)


def _hash(value: Any) -> str:
    parts = value if isinstance(value, list) else list(value)
    return hashlib.blake2b(json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()
