"""Readers of published task files, from a path or the hub.

A source is a path or `hub://owner/name@revision/path/in/the/repository`, a data set on the Hugging Face hub pinned to a
commit. JSON (a list of objects), JSON lines and parquet are told apart by their endings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tycho.errors import TychoError, one_line
from tycho.tasks.graphs import Graphs, from_lists

HUB = re.compile(r"hub://(?P<repository>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40})/(?P<file>.+)")


@dataclass(frozen=True)
class Item:
    """One question with its written steps and its answer."""

    question: str
    steps: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class GraphItem(Item):
    """A ProsQA item: `names` of the nodes, `edges` (parent, child), the distractor ("neg_target") beside the target.

    neighbor_k: for each hop the nodes on some shortest path to the target, where the file lists them.
    """

    names: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    root: int
    target: int
    distractor: int
    neighbor_k: tuple[tuple[int, ...], ...] | None


class Malformed(ValueError):
    """What is wrong with an item."""


def read_reasoning(source: str | Path) -> list[Item]:
    """Any of Coconut's JSON files: ProsQA, ProntoQA, GSM8K with iCoT's equations."""
    return _items(source, _reasoning)


def read_prosqa(source: str | Path) -> list[GraphItem]:
    """ProsQA with its graphs, with or without `neighbor_k`."""
    items = _items(source, _prosqa)
    graphs = graphs_of(items)
    for index, (target, distractor) in enumerate(zip(graphs.target, graphs.distractor, strict=True)):
        hops = graphs.from_root[index]
        if hops[target] < 1 or hops[distractor] >= 0:
            raise _error(source, index, "of target and neg_target exactly the first must be reachable from root")
    return items


def read_gsm8k(source: str | Path) -> list[Item]:
    """OpenAI's GSM8K: the steps are the solution's lines, the answer what follows `####`, without commas."""
    return _items(source, _gsm8k)


def read_icot_text(source: str | Path) -> list[Item]:
    """GSM8K as iCoT publishes it (its training set only comes so): lines `question||equation equation #### answer`."""
    path = fetch(source)
    items = []
    for index, line in enumerate(_text(path).splitlines()):
        question, bar, rest = line.partition("||")
        equations, mark, answer = rest.rpartition("####")
        if not (bar and mark and question.strip() and answer.strip()):
            raise _error(source, index, "not of the form question||equations #### answer")
        items.append(Item(question.strip(), tuple(equations.split()), _number(answer)))
    return items


def graphs_of(items: Sequence[GraphItem]) -> Graphs:
    """Items as batched graphs."""
    columns = zip(*((i.edges, i.root, i.target, i.distractor, len(i.names)) for i in items), strict=True)
    return from_lists(*columns) if items else from_lists([], [], [], [], [])


def final_answer(text: str) -> str:
    """What Coconut's evaluation compares: the text behind the last `#`, without commas."""
    return _number(text.rpartition("#")[2])


def fetch(source: str | Path) -> Path:
    """The local file of a source; hub files are downloaded once into Hugging Face's cache."""
    if not str(source).startswith("hub://"):
        if not Path(source).is_file():
            raise TychoError(f"no data file {source}: name a file, or hub://owner/name@commit/file")
        return Path(source)
    parts = HUB.fullmatch(str(source))
    if not parts:
        raise TychoError(
            f"{source} is no hub file: write hub://owner/name@commit/file with all 40 digits of the commit, "
            "so that the same data come tomorrow"
        )
    from huggingface_hub import hf_hub_download

    try:
        return Path(
            hf_hub_download(parts["repository"], parts["file"], repo_type="dataset", revision=parts["revision"])
        )
    except (OSError, ValueError, RuntimeError) as error:  # every error of the hub's client is one of these
        raise TychoError(f"{source} cannot be downloaded: {one_line(error)}") from error


def _items(source: str | Path, read: Callable[[dict[str, Any]], Any]) -> list[Any]:
    items = []
    for index, row in enumerate(_rows(fetch(source), source)):
        try:
            if not isinstance(row, dict):
                raise Malformed(f"an object with fields is wanted, not {type(row).__name__}")
            items.append(read(row))
        except Malformed as error:
            raise _error(source, index, str(error)) from error
    return items


def _rows(path: Path, source: str | Path) -> Iterator[Any]:
    if path.suffix == ".parquet":
        import pandas as pd

        yield from pd.read_parquet(path).to_dict("records")
    elif path.suffix == ".jsonl":
        for index, line in enumerate(_text(path).splitlines()):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise _error(source, index, f"not JSON ({one_line(error)})") from error
    else:
        try:
            rows = json.loads(_text(path))
        except ValueError as error:
            raise TychoError(f"{source} is not JSON ({one_line(error)})") from error
        if not isinstance(rows, list):
            raise TychoError(f"{source}: a list of items is wanted, not {type(rows).__name__}")
        yield from rows


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TychoError(f"{path} is not UTF-8 text: {one_line(error)}") from error


def _error(source: str | Path, index: int, what: str) -> TychoError:
    return TychoError(f"{source}: item {index}: {what}")


def _field(row: dict[str, Any], name: str, kind: type) -> Any:
    if name not in row:
        raise Malformed(f"field {name!r} is missing")
    if not isinstance(row[name], kind) or isinstance(row[name], bool):
        raise Malformed(f"field {name!r} must be {kind.__name__}, not {type(row[name]).__name__}")
    if kind is str and not row[name].strip():
        raise Malformed(f"field {name!r} is empty")
    return row[name]


def _all(values: Any, kind: type, name: str) -> tuple[Any, ...]:
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise Malformed(f"field {name!r} must be a list of {kind.__name__}")
    return tuple(values)


def _reasoning(row: dict[str, Any]) -> Item:
    steps = _all(_field(row, "steps", list), str, "steps")
    return Item(_field(row, "question", str), steps, _field(row, "answer", str))


def _gsm8k(row: dict[str, Any]) -> Item:
    lines, mark, answer = _field(row, "answer", str).rpartition("####")
    if not mark or not answer.strip():
        raise Malformed("field 'answer' must end in '#### number'")
    steps = tuple(line.strip() for line in lines.splitlines() if line.strip())
    return Item(_field(row, "question", str), steps, _number(answer))


def _prosqa(row: dict[str, Any]) -> GraphItem:
    text = _reasoning(row)
    names = _all(_field(row, "idx_to_symbol", list), str, "idx_to_symbol")

    def node(value: Any, what: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < len(names):
            raise Malformed(f"{what} must be a node 0..{len(names) - 1}, not {value!r}")
        return value

    edges = []
    for edge in _all(_field(row, "edges", list), list, "edges"):
        if len(edge) != 2:
            raise Malformed(f"an edge is [parent, child], not {edge!r}")
        edges.append((node(edge[0], "an edge's parent"), node(edge[1], "an edge's child")))
    root, target, distractor = (node(_field(row, name, int), name) for name in ("root", "target", "neg_target"))
    hops = None
    if "neighbor_k" in row:
        listed = _field(row, "neighbor_k", dict)
        if list(listed) != [str(k) for k in range(len(listed))]:
            raise Malformed(f'field \'neighbor_k\' must have the keys "0", "1", …, not {list(listed)}')
        hops = tuple(
            tuple(node(v, f"neighbor_k[{k}]") for v in _all(layer, int, "neighbor_k")) for k, layer in listed.items()
        )
        if not hops or hops[0] != (root,) or hops[-1] != (target,):
            raise Malformed("field 'neighbor_k' must lead from root to target")
    return GraphItem(text.question, text.steps, text.answer, names, tuple(edges), root, target, distractor, hops)


def _number(text: str) -> str:
    return text.replace(",", "").strip()
