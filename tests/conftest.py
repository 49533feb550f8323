"""What all tests share: one thread, quiet progress, the toy rooms and rooms made for one test."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tycho.jobs import Plan
    from tycho.keys import JobKey

# Before torch is imported anywhere: threads would only wait for each other. MLflow goes where a test says.
os.environ.update(
    CI="true",
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
)
for variable in ("MLFLOW_TRACKING_URI", "TYCHO_METHODS", "TYCHO_SETTINGS", "CUDA_VISIBLE_DEVICES", "TYCHO_GPUS"):
    os.environ.pop(variable, None)
# A room that a test edits twice within a second would be loaded from its old bytecode.
sys.dont_write_bytecode = True

# The same examples in every run, and no deadline: the machine may be busy.
settings.register_profile("tycho", deadline=None, derandomize=True, database=None)
settings.load_profile("tycho")

TOYS = Path(__file__).parent / "toys"
ADAPTER = """
from tycho.adapter import Arm, Method, MethodConfig, Need, Paper, knob
from tycho.keys import JobKey
{top}

class Config(MethodConfig):
    size: int = knob(1, "a size", ge=0)
    items: int = knob(1, "examples", stage="evaluate", ge=0)
    colour: str = knob("red", "a colour", stage="analyse")


class {cls}(Method):
    name = "{name}"
    title = "{name}"
    says = "Nothing."
    paper = Paper("Nothing", "2501.00001", 2025)
    Config = Config
    arms = {arms}
    tasks = {{"t": "a task"}}

    def stages(self, arm):
        return ("train", "analyse")

    def train(self, run):
        run.metric("size", run.config.size)

    def analyse(self, run):
        run.metric("colours", len(run.config.colour))
"""


@contextlib.contextmanager
def rooms_found_in(*places: Path | str) -> Iterator[None]:
    """The registry looks in `places` alone, as do processes started meanwhile (beside Tycho's own rooms)."""
    import methods

    path, variable = list(methods.__path__), os.environ.get("TYCHO_METHODS")
    methods.__path__[:] = [str(place) for place in places]
    own = Path(methods.__file__).parent
    os.environ["TYCHO_METHODS"] = os.pathsep.join(str(place) for place in places if Path(place) != own)
    forget_rooms()
    try:
        yield
    finally:
        methods.__path__[:] = path
        os.environ.pop("TYCHO_METHODS")
        if variable is not None:
            os.environ["TYCHO_METHODS"] = variable
        forget_rooms()


def forget_rooms() -> None:
    """Rooms are imported and read anew at the next look, as in a process of its own."""
    import methods
    from tycho import registry, sources

    own = Path(methods.__file__).parent
    registry.method.cache_clear()
    sources._read.cache_clear()
    for name in [name for name in sys.modules if name.startswith("methods.")]:
        if not (own / name.split(".")[1]).is_dir():
            del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def toys() -> Iterator[Path]:
    """The toy rooms beside Tycho's own."""
    import methods

    with rooms_found_in(*methods.__path__, TOYS):
        yield TOYS


@pytest.fixture(scope="module")
def toys_module() -> Iterator[Path]:
    """As `toys`, for fixtures that live as long as a file of tests."""
    import methods

    with rooms_found_in(*methods.__path__, TOYS):
        yield TOYS


class Rooms:
    """Throw-away rooms, written as text; no others are to be found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def write(self, name: str, method: str | None = None, scales: str = "smoke: {}", **modules: str) -> Path:
        """A room of the given texts: `method.py` (left out: `adapter`), `scales.yaml` and further modules."""
        room = self.folder / name
        room.mkdir(exist_ok=True)
        texts = {"method.py": self.adapter(name) if method is None else method, "scales.yaml": scales}
        for file, text in (texts | {f"{module}.py": text for module, text in modules.items()}).items():
            (room / file).write_text(textwrap.dedent(text), encoding="utf-8")
        forget_rooms()
        return room

    @staticmethod
    def adapter(name: str, body: str = "", *, arms: str = '{"one": Arm("the one")}', top: str = "") -> str:
        """The text of a `method.py` that does next to nothing, with more in its class (`body`) and before it (`top`)."""
        return ADAPTER.format(name=name, cls=name.capitalize(), arms=arms, top=textwrap.dedent(top)) + textwrap.indent(
            textwrap.dedent(body), "    "
        )

    def edit(self, name: str, file: str, old: str, new: str) -> None:
        path = self.folder / name / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")
        forget_rooms()


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Rooms]:
    made = Rooms(tmp_path / "rooms")
    with rooms_found_in(made.folder):
        yield made


@pytest.fixture
def run_killed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[JobKey]]:
    """Runs a plan (`checkpoint_seconds` 0) whose trainings are killed behind a checkpoint and started again: at each one,
    or `once` a training. Returns whose trainings were killed, one key a kill."""

    def run(plan: Plan, *, once: bool = False) -> list[JobKey]:
        from tycho.adapter import Run
        from tycho.worker import run_process

        save, kills, struck = Run.checkpoint, [], set()

        def checkpoint(run: Run, step: int, state: Any) -> bool:
            saved = save(run, step, state)
            if saved and not (once and run._work in struck):
                struck.add(run._work)
                kills.append(run.key)
                raise KeyboardInterrupt
            return saved

        with monkeypatch.context() as patch:
            patch.setattr(Run, "checkpoint", checkpoint)
            for process in plan.ordered():
                for _ in range(20 * len(process.jobs)):
                    try:
                        assert run_process(plan, process) == {}
                        break
                    except KeyboardInterrupt:
                        continue
                else:
                    pytest.fail(f"{process.receipt} never ended")
        return kills

    return run
