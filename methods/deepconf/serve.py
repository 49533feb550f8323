"""DeepConf as an lm-eval model: `tycho lm-eval --model deepconf --model_args pretrained=FOLDER,budget=32 --tasks …`."""

from __future__ import annotations

import math
from typing import Any

from methods.deepconf.answers import canonical, finder
from methods.deepconf.flops import counter
from methods.deepconf.live import think
from methods.deepconf.online import MODES, Policy
from tycho.engines import Engine, Settings, connect
from tycho.errors import unknown
from tycho.harness import Completion, Options


class Served:
    """A `tycho.harness.Complete`: many traces a prompt, and the text of the most confident trace with the answer they
    voted for; a document's cost is that of all its traces."""

    def __init__(
        self, engine: Engine, policy: Policy, *, budget: int, answers: str, wave: int, sampling: Settings
    ) -> None:
        self.engine, self.policy, self.budget, self.wave, self.sampling = engine, policy, budget, wave, sampling
        self.find, self.flops = finder(answers), counter(engine)

    def __call__(self, prompts: list[str], options: Options) -> list[Completion]:
        asked = self.sampling
        if options.temperature > 0:
            asked = Settings(0, options.temperature, options.top_k, options.top_p)
        settings = Settings(options.max_gen_toks, asked.temperature, asked.top_k, asked.top_p, tuple(options.until))
        texts = [prompt for prompt in prompts for _ in range(options.n)]
        done = think(self.engine, texts, self.budget, settings, self.policy, self.find, wave=self.wave, key=canonical)
        return [self._completion(live) for live in done]

    def _completion(self, live: Any) -> Completion:
        wanted = None if live.answer is None else canonical(live.answer)
        best, text = -1.0, next((made.text for made in live.completions if made.finish != "error"), "")
        for made, sure, stop in zip(live.completions, live.lowest, live.stops, strict=True):
            found = None if stop or made.finish == "error" else self.find(made.text)
            sure = 0.0 if math.isnan(sure) else sure
            if found and canonical(found) == wanted and sure > best:
                best, text = sure, made.text
        flops = self.flops(live.prompt, [made.tokens for made in live.completions])
        return Completion(text, live.tokens, live.sequential_tokens, live.tokens, float(flops))


def load(
    pretrained: str,
    *,
    device: str = "cpu",
    mode: str = "low",
    budget: int = 32,
    warmup: int = 16,
    window: int = 2048,
    tau: float = 0.95,
    wave: int = 8,
    answers: str = "boxed",
    temperature: float = 0.6,
    top_p: float = 0.95,
    top_k: int = 0,
    revision: str = "",
    served: str = "",
    chat: bool = False,
) -> Served:
    """pretrained: `smollm2`, a folder, a hub id (with `revision`) or a server's URL (`served`: the model's name there,
    `chat`: its chat API). mode: low or high. wave: later traces between two looks at the consensus. A task that asks
    for greedy decoding is sampled at `temperature`, `top_p` and `top_k`: equal traces have nothing to vote on."""
    if mode not in MODES:
        raise unknown("mode", mode, MODES)
    options = {"model": served, "chat": chat} if pretrained.startswith("http") else {}
    engine = connect(pretrained, device=device, revision=revision, **options)
    policy = Policy(eta=MODES[mode], warmup=int(warmup), window=int(window), tau=float(tau), fallback=True)
    sampling = Settings(0, float(temperature), int(top_k), float(top_p))
    return Served(engine, policy, budget=int(budget), answers=answers, wave=int(wave), sampling=sampling)
