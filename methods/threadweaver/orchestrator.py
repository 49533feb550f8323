"""ThreadWeaver's inference as a state machine over any completion API (arXiv 2512.07843).

1. Sequence: decode to `</Outlines>`. Without it the trajectory has ended.
2. Spawn: read the outlines' numbers; every thread continues the same context + "\\n<Thread>\\ni:" on its own, to
   `</Thread>`. Threads share the prefix and never see each other.
3. Join: the context and the threads in the outlines' order; on with 1.

Many prompts advance together: one call to `complete` for all sequences, one for all threads of all prompts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from methods.threadweaver.format import check, thread_header

_PLANNED = re.compile(r"<Outline>\s*([0-9]+(?:\.[0-9]+)*)\s*:")


class Completion(NamedTuple):
    """What an engine wrote after a prompt. `text` may or may not include the stop string; `tokens` counts what was
    generated, the stop's or the end-of-text token included; `finish` says why it ended."""

    text: str
    tokens: int
    finish: Literal["stop", "eos", "length", "abort"]


class Complete(Protocol):
    """An engine: one completion a prompt, in their order. A `finish` of "stop" must mean the stop string alone (many
    servers say "stop" at the end of the text too: then look whether the stop string is there)."""

    def __call__(self, prompts: Sequence[str], *, stop: str) -> Sequence[Completion]: ...


class Unit(NamedTuple):
    """One request: the completion is generated, the context is given. `block` counts the forks before it, `thread` the
    threads of its fork (`number` is what the outline calls it), `attempt` its respawns."""

    context: str
    completion: str
    kind: Literal["sequence", "thread", "whole"]
    block: int = 0
    thread: int = 0
    number: str = ""
    attempt: int = 0
    tokens: int = 0
    ends: bool = False  # an end-of-text token belongs to the completion


@dataclass(frozen=True)
class Rollout:
    """A trajectory and the requests that made it, in the order they were sent."""

    prompt: str
    text: str  # the whole response, headers and closing tags included
    units: tuple[Unit, ...]
    ended: str  # eos, length, abort, unfinished_thread or rounds
    notes: tuple[str, ...] = ()

    @property
    def generated_tokens(self) -> int:
        """All tokens the engine generated."""
        return sum(unit.tokens for unit in self.units)

    @property
    def sequential_tokens(self) -> int:
        """Decoding steps on the critical path: sequences, and of each fork its longest thread (all attempts at it)."""
        steps = sum(unit.tokens for unit in self.units if unit.kind == "sequence")
        threads: dict[int, dict[int, int]] = {}
        for unit in self.units:
            if unit.kind == "thread":
                block = threads.setdefault(unit.block, {})
                block[unit.thread] = block.get(unit.thread, 0) + unit.tokens
        return steps + sum(max(block.values()) for block in threads.values())

    @property
    def forks(self) -> int:
        return len({unit.block for unit in self.units if unit.kind == "thread"})


def weave(
    prompts: Sequence[str],
    complete: Complete,
    *,
    rounds: int = 32,
    closing: Literal["orchestrator", "model"] = "orchestrator",
    duplicates: Literal["remove", "keep"] = "remove",
    respawn: Callable[[Completion], bool] | None = None,
    respawns: int = 1,
    last: Complete | None = None,
) -> list[Rollout]:
    """One rollout a prompt.

    `closing`: the paper's orchestrator appends `</Parallel>`; both public implementations append the line break only
    and let the model close the block (`model`). `duplicates`: an outline number that occurs twice is spawned once, as
    in the public RL controller; its evaluation script spawns both (`keep`). A thread that ends without `</Thread>`
    closes the block and ends the trajectory. A `</Outlines>` without numbers stays sequential. `respawn` says which
    finished threads are thrown away and started again, at most `respawns` times each; their tokens count. `last` writes
    the last attempt at a thread where `respawn` is given (left out: `complete` does): an engine that stops threads by
    itself would otherwise end, with the last one, the trajectory.
    """
    states = [_State(prompt, prompt) for prompt in prompts]
    for _ in range(rounds):
        active = [state for state in states if not state.ended]
        if not active:
            break
        replies = _asked(complete, [state.context for state in active], "</Outlines>")
        forking = []
        for state, reply in zip(active, replies, strict=True):
            numbers = _sequence(state, reply, duplicates)
            if numbers:
                forking.append((state, numbers))
        _spawn(forking, complete, last or complete, closing, respawn, respawns)
    return [
        Rollout(s.prompt, s.context[len(s.prompt) :], tuple(s.units), s.ended or "rounds", tuple(s.notes))
        for s in states
    ]


def units_of(prompt: str, text: str, closing: Literal["orchestrator", "model"] = "orchestrator") -> list[Unit]:
    """The requests `weave` would have sent for a finished response, then the whole response as one more unit.

    This is how a trajectory becomes training data: a model is trained on exactly what it is asked at inference.
    Raises ValueError where the text is not in canonical format.
    """
    report = check(text, spacing="canonical")
    if report.problems:
        code, place, says = report.problems[0]
        raise ValueError(f"units_of: {says} ({code}, character {place} of the response)")
    if text.count("</Outlines>") != len(report.blocks):
        raise ValueError("units_of: a </Outlines> outside the blocks, at which the machine would stop")
    units, done = [], 0
    for block, found in enumerate(report.blocks):
        units.append(Unit(prompt + text[:done], text[done : found.head], "sequence", block))
        for place, thread in enumerate(found.threads):
            context = f"{prompt}{text[: found.head]}\n{thread_header(thread.number)}"
            said = text[thread.start : thread.end].split(":", 1)[1]
            units.append(Unit(context, said + "</Thread>", "thread", block, place, str(thread.number)))
        done = found.end if closing == "orchestrator" else found.end - len("</Parallel>")
    units.append(Unit(prompt + text[:done], text[done:], "sequence", len(report.blocks), ends=True))
    return [*units, Unit(prompt, text, "whole", ends=True)]


# --- inside ----------------------------------------------------------------------------------------------------------


class _State:
    def __init__(self, prompt: str, context: str) -> None:
        self.prompt, self.context = prompt, context
        self.units: list[Unit] = []
        self.notes: list[str] = []
        self.ended, self.forks = "", 0


def _asked(complete: Complete, prompts: list[str], stop: str) -> list[Completion]:
    """The engine's replies, each with its stop string in the text exactly where it stopped at it."""
    replies = list(complete(prompts, stop=stop)) if prompts else []
    if len(replies) != len(prompts):
        raise ValueError(f"complete: {len(replies)} completions for {len(prompts)} prompts")
    return [
        reply._replace(text=reply.text.removesuffix(stop) + stop) if reply.finish == "stop" else reply
        for reply in replies
    ]


def _sequence(state: _State, reply: Completion, duplicates: str) -> list[str]:
    """Takes a sequence's completion; the numbers of the threads to spawn, none where it ended or stays sequential."""
    unit = Unit(state.context, reply.text, "sequence", state.forks, tokens=reply.tokens, ends=reply.finish == "eos")
    state.units.append(unit)
    state.context += reply.text
    if reply.finish != "stop":
        state.ended = reply.finish
        return []
    _, opened, plan = state.context[len(state.prompt) :].rpartition("<Outlines>")
    numbers = _PLANNED.findall(plan) if opened else []
    if not numbers:
        state.notes.append("a </Outlines> without numbered outlines: stayed sequential")
    if duplicates == "remove" and len(set(numbers)) < len(numbers):
        state.notes.append("an outline number occurs twice: spawned once")
        numbers = list(dict.fromkeys(numbers))
    return numbers


def _spawn(
    forking: list[tuple[_State, list[str]]],
    complete: Complete,
    last: Complete,
    closing: str,
    respawn: Callable[[Completion], bool] | None,
    respawns: int,
) -> None:
    """Runs all threads of all forking trajectories together and joins them."""
    wanted = [(state, place, number) for state, numbers in forking for place, number in enumerate(numbers)]
    said: dict[tuple[int, int], Completion] = {}
    for attempt in range(respawns + 1 if respawn else 1):
        prompts = [f"{state.context}\n{thread_header(number)}" for state, _, number in wanted]
        replies = _asked(last if respawn and attempt == respawns else complete, prompts, "</Thread>")
        again = []
        for (state, place, number), context, reply in zip(wanted, prompts, replies, strict=True):
            made = Unit(context, reply.text, "thread", state.forks, place, number, attempt, reply.tokens)
            state.units.append(made._replace(ends=reply.finish == "eos"))
            said[id(state), place] = reply
            if respawn and attempt < respawns and respawn(reply):
                again.append((state, place, number))
        wanted = again
        if not wanted:
            break
    for state, numbers in forking:
        state.context += "\n"
        replies = [said[id(state), place] for place in range(len(numbers))]
        whole = all(reply.finish == "stop" for reply in replies)
        for number, reply in zip(numbers, replies, strict=True):
            mended = "" if reply.finish == "stop" else "\n</Thread>"
            state.context += thread_header(number) + reply.text + mended
        state.context += "\n" if closing == "model" and whole else "\n</Parallel>"
        state.forks += 1
        if not whole:
            state.ended = "unfinished_thread"
