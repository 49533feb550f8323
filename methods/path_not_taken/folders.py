"""A checkpoint as its author left it: a Hugging Face folder, one safetensors file, or a hub id."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from methods.path_not_taken import names, shards
from tycho.errors import TychoError, one_line
from tycho.files import read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)\.safetensors\Z")
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?\Z")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf")


@dataclass(frozen=True)
class Checkpoint:
    """Names and places of tensors; each is read alone, when asked for, and nothing is kept."""

    source: str  # as the user wrote it
    folder: Path
    where: dict[str, Path] = field(repr=False)  # tensor -> file
    config: dict[str, Any] = field(default_factory=dict, repr=False)  # the model's config.json

    @cached_property
    def names(self) -> list[str]:
        return names.in_order(self.where)

    @property
    def files(self) -> list[Path]:
        return sorted(set(self.where.values()))

    def stored(self, name: str) -> shards.Stored:
        """Shape and dtype, from the file's header."""
        return shards.header(self.where[name])[name]

    def read(self, name: str) -> Tensor:
        return shards.read(self.where[name], name)

    @cached_property
    def embedding(self) -> str | None:
        """The token embedding's name, where there is one."""
        found = [name for name in self.where if names.is_embedding(name)]
        return found[0] if len(found) == 1 else None


def locate(source: str | Path) -> Path:
    """The folder or file of a checkpoint; a hub id (`org/name`, `org/name@revision`) goes into the hub's cache."""
    path = Path(source).expanduser()
    if path.exists():
        return path
    near = names.nearest(path.name, [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else [])
    hint = f"; did you mean {str(path.parent / near)!r}?" if near else ""
    if not HUB_ID.match(str(source)):
        raise TychoError(f"there is no checkpoint {str(source)!r}: name a folder, a safetensors file or a hub id{hint}")
    return _fetch(str(source), hint)


def open_folder(source: str | Path, place: Path | None = None) -> Checkpoint:
    """Opens a checkpoint with weights of its own (not an adapter); `place` is where `locate` found it."""
    place = place or locate(source)
    folder = place if place.is_dir() else place.parent
    config = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    return Checkpoint(str(source), folder, _places(place), config)


def is_adapter(place: Path) -> bool:
    """Whether a folder holds an adapter and no weights of its own."""
    return (place / ADAPTER_CONFIG).exists() and not any((place / name).exists() for name in (SINGLE, INDEX))


def _places(place: Path) -> dict[str, Path]:
    if place.is_file() and place.suffix == ".safetensors":
        files = [place]
    elif place.is_file() and place.name.endswith(".index.json"):
        return _indexed(place)
    elif place.is_file():
        raise TychoError(f"{place} is not a safetensors file: convert it (model.save_pretrained writes safetensors)")
    elif (place / SINGLE).exists():  # before the index, as transformers does
        files = [place / SINGLE]
    elif (place / INDEX).exists():
        return _indexed(place / INDEX)
    else:
        files = _loose(place)
    found: dict[str, Path] = {}
    for file in files:
        for name in shards.header(file):
            if name in found:
                raise TychoError(f"tensor {name!r} is in {found[name].name} and in {file.name} of {place}: remove one")
            found[name] = file
    return found


def _indexed(index: Path) -> dict[str, Path]:
    try:
        listed = {str(name): index.parent / file for name, file in read_json(index)["weight_map"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise TychoError(f"{index} has no weight_map: get it again") from error
    for name, file in listed.items():
        if not file.exists():
            raise TychoError(f"tensor {name!r} should be in {file}, which is missing: get the checkpoint again")
        if name not in shards.header(file):
            raise TychoError(f"tensor {name!r} is not in {file}, where {index.name} has it: get the checkpoint again")
    return listed


def _loose(folder: Path) -> list[Path]:
    """Safetensors files under other names: one, or one whole set of numbered shards."""
    files = sorted(folder.glob("*.safetensors"))
    numbered = [SHARD.match(file.name) for file in files]
    if len(files) == 1 and not numbered[0]:
        return files
    if files and all(numbered) and len({(m[1], m[3]) for m in numbered}) == 1:
        total, present = int(numbered[0][3]), {int(m[2]) for m in numbered}
        missing = sorted(set(range(1, total + 1)) - present)
        if missing:
            raise TychoError(f"{folder} lacks shard {missing[0]} of {total}: get the checkpoint again")
        return files
    if files:
        raise TychoError(f"{folder} holds several safetensors files and no {INDEX}: name one of them")
    pickled = [file.name for pattern in PICKLED for file in folder.glob(pattern)]
    if pickled:
        raise TychoError(
            f"{folder} holds {pickled[0]} and no safetensors: load it in transformers and save_pretrained it again"
        )
    raise TychoError(f"{folder} holds no safetensors file: name a checkpoint's folder")


def _fetch(source: str, hint: str) -> Path:
    """Downloads what a diff needs of a hub repository: weights as safetensors, and the json beside them."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    name, _, revision = source.partition("@")
    try:
        folder = Path(snapshot_download(name, revision=revision or None, allow_patterns="*.json"))
        weights = [SINGLE, ADAPTER]
        if (folder / INDEX).exists():  # no others: some repositories hold the weights a second time, under other names
            weights = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=["*.json", *weights]))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise TychoError(
            f"{source!r} is no folder or file here, and the hub did not give it ({one_line(error)[:200]}): "
            f"check the name, the network and, for a gated model, `hf auth login`{hint}"
        ) from error
