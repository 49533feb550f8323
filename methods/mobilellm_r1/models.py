"""The published models as data (`models.yaml`) and as Hugging Face configurations.

The architectures are dense decoders in the Llama-4 text form: grouped-query attention, SwiGLU, tied embeddings. Nothing
here reaches the network; weights come by hub id.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tycho.errors import unknown

if TYPE_CHECKING:
    from torch import nn

MODELS = Path(__file__).with_name("models.yaml")


@dataclass(frozen=True)
class Architecture:
    """One row of the published table; `parameters` in millions, as published."""

    layers: int
    heads: int
    kv_heads: int
    width: int
    feed_forward: int
    parameters: float


@dataclass(frozen=True)
class Stage:
    """One training stage as published. `batch` sequences of `sequence` tokens on each of `gpus`; the schedule ends at
    `end` times the learning rate; a stage is as long as `steps` or `epochs` say, and took `days`."""

    batch: int
    sequence: int
    learning_rate: float
    gpus: int
    weight_decay: float
    schedule: str
    end: float
    loss: str
    tokens: float = 0.0
    samples: int = 0
    steps: int = 0
    epochs: int = 0
    warmup_steps: int = 0
    warmup_share: float = 0.0
    data: str = ""
    days: str = ""

    @property
    def tokens_a_step(self) -> int:
        return self.batch * self.sequence * self.gpus


@functools.cache
def published() -> dict[str, Any]:
    """The whole of `models.yaml`."""
    import yaml

    return yaml.safe_load(MODELS.read_text(encoding="utf-8"))


def architectures() -> dict[str, Architecture]:
    return {name: Architecture(**row) for name, row in published()["architectures"].items()}


def stages() -> dict[str, Stage]:
    """The training stages in their order."""
    return {name: Stage(**row) for name, row in published()["stages"].items()}


def hub_id(name: str, *, base: bool = False) -> str:
    """The hub repository of a model: the post-trained one, or the base one."""
    return published()["hub"]["base" if base else "final"].format(size=_size(name))


def branches(name: str, *, base: bool = False) -> list[str]:
    """Branches of that repository that hold intermediate checkpoints; the endings are published, the start is assumed."""
    start = published()["assumed"]["branch_start"].format(size=_size(name))
    return [start + ending for ending in published()["hub"]["branch_endings"]["base" if base else "final"]]


def config(name: str, *, final: bool = False, **changes: Any) -> Any:
    """The Llama-4 text configuration of a model. final: with the context of the reasoning SFT. `changes` scale it down:
    layers, heads, kv_heads, width, feed_forward, vocabulary, context."""
    from transformers import Llama4TextConfig

    if name not in architectures():
        raise unknown("model", name, architectures())
    common, assumed = published()["common"], published()["assumed"]
    shape = vars(architectures()[name]) | {"vocabulary": common["vocabulary"]} | changes
    context = changes.get("context", common["final_context" if final else "context"])
    theta = assumed["rope_theta"] * (common["rope_theta_factor"] if final else 1)
    return Llama4TextConfig(
        vocab_size=shape["vocabulary"],
        hidden_size=shape["width"],
        intermediate_size=shape["feed_forward"],
        intermediate_size_mlp=shape["feed_forward"],  # the width that dense layers read
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        head_dim=shape["width"] // shape["heads"],
        max_position_embeddings=context,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        moe_layers=[],  # dense throughout
        num_local_experts=0,
        interleave_moe_layer_step=0,
        tie_word_embeddings=True,
    )


def build(name: str, *, device: str = "meta", **changes: Any) -> nn.Module:
    """An untrained model; on the device `meta` it has shapes and no numbers."""
    import torch
    from transformers import Llama4ForCausalLM

    with torch.device(device):
        model = Llama4ForCausalLM(config(name, **changes))
    model.tie_weights()
    return model


def _size(name: str) -> str:
    if name not in architectures():
        raise unknown("model", name, architectures())
    return name.rpartition("-")[2]
