"""Batched generation with a key-value cache: ragged prompts, greedy or sampled, each row stopped by itself."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tycho.lm.examples import positions_of


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. temperature 0: the likeliest. top_k 0 and top_p 1: from all tokens."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0


@dataclass(frozen=True, eq=False)
class Generation:
    """What was written, and what it cost.

    tokens [n, T] int64, padded behind the stop token, which is part of it; lengths [n]: tokens generated.
    forward_passes [n]: model calls a row took part in (one for its prompt and one for each token but the last).
    calls: model calls of the whole batch. top_logprobs [n, T, k]: the largest log-probabilities before temperature and
    filters, descending, NaN behind the end; None unless asked for.
    """

    tokens: Tensor
    lengths: Tensor
    forward_passes: Tensor
    calls: int
    top_logprobs: Tensor | None = None

    def rows(self) -> list[list[int]]:
        """Each row's tokens."""
        return [row[:length].tolist() for row, length in zip(self.tokens, self.lengths, strict=True)]

    def after(self, mark: int, missing: int = -1) -> Tensor:
        """[n] the token behind the last `mark` of each row, `missing` where there is none."""
        index = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        found = (self.tokens == mark) & (index + 1 < self.lengths[:, None])
        place = torch.where(found, index, -1).amax(dim=1) + 1
        return torch.where(found.any(dim=1), self.tokens.gather(1, place[:, None])[:, 0], missing)


@torch.no_grad()
def generate(
    model: nn.Module,
    ids: Tensor,
    mask: Tensor,
    *,
    most: int,
    stop: Collection[int],
    sampling: Sampling = Sampling(),
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    top_logprobs: int = 0,
) -> Generation:
    """Continues right-aligned prompts (ids, mask [n, P]) by at most `most` tokens each.

    Sampling draws by inverse distribution function from one uniform number a row and token: `noise` [n, most], else
    from `generator`. So a row's text depends on its own numbers, not on the rows beside it or their lengths.
    """
    outputs = model(
        input_ids=ids, attention_mask=mask.long(), position_ids=positions_of(mask), use_cache=True, logits_to_keep=1
    )
    return decode(
        model,
        outputs.past_key_values,
        outputs.logits[:, -1],
        mask,
        most=most,
        stop=stop,
        sampling=sampling,
        generator=generator,
        noise=noise,
        top_logprobs=top_logprobs,
    )


@torch.no_grad()
def decode(
    model: nn.Module,
    cache: Any,
    logits: Tensor,
    mask: Tensor,
    *,
    most: int,
    stop: Collection[int],
    sampling: Sampling = Sampling(),
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    top_logprobs: int = 0,
) -> Generation:
    """Generation from a filled cache: `logits` [n, V] follow its last position, `mask` [n, P] says what it holds.

    The cache is used up. Rows leave the batch when they end, as soon as that halves it.
    """
    if most < 1:
        raise ValueError(f"at least one token must be written, not most={most}")
    positions, limit = mask.sum(dim=1), getattr(model.config, "max_position_embeddings", None)
    if limit and len(mask) and int(positions.max()) + most - 1 > limit:
        raise ValueError(f"{int(positions.max())} tokens and {most} more do not fit the model's {limit} positions")
    device, n = logits.device, len(logits)
    stops = torch.tensor(sorted(stop), device=device)
    suppressed = getattr(model.generation_config, "suppress_tokens", None) or []
    suppressed = torch.tensor([t for t in suppressed if t < logits.shape[1]], dtype=torch.long, device=device)
    if sampling.temperature > 0 and noise is None:
        noise = torch.rand(n, most, generator=generator).to(device)
    pad = model.config.pad_token_id if model.config.pad_token_id is not None else model.config.eos_token_id
    tokens = torch.full((n, most), pad or 0, device=device)
    tops = torch.full((n, most, top_logprobs), torch.nan, device=device) if top_logprobs else None
    lengths = torch.zeros(n, dtype=torch.long, device=device)
    rows = torch.arange(n, device=device)  # of the whole batch, that are still in the cache
    going = torch.ones(n, dtype=torch.bool, device=device)  # of those, which have not ended
    calls = 1
    for place in range(most):
        logits = logits.index_fill(1, suppressed, -torch.inf)
        if tops is not None:
            tops[rows[going], place] = logits[going].float().log_softmax(dim=1).topk(top_logprobs, dim=1).values
        chosen = draw(logits, sampling, noise[rows, place] if noise is not None else None)
        tokens[rows[going], place] = chosen[going]
        lengths[rows[going]] += 1
        going = going & ~torch.isin(chosen, stops)
        if place + 1 == most or not going.any():
            break
        if 2 * int(going.sum()) <= len(rows):
            cache.batch_select_indices(going.nonzero()[:, 0])
            rows, chosen, mask, positions = rows[going], chosen[going], mask[going], positions[going]
            going = going[going]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        outputs = model(
            input_ids=chosen[:, None],
            attention_mask=mask.long(),
            position_ids=positions[:, None],
            past_key_values=cache,
            use_cache=True,
        )
        logits, positions, calls = outputs.logits[:, -1], positions + 1, calls + 1
    width = int(lengths.max()) if n else 0
    return Generation(tokens[:, :width], lengths, lengths.clone(), calls, None if tops is None else tops[:, :width])


def draw(logits: Tensor, sampling: Sampling, noise: Tensor | None = None) -> Tensor:
    """[n] token ids from logits [n, V] and one uniform number a row (`noise` [n], unused at temperature 0).

    Sampled by inverse distribution function over tokens in descending order of probability, after top_k and top_p
    (the smallest set that holds at least that probability), as Hugging Face's processors order them.
    """
    if sampling.temperature == 0:
        return logits.argmax(dim=1)
    ordered, order = (logits.float() / sampling.temperature).sort(dim=1, descending=True, stable=True)
    if sampling.top_k:
        ordered[:, sampling.top_k :] = -torch.inf
    shares = ordered.softmax(dim=1)
    before = shares.cumsum(dim=1) - shares
    shares = shares.masked_fill(before >= sampling.top_p, 0.0)
    reached = shares.cumsum(dim=1)
    rank = (reached <= noise[:, None] * reached[:, -1:]).sum(dim=1)
    last = (shares > 0).sum(dim=1) - 1  # rounding must not lead behind the last candidate
    return order.gather(1, torch.minimum(rank, last)[:, None])[:, 0]
