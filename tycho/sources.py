"""Which code a stage's results depend on, and its digest.

A stage depends on its room's `method.py` and on whatever that imports, directly or not, from rooms and from Tycho's
subpackages (`tasks`, `lm`, `engines`) and `harness`. Tycho's own top-level modules carry results and do not make
them: they are left out, so that mending the frame retrains nothing, and `keys.GENERATION` is raised where a change of
the frame does alter what jobs compute. Comments, docstrings and layout do not count.

Inside a room, a function of the Method class that is named like a stage, and a module of that name (`analyse.py`),
belong to that stage alone: mending a figure retrains nothing.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
from pathlib import Path

from tycho.errors import TychoError
from tycho.records import STAGES

ROOT = Path(__file__).resolve().parent.parent


def stage_digest(room: Path, stage: str) -> str:
    """The digest of the code behind one stage of a room."""
    others = frozenset(STAGES) - {stage}
    digest = hashlib.blake2b(digest_size=16)
    for name, source in sorted(_closure(room, others).items()):
        digest.update(f"{name}\x1f{source}\x1e".encode())
    return digest.hexdigest()


def stage_files(room: Path, stage: str) -> list[str]:
    """Names of the modules behind a stage, for people and tests."""
    return sorted(_closure(room, frozenset(STAGES) - {stage}))


def stage_imports(room: Path, stage: str, package: str) -> bool:
    """Whether any module behind a stage imports a package, be it inside a function."""
    statement = re.compile(rf"^\s*(import|from) {re.escape(package)}\b", re.MULTILINE)
    return any(statement.search(source) for source in _closure(room, frozenset(STAGES) - {stage}).values())


def _closure(room: Path, others: frozenset[str]) -> dict[str, str]:
    """Module name -> normalised source, for `method.py` and all it reaches without the other stages' code."""
    start = f"methods.{room.name}.method"
    found: dict[str, str] = {}
    waiting = [(start, room / "method.py")]
    while waiting:
        name, path = waiting.pop()
        if name in found:
            continue
        source, imports = _read(path, path.stat().st_mtime_ns, others if name == start else frozenset())
        found[name] = source
        for wanted in imports:
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            target = _resolve(wanted, package, room)
            if target is not None and not (target[1].parent == room and target[1].stem in others):
                waiting.append(target)
    return found


@functools.lru_cache(maxsize=4096)
def _read(path: Path, _mtime: int, drop: frozenset[str]) -> tuple[str, tuple[tuple[int, str, str], ...]]:
    """A module's code without docstrings and without the class functions named in `drop`, and what it imports.

    An import is (level, module, name): `from .theory import ridge` gives (1, "theory", "ridge").
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise TychoError(f"{path} cannot be parsed: {error}") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            node.body = [item for item in node.body if not (isinstance(item, ast.FunctionDef) and item.name in drop)]
        body = getattr(node, "body", None)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and body:
            first = body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = body[1:] or [ast.Pass()]
    imports: list[tuple[int, str, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [(0, alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imports += [(node.level, node.module or "", alias.name) for alias in node.names]
    return ast.unparse(tree), tuple(imports)


def _resolve(wanted: tuple[int, str, str], package: str, room: Path) -> tuple[str, Path] | None:
    """The module that an import within `package` names, if results can depend on it; a name in a module is the module."""
    level, module, name = wanted
    if level:
        parts = package.split(".")
        module = ".".join([*parts[: len(parts) - level + 1], *([module] if module else [])])
    for candidate in (f"{module}.{name}" if name else module, module):
        path = _file(candidate, room)
        if path is not None:
            return candidate, path
    return None


def _file(module: str, room: Path) -> Path | None:
    """The file of a module of a room or of one of Tycho's subpackages; None for any other."""
    top, *rest = module.split(".")
    if top == "methods" and len(rest) > 1:
        place = room if rest[0] == room.name else _room(rest[0])
        if place is None:
            return None
        base = place.joinpath(*rest[1:])
    elif top == "tycho" and rest:
        base = ROOT.joinpath(top, *rest)
    else:
        return None
    package, plain = base / "__init__.py", base.with_name(f"{base.name}.py")
    if package.is_file():
        return package
    of_the_frame = base.parent == ROOT / "tycho" and base.name != "harness"
    return plain if plain.is_file() and not of_the_frame else None


def _room(name: str) -> Path | None:
    from tycho.registry import rooms

    return rooms().get(name)
