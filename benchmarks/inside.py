"""What measurements inside of one process share: a node, and many calls on their way at a time."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from benchmarks import app
from perdure.clock import Clock
from perdure.host.incoming import Answer, IncomingCall
from perdure.kind import Kind, kind_of
from perdure.node import Node
from perdure.object import Object
from perdure.settings import Settings

R = TypeVar("R")
# No checkpoint and no hibernation comes by itself in the middle of a measurement.
_QUIET: dict[str, Any] = {
    "checkpoint_bytes": 1 << 40,
    "checkpoint_seconds": 1e6,
    "hibernate_after": 1e6,
}


def run(work: Awaitable[R]) -> R:
    """Run on the loop that `perdure serve` uses."""

    async def main() -> R:
        return await work

    return uvloop.run(main())


async def start_node(
    directory: str | Path | None, clock: Clock | None = None, **settings: Any
) -> Node:
    """A node that serves app.py from a directory; None: from memory, with nothing on disk."""
    store = f"sqlite:{directory}" if directory is not None else "memory:"
    node = Node(
        [app.Alarm, app.Counter, app.Worker, app.Basket, app.Sleeper],
        Settings(store=store, **_QUIET | settings),
        clock=clock,
    )
    await node.start()
    return node


class Calls:
    """Calls of one handler, each ready to be handed to the host as the gateway does it."""

    def __init__(self, node: Node, cls: type[Object], handler: str, body: bytes = b"") -> None:
        self.node = node
        self.kind: Kind = kind_of(cls)
        self.handler = self.kind.handlers[handler]
        self.body = body
        self.args = self.handler.signature.decode_json(body)
        self.answered = 0
        self._wanted = 0
        self._all: asyncio.Future[None] | None = None

    def call(self, key: str) -> None:
        """One call; its answer is counted."""
        self.node.host.call(
            IncomingCall(self.kind, key, self.handler, self.args, self.body, self._on_answer)
        )

    def _on_answer(self, answer: Answer) -> None:
        assert answer.failure is None, answer.failure
        self.answered += 1
        if self._all is not None and self.answered >= self._wanted and not self._all.done():
            self._all.set_result(None)

    async def all_of(self, keys: list[str]) -> None:
        """Call each of these objects in one pass of the loop, and wait for all answers."""
        self._wanted = self.answered + len(keys)
        for key in keys:
            self.call(key)
        if self.answered < self._wanted:
            self._all = asyncio.get_running_loop().create_future()
            await self._all
            self._all = None

    async def through(self, keys: list[str], at_a_time: int) -> None:
        """Call each of these objects, so many in each pass of the loop."""
        for first in range(0, len(keys), at_a_time):
            await self.all_of(keys[first : first + at_a_time])


class Watch:
    """CPU and time of this process since it was made. Not from `time`, which the guard replaces."""

    def __init__(self) -> None:
        self._wall = asyncio.get_running_loop().time()
        self._cpu = _cpu_s()

    def stop(self, operations: int) -> dict[str, float]:
        """Operations a second, and CPU microseconds for each."""
        wall = asyncio.get_running_loop().time() - self._wall
        return {"rate": operations / wall, "cpu_us": (_cpu_s() - self._cpu) / operations * 1e6}


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def resident_bytes() -> int:
    """How much memory this process has."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_of(work: Callable[[], object], operations: int) -> float:
    """CPU microseconds of each of the operations that `work` does."""
    before = _cpu_s()
    work()
    return (_cpu_s() - before) / operations * 1e6
