"""Batched generation with a key-value cache: ragged prompts, greedy or sampled, each row stopped by itself."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tycho.lm.examples import positions_of

CANDIDATES = 256  # a vocabulary more than four times as wide is not sorted whole to draw from


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


class Step(NamedTuple):
    """One more token of every row that is still going: which rows [b] of the batch, their tokens [b], and the largest
    log-probabilities [b, k] where they were asked for."""

    rows: Tensor
    tokens: Tensor
    top_logprobs: Tensor | None


def decode(model: nn.Module, cache: Any, logits: Tensor, mask: Tensor, **options: Any) -> Generation:
    """Generation from a filled cache, to its end. See `steps`."""
    going = steps(model, cache, logits, mask, **options)
    while True:
        try:
            next(going)
        except StopIteration as end:
            return end.value


@torch.no_grad()
def steps(
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
    crowd: float = 0.5,
) -> Iterator[Step]:
    """Generation from a filled cache, token by token: `logits` [n, V] follow its last position, `mask` [n, P] says what
    it holds. Returns a `Generation`.

    `send` a bool tensor [b] to end rows of the last step with their token; `next` ends none. The cache is used up. Rows
    leave the batch when they end, as soon as at most a share `crowd` of it goes on.
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
        chosen = draw(logits, sampling, noise[rows, place] if noise is not None else None)
        now = rows[going]
        best = logits[going].float().log_softmax(dim=1).topk(top_logprobs, dim=1).values if top_logprobs else None
        if best is not None:
            tops[now, place] = best
        tokens[now, place] = chosen[going]
        lengths[now] += 1
        ended = yield Step(now, chosen[going], best)
        done = torch.isin(chosen, stops)
        if ended is not None:
            done[going.nonzero()[:, 0][ended]] = True
        going = going & ~done
        if place + 1 == most or not going.any():
            break
        if int(going.sum()) <= crowd * len(rows):
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
    scaled = logits.float() / sampling.temperature
    if scaled.shape[1] <= 4 * CANDIDATES or sampling.top_k > CANDIDATES:
        return _drawn(*scaled.sort(dim=1, descending=True, stable=True), None, sampling, noise)[0]
    # A wide vocabulary is not sorted whole: nearly every draw falls among the likeliest.
    total = scaled.logsumexp(dim=1)
    chosen, sure = _drawn(*scaled.topk(CANDIDATES, dim=1), total, sampling, noise)
    if not sure.all():
        left = ~sure
        chosen[left] = _drawn(*scaled[left].sort(dim=1, descending=True), None, sampling, noise[left])[0]
    return chosen


def _drawn(
    ordered: Tensor, order: Tensor, total: Tensor | None, sampling: Sampling, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """(ids [n], whether they are sure [n]) from the likeliest scaled logits [n, m], descending. `total` [n]: the log of
    the whole vocabulary's sum where these are only a part of it."""
    if sampling.top_k:
        ordered, order, total = ordered[:, : sampling.top_k], order[:, : sampling.top_k], None
    shares = ordered.softmax(dim=1) if total is None else (ordered - total[:, None]).exp()
    before = shares.cumsum(dim=1) - shares
    shares = shares.masked_fill(before >= sampling.top_p, 0.0)
    reached = shares.cumsum(dim=1)
    whole = reached[:, -1]
    sure = torch.ones_like(whole, dtype=torch.bool)
    if total is not None and sampling.top_p == 1:
        whole, sure = torch.ones_like(whole), noise < whole
    elif total is not None:
        sure = (before >= sampling.top_p).any(dim=1)
    rank = (reached <= (noise * whole)[:, None]).sum(dim=1)
    last = (shares > 0).sum(dim=1) - 1  # rounding must not lead behind the last candidate
    return order.gather(1, torch.minimum(rank, last)[:, None])[:, 0], sure
