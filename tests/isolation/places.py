"""Classes whose objects have processes of their own, and a node that serves them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from perdure import Forbidden, Indexed, Object, Promise, atomic, query, send, step
from perdure.node import Node
from perdure.settings import Settings

BIG = 1 << 30


@step
async def doubled(number: int) -> int:
    return number * 2


@step
async def process_of_steps() -> int:
    return os.getpid()


class Till(Object):
    taken: int = 0

    async def take(self, by: int) -> int:
        self.taken += by
        return self.taken


class Game(Object, isolation="process", memory_limit=256 * 1024 * 1024):
    score: Indexed[int] = 0

    def __init__(self) -> None:
        self.tags: set[str] = set()
        self.log: list[str] = []
        self.door = asyncio.Event()
        self.promise: Promise[int] | None = None

    async def play(self, by: int = 1) -> int:
        self.score += by
        self.tags.add(f"t{self.score}")
        return self.score

    @query
    async def read(self) -> int:
        return self.score

    @query
    async def told(self) -> list[str]:
        return self.log

    @query
    async def walked(self) -> list[str]:
        return list(self.tags)

    @query
    async def process(self) -> int:
        return os.getpid()

    async def steps(self) -> int:
        return await process_of_steps()

    async def wait(self) -> str:
        await self.door.wait()
        return "in"

    async def nap(self, seconds: float) -> int:
        await asyncio.sleep(seconds)
        return self.score

    async def open(self) -> None:
        self.door.set()

    async def pay(self) -> int:
        return await Till.at("main").take(await doubled(self.score))

    async def ask(self) -> str:
        self.promise = Promise[int]()
        return self.promise.token

    async def answer(self) -> int:
        assert self.promise is not None
        return await self.promise

    async def remind(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self.log.append, "rang")

    async def count(self, upto: int) -> Any:
        for number in range(upto):
            yield number
            await asyncio.sleep(0)

    async def fail(self) -> None:
        self.score += 10
        raise LookupError("nothing there")

    @atomic
    async def fail_whole(self) -> None:
        self.score += 10
        raise LookupError("nothing there")

    # --- accidents

    async def abort(self) -> None:
        self.score += 1000
        os.abort()

    async def leave(self) -> None:
        os._exit(3)

    async def grow(self) -> int:
        return len(bytearray(BIG))

    @query
    async def grow_to_look(self) -> int:
        return len(bytearray(BIG))

    async def spin(self) -> None:
        while True:
            pass

    async def abort_once(self, path: str) -> None:
        # The test decides whether it ends the process.
        if os.stat(path).st_size == 0:
            os.abort()
        self.log.append("survived")


class Guarded(Object, isolation="process"):
    async def authorize(self, principal: Any, action: Any) -> None:
        if action.handler == "secret":
            raise Forbidden("not for you")

    async def open(self) -> str:
        return "open"

    async def secret(self) -> str:
        return "secret"


class Sender(Object):
    async def poke(self, key: str, path: str) -> None:
        await send(Game.at(key).abort_once, path)


CLASSES = (Game, Guarded, Till, Sender)


@asynccontextmanager
async def served(data: Path, **settings: Any) -> AsyncIterator[Node]:
    node = Node(CLASSES, Settings(data=str(data), **settings))
    await node.start()
    try:
        yield node
    finally:
        await node.drain()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False
