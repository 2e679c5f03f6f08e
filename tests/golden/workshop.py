"""The app whose data is kept in `v0_1_schema2`: each thing that an object can ask of the outside.

make_schema2.py and its tests run this text as a module of its own, `workshop`, as an app is. Like
app.py it is never changed: the data names these classes and methods, and the version of the code
that the data was written under is a digest of every letter here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

import perdure
from perdure import (
    Connection,
    Fatal,
    Indexed,
    Object,
    Promise,
    Reject,
    Retry,
    Schedule,
    atomic,
    cron,
    every,
    query,
    step,
    wait_until,
)

RELEASE = "now"


@step
async def fetch(size: int) -> bytes:
    return b"z" * size


@step
async def tokens(count: int, size: int) -> AsyncIterator[str]:
    for n in range(count):
        yield f"{n}" * size


@step(repeat=False)
async def launch(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "in orbit"


@step(retry=Retry(attempts=2, initial=0.5), timeout=30)
async def refuse(text: str) -> None:
    raise LookupError(len(text))


@dataclass
class Approval:
    approved: bool
    by: str = ""


class Order(Object):
    """Steps, promises, indexed values, streams of steps, deadlines, cancellation."""

    status: Indexed[str] = "open"
    total: Indexed[int] = 0
    log: list[str] = []
    numbers: set[int] = set()
    approval: Promise[Approval] | None = None
    token: str = ""

    async def put(self, status: str, total: int) -> int:
        self.status, self.total = status, total
        self.numbers.update((total, 3, 1009))
        return total

    async def fetch(self, size: int) -> int:
        self.log.append("fetching")
        body = await fetch(size)
        self.log.append(f"fetched {len(body)}")
        return len(body)

    async def model(self, count: int, size: int) -> int:
        async for token in tokens(count, size):
            self.log.append(f"{token[:3]} of {len(token)}")
        return count

    async def fly(self, seconds: float = 0.0) -> str:
        try:
            async with asyncio.timeout(1000):
                self.log.append(await launch(seconds))
        except Fatal as error:
            self.log.append(f"no flight: {error}")
        return self.log[-1]

    async def hopeless(self) -> str:
        try:
            await refuse("x" * 70_000)
        except LookupError as error:
            self.log.append(f"refused {error}")
        return self.log[-1]

    async def impatient(self) -> str:
        try:
            async with asyncio.timeout(1):
                self.log.append(await launch(5000.0))
        except TimeoutError:
            self.log.append("too slow")
        return self.log[-1]

    async def ask(self, seconds: float | None = None) -> str:
        timeout = None if seconds is None else timedelta(seconds=seconds)
        self.approval = Promise[Approval](timeout=timeout)
        self.token = self.approval.token
        return self.token

    async def approved(self) -> str:
        assert self.approval is not None
        try:
            said = await self.approval
        except (TimeoutError, perdure.PromiseRejected) as error:
            self.log.append(f"never approved: {type(error).__name__}")
        else:
            self.log.append(f"approved by {said.by}")
        return self.log[-1]

    async def decide(self, token: str, by: str) -> None:
        await Promise.resolve(token, Approval(True, by))
        self.log.append("decided")

    async def work(self, seconds: float) -> str:
        self.log.append(f"begun {RELEASE}")
        try:
            await perdure.sleep(seconds)
        except asyncio.CancelledError:
            self.log.append("cancelled")
            await perdure.sleep(1)
            self.log.append("undone")
            raise
        self.log.append(f"ended {RELEASE}")
        return RELEASE

    async def stubborn(self, seconds: float) -> str:
        try:
            await perdure.sleep(9000)
        except asyncio.CancelledError:
            await perdure.sleep(seconds)
            self.log.append("undone slowly")
            raise
        return "never cancelled"

    async def alarms(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        handles = [loop.call_later(seconds + n, self.rung, n) for n in range(3)]
        handles[1].cancel()

    def rung(self, n: int) -> None:
        self.log.append(f"rung {n}")

    async def delegate(self, to: str, seconds: float, limit: float) -> str:
        async with perdure.deadline(limit):
            return await Order.at(to).work(seconds)

    async def give_up_on(self, call_id: str) -> None:
        await perdure.cancel(call_id)
        self.log.append("given up")

    async def race(self, to: str) -> str:
        task = asyncio.create_task(Order.at(to).work(500.0))
        await perdure.sleep(1)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            self.log.append("raced")
        return self.log[-1]

    async def until_paid(self) -> str:
        await wait_until(lambda: self.total >= 100)
        self.log.append("paid")
        return self.status

    async def consume(self) -> str:
        queue: asyncio.Queue[int] = asyncio.Queue()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._produce(queue, 2))
            found = [await queue.get() for _ in range(2)]
        self.log.append(f"consumed {found}")
        return self.log[-1]

    async def _produce(self, queue: asyncio.Queue[int], count: int) -> None:
        for n in range(count):
            await perdure.sleep(2000)
            await queue.put(n)

    @atomic
    async def fail(self) -> None:
        self.status = "broken"
        raise ValueError("undone")

    async def end(self, other: str) -> None:
        await perdure.delete(Order.at(other))

    async def note(self, text: str) -> int:
        self.log.append(text)
        return len(self.log)

    async def tell(self, to: str, text: str) -> None:
        await perdure.send(Order.at(to).note, text)

    async def long(self, size: int) -> str:
        return "x" * size

    async def on_request(self, request: Request) -> Response:
        self.log.append(f"{request.method} {request.url.path}")
        return PlainTextResponse(f"{len(self.log)}")

    def on_upgrade(self, old_version: str) -> None:
        self.log.append(f"upgraded to {RELEASE}")

    @query
    async def read(self) -> list[str]:
        return self.log


class Teller(Object):
    """Streams, told by one and heard by another."""

    heard: list[int] = []
    told: int = 0

    async def count(self, to: int, pause: float) -> AsyncIterator[int]:
        for number in range(1, to + 1):
            if pause:
                await perdure.sleep(pause)
            self.told += 1
            yield number

    async def listen(self, to: str, count: int, pause: float) -> int:
        async for number in Teller.at(to).count(count, pause):
            self.heard.append(number)
        return len(self.heard)

    @query
    async def read(self) -> list[int]:
        return [self.told, *self.heard]


class Gate(Object, reentrant=False):
    """One call after another."""

    passed: list[str] = []

    async def go(self, name: str, seconds: float) -> None:
        await perdure.sleep(seconds)
        self.passed.append(name)

    async def plan(self, seconds: float, name: str) -> None:
        self.schedule(timedelta(seconds=seconds), self.go, name, 0.0)

    async def through(self, first: str, then: str) -> None:
        await Gate.at(first).back(then)
        self.passed.append("through")

    async def back(self, to: str) -> None:
        try:
            await Gate.at(to).go("round", 0)
        except perdure.DeadlockError:
            self.passed.append("a circle")

    @query
    async def read(self) -> list[str]:
        return self.passed


class Slow(Object):
    """Takes its time to begin."""

    log: list[str] = []

    async def on_create(self) -> None:
        await perdure.sleep(4000)
        self.log.append("created")

    async def hello(self) -> None:
        self.log.append("hello")

    @query
    async def read(self) -> list[str]:
        return self.log


class Diary(Object):
    """Is called by time."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.handles: dict[str, Schedule] = {}

    async def plan(self, seconds: float, text: str) -> None:
        self.handles[text] = self.schedule(timedelta(seconds=seconds), self.write, text)

    async def plan_cron(self, text: str) -> None:
        self.handles[text] = self.schedule(
            "0 9 * * *", self.write, text, tz="Europe/Lisbon", missed="all", id="daily"
        )

    async def drop(self, text: str) -> bool:
        return self.handles[text].cancel()

    async def write(self, text: str) -> None:
        self.lines.append(text)

    async def plan_failing(self, seconds: float) -> None:
        self.schedule(timedelta(seconds=seconds), self.spill)

    async def spill(self) -> None:
        raise ValueError("no ink")

    @cron("30 8 * * *", tz="Europe/Lisbon", window=timedelta(hours=2))
    async def rise(self) -> None:
        self.lines.append("risen")

    @every(timedelta(hours=1), missed="skip")
    async def sweep(self) -> None:
        self.lines.append("swept")

    @query
    async def read(self) -> list[str]:
        return self.lines


class Room(Object):
    """Is connected."""

    def __init__(self) -> None:
        self.log: list[str] = []

    async def on_connect(self, conn: Connection) -> None:
        if "no" in conn.query:
            raise Reject("no")
        conn.state["name"] = conn.query.get("name", "nobody")
        conn.tags.add("guest")
        if conn.subprotocols:
            conn.subprotocol = conn.subprotocols[0]
        self.log.append(f"+{conn.id}")

    async def on_message(self, conn: Connection, message: str | bytes) -> None:
        if message == "close":
            conn.close(4000, "as asked")
            return
        if message == "long":
            conn.send("m" * 2000)
            self.broadcast("n" * 2000)
            return
        if isinstance(message, bytes):
            conn.send(message[::-1])
            return
        self.log.append(message)
        self.broadcast(message, exclude=conn)
        for one in self.connections.tagged("guest"):
            one.send_json({"heard": message})

    async def on_disconnect(self, conn: Connection) -> None:
        if conn.state["name"] == "slow":
            await perdure.sleep(4000)
        self.log.append(f"-{conn.id} {conn.close_code}")

    async def tell(self, text: str) -> None:
        self.broadcast(text, tag="guest")

    @query
    async def read(self) -> list[str]:
        return self.log
