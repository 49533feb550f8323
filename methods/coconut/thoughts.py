"""Continuous thoughts: a causal language model that is fed its own last hidden state in place of a word.

Coconut (Hao et al., arXiv 2412.06769), section 3. Thought t is the last entry of the model's hidden states, after the
final normalisation, at the position before it; it stands where an input embedding would, and the position embedding is
added as to any word. n thoughts take n passes over one new column each, with the key-value cache of the columns before;
gradients flow back through all of them.

Works on any Hugging Face causal LM that takes `inputs_embeds`, `past_key_values` and `position_ids`.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tycho.lm.examples import IGNORED, Batch, next_token_loss, positions_of


class Marks(NamedTuple):
    """Token ids: around the thoughts, in a thought's place (its embedding is never read), and of a pause."""

    begin: int
    end: int
    thought: int
    pause: int


class Passes(NamedTuple):
    """What the passes over a batch gave.

    logits [n, L - start, V] of columns start … L - 1; thoughts [n, T, d], the vectors fed in at the T columns where any
    row thinks (rows that do not think there have the same column's hidden state, unused); outputs: what each pass returned.
    """

    logits: Tensor
    start: int
    thoughts: Tensor
    outputs: tuple[Any, ...]


def forward(
    model: nn.Module, batch: Batch, latent: Tensor, *, start: int | None = None, use_cache: bool = False, **options: Any
) -> Passes:
    """Runs a batch in which the positions `latent` [n, L] (bool) are continuous thoughts.

    Columns are passed in once each: those before the first thought, one column a thought, the last thought with all that
    follows. Rows should have their first thoughts in the same column (`curriculum.compose` sees to that): then the number
    of passes is one more than the largest number of thoughts.

    start: the first column whose logits are wanted, before the first thought; left out: the one before the first label or thought.
    use_cache: leave a cache in the last output even where there is no thought. options: for the model's forward, such as
    output_attentions.
    Raises ValueError where a thought stands in the first column or behind padding, since nothing precedes it.
    """
    ids, mask, positions, labels = batch
    columns = latent.any(dim=0).nonzero()[:, 0].tolist()
    if columns and (columns[0] == 0 or bool((latent[:, 1:] & ~mask[:, :-1]).any())):
        raise ValueError("a continuous thought needs a word before it: its own row has none there")
    if start is None:
        labelled = (labels != IGNORED).any(dim=0).nonzero()[:, 0].tolist()
        start = max(min([*columns, *labelled], default=ids.shape[1]) - 1, 0)
    embeddings = model.get_input_embeddings()(ids)
    edges = [0, *columns, ids.shape[1]]
    cache, logits, thoughts, outputs = None, [], [], []
    for a, b in itertools.pairwise(edges):
        inputs = embeddings[:, a:b]
        if a:
            thought = outputs[-1].hidden_states[-1][:, -1]
            thoughts.append(thought)
            first = torch.where(latent[:, a, None], thought.to(inputs.dtype), inputs[:, 0])
            inputs = torch.cat([first[:, None], inputs[:, 1:]], dim=1)
        output = model(
            inputs_embeds=inputs,
            attention_mask=mask[:, :b].long(),
            position_ids=positions[:, a:b],
            past_key_values=cache,
            use_cache=use_cache or bool(columns),
            output_hidden_states=True,
            logits_to_keep=b - max(a, start),
            **options,
        )
        cache = output.past_key_values
        logits.append(output.logits)
        outputs.append(output)
    width = embeddings.shape[2]
    stacked = torch.stack(thoughts, dim=1) if thoughts else embeddings.new_zeros(len(ids), 0, width)
    return Passes(torch.cat(logits, dim=1), start, stacked, tuple(outputs))


def loss(model: nn.Module, batch: Batch, latent: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled positions of a batch with thoughts."""
    passes = forward(model, batch, latent)
    return next_token_loss(passes.logits, batch.labels[:, passes.start :])


class Thinking(NamedTuple):
    """A prompt with its thoughts, passed in: the cache, what it holds (mask [n, L]), logits [n, V] behind it, thoughts."""

    cache: Any
    mask: Tensor
    logits: Tensor
    thoughts: Tensor
    passes: Tensor  # [n] passes a row needed


@torch.no_grad()
def think(
    model: nn.Module, ids: Tensor, mask: Tensor, between: tuple[Tensor, Tensor, Tensor], **options: Any
) -> Thinking:
    """Passes in right-aligned prompts (ids, mask [n, P]) and what stands between them and their continuation.

    between: `curriculum.enclosed`, (ids, kept, which are thoughts) [n, W], left-aligned. Rows with fewer thoughts end sooner;
    what the others do meanwhile is hidden from them.
    """
    n, last = len(ids), between[1].sum(dim=1)  # a row's last word, counted from the prompt's last
    ids = torch.cat([ids, between[0]], dim=1)
    latent = torch.cat([torch.zeros_like(mask), between[2]], dim=1)
    mask = torch.cat([mask, between[1]], dim=1)
    batch = Batch(ids, mask, positions_of(mask), torch.full_like(ids, IGNORED))
    passes = forward(model, batch, latent, use_cache=True, start=ids.shape[1] - between[0].shape[1] - 1, **options)
    logits = passes.logits[torch.arange(n, device=ids.device), last]
    return Thinking(passes.outputs[-1].past_key_values, mask, logits, passes.thoughts, between[2].sum(dim=1) + 1)
