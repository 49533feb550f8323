"""Fork-join decoding as an lm-eval model: whole trajectories with their critical path as cost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from methods.threadweaver.metrics import critical_path
from methods.threadweaver.orchestrator import Completion as Reply
from methods.threadweaver.orchestrator import Rollout, weave
from tycho.harness import Completion, Options

if TYPE_CHECKING:
    from methods.threadweaver.engine import Engine, Watch
    from methods.threadweaver.own import Subwords
    from methods.threadweaver.words import Words

log = logging.getLogger("tycho")


@dataclass
class Weaver:
    """A small model under the state machine, as a `Complete` of `tycho.harness`.

    `mode`: "fork" runs the machine, "plain" decodes everything in sequence, tags and all (the hybrid mode).
    A completion's generated tokens are the whole response's, tags that the machine puts in among them, and those of
    threads that were thrown away; its sequential tokens are the path under the convention that charges every tag.
    `respawn` says which threads are started again, `respawns` how often; left out: those that the watch stopped. The
    last attempt is not watched.
    `rollouts` keeps what the last call did.
    """

    model: Any
    words: Words | Subwords
    most: int
    closing: Literal["orchestrator", "model"] = "orchestrator"
    mode: Literal["fork", "plain"] = "fork"
    watch: Watch | None = None
    respawns: int = 0
    respawn: Callable[[Reply], bool] | None = None
    rollouts: list[Rollout] = field(default_factory=list)

    def engine(self, options: Options) -> Engine:
        from methods.threadweaver.engine import Engine
        from tycho.lm.sampling import Sampling

        sampling = Sampling(options.temperature, options.top_k, options.top_p)
        return Engine(self.model, self.words, self.most, sampling, options.seed, watch=self.watch)

    def roll(self, prompts: Sequence[str], options: Options) -> list[Rollout]:
        """One trajectory a prompt."""
        return self.watched(prompts, options)[0]

    def watched(self, prompts: Sequence[str], options: Options) -> tuple[list[Rollout], list[float]]:
        """Trajectories, and the lowest group confidence of each of their threads where there is a watch."""
        engine = self.engine(options)
        if self.mode == "plain":
            return [_plain(prompt, reply) for prompt, reply in zip(prompts, engine(prompts, stop=""), strict=True)], []
        respawn = (self.respawn or _aborted) if self.respawns else None
        unwatched = replace(engine, watch=None)  # the same stream of random numbers
        found = weave(prompts, engine, closing=self.closing, respawn=respawn, respawns=self.respawns, last=unwatched)
        return found, engine.lowest

    def __call__(self, prompts: list[str], options: Options) -> list[Completion]:
        self.rollouts = self.roll([prompt for prompt in prompts for _ in range(options.n)], options)
        return [self.completion(rollout, options.until) for rollout in self.rollouts]

    def completion(self, rollout: Rollout, until: Sequence[str] = ()) -> Completion:
        text = rollout.text
        for mark in until:
            text = text.partition(mark)[0]
        ids = [*self.words.encode(rollout.text), *[self.words.end] * (rollout.ended == "eos")]
        path = critical_path(ids, self.words.tags)
        thrown = discarded(rollout)
        return Completion(
            text,
            path.total + sum(thrown.values()),
            path.longest + delay(rollout),
            sum(unit.tokens for unit in rollout.units),
            self.flops(rollout),
        )

    def flops(self, rollout: Rollout) -> float:
        """Analytic FLOPs; every request reads its context anew, as the engine does."""
        from tycho.lm.flops import generate_flops

        config, encode = self.model.config, self.words.encode
        units = [unit for unit in rollout.units if unit.tokens]
        return float(sum(generate_flops(config, len(encode(unit.context)), unit.tokens) for unit in units))


@dataclass
class Remote:
    """The state machine over any of `tycho.engines`' back ends, as a `Complete`.

    Tokens are those the engine generated: text that the machine puts in is prefilled and has no count here. FLOPs are
    not known (0). A request that fails ends its own trajectory; raises TychoError where nothing at all was written.
    """

    engine: Any
    closing: Literal["orchestrator", "model"] = "orchestrator"
    rollouts: list[Rollout] = field(default_factory=list)

    def __call__(self, prompts: list[str], options: Options) -> list[Completion]:
        from tycho.engines import Settings
        from tycho.errors import TychoError

        errors: list[str] = []

        def ask(contexts: Sequence[str], *, stop: str) -> Sequence[Reply]:
            # Not the engine's `complete`: where all requests of a round fail it raises, and what others wrote is lost.
            settings = Settings(options.max_gen_toks, options.temperature, options.top_k, options.top_p, (stop,))
            with self.engine.stream(contexts, settings) as stream:
                for _ in stream:
                    pass
            errors.extend(made.error for made in stream.completions if made.finish == "error")
            return stream.completions

        self.rollouts = weave([p for p in prompts for _ in range(options.n)], ask, closing=self.closing)
        if errors and not any(rollout.generated_tokens for rollout in self.rollouts):
            raise TychoError(errors[0])
        if errors:
            log.warning("%d requests failed and ended their trajectories, the first: %s", len(errors), errors[0])
        found = []
        for rollout in self.rollouts:
            text = rollout.text
            for mark in options.until:
                text = text.partition(mark)[0]
            made = rollout.generated_tokens
            found.append(Completion(text, made, rollout.sequential_tokens, made, 0.0))
        return found


def discarded(rollout: Rollout) -> dict[tuple[int, int], int]:
    """Tokens of thrown-away attempts by (block, thread)."""
    last = {(unit.block, unit.thread): unit.attempt for unit in rollout.units if unit.kind == "thread"}
    found: dict[tuple[int, int], int] = {}
    for unit in rollout.units:
        place = (unit.block, unit.thread)
        if unit.kind == "thread" and unit.attempt < last[place]:
            found[place] = found.get(place, 0) + unit.tokens
    return found


def delay(rollout: Rollout) -> int:
    """What thrown-away attempts add to the critical path: the longest thread is the one with all its attempts."""
    kept: dict[tuple[int, int], int] = {}
    for unit in rollout.units:  # a thread's last attempt is the one that stayed
        if unit.kind == "thread":
            kept[unit.block, unit.thread] = unit.tokens
    thrown = discarded(rollout)
    blocks = {block for block, _ in kept}
    whole = sum(max(n + thrown.get(place, 0) for place, n in kept.items() if place[0] == b) for b in blocks)
    return whole - sum(max(n for place, n in kept.items() if place[0] == b) for b in blocks)


def load(
    pretrained: str,
    *,
    device: str = "cpu",
    most: int = 96,
    closing: Literal["orchestrator", "model"] = "orchestrator",
    mode: Literal["fork", "plain"] = "fork",
    bar: float | None = None,
    window: int = 8,
    k: int = 5,
    respawns: int = 1,
    model: str = "",
) -> Weaver | Remote:
    """A folder that this room trained, or the URL of a server with a model that speaks this format (`model`: its name).

    `bar`: threads of lower group confidence are stopped and started again (in process only).
    """
    from methods.threadweaver.engine import Watch
    from methods.threadweaver.own import Subwords
    from methods.threadweaver.words import Words
    from tycho.errors import TychoError, unknown
    from tycho.lm import small

    for name, value, known in (("closing", closing, ("orchestrator", "model")), ("mode", mode, ("fork", "plain"))):
        if value not in known:
            raise unknown(name, value, known)
    if pretrained.startswith(("http://", "https://")):
        from tycho.engines import connect

        return Remote(connect(pretrained, model=model), closing)
    net, tokenizer = small.load(Path(pretrained) if Path(pretrained).is_dir() else pretrained, device=device)
    if "<Thread>" not in tokenizer.get_vocab():
        raise TychoError(f"{pretrained} has no <Thread> in its vocabulary: it was not trained on trajectories")
    words = Words.of(tokenizer) if "<Conclusion>" not in tokenizer.get_vocab() else Subwords(tokenizer)
    watch = None if bar is None else Watch(float(bar), int(window), int(k))
    return Weaver(net.eval(), words, int(most), closing, mode, watch, int(respawns) if watch else 0)


def _aborted(reply: Reply) -> bool:
    return reply.finish == "abort"


def _plain(prompt: str, reply: Reply) -> Rollout:
    from methods.threadweaver.orchestrator import Unit

    unit = Unit(prompt, reply.text, "sequence", tokens=reply.tokens, ends=reply.finish == "eos")
    return Rollout(prompt, reply.text, (unit,), reply.finish)
