"""The web of a world: answers to `perdure.http`, from a function of the test in place of a network.

A process that ends leaves its connections behind; they are closed with the world.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable

import httpx

from perdure import http

Handler = Callable[[httpx.Request], httpx.Response | Awaitable[httpx.Response]]


class Web:
    """What requests of a world meet, and the connections that they have left open."""

    def __init__(self) -> None:
        self._before: dict[str, object] | None = None
        self._left: list[httpx.AsyncClient] = []

    def answer_by(self, handler: Handler) -> None:
        """Have a function answer every request."""
        if self._before is None:
            self._before = dict(http._configured)
        # Not by `configure`, which tries the options out: that costs more than most tests.
        http._configured["transport"] = _Transport(handler)
        self.process_ended()

    def process_ended(self) -> None:
        """The next process makes connections of its own."""
        client = http._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            self._left.append(client)

    async def close(self) -> None:
        """The world ends."""
        self.process_ended()
        for client in self._left:
            # Whoever waited for it is gone.
            with contextlib.suppress(Exception):
                await client.aclose()
        if self._before is not None:
            http._configured.clear()
            http._configured.update(self._before)


class _Transport(httpx.AsyncBaseTransport):
    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        answer = self._handler(request)
        return await answer if inspect.isawaitable(answer) else answer
