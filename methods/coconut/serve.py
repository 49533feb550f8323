"""A trained checkpoint as lm-eval's model: `tycho lm-eval --model coconut --model_args pretrained=FOLDER --tasks …`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from methods.coconut import curriculum, thoughts
from methods.coconut.model import Thinker
from tycho.harness import Completion, Options
from tycho.lm.examples import IGNORED, Batch, join, left_padded, ragged
from tycho.lm.sampling import Sampling


class Served:
    """A `tycho.harness.Complete` over a thinker. thoughts: forced number of thoughts; None: those it was trained for."""

    def __init__(self, thinker: Thinker, thoughts: int | None = None, batch: int = 256) -> None:
        self.thinker, self.thoughts, self.batch = thinker, thoughts, batch

    def __call__(self, prompts: list[str], options: Options) -> list[Completion]:
        tokenizer = self.thinker.tokenizer
        rows = [ids for prompt in prompts for ids in [self._ids(prompt)] * options.n]
        written = self.thinker.answer_all(
            rows,
            batch=self.batch,
            most=options.max_gen_toks,
            thoughts=self.thoughts,
            sampling=Sampling(options.temperature, options.top_k, options.top_p),
            generator=torch.Generator().manual_seed(options.seed),
        )
        end = tokenizer.eos_token_id
        return [
            Completion(tokenizer.decode([i for i in ids if i != end], skip_special_tokens=False), *cost)
            for ids, cost in written
        ]

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """(log-probability of the continuation after the context's thoughts, whether greedy decoding writes it)."""
        found = []
        for start in range(0, len(pairs), self.batch):
            found += self._loglikelihood(pairs[start : start + self.batch])
        return found

    @torch.no_grad()
    def _loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        thinker, device = self.thinker, self.thinker.model.device
        pad = thinker.tokenizer.pad_token_id or 0
        ids, mask = left_padded([self._ids(context) for context, _ in pairs], pad)
        tail, lengths = ragged([self._ids(continuation) for _, continuation in pairs], pad)
        batch = join((ids, mask), (tail, torch.arange(tail.shape[1]) < lengths[:, None]))
        count = thinker.thoughts if self.thoughts is None else self.thoughts
        batch, latent = curriculum.insert(batch, ids.shape[1], thinker.between(torch.full((len(ids),), count)), pad)
        batch = Batch(*(part.to(device) for part in batch))
        passes = thoughts.forward(thinker.model, batch, latent.to(device))
        labels = batch.labels[:, passes.start + 1 :]
        shares = passes.logits[:, :-1].float().log_softmax(dim=2)
        wanted = labels != IGNORED
        each = shares.gather(2, labels.clamp_min(0)[..., None])[..., 0].masked_fill(~wanted, 0.0)
        greedy = ((shares.argmax(dim=2) == labels) | ~wanted).all(dim=1)
        return list(zip(each.sum(dim=1).tolist(), greedy.tolist(), strict=True))

    def _ids(self, text: str) -> list[int]:
        return self.thinker.tokenizer(text, add_special_tokens=False)["input_ids"]


def load(pretrained: str, *, device: str = "cpu", thoughts: int | None = None, batch: int = 256) -> Served:
    """A folder that `Thinker.save` wrote. thoughts: how many to think instead of those it was trained for."""
    thinker = Thinker.load(pretrained, device=device)
    return Served(thinker, None if thoughts is None else int(thoughts), int(batch))
