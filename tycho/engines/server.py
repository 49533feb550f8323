"""Completions from any OpenAI-compatible server (vLLM, SGLang): one streamed request a prompt, a bounded number at once.

Closing a request's stream makes the server abort it, so an ended trace costs no more tokens. A request that fails before
its first token is tried again; one that breaks off later is reported as failed, and what others wrote is kept.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import random
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from tycho.engines import Completion, Engine, Prompt, Settings, Step, Stream
from tycho.errors import TychoError, one_line

AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}  # statuses that may pass


class Server(Engine):
    """A server's `/v1`. `model` may be left out where it serves one. The key is read from OPENAI_API_KEY.

    chat: send the prompt as a user's message and let the server put its chat template around it; otherwise prompts go
    as they are, text or token ids. concurrency: requests at once. tries: of a request before its first token, with
    pauses that double from `pause` seconds (or what the server's Retry-After says). patience: seconds without a token.
    extra: further fields of every request (`return_tokens_as_token_ids: true` makes vLLM name tokens by id).
    """

    def __init__(
        self,
        url: str,
        model: str = "",
        *,
        chat: bool = False,
        concurrency: int = 32,
        tries: int = 4,
        pause: float = 0.5,
        patience: float = 120.0,
        extra: dict[str, Any] | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.url += "" if self.url.endswith("/v1") else "/v1"
        self.chat, self.concurrency, self.tries = chat, concurrency, tries
        self.pause, self.patience, self.extra = pause, patience, dict(extra or {})
        self.name = model or self._only_model()

    def stream(self, prompts: Sequence[Prompt], settings: Settings) -> ServerStream:
        return ServerStream(self, list(prompts), settings)

    def body(self, prompt: Prompt, settings: Settings) -> dict[str, Any]:
        """A request's JSON."""
        body: dict[str, Any] = {
            "model": self.name,
            "max_tokens": settings.most,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        body |= {"stop": list(settings.stop)} if settings.stop else {}
        body |= {"top_k": settings.top_k} if settings.top_k else {}
        if self.chat:
            if not isinstance(prompt, str):
                raise TychoError("a chat server takes text, not token ids: leave `chat` out")
            body["messages"] = [{"role": "user", "content": prompt}]
            body |= {"logprobs": True, "top_logprobs": settings.top_logprobs} if settings.top_logprobs else {}
        else:
            body["prompt"] = prompt if isinstance(prompt, str) else list(prompt)
            body |= {"logprobs": settings.top_logprobs} if settings.top_logprobs else {}
        return body | self.extra

    @property
    def headers(self) -> dict[str, str]:
        key = os.environ.get("OPENAI_API_KEY")
        return {"Authorization": f"Bearer {key}"} if key else {}

    def _only_model(self) -> str:
        import httpx

        try:
            answer = httpx.get(f"{self.url}/models", headers=self.headers, timeout=self.patience, trust_env=False)
            names = [model["id"] for model in answer.raise_for_status().json()["data"]]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise TychoError(
                f"{self.url} does not say what it serves ({one_line(error)}): is a server there?"
            ) from error
        if len(names) != 1:
            raise TychoError(f"{self.url} serves {', '.join(names) or 'nothing'}: name one with model=")
        return names[0]


class ServerStream(Stream):
    """Requests run on an event loop in a thread of their own; iterating takes their tokens as they come, one a `Step`."""

    def __init__(self, engine: Server, prompts: list[Prompt], settings: Settings) -> None:
        self.engine, self.prompts, self.settings = engine, prompts, settings
        self.completions = [Completion("", 0, "abort")] * len(prompts)
        self._bodies = [engine.body(prompt, settings) for prompt in prompts]
        self._events: queue.SimpleQueue[tuple[int, _Token] | BaseException | None] = queue.SimpleQueue()
        self._over: set[int] = set()  # rows that the caller has ended
        self._tasks: list[asyncio.Task] = []
        self._traces = [_Trace() for _ in prompts]
        self._gone = ""  # why the server counts as lost: the rest is not tried any more
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Step]:
        while (event := self._events.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            row, token = event
            if row in self._over:
                continue  # on its way when the caller ended the row
            self._traces[row].add(token)
            tops = self.settings.top_logprobs
            yield Step(np.array([row]), [token.text], _padded([token.logprobs], tops) if tops else None)
        self._thread.join()
        self.completions = [self._completion(row) for row in range(len(self.prompts))]

    def abort(self, rows: Iterable[int]) -> None:
        rows = [int(row) for row in rows]
        self._over.update(rows)
        self._ready.wait()
        for row in rows:
            if not self._tasks[row].done():
                self._loop.call_soon_threadsafe(self._tasks[row].cancel)

    def close(self) -> None:
        if self._thread.is_alive():
            self.abort(range(len(self.prompts)))
            self._thread.join()
        self.completions = [self._completion(row) for row in range(len(self.prompts))]

    # --- on the event loop ---------------------------------------------------------------------------------------

    async def _main(self) -> None:
        import httpx

        engine = self.engine
        self._loop, self._free = asyncio.get_running_loop(), asyncio.Semaphore(engine.concurrency)
        timeout = httpx.Timeout(engine.patience, connect=min(engine.patience, 10.0), pool=None)
        limits = httpx.Limits(max_connections=engine.concurrency, max_keepalive_connections=engine.concurrency)
        try:
            async with httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=False) as client:
                self._tasks = [asyncio.ensure_future(self._row(client, row)) for row in range(len(self.prompts))]
                self._ready.set()
                for made in await asyncio.gather(*self._tasks, return_exceptions=True):
                    if isinstance(made, Exception):
                        self._events.put(made)
        finally:
            self._ready.set()
            self._events.put(None)

    async def _row(self, client: Any, row: int) -> None:
        trace = self._traces[row]
        async with self._free:
            for attempt in range(self.engine.tries):
                if self._gone:
                    trace.error = self._gone
                    return
                try:
                    async for token in self._tokens(client, self._bodies[row], trace):
                        trace.begun = True
                        self._events.put((row, token))
                    trace.error = ""
                    return
                except _Failure as failure:
                    trace.error = f"{self.engine.url} {failure}"
                    last = attempt + 1 == self.engine.tries
                    if trace.begun or not failure.passing:
                        return
                    if last:
                        trace.error += f", after {self.engine.tries} tries"
                        self._gone = trace.error if failure.lost else self._gone
                        return
                    wait = failure.wait or self.engine.pause * 2**attempt * (1 + random.random() / 4)
                    await asyncio.sleep(min(wait, self.engine.patience))

    async def _tokens(self, client: Any, body: dict[str, Any], trace: _Trace) -> AsyncIterator[_Token]:
        """One request's tokens. Raises _Failure on whatever is not a completion to its end."""
        import httpx

        engine = self.engine
        path = "/chat/completions" if engine.chat else "/completions"
        try:
            async with client.stream("POST", engine.url + path, json=body, headers=engine.headers) as answer:
                if answer.status_code != 200:
                    raise _refused(answer, await answer.aread())
                async for line in answer.aiter_lines():
                    if not line.startswith("data:") or line[5:].strip() == "[DONE]":
                        if line.startswith(("{", "<")):  # an error or a page in the place of a stream
                            raise _Failure(f"sent what is no completion ({line[:80]!r})")
                        continue
                    for token in _parsed(line[5:], trace, self.settings.top_logprobs):
                        yield token
        except httpx.TimeoutException as error:
            what = "sent nothing" if isinstance(error, httpx.ReadTimeout) else "did not answer"
            raise _Failure(f"{what} for {engine.patience:g} s", passing=True, lost=True) from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            what = "broke off in the middle" if trace.begun else "cannot be reached"
            raise _Failure(f"{what} ({one_line(error)[:80]})", passing=True, lost=not trace.begun) from error
        if not trace.finish:
            what = "ended a stream without a finish reason" if trace.begun else "sent an empty answer"
            raise _Failure(what, passing=True)

    def _completion(self, row: int) -> Completion:
        trace, k = self._traces[row], self.settings.top_logprobs
        tops = _padded(trace.logprobs, k) if k else None
        text = "".join(trace.texts)
        if row in self._over and not (trace.finish and trace.seen == trace.sent):
            return Completion(text, trace.seen, "abort", (), tops)
        if trace.error:
            return Completion(text, trace.seen, "error", (), tops, trace.error)
        finish = trace.finish
        if finish == "stop?":  # the server does not tell a stop string from the end of the text
            at = next((stop for stop in self.settings.stop if text.endswith(stop)), None)
            finish = "stop" if at else "eos"
        stopped = next((stop for stop in self.settings.stop if finish == "stop" and text.endswith(stop)), "")
        return Completion(text.removesuffix(stopped), max(trace.used, trace.seen), finish, (), tops)


class _Token(NamedTuple):
    text: str
    logprobs: list[float]


class _Trace:
    """What is known of one request: on the loop's side `begun`, `sent`, `finish`, `used`, `error`; on the caller's the rest."""

    def __init__(self) -> None:
        self.begun, self.finish, self.used, self.error, self.sent = False, "", 0, "", 0
        self.texts: list[str] = []
        self.logprobs: list[list[float]] = []
        self.seen = 0

    def add(self, token: _Token) -> None:
        self.texts.append(token.text)
        self.seen += 1
        self.logprobs.append(token.logprobs)  # none of a token: its row is NaN, and the others stay in their places


class _Failure(Exception):
    """passing: another try may help; lost: the whole server is gone if it does not; wait: seconds it asked for."""

    def __init__(self, says: str, *, passing: bool = False, lost: bool = False, wait: float = 0.0) -> None:
        super().__init__(says)
        self.passing, self.lost, self.wait = passing, lost, wait


def _refused(answer: Any, content: bytes) -> _Failure:
    """A status other than 200, with the server's own word for it."""
    text = content.decode(errors="replace")
    try:
        text = _said(json.loads(text))
    except ValueError:
        text = _said(text)
    says = f"answered {answer.status_code} {answer.reason_phrase}".rstrip()
    says += f" ({text})" if text else ""
    try:
        wait = float(answer.headers.get("retry-after", 0))
    except ValueError:  # a date
        wait = 0.0
    return _Failure(says, passing=answer.status_code in AGAIN, wait=wait)


def _said(found: Any) -> str:
    """What an error's JSON says, on one line."""
    found = found.get("error", found) if isinstance(found, dict) else found
    text = str(found.get("message", found) if isinstance(found, dict) else found)
    return " ".join(text.split())[:120]


def _parsed(data: str, trace: _Trace, k: int) -> Iterator[_Token]:
    """The tokens of one chunk. Raises _Failure where it is none, or comes without the log-probs that were asked for."""
    try:
        chunk = json.loads(data)
        if chunk.get("error"):
            raise _Failure(f"broke off ({_said(chunk)})")
        if chunk.get("usage"):
            trace.used = int(chunk["usage"].get("completion_tokens") or 0)
        for choice in chunk["choices"]:
            text = choice["text"] if "text" in choice else choice["delta"].get("content") or ""
            rows = _logprobs(choice.get("logprobs"))
            if choice.get("finish_reason"):
                trace.finish = _finish(choice)
            if k and text and rows is None:
                raise _Failure("sends no log-probs: start it with them (vLLM: --max-logprobs 20) or ask for none")
            tokens = [_Token("", row) for row in rows or []] or ([_Token("", [])] if text else [])
            tokens[:1] = [tokens[0]._replace(text=text)] if tokens else []
            trace.sent += len(tokens)
            yield from tokens
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise _Failure(f"sent what is no completion ({data.strip()[:80]!r})") from error


def _logprobs(found: Any) -> list[list[float]] | None:
    """A row of log-probs a token, descending, from either API's form; None where there are none."""
    if not found:
        return None
    if "content" in found:  # chat
        rows = [[entry["logprob"] for entry in token["top_logprobs"]] for token in found["content"] or []]
    else:
        rows = [list((row or {}).values()) for row in found["top_logprobs"] or []]
    return [sorted(map(float, row), reverse=True) for row in rows]


def _finish(choice: dict[str, Any]) -> str:
    """`stop` a stop string, `eos` the model's end: vLLM and SGLang say which, others leave it open."""
    if choice["finish_reason"] != "stop":
        return "length" if choice["finish_reason"] == "length" else "abort"
    for name in ("stop_reason", "matched_stop"):
        if name in choice:
            return "stop" if isinstance(choice[name], str) else "eos"
    return "stop?"


def _padded(rows: list[list[float]], k: int) -> np.ndarray:
    found = np.full((len(rows), k), np.nan)
    for place, row in enumerate(rows):
        found[place, : min(k, len(row))] = row[:k]
    return found
