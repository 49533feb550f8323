"""Corpora as files, read for ever as sequences of tokens. Where a reader stands is a few numbers and the tokens left over,
so that a training is resumed without reading again what it has read."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from methods.mobilellm_r1.sampler import MixtureSampler, stream
from tycho.errors import TychoError, one_line
from tycho.lm.examples import IGNORED, ragged
from tycho.tasks.published import fetch

ENDINGS = (".jsonl", ".parquet")
COLUMNS = ("text", "messages")


def files_of(names: Sequence[str], folder: Path, given: Mapping[str, Sequence[str | Path]]) -> list[list[Path]]:
    """The files of each corpus: those that `given` names (files, folders, hub://owner/name@commit/file), else all in its
    own folder. Raises TychoError that names every corpus without files."""
    found = [_expanded(given.get(name, [folder / name])) for name in names]
    missing = [name for name, files in zip(names, found, strict=True) if not files]
    if missing:
        raise TychoError(
            f"corpora that are not here: {', '.join(missing)}. Put JSON lines or parquet files with a column `text` (or "
            f"`messages`) into {folder}/NAME/, or name files, folders or hub://owner/name@commit/file in the knob "
            "stage.files: {NAME: [...]}"
        )
    return found


def _expanded(sources: Sequence[str | Path]) -> list[Path]:
    files: list[Path] = []
    for source in sources:
        if str(source).startswith("hub://"):
            files.append(fetch(str(source)))
        elif Path(source).is_dir():
            files += sorted(path for path in Path(source).rglob("*") if path.suffix in ENDINGS)
        elif Path(source).is_file():
            files.append(Path(source))
    return files


def rows(path: Path, place: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """(place behind it, document) from a place on: a byte of JSON lines, a row of a parquet file."""
    if path.suffix == ".parquet":
        yield from _parquet_rows(path, place)
        return
    with path.open("rb") as handle:
        handle.seek(place)
        while line := handle.readline():
            if line.strip():
                try:
                    yield handle.tell(), json.loads(line)
                except ValueError as error:
                    raise TychoError(
                        f"{path}, the line that ends at byte {handle.tell()}: {one_line(error)}"
                    ) from error


def _parquet_rows(path: Path, place: int) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow.parquet as parquet

    file, start = parquet.ParquetFile(path), 0
    columns = [name for name in COLUMNS if name in file.schema_arrow.names]
    for group in range(file.num_row_groups):
        end = start + file.metadata.row_group(group).num_rows
        if end > place:
            skipped = max(place - start, 0)
            found = file.read_row_group(group, columns=columns).slice(skipped).to_pylist()
            yield from enumerate(found, start + skipped + 1)
        start = end


def encoder(tokenizer: Any) -> Callable[[dict[str, Any]], list[int]]:
    """Document -> tokens, the end token behind them; conversations are written by the tokenizer's chat template."""

    def encode(row: dict[str, Any]) -> list[int]:
        if row.get("messages"):
            text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        elif isinstance(row.get("text"), str):
            text = row["text"]
        else:
            raise TychoError(f"a document has no `text` and no `messages`, only {', '.join(sorted(row)) or 'nothing'}")
        return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]

    return encode


class Corpus(Iterator[list[int]]):
    """One corpus for ever, its files in their order, again from the first behind the last.

    packed: documents are joined, each sequence has `length` tokens and none is lost. Else a sequence is one document, cut
    behind `length` tokens.
    """

    def __init__(
        self, files: Sequence[Path], encode: Callable[[dict[str, Any]], list[int]], length: int, *, packed: bool = True
    ) -> None:
        self.files, self.encode, self.length, self.packed = list(files), encode, length, packed
        self.file = self.place = self.documents = self.passes = 0
        self.left: list[int] = []
        self._rows: Iterator[tuple[int, dict[str, Any]]] | None = None

    def __next__(self) -> list[int]:
        if not self.packed:
            return self._document()[: self.length]
        while len(self.left) < self.length:
            self.left += self._document()
        sequence, self.left = self.left[: self.length], self.left[self.length :]
        return sequence

    def _document(self) -> list[int]:
        while True:
            if self._rows is None:
                self._rows = rows(self.files[self.file], self.place)
            found = next(self._rows, None)
            if found is not None:
                self.place, row = found
                self.documents += 1
                try:
                    return self.encode(row)
                except (TychoError, ValueError) as error:  # a tokenizer without chat template raises the latter
                    raise TychoError(f"{self.files[self.file]}, up to {self.place}: {one_line(error)}") from error
            self.file, self.place, self._rows = self.file + 1, 0, None
            if self.file == len(self.files):
                if not self.documents:
                    raise TychoError(f"no document in {', '.join(map(str, self.files))}")
                self.file, self.passes = 0, self.passes + 1

    def state(self) -> dict[str, Any]:
        place = {name: getattr(self, name) for name in ("file", "place", "documents", "passes")}
        return place | {"left": torch.tensor(self.left, dtype=torch.long)}

    def restore(self, state: dict[str, Any]) -> None:
        for name in ("file", "place", "documents", "passes"):
            setattr(self, name, state[name])
        self.left, self._rows = state["left"].tolist(), None


class Mixture:
    """Sequences of several corpora, in the proportions of the weights at every prefix."""

    def __init__(self, corpora: Sequence[Corpus], weights: Sequence[float], pad: int) -> None:
        self.corpora, self.sampler, self.pad = list(corpora), MixtureSampler(weights), pad
        self._stream = stream(self.corpora, self.sampler)

    def take(self, n: int) -> tuple[Tensor, Tensor]:
        """(ids, labels) [n, L] of the next n sequences; shorter ones are padded behind, without labels there."""
        ids, lengths = ragged([sequence for _, sequence in itertools.islice(self._stream, n)], self.pad)
        behind = torch.arange(ids.shape[1]) >= lengths[:, None]
        return ids, ids.masked_fill(behind, IGNORED)

    def state(self) -> dict[str, Any]:
        return {"sampler": self.sampler.state_dict(), "corpora": [corpus.state() for corpus in self.corpora]}

    def restore(self, state: dict[str, Any]) -> None:
        self.sampler.load_state_dict(state["sampler"])
        for corpus, its in zip(self.corpora, state["corpora"], strict=True):
            corpus.restore(its)
