"""The classes that are measured: small, so that the cost is the engine's and not theirs."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

from perdure import Connection, Object, ephemeral, query, step


@step
async def nothing(number: int) -> int:
    """A step of no cost of its own."""
    return number


@step
def nothing_in_a_thread(number: int) -> int:
    """The same as a plain function, which runs in a thread."""
    return number


class Alarm(Object):
    """Sets timers, and counts those that have fired."""

    fired: int = 0

    async def set(self, count: int, seconds: float) -> None:
        after = timedelta(seconds=seconds)
        for _ in range(count):
            self.schedule(after, self._fire)

    async def _fire(self) -> None:
        self.fired += 1

    @query
    async def count(self) -> int:
        return self.fired


class Counter(Object):
    """The canonical workload: one attribute, one addition."""

    value: int = 0

    async def increment(self, by: int = 1) -> int:
        self.value += by
        return self.value

    def increment_plainly(self, by: int = 1) -> int:
        self.value += by
        return self.value

    @query
    async def read(self) -> int:
        return self.value


class Worker(Object):
    """Asks for a step in each call."""

    done: int = 0

    async def work(self, number: int) -> int:
        self.done += await nothing(number)
        return self.done

    async def workflow(self, steps: int) -> int:
        for number in range(steps):
            self.done += await nothing(number)
        return self.done

    async def work_in_a_thread(self, number: int) -> int:
        self.done += await nothing_in_a_thread(number)
        return self.done

    async def work_without(self, number: int) -> int:
        self.done += number
        return self.done


class Basket(Object):
    """About 1 KB of state, in some dozens of Python objects."""

    lines: list[dict[str, object]] = []
    total: int = 0

    async def fill(self) -> int:
        self.lines = [
            {"item": f"article number {n}", "cents": 199 * n, "tags": ["food", f"aisle-{n}"]}
            for n in range(19)
        ]
        self.total = sum(199 * n for n in range(19))
        return self.total

    async def touch(self) -> int:
        self.total += 1
        return self.total

    @query
    async def read(self) -> int:
        return self.total


class Echo(Object):
    """Sends each message back, by way of the journal."""

    async def on_message(self, conn: Connection, text: str) -> None:
        conn.send(text)


class Cursor(Object):
    """Sends each message back, past the journal."""

    @ephemeral
    def on_ephemeral(self, conn: Connection, text: str) -> None:
        conn.send(text)


class Hall(Object):
    """Sends each message to all."""

    async def on_connect(self, conn: Connection) -> None:
        conn.send("welcome")

    async def on_message(self, conn: Connection, text: str) -> None:
        self.broadcast(text)


class Sleeper(Object):
    """Waits in the middle of a handler."""

    naps: int = 0

    async def nap(self, seconds: float) -> int:
        before = self.naps
        await self._wait(seconds)
        self.naps = before + 1
        return self.naps

    async def nap_until(self, moment: float) -> int:
        before = self.naps
        await self._wait(moment - time.time())
        self.naps = before + 1
        return self.naps

    async def _wait(self, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        finally:
            self.naps += 0
