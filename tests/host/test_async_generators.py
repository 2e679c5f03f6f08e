"""An async generator that an object lets go ends in the object, turn by turn, and at replay too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from perdure import Object, query
from tests.host.stage import Stage


class Streams(Object):
    log: list[Any] = []

    async def _numbers(self) -> AsyncIterator[int]:
        try:
            for i in range(5):
                yield i
        finally:
            self.log.append(type(asyncio.get_running_loop()).__name__)
            await asyncio.sleep(1)
            self.log.append("closed")

    async def first(self) -> int:
        async for i in self._numbers():
            return i
        return -1

    @query
    async def read(self) -> list[Any]:
        return self.log


async def test_its_finally_runs_as_a_task_of_the_object() -> None:
    async with Stage(Streams) as stage:
        streams = Streams.at("s")
        assert await streams.first() == 0
        assert await streams.read() == ["Machine"]
        await asyncio.sleep(2)
        assert await streams.read() == ["Machine", "closed"]
        await stage.restart()
        assert await streams.read() == ["Machine", "closed"]
        assert stage.host.quarantine.list() == []


async def test_one_of_the_outside_ends_outside() -> None:
    ended = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            ended.append(type(asyncio.get_running_loop()).__name__)

    async with Stage(Streams):
        async for _ in numbers():
            break
        await asyncio.sleep(0.01)
        assert ended
        assert ended != ["Machine"]
