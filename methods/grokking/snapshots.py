"""The weights that training kept, by epoch."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor


def snapshots(model: Path) -> dict[int, dict[str, Tensor]]:
    """Epoch -> {"W" [1, 2M, K], "V" [1, K, M]}, in order."""
    found: dict[int, dict[str, Tensor]] = {}
    for name, tensor in load_file(model / "snapshots.safetensors").items():
        epoch, part = name.split("/")
        found.setdefault(int(epoch), {})[part] = tensor[None]
    return dict(sorted(found.items()))


def last(model: Path) -> dict[str, Tensor]:
    """The weights at the end."""
    return list(snapshots(model).values())[-1]


def named_snapshots(model: Path) -> dict[int, dict[str, Tensor]]:
    """Epoch -> parameters by name, as `anchor_training` kept them, in order."""
    found: dict[int, dict[str, Tensor]] = {}
    for name, tensor in load_file(model / "snapshots.safetensors").items():
        epoch, part = name.split("/")
        found.setdefault(int(epoch), {})[part] = tensor
    return dict(sorted(found.items()))
