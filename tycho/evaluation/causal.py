"""Any Hugging Face causal LM under lm-eval, with the cost of each request. Imports lm-eval and torch.

lm-eval's own model decides tokenisation, truncation and scoring. Text is written by the in-process engine: what all
prompts begin with (the few-shot examples) is read once, and a row that has ended leaves the batch, where lm-eval's model
lets all go on until the last has ended.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict, deque
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from torch import Tensor, nn

from tycho.engines import Settings
from tycho.engines.local import Local
from tycho.evaluation.bridge import COST, options_of, quiet
from tycho.harness import Completion
from tycho.lm.flops import forward_flops, generate_flops


class Causal(HFLM):
    """`HFLM` over a loaded model. After a call, each request's arguments or its entry in `costs` have what it cost.

    batch: prompts together. Samples are drawn by the generation argument `seed`, so that equal calls give equal text.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, batch: int) -> None:
        with quiet():  # it warns that arguments for loading are ignored
            super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch, backend="causal")
        self.silent = bool(os.environ.get("CI") or os.environ.get("TYCHO_QUIET")) or not sys.stderr.isatty()
        self.engine = Local(model, tokenizer, rows=batch)
        self._spent: list[tuple[int, int]] = []  # (prompt tokens, generated tokens) of rows, in the order of batches
        self._order: list[str] = []  # their contexts
        self.costs: dict[tuple[str, str], Completion] = {}  # of (context, continuation)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        self._spent, self._order = [], []
        self.engine.generator.manual_seed(int(requests[0].args[1].get("seed", 0)))
        hook, self.cache_hook = self.cache_hook, _Order(self._order)
        try:
            texts = super().generate_until(requests, disable_tqdm=disable_tqdm or self.silent)
        finally:
            self.cache_hook = hook
        spent: dict[str, deque[tuple[int, int]]] = defaultdict(deque)
        for context, cost in zip(self._order, self._spent, strict=True):
            spent[context].append(cost)
        for request in requests:
            prompt, new = spent[request.args[0]].popleft()
            cost = {"generated_tokens": new, "sequential_tokens": new, "forward_passes": new}
            # As if it were alone: that the few-shot examples are read once for all is not counted.
            request.args[1][COST] = [cost | {"flops": float(generate_flops(self.model.config, prompt, new))}]
        return texts

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm or self.silent)

    def _loglikelihood_tokens(self, requests: list[Any], disable_tqdm: bool = False, **options: Any) -> Any:
        for pair, context, continuation in requests:
            # The last token is never passed in. Each pair as if it were alone: no context is shared.
            flops = forward_flops(self.model.config, len(context) + len(continuation) - 1)
            self.costs[pair] = Completion(pair[1], 0, 0, 1, float(flops))
        return super()._loglikelihood_tokens(requests, disable_tqdm=disable_tqdm, **options)

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **options: Any) -> Tensor:
        kept = options.pop("attention_mask").bool()
        rows = [row[mask].tolist() for row, mask in zip(context, kept, strict=True)]
        asked = options_of(options)
        settings = Settings(
            max_length - context.shape[1], asked.temperature, asked.top_k, asked.top_p, tuple(s for s in stop if s)
        )
        made = self.engine.complete(rows, settings)
        self._spent += [(len(row), completion.tokens) for row, completion in zip(rows, made, strict=True)]
        width = max(completion.tokens for completion in made)
        pad = self.tokenizer.pad_token_id
        written = [[*completion.ids, *[pad] * (width - completion.tokens)] for completion in made]
        return torch.cat([context, torch.tensor(written, device=context.device)], dim=1)


class _Order:
    """Notes the order in which lm-eval's model finishes requests; it reports each to its cache."""

    dbdict = None

    def __init__(self, order: list[str]) -> None:
        self.order = order

    def add_partial(self, attr: str, request: Any, result: Any) -> None:
        if attr == "generate_until":
            self.order.append(request[0])
