"""The contract between a method and the house: `Method` is what a room writes, `Run` is the only way out of it.

Imports neither MLflow nor transformers nor lm-eval nor torch: planning a DAG loads every room's adapter.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from abc import ABC
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeVar

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from tycho import records
from tycho.cost import Meter
from tycho.errors import TychoError
from tycho.files import load_state, read_json, save_state, write_json, write_text
from tycho.keys import JobKey, derive_seed
from tycho.progress import progress

if TYPE_CHECKING:
    import numpy
    import torch

T = TypeVar("T")


class MethodConfig(BaseModel):
    """A method's knobs. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def knob(default: Any, says: str, *, unit: str = "", stage: str = "train", **limits: Any) -> Any:
    """One knob of a method's Config: default, meaning, unit, and the first stage that reads it.

    A change of a knob runs that stage and the later ones again, not the earlier. `limits` are pydantic's (ge, le, …).
    """
    if stage not in records.STAGES:
        raise ValueError(f"stage {stage!r} is none of {records.STAGES}")
    return Field(default, description=says, json_schema_extra={"unit": unit, "stage": stage}, **limits)


@dataclass(frozen=True)
class Paper:
    """Where a direction comes from."""

    title: str
    arxiv: str
    year: int

    @property
    def url(self) -> str:
        return f"https://arxiv.org/abs/{self.arxiv}"


@dataclass(frozen=True)
class Arm:
    """What is compared. `ingredient` arms (a base model, a tokenizer) are jobs that others need."""

    says: str
    role: Literal["method", "baseline", "control", "ingredient"] = "method"
    config: Mapping[str, Any] = field(default_factory=dict)


class Need(NamedTuple):
    """Another job whose outcome, up to a stage, this one reads."""

    key: JobKey
    stage: str = "train"


class Method(ABC):
    """One direction. A room's `method.py` holds exactly one subclass; heavy imports stay inside its functions."""

    name: ClassVar[str]
    title: ClassVar[str]
    says: ClassVar[str]  # the idea in one sentence
    paper: ClassVar[Paper]
    Config: ClassVar[type[MethodConfig]]
    arms: ClassVar[Mapping[str, Arm]]
    tasks: ClassVar[Mapping[str, str]]  # name -> one sentence

    def stages(self, arm: str) -> tuple[str, ...]:
        """The stages an arm goes through, in order. A theorem has only `("analyse",)`."""
        return ("train", "evaluate", "analyse")

    def needs(self, key: JobKey, config: Any) -> dict[str, Need]:
        """Other jobs this one reads, by the name it calls them; they become edges of the DAG."""
        return {}

    def train(self, run: Run) -> None:
        """Makes the model: `run.log`, `run.save_model`."""
        raise NotImplementedError(f"{self.name} has no train stage")

    def evaluate(self, run: Run) -> None:
        """Makes the samples: `run.samples`."""
        raise NotImplementedError(f"{self.name} has no evaluate stage")

    def analyse(self, run: Run) -> None:
        """Makes metrics, tables and figures from what the earlier stages left."""
        raise NotImplementedError(f"{self.name} has no analyse stage")

    def synthesise(self, run: Run) -> None:
        """Looks across the method's jobs (`run.jobs`). Only called where a room overrides it."""
        raise NotImplementedError(f"{self.name} has no synthesise stage")

    def synthesis_reads(self, key: JobKey) -> bool:
        """Whether the synthesis looks at a job, and so waits for it."""
        return True

    @classmethod
    def synthesises(cls) -> bool:
        return cls.synthesise is not Method.synthesise


@dataclass(frozen=True)
class JobView:
    """A job's finished stages, to read: all, or those up to the one that a reader waited for.

    What a later stage left, now or at an earlier start, must not show: whether it is there is a matter of timing.
    """

    key: JobKey
    folder: Path
    stages: tuple[str, ...] = records.STAGES

    @property
    def config(self) -> dict[str, Any]:
        return read_json(self.folder / "config.json")

    @property
    def model(self) -> Path:
        """The folder `save_model` wrote."""
        if not (self.folder / "model").is_dir():
            raise TychoError(f"{self.key} has no model: its train stage has not been run or saved none")
        return self.folder / "model"

    def record(self, kind: str) -> pd.DataFrame:
        """All stages' records of a kind (metrics, samples, traces, costs)."""
        found = [self.folder / stage / f"{kind}.parquet" for stage in self.stages]
        frames = [records.read(path, f"delete {path.parent} and run again") for path in found if path.exists()]
        return pd.concat(frames, ignore_index=True) if frames else records.empty(kind)

    def table(self, name: str) -> pd.DataFrame:
        """A table that `run.table` wrote, in whichever stage."""
        for stage in reversed(self.stages):
            path = self.folder / stage / "tables" / f"{name}.parquet"
            if path.exists():
                return records.read(path, f"delete {path.parent.parent} and run again")
        raise TychoError(f"{self.key} has no table {name!r}")


class Run:
    """One stage of one job, under way: its config, its randomness, its inputs, and every way to leave something behind.

    Curves, metrics and costs recorded before a checkpoint survive a kill; what came after it is forgotten on the next
    start, so that a resumed run leaves the same records as an undisturbed one. Samples, traces, tables, figures and the
    model are not kept over a kill: hand them over before `restore` or after the last checkpoint.
    """

    def __init__(
        self,
        key: JobKey,
        stage: str,
        config: Any,
        *,
        job: JobView,
        work: Path,
        inputs: Mapping[str, JobView] | None = None,
        device: str = "cpu",
        threads: int = 1,
        checkpoint_seconds: float = 60.0,
    ) -> None:
        self.key, self.stage, self.config = key, stage, config
        self.job = replace(job, stages=records.STAGES[: records.STAGES.index(stage)])
        self.inputs = dict(inputs or {})
        self.device, self.threads = device, threads
        self.meter = Meter()
        self._work, self._out = work, work / "out"
        self._every, self._written = checkpoint_seconds, time.monotonic()
        self._rows: list[dict[str, Any]] = []
        self._unwritten = 0
        shutil.rmtree(self._out, ignore_errors=True)  # half-made results of an earlier start
        self._out.mkdir(parents=True)
        if not self._checkpoint.exists():
            self._journal.unlink(missing_ok=True)

    # --- what comes in -------------------------------------------------------------------------------------------

    @property
    def jobs(self) -> list[JobView]:
        """The jobs a synthesis looks across."""
        return list(self.inputs.values())

    def seed(self, axis: str) -> int:
        """The seed of an axis: `data`, `split`, `init`, `order` are shared by all arms; any other is the job's own."""
        return derive_seed(axis, self.key)

    def generator(self, axis: str) -> torch.Generator:
        import torch

        return torch.Generator().manual_seed(self.seed(axis))

    def rng(self, axis: str) -> numpy.random.Generator:
        import numpy

        return numpy.random.default_rng(self.seed(axis))

    def progress(self, items: Iterable[T], what: str = "", total: int | None = None, start: int = 0) -> Iterator[T]:
        """Passes `items` on and shows how far they are, with the remaining time."""
        return progress(items, f"{self.key} {self.stage} {what}".rstrip(), total, start)

    # --- checkpoints ---------------------------------------------------------------------------------------------

    @property
    def due(self) -> bool:
        """Whether the next `checkpoint` saves: for a state that several processes have to make together."""
        return time.monotonic() - self._written >= self._every

    def checkpoint(self, step: int, state: Callable[[], Any]) -> bool:
        """Saves `state()` (nested dicts and lists of tensors and numbers) if the last save is long enough ago."""
        if not self.due:
            return False
        self.flush()
        save_state(
            self._checkpoint,
            {"step": step, "rows": len(self._rows), "cost": self.meter.state(), "state": state()},
        )
        self._written = time.monotonic()
        return True

    def restore(self) -> tuple[int, Any] | None:
        """The last checkpoint's step and state, or None at a first start. Forgets the records made after it."""
        if not self._checkpoint.exists():
            return None
        saved = load_state(self._checkpoint)
        try:
            lines = self._journal.read_text(encoding="utf-8").splitlines()[: saved["rows"]] if saved["rows"] else []
            self._rows = [json.loads(line) for line in lines]
        except (OSError, ValueError) as error:
            raise TychoError(f"{self._journal} cannot be read: delete {self._work} and run again") from error
        if len(self._rows) < saved["rows"]:
            raise TychoError(f"{self._journal} is shorter than its checkpoint: delete {self._work} and run again")
        write_text(self._journal, "".join(json.dumps(row) + "\n" for row in self._rows))
        self._unwritten = len(self._rows)
        self.meter.resume(saved["cost"])
        return saved["step"], saved["state"]

    def flush(self) -> None:
        """Writes the rows so far to the journal, which `tycho sync --follow` reads."""
        with self._journal.open("a", encoding="utf-8") as journal:
            journal.writelines(json.dumps(row) + "\n" for row in self._rows[self._unwritten :])
        self._unwritten = len(self._rows)

    # --- what goes out -------------------------------------------------------------------------------------------

    def log(self, step: int, *, variant: str = "", setting: str = "", seed: int | None = None, **values: float) -> None:
        """Points of curves. `seed` names the network where one process trains several."""
        for name, value in values.items():
            self._row(name, value, step, variant, setting, seed, False)
        if time.monotonic() - self._written > 5 and len(self._rows) - self._unwritten > 100:
            self.flush()

    def metric(
        self,
        name: str,
        value: float,
        *,
        variant: str = "",
        setting: str = "",
        seed: int | None = None,
        censored: bool = False,
    ) -> None:
        """A final value. `censored`: the true value is at least this one (it had not happened by the end)."""
        self._row(name, value, None, variant, setting, seed, censored)

    def samples(self, frame: pd.DataFrame) -> None:
        """One row an example; key columns and what a kind leaves open are filled in. Called once a stage."""
        self._record("samples", frame)

    def traces(self, frame: pd.DataFrame) -> None:
        """Token sequences with confidences, segments with their parents. Called once a stage."""
        self._record("traces", frame)

    def table(self, name: str, frame: pd.DataFrame) -> None:
        """A free table, kept beside the records and shown with the method."""
        records.write(self._out / "tables" / f"{_file_name(name)}.parquet", frame)

    def figure(self, name: str, chart: Any, says: str) -> None:
        """An Altair chart and the one sentence that says what to see in it. Drawn when the report is compiled."""
        import altair

        with altair.data_transformers.enable("default", max_rows=None):
            spec = chart.to_dict() | {"usermeta": {"says": says}}
        write_json(self._out / "figures" / f"{_file_name(name)}.json", spec)

    def save_model(self, write: Callable[[Path], Any]) -> None:
        """Calls `write(folder)`; the folder becomes the job's `model/`."""
        folder = self._out / "model"
        folder.mkdir(exist_ok=True)
        write(folder)

    def count(self, **amounts: float) -> None:
        """Adds to the stage's cost: generated_tokens, forward_passes, flops."""
        self.meter.count(**amounts)

    # --- inside --------------------------------------------------------------------------------------------------

    @property
    def _checkpoint(self) -> Path:
        return self._work / "checkpoint.safetensors"

    @property
    def _journal(self) -> Path:
        return self._work / "journal.jsonl"

    @property
    def _keys(self) -> dict[str, Any]:
        return {part: getattr(self.key, part) for part in records.KEYS}

    def _row(
        self, name: str, value: float, step: int | None, variant: str, setting: str, seed: int | None, censored: bool
    ) -> None:
        row = {"name": name, "value": float(value), "step": None if step is None else int(step)}
        row |= {"variant": variant, "setting": setting, "seed": self.key.seed if seed is None else int(seed)}
        self._rows.append(row | {"censored": bool(censored)})

    def _record(self, kind: str, frame: pd.DataFrame) -> None:
        path = self._out / f"{kind}.parquet"
        if path.exists():
            raise TychoError(f"{self.key} {self.stage} hands over {kind} twice: concatenate them first")
        records.write(path, records.tidy(kind, frame, **self._keys))

    def finish(self, destination: Path) -> None:
        """Writes the records and moves everything to the job's folder. Called by the house, not by methods."""
        self.flush()
        if self._rows:
            rows = pd.DataFrame(self._rows)
            rows["step"] = rows["step"].astype("Int64")
            records.write(self._out / "metrics.parquet", records.tidy("metrics", rows, **self._keys, stage=self.stage))
        cost = pd.DataFrame([self.meter.row()]).assign(device=self.device, threads=self.threads, stage=self.stage)
        records.write(self._out / "costs.parquet", records.tidy("costs", cost, **self._keys))
        destination.mkdir(parents=True, exist_ok=True)
        if (self._out / "model").exists():
            _swap(self._out / "model", destination / "model")
        elif self.stage == "train":
            shutil.rmtree(destination / "model", ignore_errors=True)  # of an earlier code, which still saved one
        _swap(self._out, destination / self.stage)
        shutil.rmtree(self._work)


def _swap(new: Path, place: Path) -> None:
    """Puts a folder in another's place. A kill between the two renames leaves the stage undone, never half done."""
    old = place.with_name(f".{place.name}.old")
    if place.exists():
        shutil.rmtree(old, ignore_errors=True)  # of a kill at this very point
        os.replace(place, old)
    os.replace(new, place)
    shutil.rmtree(old, ignore_errors=True)


def _file_name(name: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise TychoError(f"{name!r} cannot name a file: use letters, digits, '_', '-', '.', first a letter or digit")
    return name
