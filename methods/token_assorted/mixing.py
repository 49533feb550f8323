"""Mixed sequences: some chunks of a trace stand as latent codes, the rest as text (Token Assorted, section 3.2).

    prompt <latent> z_1 … z_k </latent> rest of the trace, answer

The paper replaces from the left, and draws how many chunks anew for every example, in a single stage. Its ablations replace
everything, a growing part, or as many chunks at random places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tycho.lm.examples import Batch, Examples, join, pack

Replacement = Literal["random_left", "nothing", "no_trace", "everything", "growing", "random_places"]


class Words(NamedTuple):
    """Token ids: the two delimiters and the first code; code z is `first + z`."""

    begin: int
    end: int
    first: int


def chunked(examples: Examples, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens [n, G, size], kept [n, G, size], whole [n, G]): traces cut into chunks from the left; the last may be short."""
    trace, kept = examples.trace()
    short = -trace.shape[1] % size
    trace, kept = F.pad(trace, (0, short), value=examples.pad), F.pad(kept, (0, short))
    shape = (len(trace), -1, size)
    kept = kept.view(*shape)
    return trace.view(*shape), kept, kept.all(dim=2)


def counts(
    replacement: Replacement, whole: Tensor, maxima: Sequence[int], progress: float, rng: np.random.Generator
) -> Tensor:
    """[n] chunks to replace. whole [n, G]; maxima: the choices of m_max, in chunks; progress: 0 … 1, for `growing`.

    m_max is drawn uniformly from `maxima` and m uniformly from 0 … m_max; both are cut at what the trace has.
    """
    available = whole.sum(dim=1)
    if replacement in ("nothing", "no_trace"):
        return torch.zeros_like(available)
    if replacement == "everything":
        return available
    if replacement == "growing":
        return (available * min(1.0, progress)).round().long()
    most = rng.choice(np.asarray(maxima), len(available))
    return torch.minimum(torch.from_numpy(rng.integers(0, most + 1)), available)


def places(replacement: Replacement, whole: Tensor, count: Tensor, rng: np.random.Generator) -> Tensor:
    """[n, G] bool: which chunks are replaced; the first `count`, or any of the whole ones."""
    if replacement != "random_places":
        return whole & (torch.arange(whole.shape[1]) < count[:, None])
    draw = np.where(whole.numpy(), rng.random(tuple(whole.shape)), 2.0)
    rank = torch.from_numpy(draw.argsort(axis=1).argsort(axis=1))
    return whole & (rank < count[:, None])


def mixed(
    tokens: Tensor, kept: Tensor, codes: Tensor, replaced: Tensor, words: Words, pad: int
) -> tuple[Tensor, Tensor]:
    """(ids, mask) [n, C], left-aligned: traces with the chunks `replaced` [n, G] as codes [n, G].

    Neighbouring codes stand between one pair of delimiters. tokens, kept: as `chunked` gives them.
    """
    before = F.pad(replaced, (1, 0))[:, :-1]
    after = F.pad(replaced, (0, 1))[:, 1:]
    slots = [torch.full_like(codes, words.begin), words.first + codes, torch.full_like(codes, words.end)]
    shown = [replaced & ~before, replaced, replaced & ~after]
    ids = torch.cat([torch.stack(slots, dim=2), tokens], dim=2).flatten(1)
    mask = torch.cat([torch.stack(shown, dim=2), kept & ~replaced[..., None]], dim=2).flatten(1)
    return pack(ids, mask, pad)


def sequences(examples: Examples, trace: tuple[Tensor, Tensor]) -> Batch:
    """Prompts, such traces and answers joined, with loss on what follows the prompt."""
    answer = torch.arange(examples.answer.shape[1]) < examples.answer_length[:, None]
    ids, mask = torch.cat([trace[0], examples.answer], dim=1), torch.cat([trace[1], answer], dim=1)
    return join(examples.prompts(), pack(ids, mask, examples.pad))
