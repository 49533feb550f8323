"""The semi-autoregressive sampler of masked diffusion models (LLaDA's, as SPG rolls out and evaluates)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Denoise = Callable[[Tensor], Tensor]  # completion with masks [B, n] -> logits [B, n, V]


class Rollout(NamedTuple):
    """tokens [B, n], no mask token among them; calls: passes of the network."""

    tokens: Tensor
    calls: int


def schedule(block: int, steps: int) -> list[int]:
    """Tokens to unmask at each step of a block: evenly, the first `block mod steps` steps take one more."""
    return [block // steps + (step < block % steps) for step in range(steps)]


def gumbel(shape: torch.Size, generator: torch.Generator | None) -> Tensor:
    """Standard Gumbel noise in fp32, from a private generator (in bf16 ties would be common)."""
    u = torch.rand(shape, generator=generator, dtype=torch.float32)
    return -torch.log(-torch.log(u.clamp(1e-20, 1 - 6e-8)))


@torch.no_grad()
def sample(
    denoise: Denoise,
    batch: int,
    n: int,
    *,
    block: int,
    steps: int,
    mask_token: int,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    confidence: str = "low",
    forbidden: tuple[int, ...] = (),
    device: str | torch.device = "cpu",
) -> Rollout:
    """Fills n masks block by block, in each the most confident tokens first; what is unmasked stays.

    steps: network calls a block. temperature T: token = argmax(logits + T·Gumbel), which samples softmax(logits / T).
    Confidence is the probability (at temperature 1) of the drawn token; confidence="random" unmasks in random order.
    The mask token and `forbidden` ones are never drawn. Raises ValueError where blocks do not divide n.
    """
    if n % block or not 1 <= steps <= block:
        raise ValueError(f"n={n} tokens in blocks of {block} with {steps} steps each cannot be scheduled")
    z = torch.full((batch, n), mask_token, device=device)
    never = torch.tensor([mask_token, *forbidden], device=device)
    for start in range(0, n, block):
        stop = start + block  # later positions cannot be unmasked yet, earlier ones are
        for count in schedule(block, steps):
            here = z[:, start:stop]
            logits = denoise(z)[:, start:stop].float().index_fill(2, never, -torch.inf)
            drawn = logits if temperature == 0 else logits + temperature * gumbel(logits.shape, generator).to(device)
            x = drawn.argmax(dim=2)
            if confidence == "low":
                sure = logits.log_softmax(dim=2).gather(2, x[..., None])[..., 0]
            else:
                sure = torch.rand(x.shape, generator=generator).to(device)
            chosen = sure.masked_fill(here != mask_token, -torch.inf).topk(count, dim=1).indices
            here.scatter_(1, chosen, x.gather(1, chosen))
    return Rollout(z, n // block * steps)
