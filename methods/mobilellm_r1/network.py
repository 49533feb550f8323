"""Many small Llama networks as one batch: every weight has a leading axis R, one entry a network.

Same architecture and weight names as Hugging Face's LlamaForCausalLM (rotary positions, RMSNorm, SwiGLU, grouped keys and
values, tied embeddings), so one network's weights load there as they are. A network's numbers do not depend on the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Weights = dict[str, Tensor]
IGNORED = -100
EPS = 1e-6
THETA = 10_000.0


@dataclass(frozen=True)
class Shape:
    """A network's size; head width is width / heads."""

    vocabulary: int
    layers: int = 2
    width: int = 48
    heads: int = 4
    kv_heads: int = 2
    inner: int = 128

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Name -> (out, in) of every linear layer, in order."""
        keys = self.width // self.heads * self.kv_heads
        return {
            f"model.layers.{layer}.{name}.weight": size
            for layer in range(self.layers)
            for name, size in {
                "self_attn.q_proj": (self.width, self.width),
                "self_attn.k_proj": (keys, self.width),
                "self_attn.v_proj": (keys, self.width),
                "self_attn.o_proj": (self.width, self.width),
                "mlp.gate_proj": (self.inner, self.width),
                "mlp.up_proj": (self.inner, self.width),
                "mlp.down_proj": (self.width, self.inner),
            }.items()
        }

    @property
    def norms(self) -> list[str]:
        inside = [
            f"model.layers.{layer}.{name}.weight"
            for layer in range(self.layers)
            for name in ("input_layernorm", "post_attention_layernorm")
        ]
        return [*inside, "model.norm.weight"]

    @property
    def parameters(self) -> int:
        """Parameters of one network."""
        return self.width * (self.vocabulary + len(self.norms)) + sum(
            out * into for out, into in self.matrices.values()
        )

    def last_block(self) -> list[str]:
        """The linear layers of the last block: the layers that influence is taken over unless told otherwise."""
        return [name for name in self.matrices if name.startswith(f"model.layers.{self.layers - 1}.")]

    def training_flops(self, tokens: int, length: int) -> float:
        """FLOPs of forward and backward pass over sequences of `length`: three times the forward matrix products."""
        products = sum(out * into for out, into in self.matrices.values()) + self.width * self.vocabulary
        return 6.0 * tokens * (products + 2 * self.layers * self.width * length)

    def influence_flops(self, tokens: int, length: int, probes: int) -> float:
        """FLOPs of `influence.influences` over the last block: a forward pass, the way back through the last block and
        the head (without gradients of weights), one product a probe, and the squared norms."""
        last = [self.matrices[name] for name in self.last_block()]
        block = sum(out * into for out, into in last)
        back = block + self.width * self.vocabulary + 4 * self.width * length
        norms = length * sum(out + into for out, into in last)
        return self.training_flops(tokens, length) / 3 + 2.0 * tokens * (back + probes * block + norms)


def initialise(shape: Shape, generators: Sequence[torch.Generator], deviation: float = 0.02) -> Weights:
    """Normal weights, one network a generator; norms are 1."""

    def draw(*size: int) -> Tensor:
        return torch.stack([torch.randn(size, generator=g) for g in generators]) * deviation

    found = {"model.embed_tokens.weight": draw(shape.vocabulary, shape.width)}
    found |= {name: draw(*size) for name, size in shape.matrices.items()}
    return found | {name: torch.ones(len(generators), shape.width) for name in shape.norms}


class Networks(nn.Module):
    """The weights as a module, for the house's training loop."""

    def __init__(self, shape: Shape, weights: Weights) -> None:
        super().__init__()
        self.shape = shape
        self.names = list(weights)
        for name, value in weights.items():
            self.register_parameter(name.replace(".", "/"), nn.Parameter(value.clone()))

    @property
    def weights(self) -> Weights:
        return {name: self.get_parameter(name.replace(".", "/")) for name in self.names}

    def forward(self, ids: Tensor) -> Tensor:
        return forward(self.weights, self.shape, ids)


def forward(weights: Weights, shape: Shape, ids: Tensor, tap: dict[str, tuple[Tensor, Tensor]] | None = None) -> Tensor:
    """Logits [R, B, L, V] of ids [R, B, L]. `tap` gets (input, output) of each linear layer by name, [R, B·L, ·]."""
    R, B, L = ids.shape
    d = shape.width // shape.heads

    def linear(x: Tensor, name: str) -> Tensor:
        y = torch.bmm(x, weights[name].transpose(1, 2))
        if tap is not None:
            tap[name] = (x, y)
        return y

    def norm(x: Tensor, name: str) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * weights[name][:, None]

    def split(x: Tensor, heads: int) -> Tensor:
        return x.view(R * B, L, heads, d).transpose(1, 2)

    rows = torch.arange(R, device=ids.device)[:, None] * shape.vocabulary
    x = F.embedding((ids.flatten(1) + rows), weights["model.embed_tokens.weight"].flatten(0, 1))  # [R, B·L, width]
    cosine, sine = _rotary(L, d, x)
    for layer in range(shape.layers):
        at = f"model.layers.{layer}"
        h = norm(x, f"{at}.input_layernorm.weight")
        q = _rotate(split(linear(h, f"{at}.self_attn.q_proj.weight"), shape.heads), cosine, sine)
        k = _rotate(split(linear(h, f"{at}.self_attn.k_proj.weight"), shape.kv_heads), cosine, sine)
        v = split(linear(h, f"{at}.self_attn.v_proj.weight"), shape.kv_heads)
        groups = shape.heads // shape.kv_heads
        k, v = (t.repeat_interleave(groups, dim=1) for t in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + linear(mixed.transpose(1, 2).reshape(R, B * L, shape.width), f"{at}.self_attn.o_proj.weight")
        h = norm(x, f"{at}.post_attention_layernorm.weight")
        gated = F.silu(linear(h, f"{at}.mlp.gate_proj.weight")) * linear(h, f"{at}.mlp.up_proj.weight")
        x = x + linear(gated, f"{at}.mlp.down_proj.weight")
    x = norm(x, "model.norm.weight")
    return torch.bmm(x, weights["model.embed_tokens.weight"].transpose(1, 2)).view(R, B, L, shape.vocabulary)


def _rotary(length: int, d: int, like: Tensor) -> tuple[Tensor, Tensor]:
    frequencies = THETA ** (-torch.arange(0, d, 2, device=like.device).float() / d)
    angles = torch.arange(length, device=like.device).float()[:, None] * frequencies
    angles = torch.cat([angles, angles], dim=1)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-right, left], dim=-1) * sine


def token_losses(logits: Tensor, ids: Tensor) -> Tensor:
    """[R, B, L - 1] cross-entropy of each token but the first; logits [R, B, L, V], ids [R, B, L]."""
    flat = F.cross_entropy(logits[:, :, :-1].flatten(0, 2), ids[:, :, 1:].flatten(), reduction="none")
    return flat.view(*ids.shape[:2], -1)


def document_losses(logits: Tensor, ids: Tensor, counted: Tensor | None = None) -> Tensor:
    """[R, B] mean loss of each document: over all tokens but the first, or over those that `counted` [R, B, L] marks."""
    losses = token_losses(logits, ids)
    if counted is None:
        return losses.mean(-1)
    kept = counted[:, :, 1:].to(losses.dtype)
    return (losses * kept).sum(-1) / kept.sum(-1).clamp_min(1)


def one(weights: Weights, r: int) -> Weights:
    """The weights of network r, as LlamaForCausalLM takes them."""
    return {name: value[r] for name, value in weights.items()}
