"""A small OpenAI-compatible server on loopback that misbehaves on demand: the prompt's first word says how."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import threading
from collections import Counter

CHUNKS = [("one", [-0.1, -2.0, -3.0]), (" two", [-0.2, -1.0, -4.0]), (" three", [-0.5, -0.9, -5.0]), ("", [-0.3, -2.0, -9.0])]  # fmt: skip


class Faulty:
    """`with Faulty() as server: server.url`. `asked` counts requests by first word, `aborted` streams that were closed."""

    def __enter__(self) -> Faulty:
        self.asked: Counter[str] = Counter()
        self.aborted: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0
        self.bodies: list[dict] = []
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main(ready)), daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _main(self, ready: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        ready.set()
        async with server:
            await self._stop.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                size = next(
                    (
                        int(line.split(":")[1])
                        for line in head.splitlines()
                        if line.lower().startswith("content-length")
                    ),
                    0,
                )
                body = json.loads(await reader.readexactly(size)) if size else {}
                if head.startswith("GET"):
                    await self._answer(writer, 200, {"data": [{"id": "small"}]})
                    continue
                self.bodies.append(body)
                text = body.get("prompt") or body["messages"][0]["content"]
                mode = text.split()[0] if isinstance(text, str) else "good"
                self.asked[mode] += 1
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
                try:
                    if not await self._act(mode, body, writer):
                        break
                finally:
                    self.at_once -= 1
        writer.close()

    async def _act(self, mode: str, body: dict, writer: asyncio.StreamWriter) -> bool:
        """Answers a request; False closes the connection."""
        if mode == "500":
            await self._answer(writer, 500, {"error": {"message": "the engine\nis dead"}})
        elif mode == "429":
            await self._answer(writer, 429, {"error": "slow down"}, "Retry-After: 0.01\r\n")
        elif mode == "busy" and self.asked[mode] < 3:
            await self._answer(writer, 503, {})
        elif mode == "400":
            await self._answer(writer, 400, {"message": "top_logprobs is too large"})
        elif mode == "nothing":
            return False
        elif mode == "silent":
            await asyncio.sleep(2)
        elif mode == "html":
            await self._begin(writer)
            await self._chunk(writer, "<html>a proxy page</html>\n")
            await self._chunk(writer, "")
        elif mode == "empty":
            await self._begin(writer)
            await self._chunk(writer, "")
        elif mode == "error":  # vLLM tells in the stream that its engine died
            await self._begin(writer)
            await self._send(
                writer, json.dumps({"error": {"message": "EngineCore\nencountered an issue", "code": 500}})
            )
            await self._chunk(writer, "")
        elif mode == "garbage":
            await self._begin(writer)
            await self._send(writer, "{not json")
            await self._chunk(writer, "")
        else:
            return await self._stream(mode, body, writer)
        return True

    async def _stream(self, mode: str, body: dict, writer: asyncio.StreamWriter) -> bool:
        chat = "messages" in body
        await self._begin(writer)
        try:
            for _ in range(1000 if mode == "endless" else 1):
                for place, (text, logprobs) in enumerate(CHUNKS):
                    if mode == "dies" and place == 2:
                        writer.transport.abort()
                        return False
                    last = place == len(CHUNKS) - 1 and mode not in ("endless", "unfinished")
                    choice = {"delta": {"content": text}} if chat else {"text": text}
                    choice["finish_reason"] = "stop" if last else None
                    if last and mode != "plain":
                        choice["stop_reason"] = body["stop"][0] if body.get("stop") else None
                    if mode == "extra":  # the drawn token was not among the likeliest
                        logprobs = [*logprobs, -11.0]
                    if mode == "hole" and place == 1:
                        logprobs = []
                    if mode == "nan" and place == 1:
                        logprobs = [math.nan] * 3
                    if mode != "nologprobs":
                        top = {f"t{i}": value for i, value in enumerate(logprobs)}
                        rows = [{"top_logprobs": [{"logprob": value} for value in logprobs]}]
                        choice["logprobs"] = {"content": rows} if chat else {"top_logprobs": [top]}
                    await self._send(writer, json.dumps({"choices": [choice]}))
                    await asyncio.sleep(0.002)
            if mode != "unfinished":
                await self._send(writer, json.dumps({"choices": [], "usage": {"completion_tokens": len(CHUNKS)}}))
                await self._send(writer, "[DONE]")
            await self._chunk(writer, "")
        except ConnectionError:
            self.aborted[mode] += 1
            return False
        return True

    async def _begin(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        await writer.drain()

    async def _send(self, writer: asyncio.StreamWriter, data: str) -> None:
        await self._chunk(writer, f"data: {data}\n\n")

    async def _chunk(self, writer: asyncio.StreamWriter, text: str) -> None:
        if writer.is_closing():
            raise ConnectionError
        writer.write(f"{len(text.encode()):x}\r\n{text}\r\n".encode())
        await writer.drain()

    async def _answer(self, writer: asyncio.StreamWriter, status: int, body: dict, more: str = "") -> None:
        text = json.dumps(body)
        head = (
            f"HTTP/1.1 {status} Status\r\nContent-Type: application/json\r\n{more}Content-Length: {len(text)}\r\n\r\n"
        )
        writer.write((head + text).encode())
        await writer.drain()
