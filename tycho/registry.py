"""Finds the rooms under `methods/` by looking. A room whose import fails is named with its error; the others still run."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
from pathlib import Path
from types import ModuleType

from tycho.adapter import Method
from tycho.errors import TychoError, one_line, unknown


def rooms() -> dict[str, Path]:
    """Every folder with a `method.py`, by name."""
    import methods

    found: dict[str, Path] = {}
    for place in methods.__path__:
        for adapter in sorted(Path(place).glob("[!.]*/method.py")):
            found.setdefault(adapter.parent.name, adapter.parent)
    return dict(sorted(found.items()))


@functools.cache
def method(name: str) -> Method:
    """The method of a room, loaded at the first call."""
    if name not in rooms():
        raise unknown("method", name, rooms())
    try:
        module = importlib.import_module(f"methods.{name}.method")
        found = [
            kind
            for kind in vars(module).values()
            if inspect.isclass(kind) and issubclass(kind, Method) and kind.__module__ == module.__name__
        ]
        if len(found) != 1:
            raise TypeError(f"method.py holds {len(found)} Method classes, it must hold one")
        lacking = [part for part in Method.__annotations__ if not hasattr(found[0], part)]
        if lacking:
            raise TypeError(f"the class lacks {', '.join(lacking)}")
        if found[0].name != name:
            raise TypeError(f"the class calls itself {found[0].name!r}, its folder {name!r}")
        return found[0]()
    except Exception as error:
        raise TychoError(f"method {name!r} cannot be loaded: {one_line(error)} (in {rooms()[name]})") from error


def load_all() -> tuple[dict[str, Method], dict[str, str]]:
    """All methods that load, and the errors of those that do not."""
    loaded: dict[str, Method] = {}
    broken: dict[str, str] = {}
    for name in rooms():
        try:
            loaded[name] = method(name)
        except TychoError as error:
            broken[name] = str(error)
    return loaded, broken


def room_module(name: str, part: str) -> ModuleType | None:
    """A module of a room by its file name (`estimands`), or None where the room has none."""
    if name not in rooms() or not (rooms()[name] / f"{part}.py").exists():
        return None
    return importlib.import_module(f"methods.{name}.{part}")
