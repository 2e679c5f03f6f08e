"""Objects that wait for promises, for tests that kill their server."""

from __future__ import annotations

from datetime import timedelta

from perdure import App, Object, Promise, every, query


class Desk(Object):
    """Opens promises and counts what comes of them."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.values: dict[str, list[int]] = {}

    async def open(self) -> str:
        promise = Promise[int]()
        self.tokens.append(promise.token)
        value = await promise
        self.values.setdefault(promise.token, []).append(value)
        return promise.token

    @query
    async def opened(self) -> list[str]:
        return self.tokens

    @query
    async def came(self) -> dict[str, list[int]]:
        return self.values


class Clock(Object):
    """Runs without being called."""

    ticks: int = 0

    @every(timedelta(milliseconds=100))
    async def tick(self) -> None:
        self.ticks += 1

    @query
    async def count(self) -> int:
        return self.ticks


app = App([Desk, Clock], objects=[Clock.at("main")])
