"""Objects in processes of their own, for tests that kill these and the server."""

from __future__ import annotations

import asyncio
import os

from perdure import Connection, Object, query


class Game(Object, isolation="process", memory_limit=256 * 1024 * 1024):
    score: int = 0

    async def play(self, by: int = 1) -> int:
        self.score += by
        return self.score

    async def slowly(self) -> int:
        self.score += 1
        await asyncio.sleep(0.01)
        self.score += 1
        return self.score

    @query
    async def read(self) -> int:
        return self.score

    @query
    async def process(self) -> int:
        return os.getpid()

    async def spin(self) -> None:
        while True:
            pass

    async def on_message(self, conn: Connection, text: str) -> None:
        if text == "fall":
            os.abort()
        self.score += 1
        self.broadcast(f"{text} {self.score}")


class Lobby(Object):
    visits: int = 0

    async def visit(self) -> int:
        self.visits += 1
        return self.visits
