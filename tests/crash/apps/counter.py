"""A counter, quick and slow."""

from __future__ import annotations

import asyncio

from perdure import Object, query


class Counter(Object):
    value: int = 0

    async def increment(self, by: int = 1, padding: str = "") -> int:
        self.value += by
        return self.value

    async def slow(self, seconds: float = 0.3) -> int:
        await asyncio.sleep(seconds)
        self.value += 1
        return self.value

    @query
    async def read(self) -> int:
        return self.value
