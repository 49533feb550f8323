"""The state machine's engine in this process: batched sampling by `tycho.lm.sampling`, one row a request.

Each request draws from numbers of its own, which follow from the seed, its context and how often that context was
asked before. So a batch writes what the same requests write one by one, and siblings cannot influence each other.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from methods.threadweaver.orchestrator import Completion
from methods.threadweaver.words import Words
from tycho.lm.examples import left_padded
from tycho.lm.sampling import Generation, Sampling, generate


@dataclass(frozen=True)
class Watch:
    """DeepConf's online rule for threads: stop where the mean confidence of the last `window` tokens falls below `bar`.

    Confidence is the mean over the `k` most likely tokens of -log p at temperature 1 (`methods/deepconf`).
    """

    bar: float
    window: int
    k: int


@dataclass
class Engine:
    """`complete` of `orchestrator.weave` over a small model with a word-level vocabulary.

    most: tokens a request may write; fewer where the model's positions end before, none where they are full (`length`).
    watch: threads fall under it; `lowest` then has the lowest group confidence of each, in the order of the requests.
    """

    model: nn.Module
    words: Words
    most: int
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    batch: int = 2048
    watch: Watch | None = None
    asked: Counter[str] = field(default_factory=Counter)
    lowest: list[float] = field(default_factory=list)

    def __call__(self, prompts: Sequence[str], *, stop: str) -> list[Completion]:
        found: list[Completion] = []
        for start in range(0, len(prompts), self.batch):
            found += self._some(prompts[start : start + self.batch], stop)
        return found

    def _some(self, prompts: Sequence[str], stop: str) -> list[Completion]:
        contexts = [self.words.encode(prompt) for prompt in prompts]
        limit = getattr(self.model.config, "max_position_embeddings", 1 << 30)
        rooms = [min(self.most, limit - len(ids) + 1) if ids else 0 for ids in contexts]
        replies = [Completion("", 0, "length") for _ in prompts]
        lowest: dict[int, float] = {}
        watched = self.watch if stop == "</Thread>" else None
        # One call for all that have room for `most`, which are nearly all, and one for each smaller room.
        for room in sorted({room for room in rooms if room > 0}, reverse=True):
            places = [place for place in range(len(prompts)) if rooms[place] == room]
            asked = [prompts[p] for p in places], [contexts[p] for p in places]
            written = self._written(*asked, room, stop, watched.k if watched else 0)
            stops = [0] * len(places)
            if watched:
                stops, scores = self._stops(written, watched)
                lowest |= dict(zip(places, scores, strict=True))
            for place, tokens, cut in zip(places, written.rows(), stops, strict=True):
                replies[place] = self._reply(tokens[:cut] if cut else tokens, bool(cut), stop)
        self.lowest += [lowest[place] for place in sorted(lowest)]
        return replies

    def _written(
        self, prompts: list[str], contexts: list[list[int]], room: int, stop: str, top_logprobs: int
    ) -> Generation:
        ids, mask = left_padded(contexts, self.words.vocabulary.pad)
        device = next(self.model.parameters()).device
        return generate(
            self.model,
            ids.to(device),
            mask.to(device),
            most=room,
            stop=[self.words.end, *([self.words.ids[stop]] if stop else [])],
            sampling=self.sampling,
            noise=self._noise(prompts).to(device) if self.sampling.temperature else None,
            top_logprobs=top_logprobs,
        )

    def _reply(self, tokens: list[int], aborted: bool, stop: str) -> Completion:
        last = tokens[-1]
        text = self.words.decode(tokens[:-1] if last == self.words.end else tokens)
        if aborted:
            return Completion(text, len(tokens), "abort")
        if last == self.words.end:
            return Completion(text, len(tokens), "eos")
        return Completion(text, len(tokens), "stop" if stop and last == self.words.ids[stop] else "length")

    def _noise(self, prompts: Sequence[str]) -> Tensor:
        """[n, most] uniform numbers, a stream a request."""
        rows = []
        for prompt in prompts:
            rng = np.random.default_rng([self.seed, zlib.crc32(prompt.encode()), self.asked[prompt]])
            self.asked[prompt] += 1
            rows.append(rng.random(self.most, dtype=np.float32))
        return torch.from_numpy(np.stack(rows))

    def _stops(self, written: Generation, watch: Watch) -> tuple[list[int], list[float]]:
        """Tokens after which each thread is stopped (0: it never falls below the bar), and its lowest group confidence.

        A row does not depend on its neighbours, so what an online stop would have left is a prefix of what was written.
        """
        from methods.deepconf.confidence import Measure, Ragged, score, token_confidence
        from methods.deepconf.online import first_below

        assert written.top_logprobs is not None
        rows = zip(written.top_logprobs.cpu().numpy(), written.lengths.tolist(), strict=True)
        confidences = Ragged.of(token_confidence(row[:length], watch.k) for row, length in rows)
        lowest = score(confidences, {"lowest": Measure("lowest", watch.window)})["lowest"]
        return first_below(confidences, watch.bar, watch.window)[0].tolist(), lowest.tolist()
