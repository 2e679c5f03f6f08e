"""A small client of `perdure.v1`, written from docs/sessions.md alone."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake


class Gone(Exception):
    """The connection cannot be resumed."""


class ResumeClient:
    """One connection across its lines: `received` is all it ever got, in order."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.token = ""
        self.id = ""
        self.at = "0.0"
        self.number = 0
        self.received: list[str | bytes] = []
        self.passing: list[str | bytes] = []
        self.unacknowledged: deque[tuple[int, str | bytes]] = deque()
        self.lives = 0
        self.line: ClientConnection | None = None
        self.changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> ResumeClient:
        self._task = asyncio.create_task(self._run())
        await self.until(lambda: self.id)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._task is not None
        if self.line is not None:
            await self.line.close()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def until(self, condition: Any) -> None:
        """Until something holds that messages change."""
        async with asyncio.timeout(60):
            while not condition():
                if self._task is not None and self._task.done():
                    self._task.result()
                self.changed.clear()
                waits = [asyncio.create_task(self.changed.wait())]
                await asyncio.wait(
                    [*waits, *([self._task] if self._task else [])],
                    return_when=asyncio.FIRST_COMPLETED,
                )
                waits[0].cancel()

    async def send(self, data: str | bytes) -> None:
        self.number += 1
        self.unacknowledged.append((self.number, data))
        await self._write(self.number, data)

    async def send_ephemeral(self, data: str) -> None:
        assert self.line is not None
        await self.line.send("e\n" + data)

    async def _write(self, number: int, data: str | bytes) -> None:
        if self.line is None:
            return
        head = f"m {number}\n"
        try:
            await self.line.send(head + data if isinstance(data, str) else head.encode() + data)
        except ConnectionClosed:
            pass  # It is sent again on the next line.

    def cut(self) -> None:
        """Lose the line as a cable does."""
        assert self.line is not None
        self.line.transport.abort()

    async def _run(self) -> None:
        pause = 0.01
        while True:
            url = self.url
            if self.token:
                url += ("&" if "?" in url else "?") + f"resume={self.token}&at={self.at}"
            try:
                async with connect(
                    url, subprotocols=["perdure.v1"], compression=None, open_timeout=30
                ) as line:
                    pause = 0.01
                    await self._live(line)
            except (OSError, InvalidHandshake, ConnectionClosed, TimeoutError, EOFError) as error:
                closed = error.rcvd if isinstance(error, ConnectionClosed) else None
                if closed is not None and closed.code not in (1012, 1013):
                    raise Gone(closed.code) from error
            self.line = None
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.3)

    async def _live(self, line: ClientConnection) -> None:
        hello = str(await line.recv()).split()
        assert hello[0] == "hello"
        _, self.token, _, id_, resumed, received = hello
        assert resumed == ("1" if self.id else "0")
        assert self.id in ("", id_)
        self.id = id_
        self.lives += 1
        self._acknowledged(int(received))
        self.line = line
        for number, data in list(self.unacknowledged):
            await self._write(number, data)
        self.changed.set()
        async for message in line:
            head, _, payload = message.partition("\n" if isinstance(message, str) else b"\n")
            words = (head if isinstance(head, str) else head.decode()).split()
            if words[0] == "m":
                position = tuple(map(int, words[1].split(".")))
                assert position > tuple(map(int, self.at.split("."))), (words, self.at)
                self.at = words[1]
                self.received.append(payload)
            elif words[0] == "e":
                self.passing.append(payload)
            elif words[0] == "ack":
                self._acknowledged(int(words[1]))
            self.changed.set()
        # The loop above ends without an error where the close was in order.
        code = line.close_code
        if code not in (1012, 1013, 1006):
            raise Gone(code)

    def _acknowledged(self, number: int) -> None:
        while self.unacknowledged and self.unacknowledged[0][0] <= number:
            self.unacknowledged.popleft()
