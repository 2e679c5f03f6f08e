"""An object for the client's own tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from perdure import Connection, Object, ephemeral, query, sleep


class Lab(Object):
    value: int = 0
    heard: list[str] = []

    async def add(self, by: int = 1) -> int:
        self.value += by
        return self.value

    async def fail(self) -> None:
        raise LookupError("gone")

    async def count(self, to: int, pause: float = 0.0) -> AsyncIterator[int]:
        for number in range(1, to + 1):
            await sleep(pause)
            self.value = number
            yield number

    @query
    async def read(self, times: int = 1, tags: list[str] | None = None) -> list[str]:
        return [f"{self.value * times}", *(tags or [])]

    async def kick(self, code: int) -> None:
        for conn in self.connections:
            conn.close(code, "out")

    async def on_connect(self, conn: Connection) -> None:
        conn.send_json({"query": conn.query})

    async def on_message(self, conn: Connection, data: str | bytes) -> None:
        if isinstance(data, bytes):
            conn.send(data[::-1])
        else:
            self.heard.append(data)
            conn.send(data)

    @ephemeral
    async def on_ephemeral(self, conn: Connection, data: dict[str, int]) -> None:
        self.broadcast_json(data)

    async def on_request(self, request: Request) -> Response:
        return HTMLResponse("<!doctype html><title>Lab</title>")
