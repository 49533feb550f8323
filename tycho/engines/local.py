"""Completions in this process: batches with a key-value cache (`tycho.lm.sampling`), rows that end leave the batch.

Equal prompts are read once, and what a prompt shares with an earlier one (a question asked again, a thread's context) is
taken from the cache of that call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tycho.engines import Completion, Engine, Finish, Prompt, Settings, Step, Stream
from tycho.errors import TychoError
from tycho.lm.examples import left_padded, positions_of
from tycho.lm.sampling import Sampling, steps

CROWD = 0.9  # rows that have ended leave the batch once they are a tenth of it
SHARED = 32  # tokens that all prompts of a call begin with, from which on they are read once
KEPT = 1 << 14  # tokens of prompts whose keys and values are kept for later calls


class Local(Engine):
    """A transformers model and its tokenizer.

    rows: sequences decoded together; seed: of the numbers that samples are drawn with, one row of them a completion, so
    that a row's text does not depend on the rows beside it. `read` and `reused` count prompt tokens.
    """

    def __init__(self, model: Any, tokenizer: Any, *, rows: int = 64, seed: int = 0, name: str = "local") -> None:
        self.model, self.tokenizer, self.rows, self.name = model, tokenizer, rows, name
        self.generator = torch.Generator().manual_seed(seed)
        self.read = self.reused = 0
        self._kept: deque[_Kept] = deque(maxlen=2)
        ends = getattr(model.generation_config, "eos_token_id", None)
        ends = ends if isinstance(ends, list) else [ends]
        self.ends = {int(token) for token in (*ends, tokenizer.eos_token_id) if token is not None}

    def stream(self, prompts: Sequence[Prompt], settings: Settings, noise: Tensor | None = None) -> LocalStream:
        """`noise` [n, most]: the uniform numbers to draw with, one row a prompt; left out: the generator's next ones."""
        if noise is None and settings.temperature > 0:
            noise = torch.rand(len(prompts), settings.most, generator=self.generator)
        return LocalStream(self, [self.ids(prompt) for prompt in prompts], settings, noise)

    def ids(self, prompt: Prompt) -> list[int]:
        """A prompt's tokens. A chat template's own begin token is not put in twice."""
        ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"] if isinstance(prompt, str) else list(prompt)
        if not ids:
            raise TychoError("a prompt is empty: a model needs at least one token to go on from")
        return ids

    def text(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """What `ids` add to a text that ends with `before`: a word's own space is part of it."""
        lead = self.tokenizer.decode(before[-1:], skip_special_tokens=True)
        return self.tokenizer.decode([*before[-1:], *ids], skip_special_tokens=True).removeprefix(lead)

    @torch.no_grad()
    def prefill(self, prompts: list[list[int]]) -> tuple[Any, Tensor, Tensor]:
        """(cache, logits [n, V], mask [n, L]) after the prompts, each distinct one read once."""
        unique = list(dict.fromkeys(map(tuple, prompts)))
        shared = _common(unique) if len(unique) > 1 else 0
        if shared >= SHARED and self._longest(unique[0])[1] < shared:
            self.prefill([list(unique[0][:shared])])
        device = self.model.device
        found = [self._longest(prompt) for prompt in unique]
        lengths = [min(length, len(prompt) - 1) for prompt, (_, length, _) in zip(unique, found, strict=True)]
        kept = next((kept for kept, _, _ in found if kept is not None), None)
        if kept is None or not any(lengths):
            kept, lengths, cache, mask = None, [0] * len(unique), None, None
        else:
            # One earlier call serves the whole batch: its rows side by side, masked where a prompt differs from them.
            found = [self._longest(prompt, (kept,)) for prompt in unique]
            lengths = [min(length, len(prompt) - 1) for prompt, (_, length, _) in zip(unique, found, strict=True)]
            rows = torch.tensor([row for _, _, row in found], device=device)
            cache = kept.cache(rows)
            old = kept.mask[rows]
            mask = old & (old.cumsum(dim=1) <= torch.tensor(lengths, device=device)[:, None])
        new = [list(prompt[length:]) for prompt, length in zip(unique, lengths, strict=True)]
        ids, added = (part.to(device) for part in left_padded(new, self.tokenizer.pad_token_id or 0))
        mask = added if mask is None else torch.cat([mask, added], dim=1)
        outputs = self.model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=positions_of(mask)[:, -ids.shape[1] :],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.read += sum(map(len, new))
        self.reused += sum(map(len, prompts)) - sum(map(len, new))
        cache, logits = outputs.past_key_values, outputs.logits[:, -1]
        if mask.numel() <= KEPT and all(type(layer).__name__ == "DynamicLayer" for layer in cache.layers):
            self._kept.append(_Kept(unique, [(layer.keys, layer.values) for layer in cache.layers], mask))
        if len(prompts) > len(unique):
            places = {prompt: place for place, prompt in enumerate(unique)}
            index = torch.tensor([places[tuple(prompt)] for prompt in prompts], device=device)
            cache.batch_select_indices(index)
            logits, mask = logits[index], mask[index]
        return cache, logits, mask

    def _longest(self, prompt: Sequence[int], among: Iterable[_Kept] | None = None) -> tuple[_Kept | None, int, int]:
        """The earlier call that shares most with a prompt, how many tokens, and its row."""
        best: tuple[_Kept | None, int, int] = (None, 0, 0)
        for kept in self._kept if among is None else among:
            for row, other in enumerate(kept.prompts):
                length = _common([prompt, other])
                if length > best[1] or (best[0] is None and among is not None):
                    best = (kept, length, row)
        return best


class LocalStream(Stream):
    """Batch after batch of `engine.rows` prompts; each `Step` has one token of every row of the batch that goes on."""

    def __init__(self, engine: Local, prompts: list[list[int]], settings: Settings, noise: Tensor | None) -> None:
        self.engine, self.prompts, self.settings, self.noise = engine, prompts, settings, noise
        self.completions = [Completion("", 0, "abort")] * len(prompts)
        self.forward_passes = 0
        self._aborted: set[int] = set()
        tokenizer = engine.tokenizer
        single = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in settings.stop}
        # A stop string that is a token (a tag) is found by its id; the others are looked for in the text.
        self._tags = {ids[0] for text, ids in single.items() if len(ids) == 1 and tokenizer.decode(ids) == text}
        self._texts = [t for t, ids in single.items() if not (len(ids) == 1 and ids[0] in self._tags)]

    def abort(self, rows: Iterable[int]) -> None:
        self._aborted.update(int(row) for row in rows)

    def close(self) -> None:
        self.abort(range(len(self.prompts)))

    def __iter__(self) -> Iterator[Step]:
        for start in range(0, len(self.prompts), self.engine.rows):
            rows = [r for r in range(start, min(start + self.engine.rows, len(self.prompts))) if r not in self._aborted]
            if rows:
                yield from self._batch(rows)

    def _batch(self, places: list[int]) -> Iterator[Step]:
        engine, settings, prompts = self.engine, self.settings, [self.prompts[place] for place in places]
        cache, logits, mask = engine.prefill(prompts)
        device = logits.device
        going = steps(
            engine.model,
            cache,
            logits,
            mask,
            most=settings.most,
            stop=engine.ends | self._tags,
            sampling=Sampling(settings.temperature, settings.top_k, settings.top_p),
            noise=None if self.noise is None else self.noise[places].to(device),
            top_logprobs=settings.top_logprobs,
            crowd=CROWD,
        )
        index = np.array(places)
        written: list[list[int]] = [[] for _ in places]
        stopped: set[int] = set()
        ended = None
        try:
            while True:
                step = going.send(ended)
                here, tokens = step.rows.tolist(), step.tokens.tolist()
                for row, token in zip(here, tokens, strict=True):
                    written[row].append(token)
                tops = None if step.top_logprobs is None else step.top_logprobs.cpu().numpy()
                yield Step(index[here], tokens, tops)
                stopped.update(row for row in here if self._texts and self._at_stop(places[row], written[row]))
                over = [row in stopped or places[row] in self._aborted for row in here]
                ended = torch.tensor(over, device=device)
        except StopIteration as end:
            made = end.value
        tops = None if made.top_logprobs is None else made.top_logprobs.cpu().numpy()
        self.forward_passes += made.calls
        for row, place in enumerate(places):
            own = None if tops is None else tops[row, : len(written[row])]
            self.completions[place] = self._completion(place, written[row], row in stopped, own)

    def _at_stop(self, place: int, ids: list[int]) -> bool:
        """Whether the last token completed a stop string. A token is a byte at least, so a short tail is enough."""
        tail = ids[-(2 * max(map(len, self._texts)) + 8) :]
        text = self.engine.text(self.prompts[place] if len(tail) == len(ids) else ids[: -len(tail)], tail)
        return any(stop in text for stop in self._texts)

    def _completion(self, place: int, ids: list[int], at_stop: bool, tops: np.ndarray | None) -> Completion:
        finish: Finish = "length" if len(ids) >= self.settings.most else "abort"
        if at_stop or ids[-1] in self._tags:
            finish = "stop"
        elif ids[-1] in self.engine.ends:
            finish = "eos"
        elif place in self._aborted:
            finish = "abort"
        ends = ids[-1] in self.engine.ends | self._tags
        text = self.engine.text(self.prompts[place], ids[:-1] if ends else ids)
        if at_stop:
            text = text[: min(at for stop in self._texts if (at := text.find(stop)) >= 0)]
        return Completion(text, len(ids), finish, tuple(ids), tops)


class _Kept(NamedTuple):
    """Keys and values after the prompts of an earlier call, [u, heads, L, d] a layer, and what they stand for [u, L]."""

    prompts: list[tuple[int, ...]]
    layers: list[tuple[Tensor, Tensor]]
    mask: Tensor

    def cache(self, rows: Tensor) -> Any:
        from transformers import DynamicCache

        made = DynamicCache()
        for place, (keys, values) in enumerate(self.layers):
            made.update(keys[rows], values[rows], place)
        return made


def _common(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with."""
    first, last = min(prompts), max(prompts)  # in between, everything shares what these two share
    limit = min(len(first), len(last))
    return next((place for place in range(limit) if first[place] != last[place]), limit)
