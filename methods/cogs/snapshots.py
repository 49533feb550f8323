"""The weights that training kept: a safetensors file, each network's tensors by setting."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from tycho.keys import read_setting

FILE = "snapshots.safetensors"


def save(kept: dict[str, dict[str, Tensor]], folder: Path) -> None:
    """`kept`: setting, with epochs in it -> {"W" [R, 2d, q], "V" [R, q, d]}."""
    save_file(
        {f"{where}/{name}": tensor.contiguous() for where, both in kept.items() for name, tensor in both.items()},
        folder / FILE,
    )


def load(folder: Path) -> dict[str, dict[str, Tensor]]:
    """What `save` saved, the earliest epochs first."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(folder / FILE).items():
        where, name = key.split("/")
        found.setdefault(where, {})[name] = tensor
    return dict(sorted(found.items(), key=lambda item: (int(read_setting(item[0])["epochs"]), item[0])))
