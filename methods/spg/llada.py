"""LLaDA's network: a Llama without the causal mask (arXiv 2502.09992). Parameters have the published checkpoints' names.

The small models here are the same module with learned positions: in a Sudoku a cell's absolute place matters, and rotary
positions without a causal mask show distances only.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tycho.errors import TychoError, one_line


@dataclass(frozen=True)
class LLaDAConfig:
    """Shape and special tokens, under the names of the published config.json (`learned_positions` is ours)."""

    d_model: int
    n_heads: int
    n_layers: int
    mlp_hidden_size: int
    embedding_size: int
    mask_token_id: int
    eos_token_id: int
    pad_token_id: int
    max_sequence_length: int = 4096
    rope_theta: float = 500_000.0
    rms_norm_eps: float = 1e-5
    learned_positions: bool = False

    # The names that `tycho.lm.flops` reads.
    model_type = "llada"
    hidden_size = property(lambda self: self.d_model)
    intermediate_size = property(lambda self: self.mlp_hidden_size)
    num_attention_heads = property(lambda self: self.n_heads)
    num_hidden_layers = property(lambda self: self.n_layers)
    vocab_size = property(lambda self: self.embedding_size)


# config.json of GSAI-ML/LLaDA-8B-Instruct (from memory; the parameter count it gives is the published 8,015,581,184).
LLADA_8B = LLaDAConfig(
    d_model=4096,
    n_heads=32,
    n_layers=32,
    mlp_hidden_size=12288,
    embedding_size=126_464,
    mask_token_id=126_336,
    eos_token_id=126_081,
    pad_token_id=126_081,
)


class Norm(nn.Module):
    """Root-mean-square norm, computed in fp32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, eps=self.eps).to(x.dtype) * self.weight


class Block(nn.Module):
    """Attention over all kept positions, then a gated feed-forward block."""

    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__()
        width, inner = config.d_model, config.mlp_hidden_size
        self.heads = config.n_heads
        self.attn_norm, self.ff_norm = Norm(width, config.rms_norm_eps), Norm(width, config.rms_norm_eps)
        self.q_proj, self.k_proj, self.v_proj, self.attn_out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.ff_proj, self.up_proj = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.ff_out = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None, keep: Tensor | None) -> Tensor:
        h = self.attn_norm(x)
        q, k, v = (
            p(h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        mask = None if keep is None else keep[:, None, None, :]
        x = x + self.attn_out(F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))
        h = self.ff_norm(x)
        return x + self.ff_out(F.silu(self.ff_proj(h)) * self.up_proj(h))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on [B, heads, N, d]: the first half of d is turned against the second, in fp32."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


class LLaDA(nn.Module):
    """ids -> logits of an independent distribution at every position (the denoiser π_θ(. | z, c))."""

    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__()
        self.config, self.recompute = config, False
        parts = {
            "wte": nn.Embedding(config.embedding_size, config.d_model),
            "blocks": nn.ModuleList(Block(config) for _ in range(config.n_layers)),
            "ln_f": Norm(config.d_model, config.rms_norm_eps),
            "ff_out": nn.Linear(config.d_model, config.embedding_size, bias=False),
        }
        if config.learned_positions:
            parts["wpe"] = nn.Embedding(config.max_sequence_length, config.d_model)
        self.model = nn.ModuleDict({"transformer": nn.ModuleDict(parts)})

    def forward(self, ids: Tensor, keep: Tensor | None = None, last: int | None = None) -> Tensor:
        """ids [B, N], keep [B, N] bool (False: padding, seen by nobody) -> logits [B, last or N, V] of the last positions."""
        parts, n = self.model["transformer"], ids.shape[1]
        if n > self.config.max_sequence_length:
            raise TychoError(f"{n} tokens do not fit the model's {self.config.max_sequence_length} positions")
        x, rotary = parts["wte"](ids), None
        if self.config.learned_positions:
            x = x + parts["wpe"].weight[:n]
        else:
            half = self.config.d_model // self.config.n_heads // 2
            rates = self.config.rope_theta ** -(torch.arange(half, device=ids.device).float() / half)
            angles = torch.arange(n, device=ids.device).float()[:, None] * rates
            rotary = angles.cos(), angles.sin()
        for block in parts["blocks"]:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, rotary, keep, use_reentrant=False)
            else:
                x = block(x, rotary, keep)
        return parts["ff_out"](parts["ln_f"](x[:, -(last or n) :]))


def build(config: LLaDAConfig, seed: int) -> LLaDA:
    """Fresh weights: normal with standard deviation 0.8/√d_model, as our other small models have it; layers that write to
    the residual stream 1/√(2 n_layers) of it. With 0.02 a small model learns late, and policy gradients unlearn it.
    """
    std = 0.8 / config.d_model**0.5
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LLaDA(config)
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                writes = name.endswith(("attn_out.weight", "ff_out.weight")) and "blocks" in name
                nn.init.normal_(weight, std=std / (2 * config.n_layers) ** 0.5 if writes else std)
    return model


def save(model: LLaDA, folder: Path, **more: Any) -> None:
    """config.json, with `more` in it, and model.safetensors, as the published checkpoint has them."""
    from safetensors.torch import save_file

    from tycho.files import write_json

    write_json(folder / "config.json", dataclasses.asdict(model.config) | {"model_type": "llada"} | more)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")


def load(folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[LLaDA, dict[str, Any]]:
    """(model, config.json) of a folder that `save` wrote or of a downloaded checkpoint in any number of shards.

    Raises TychoError where it is another architecture, or tensors are missing, unknown or of another shape.
    """
    given = read_config(folder)
    with torch.device("meta"):
        model = LLaDA(config_of(given))
    wanted, found = model.state_dict(), set()
    model = model.to_empty(device=device).to(dtype)
    own = model.state_dict()
    for name, value in tensors(folder):
        if name not in wanted or wanted[name].shape != value.shape:
            raise TychoError(f"{folder}: tensor {name} {list(value.shape)} does not fit this LLaDA")
        own[name].copy_(value)
        found.add(name)
    if missing := sorted(set(wanted) - found):
        raise TychoError(f"{folder} lacks {len(missing)} tensors, first {missing[0]}")
    return model, given


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder. Raises TychoError where there is none."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TychoError(f"no LLaDA checkpoint at {folder}: {one_line(error)}") from error


def config_of(given: dict[str, Any]) -> LLaDAConfig:
    """The shape a published config.json describes. Raises TychoError where it is not this architecture."""
    same = {"n_kv_heads": given.get("n_heads"), "weight_tying": False, "include_bias": False, "include_qkv_bias": False}
    for name, value in (same | {"model_type": "llada"}).items():
        if given.get(name, value) not in (value, None):
            raise TychoError(f"not LLaDA's architecture: config.json has {name} = {given[name]!r}, not {value!r}")
    fields = {field.name for field in dataclasses.fields(LLaDAConfig)}
    try:
        return LLaDAConfig(
            **{"embedding_size": given.get("vocab_size")} | {k: v for k, v in given.items() if k in fields}
        )
    except TypeError as error:
        raise TychoError(f"not LLaDA's architecture: {one_line(error)}") from error


def tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every tensor of a folder's safetensors files, one at a time."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as shard:
            for name in shard.keys():  # noqa: SIM118 (it is no mapping)
                yield name, shard.get_tensor(name)
