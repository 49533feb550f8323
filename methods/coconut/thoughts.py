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

from tycho.lm.examples import Batch, next_token_loss, positions_of


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


def forward(model: nn.Module, batch: Batch, latent: Tensor, *, use_cache: bool = False, **options: Any) -> Passes:
    """Runs a batch in which the positions `latent` [n, L] (bool) are continuous thoughts.

    Columns are passed in once each: those before the first thought, one column a thought, the last thought with all that
    follows. Rows should have their first thoughts in the same column (`curriculum.compose` sees to that): then the number
    of passes is one more than the largest number of thoughts.

    use_cache: leave a cache in the last output even where there is no thought. options: for the model's forward, such as
    output_attentions.
    Raises ValueError where a thought stands in the first column or behind padding, since nothing precedes it.
    """
    ids, mask, positions, labels = batch
    columns = latent.any(dim=0).nonzero()[:, 0].tolist()
    if columns and (columns[0] == 0 or bool((latent[:, 1:] & ~mask[:, :-1]).any())):
        raise ValueError("a continuous thought needs a word before it: its own row has none there")
    labelled = (labels >= 0).any(dim=0).nonzero()[:, 0]
    start = columns[0] if columns else int(labelled[0]) if len(labelled) else ids.shape[1]
    start = max(start - 1, 0)
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
def think(model: nn.Module, ids: Tensor, mask: Tensor, marks: Marks, count: int | Tensor, **options: Any) -> Thinking:
    """Right-aligned prompts (ids, mask [n, P]), a begin mark, `count` thoughts (one number or one a row) and an end mark.

    Rows with fewer thoughts end sooner; what the others do meanwhile is hidden from them.
    """
    n, counts = len(ids), torch.as_tensor(count, device=ids.device).expand(len(ids))
    most = int(counts.max()) if n else 0
    slot = torch.arange(most + 1, device=ids.device)
    tail = torch.where(slot < counts[:, None], marks.thought, marks.end)
    ids = torch.cat([ids, ids.new_full((n, 1), marks.begin), tail], dim=1)
    mask = torch.cat([mask, mask.new_ones(n, 1), slot <= counts[:, None]], dim=1)
    latent = torch.zeros_like(mask)
    latent[:, -most - 1 :] = slot < counts[:, None]
    batch = Batch(ids, mask, positions_of(mask), torch.full_like(ids, -100))
    passes = forward(model, batch, latent, use_cache=True, **options)
    last = (ids.shape[1] - 1 - passes.start) - most + counts
    logits = passes.logits[torch.arange(n, device=ids.device), last]
    return Thinking(passes.outputs[-1].past_key_values, mask, logits, passes.thoughts, counts + 1)
