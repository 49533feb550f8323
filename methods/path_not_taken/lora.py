"""A LoRA adapter (peft's format) on its base, merged one tensor at a time: W + scaling B A."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from methods.path_not_taken import names, shards
from methods.path_not_taken.folders import ADAPTER, ADAPTER_CONFIG, Checkpoint
from tycho.errors import TychoError
from tycho.files import read_json

PART = re.compile(r"(.+)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(\.\w+)?(\.weight)?\Z")
# Initialisations that also change the base, so that an adapter saved as it is does not belong to the original.
REBASED = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class Merged:
    """Reads like a checkpoint: the base's tensors, changed where the adapter says so."""

    source: str
    base: Checkpoint
    file: Path
    config: dict[str, Any] = field(repr=False)
    factors: dict[str, dict[str, str]] = field(repr=False)  # tensor of the base -> kind of factor -> tensor in the file
    replaced: dict[str, str] = field(repr=False)  # tensors trained whole (modules_to_save, biases)

    @cached_property
    def names(self) -> list[str]:
        # A head trained on its own where the base ties it to the embedding is a tensor the base does not have.
        return names.in_order({*self.base.names, *self.factors, *self.replaced})

    @property
    def files(self) -> list[Path]:
        return [self.file]

    @property
    def embedding(self) -> str | None:
        return self.base.embedding

    def stored(self, name: str) -> shards.Stored:
        if name in self.replaced:
            return shards.header(self.file)[self.replaced[name]]
        return self.base.stored(self._origin(name))

    def read(self, name: str) -> Tensor:
        """A tensor as stored, or merged in float32. An adapted embedding may be saved whole beside its factors."""
        if name in self.replaced:
            weight = shards.read(self.file, self.replaced[name])
        else:
            weight = self.base.read(self._origin(name))
        return self._merge(name, weight) if name in self.factors else weight

    def _origin(self, name: str) -> str:
        return name if name in self.base.where else str(self.base.embedding)

    def _merge(self, name: str, weight: Tensor) -> Tensor:
        part = {kind: shards.read(self.file, at).float() for kind, at in self.factors[name].items()}
        embedded = "lora_embedding_A" in part
        a, b = (part["lora_embedding_A"], part["lora_embedding_B"]) if embedded else (part["lora_A"], part["lora_B"])
        if weight.ndim != 2 or a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
            raise TychoError(
                f"tensor {name!r}: the adapter {self.source} adapts something else than a matrix; merge it first"
            )
        # peft writes (out, in); embeddings and GPT-2's Conv1D are the other way round.
        shape = (b.shape[0], a.shape[1])
        turned = embedded or (
            shape == weight.T.shape and (shape != weight.shape or bool(self.config.get("fan_in_fan_out")))
        )
        if shape != (weight.T.shape if turned else weight.shape):
            raise TychoError(
                f"tensor {name!r} is {list(weight.shape)} in BASE and the adapter {self.source} is for {list(shape)}: "
                "give the base it was trained on"
            )
        scaling = self._scaling(name, a.shape[0])
        weight = weight.float()
        merged = (weight.T if turned else weight).addmm(b, a, alpha=scaling)
        if "lora_magnitude_vector" in part:  # DoRA: columns of the merged matrix get a trained length
            merged *= (part["lora_magnitude_vector"].view(-1) / merged.norm(dim=0 if embedded else 1)).view(
                (1, -1) if embedded else (-1, 1)
            )
        return merged.T.contiguous() if turned else merged

    def _scaling(self, name: str, rank: int) -> float:
        alpha = self.config.get("lora_alpha", 8)
        for pattern, other in (self.config.get("alpha_pattern") or {}).items():
            if re.match(rf"(.*\.)?({pattern})\Z", name.removesuffix(".weight")):
                alpha = other
                break
        return alpha / math.sqrt(rank) if self.config.get("use_rslora") else alpha / rank


def merged(source: str | Path, folder: Path, base: Checkpoint) -> Merged:
    """An adapter's folder on a base. Raises TychoError naming the tensor or setting that cannot be merged."""
    config = read_json(folder / ADAPTER_CONFIG)
    if not (folder / ADAPTER).exists():
        raise TychoError(f"{folder} holds {ADAPTER_CONFIG} and no {ADAPTER}: save the adapter as safetensors")
    if config.get("peft_type") != "LORA":
        raise TychoError(
            f"adapter {source} is of type {config.get('peft_type')}, not LORA: merge it into its base first"
        )
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(REBASED):
        raise TychoError(
            f"adapter {source} starts from {start!r}, which changes the base as well: save it with "
            "path_initial_model_for_weight_conversion, or merge it first"
        )
    if config.get("layer_replication"):
        raise TychoError(f"adapter {source} repeats layers (layer_replication): merge it into its base first")
    factors: dict[str, dict[str, str]] = {}
    replaced: dict[str, str] = {}
    for name in shards.header(folder / ADAPTER):
        found = PART.match(name)
        if found:
            factors.setdefault(f"{found[1].removesuffix('.base_layer')}.weight", {})[found[2]] = name
        else:
            replaced[name.replace(".base_layer.", ".")] = name
    at = _in_base({*factors, *replaced}, base, str(source))
    for name, kinds in factors.items():
        if not {"lora_A", "lora_B"} <= set(kinds) and not {"lora_embedding_A", "lora_embedding_B"} <= set(kinds):
            raise TychoError(f"tensor {name!r} has one half of its factors in the adapter {source}: save it again")
    return Merged(
        str(source),
        base,
        folder / ADAPTER,
        config,
        {at[name]: kinds for name, kinds in factors.items()},
        {at[name]: stored for name, stored in replaced.items()},
    )


def _in_base(adapted: set[str], base: Checkpoint, source: str) -> dict[str, str]:
    """The base's name of every adapted tensor; a head the base ties to its embedding keeps its own."""
    at = names.match(sorted(adapted), base.names)
    for name in sorted(adapted - set(at)):
        if not (names.is_head(name) and base.embedding):
            near = names.nearest(names.canonical(name), [names.canonical(other) for other in base.names])
            hint = f"; nearest there: {near!r}" if near else ""
            raise TychoError(f"adapter {source} changes {name!r}, which BASE ({base.source}) does not have{hint}")
        at[name] = names.canonical(name)
    return at
