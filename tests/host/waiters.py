"""An object with a handler for each way to wait."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

from perdure import Object, Retry, query, step


@step(retry=Retry(attempts=3, initial=50.0, jitter=0.0))
async def fails() -> None:
    raise ValueError("always")


@step
async def charge(card: str) -> None:
    await asyncio.sleep(1000)


@step
async def listen(to: object) -> None:
    await asyncio.sleep(1000)


class Door(Object, reentrant=False):
    """Lets one in after the other."""

    async def enter(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "out"


class Loud:
    """Its repr does things that a look must not do."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.looks = 0

    def __repr__(self) -> str:
        match self.what:
            case "raises":
                raise SystemExit("no")
            case "opens":
                Path(__file__).read_text(encoding="utf-8")
            case "sends":
                asyncio.get_running_loop().call_later(1, print)
            case "starts":
                asyncio.ensure_future(asyncio.sleep(1))  # noqa: RUF006 - the loop keeps it
            case "counts":
                self.looks += 1
        return f"<Loud {self.what} {self.looks}>"

    def __call__(self) -> None: ...


class Waiter(Object):
    """One handler for each way to wait."""

    paid: Any = None
    loud: Any = None

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.queue: asyncio.Queue[int] = asyncio.Queue(1)

    async def nap(self, seconds: float = 100.0) -> None:
        rest = [1, 2, seconds]
        await asyncio.sleep(seconds)
        rest.clear()

    async def patient(self) -> None:
        async with asyncio.timeout(50), asyncio.timeout(70):
            await asyncio.sleep(100)

    async def wait_for_event(self) -> None:
        self.paid = asyncio.Event()
        await asyncio.wait_for(self.paid.wait(), 30)

    async def pay(self) -> None:
        self.paid.set()

    async def wait_for_future(self) -> None:
        self.paid = asyncio.get_running_loop().create_future()
        await self.paid

    async def wait_for_set_future(self) -> None:
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        loop.call_later(3, answer.set_result, 3)
        await answer

    async def gathering(self) -> None:
        await asyncio.gather(
            self._nap(3),
            asyncio.shield(self._nap(4)),
            asyncio.gather(self._nap(5), self._nap(6)),
        )

    async def group(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._nap(4))
            group.create_task(self._nap(5), name="five")

    async def first_of(self) -> None:
        tasks = [asyncio.create_task(self._nap(n)) for n in (4, 5)]
        await asyncio.wait(tasks, timeout=3)

    async def completed(self) -> None:
        for one in asyncio.as_completed([self._nap(4), self._nap(5)]):
            await one

    async def locked(self) -> None:
        async def inside(seconds: float) -> None:
            async with self.lock:
                await asyncio.sleep(seconds)

        await asyncio.gather(inside(10), inside(20))

    async def conditioned(self) -> None:
        condition = asyncio.Condition()

        async def inside(n: int) -> None:
            async with condition:
                await (condition.wait() if n == 0 else asyncio.sleep(10))

        await asyncio.gather(inside(0), inside(1), inside(2))

    async def counted(self) -> None:
        places = asyncio.Semaphore(2)

        async def inside() -> None:
            async with places:
                await asyncio.sleep(10)

        await asyncio.gather(inside(), inside(), inside())

    async def queued(self) -> None:
        self.queue.put_nowait(1)
        other: asyncio.Queue[int] = asyncio.Queue()
        await asyncio.gather(self.queue.put(2), other.get(), self.queue.join())

    async def at_a_barrier(self) -> None:
        barrier = asyncio.Barrier(3)
        await asyncio.gather(barrier.wait(), barrier.wait())

    async def streaming(self) -> None:
        async def numbers() -> Any:
            for n in range(3):
                await asyncio.sleep(20)
                yield n

        async for _ in numbers():
            pass

    async def charging(self) -> None:
        await charge("4242")

    async def retrying(self) -> None:
        await fails()

    async def calling(self, door: str = "d", seconds: float = 100.0) -> None:
        await Door.at(door).enter(seconds)

    async def twice(self) -> None:
        await asyncio.sleep(1)
        await asyncio.sleep(100)

    async def unkept(self) -> None:
        lock = threading.Lock()
        await asyncio.sleep(100)
        lock.acquire()

    async def whispering(self) -> None:
        asyncio.get_running_loop().call_later(100, Loud("raises"))
        await listen(Loud("raises"))

    async def shouting(self, what: str) -> None:
        self.loud = Loud(what)
        await asyncio.sleep(100)

    async def _nap(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    # Two handlers that wait for each other.

    async def left(self) -> None:
        async with self.lock:
            await Waiter.at("right").right()

    async def right(self) -> None:
        await Waiter.at("left").again()

    async def again(self) -> None:
        async with self.lock:
            pass

    @query
    async def looks(self) -> int:
        looks: int = self.loud.looks
        return looks


class Slow(Object):
    async def on_create(self) -> None:
        await asyncio.sleep(60)

    async def go(self) -> None: ...


def at(seconds: int) -> str:
    """A time so long after the beginning of the world."""
    minutes, rest = divmod(20 + seconds, 60)
    return f"2023-11-14T22:{13 + minutes}:{rest:02}.000000Z"
