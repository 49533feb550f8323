"""Text generation behind one small interface: `complete`, `stream` with top-k log-probs, `abort`.

engine = Local(model, tokenizer)                       # this process: transformers on CPU or GPU
engine = Server("http://127.0.0.1:8000/v1", "smollm2")  # vLLM, SGLang, any OpenAI-compatible server

engine.complete(prompts, Settings(most=64, stop=("\\n",)))
with engine.stream(prompts, Settings(most=64, top_logprobs=20)) as stream:
    for step in stream:                  # one more token of some rows
        stream.abort(unsure(step))       # ends these rows; in process their places are free for the others
stream.completions
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

if TYPE_CHECKING:
    import numpy as np

Prompt = str | Sequence[int]  # text, or token ids
Finish = Literal["stop", "eos", "length", "abort", "error"]


@dataclass(frozen=True)
class Settings:
    """How a completion is drawn and where it ends. temperature 0: the likeliest token; top_k 0 and top_p 1: from all.

    stop: strings at which it ends; they are not part of the text. top_logprobs: how many of the largest log-probs come
    with each token, those of temperature 1 before any filter (some servers add the drawn token's own).
    """

    most: int = 256
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    top_logprobs: int = 0


class Completion(NamedTuple):
    """What was written after a prompt.

    tokens counts all that were generated, the end or stop token included. finish: `stop` is a stop string alone, `eos`
    the model's own end, `length` the limit, `abort` the caller, `error` a server that failed (`error` says how).
    ids are the token ids where the back end knows them; top_logprobs [tokens, k] descending, NaN where there are fewer.
    """

    text: str
    tokens: int
    finish: Finish
    ids: tuple[int, ...] = ()
    top_logprobs: np.ndarray | None = None
    error: str = ""


class Step(NamedTuple):
    """One more token of some rows [b]: its id or, from a server, its text, and the largest log-probs [b, k]."""

    rows: np.ndarray
    tokens: Sequence[int | str]
    top_logprobs: np.ndarray | None


class Stream(ABC):
    """Completions under way. Iterate it to its end, or leave the `with` block early: what is not finished is aborted."""

    completions: list[Completion]  # one a prompt, complete once the iteration has ended

    @abstractmethod
    def __iter__(self) -> Iterator[Step]: ...

    @abstractmethod
    def abort(self, rows: Iterable[int]) -> None:
        """Ends rows: they get no further token. Rows that have ended already, or not begun, may be named."""

    @abstractmethod
    def close(self) -> None:
        """Ends everything that is under way."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Engine(ABC):
    """A text generator."""

    name: str

    @abstractmethod
    def stream(self, prompts: Sequence[Prompt], settings: Settings) -> Stream: ...

    def complete(self, prompts: Sequence[Prompt], settings: Settings) -> list[Completion]:
        """One completion a prompt, in their order. A failed one has `finish` "error"; raises TychoError if all failed."""
        from tycho.errors import TychoError

        with self.stream(prompts, settings) as stream:
            for _ in stream:
                pass
        failed = [made.error for made in stream.completions if made.finish == "error"]
        if failed and len(failed) == len(prompts):
            raise TychoError(failed[0])
        return stream.completions

    def asked(self, settings: Settings) -> Callable[..., list[Completion]]:
        """`complete(prompts, *, stop)` with everything else set: what state machines over completions take."""

        def ask(prompts: Sequence[Prompt], *, stop: str) -> list[Completion]:
            return self.complete(prompts, replace(settings, stop=(*settings.stop, stop)))

        return ask


def connect(source: str, *, device: str = "cpu", revision: str = "", seed: int = 0, **options: Any) -> Engine:
    """The engine that `source` names: `smollm2`, a URL (`http://host/v1`, with `model=` where it serves several), a
    checkpoint's folder, or a model on the hub (with `revision=`). Further options go to the back end."""
    if source.startswith(("http://", "https://")):
        from tycho.engines.server import Server

        return Server(source, **options)
    from tycho.engines.local import Local

    if source == "smollm2":
        from tycho.lm.smollm2 import load_smollm2

        model, tokenizer = load_smollm2(device=device, revision=revision)
    else:
        from tycho.lm.small import load

        model, tokenizer = load(source, device=device, revision=revision or None)
    return Local(model.eval(), tokenizer, seed=seed, name=source, **options)
