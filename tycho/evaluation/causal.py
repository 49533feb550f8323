"""Any Hugging Face causal LM under lm-eval, with the cost of each request. Imports lm-eval and torch.

lm-eval's own model decides tokenisation, truncation and scoring. Generation differs from it in three ways that leave a
row's text as it is: each row ends at its own stop string (lm-eval lets all go on until the last has ended), the tokens
all prompts of a batch begin with (the few-shot examples) are passed once, and what was written is counted.
"""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from torch import Tensor, nn
from transformers import DynamicCache, StoppingCriteria, StoppingCriteriaList

from tycho.evaluation.bridge import COST
from tycho.harness import Completion
from tycho.lm.examples import left_padded
from tycho.lm.flops import forward_flops, generate_flops

LOOK_BACK = 4  # tokens a stop string may be spread over, beyond those of its own encoding


class Ends(StoppingCriteria):
    """Ends each row at its end token or behind a stop string; `lengths` [n] counts the tokens written until then."""

    def __init__(self, tokenizer: Any, stop: list[str], start: int, n: int, ends: set[int]) -> None:
        self.tokenizer, self.stop, self.start, self.ends = tokenizer, stop, start, ends
        self.lengths = torch.zeros(n, dtype=torch.long)
        self.done = torch.zeros(n, dtype=torch.bool)
        self.back = LOOK_BACK + max((len(tokenizer.encode(s, add_special_tokens=False)) for s in stop), default=0)

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        written = input_ids[:, self.start :]
        for row in (~self.done).nonzero()[:, 0].tolist():
            self.lengths[row] = written.shape[1]
            tail = self.tokenizer.decode(written[row, -self.back :])
            self.done[row] = int(written[row, -1]) in self.ends or any(s in tail for s in self.stop)
        return self.done.to(input_ids.device)


class Causal(HFLM):
    """`HFLM` over a loaded model. After a call, each request's arguments or its entry in `costs` have what it cost."""

    def __init__(self, model: nn.Module, tokenizer: Any, batch: int, share_prefix: bool = True) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch, backend="causal")
        self.share_prefix = share_prefix
        self._spent: list[tuple[int, int]] = []  # (prompt tokens, generated tokens) of rows, in the order of batches
        self._order: list[str] = []  # their contexts
        self.costs: dict[tuple[str, str], Completion] = {}  # of (context, continuation)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        self._spent, self._order = [], []
        hook, self.cache_hook = self.cache_hook, _Order(self._order)
        try:
            texts = super().generate_until(requests, disable_tqdm=disable_tqdm)
        finally:
            self.cache_hook = hook
        spent: dict[str, deque[tuple[int, int]]] = defaultdict(deque)
        for context, cost in zip(self._order, self._spent, strict=True):
            spent[context].append(cost)
        config = self.model.config
        for request in requests:
            prompt, new = spent[request.args[0]].popleft()
            cost = {"generated_tokens": new, "sequential_tokens": new, "forward_passes": new}
            request.args[1][COST] = [cost | {"flops": float(generate_flops(config, prompt, new))}]
        return texts

    def _loglikelihood_tokens(self, requests: list[Any], disable_tqdm: bool = True, **options: Any) -> Any:
        for pair, context, continuation in requests:
            # The last token is never passed in. Each pair as if it were alone: no context is shared.
            flops = forward_flops(self.model.config, len(context) + len(continuation) - 1)
            self.costs[pair] = Completion(pair[1], 0, 0, 1, float(flops))
        return super()._loglikelihood_tokens(requests, disable_tqdm=disable_tqdm, **options)

    @torch.no_grad()
    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **options: Any) -> Tensor:
        most = max_length - context.shape[1]
        mask = options.pop("attention_mask").bool()
        rows = [row[kept].tolist() for row, kept in zip(context, mask, strict=True)]
        shared = _common_prefix(rows) if self.share_prefix and len(rows) > 1 else 0
        ids, kept = left_padded([row[shared:] for row in rows], self.tokenizer.pad_token_id)
        cache = None
        if shared:
            prefix = torch.tensor([rows[0][:shared]])
            cache = self.model(prefix.to(self.device), use_cache=True, logits_to_keep=1).past_key_values
            cache.batch_repeat_interleave(len(rows))
            ids = torch.cat([prefix.expand(len(rows), -1), ids], dim=1)
            kept = torch.cat([torch.ones(len(rows), shared, dtype=torch.bool), kept], dim=1)
        end = self.model.generation_config.eos_token_id
        ends = set(end if isinstance(end, list) else [] if end is None else [end])
        criterion = Ends(self.tokenizer, stop, ids.shape[1], len(rows), ends)
        if not options.get("do_sample"):
            options = {"do_sample": False}
        found = self.model.generate(
            input_ids=ids.to(self.device),
            attention_mask=kept.long().to(self.device),
            past_key_values=cache if cache is not None else DynamicCache(config=self.model.config),
            max_new_tokens=most,
            stopping_criteria=StoppingCriteriaList([criterion]),
            pad_token_id=self.tokenizer.pad_token_id,
            **options,
        )[:, ids.shape[1] :]
        self._spent += [(len(row), int(length)) for row, length in zip(rows, criterion.lengths, strict=True)]
        pad = self.tokenizer.pad_token_id
        found = torch.stack([
            torch.cat([new[:length], new.new_full((len(new) - length,), pad)])
            for new, length in zip(found, criterion.lengths.tolist(), strict=True)
        ])  # fmt: skip
        return torch.cat([context, found], dim=1)


class _Order:
    """Notes the order in which lm-eval's model finishes requests; it reports each to its cache."""

    dbdict = None

    def __init__(self, order: list[str]) -> None:
        self.order = order

    def add_partial(self, attr: str, request: Any, result: Any) -> None:
        if attr == "generate_until":
            self.order.append(request[0])


def _common_prefix(rows: list[list[int]]) -> int:
    """Number of tokens all rows begin with, at least one short of the shortest row."""
    most = min(map(len, rows)) - 1
    first, last = min(rows), max(rows)  # what these two share, all between them share
    return next((place for place in range(most) if first[place] != last[place]), most)
