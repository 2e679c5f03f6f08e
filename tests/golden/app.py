"""The objects whose data is kept in this folder. The data names these classes and their methods.

So nothing here may be changed, renamed or moved, as in an app that is in use; a handler may be
added. What a journal holds is what these handlers asked for, in this order.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from typing import Any

import perdure
from perdure import Object, atomic, query, step


class Refusal(Exception):
    """An exception of the app."""


@step
async def rate(currency: str) -> dict[str, Any]:
    return {"currency": currency, "rate": 1.25}


class Account(Object):
    amount: int = 0
    notes: list[str] = []
    tags: set[int] = set()
    drawn: list[Any] = []

    async def deposit(self, amount: int) -> int:
        self.amount += amount
        return self.amount

    @atomic
    async def withdraw(self, amount: int) -> int:
        self.amount -= amount
        self.notes.append(f"withdrew {amount}")
        if self.amount < 0:
            raise Refusal("not enough", amount)
        return self.amount

    async def transfer(self, to: str, amount: int) -> int:
        self.amount -= amount
        try:
            await Account.at(to).receive(amount)
        except Refusal as error:
            self.amount += amount
            self.notes.append(f"refused: {error.args[0]}")
        return self.amount

    async def receive(self, amount: int) -> None:
        if amount > 100:
            raise Refusal("too much", amount)
        self.amount += amount

    async def tell(self, to: str, text: str) -> None:
        await perdure.send(Account.at(to).note, text)

    async def note(self, text: str) -> int:
        self.notes.append(text)
        return len(self.notes)

    async def convert(self, currency: str) -> float:
        answer = await rate(currency)
        self.notes.append(f"{currency} at {answer['rate']}")
        return float(self.amount * answer["rate"])

    async def tag(self, tags: list[int]) -> list[int]:
        self.tags.update(tags)
        return list(self.tags)

    async def draw(self) -> list[Any]:
        self.drawn = [random.random(), str(uuid.uuid4()), random.Random().random()]
        return self.drawn

    async def nap(self, seconds: float) -> str:
        await perdure.sleep(seconds)
        self.notes.append("awake")
        return "awake"

    async def remind(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self.reminded)

    def reminded(self) -> None:
        self.notes.append("reminded")

    async def long(self, size: int) -> str:
        return "x" * size

    async def close(self, other: str) -> None:
        await perdure.delete(Account.at(other))

    @query
    async def read(self) -> dict[str, Any]:
        return {
            "amount": self.amount,
            "notes": self.notes,
            "tags": sorted(self.tags),
            "drawn": self.drawn,
        }


class Gate(Object, reentrant=False):
    """One call after another."""

    passed: list[str] = []

    async def go(self, name: str, seconds: float) -> None:
        await perdure.sleep(seconds)
        self.passed.append(name)

    async def through(self, first: str, then: str) -> None:
        self.passed.append(f"through {first}")
        await Gate.at(first).back(then)

    async def back(self, to: str) -> str:
        try:
            await Gate.at(to).go("round", 0)
        except perdure.DeadlockError:
            self.passed.append("a circle")
            return "a circle"
        return "round"

    @query
    async def read(self) -> list[str]:
        return self.passed


class Keeper(Object):
    """Keeps what a snapshot can hold while no code waits."""

    def keep(self, what: str) -> None:
        getattr(self, f"_keep_{what}")()

    def _keep_plain(self) -> None:
        shared = [1, "two", 3.0, None, True, b"\x00six"]
        self.values: dict[str, Any] = {"a": shared, "b": shared, "big": 2**70, "pair": (1, 2)}

    def _keep_sets(self) -> None:
        self.sets = [{3, 1, 2}, frozenset({5, 4})]

    def _keep_long(self) -> None:
        self.text = "many times the same " * 200

    def _keep_waits(self) -> None:
        loop = asyncio.get_running_loop()
        self.future: asyncio.Future[int] = loop.create_future()
        self.done: asyncio.Future[int] = loop.create_future()
        self.done.set_result(7)
        self.lock = asyncio.Lock()
        self.event = asyncio.Event()
        self.event.set()
        self.queue: asyncio.Queue[int] = asyncio.Queue(3)
        self.queue.put_nowait(1)
        self.queue.put_nowait(2)

    def _keep_timer(self) -> None:
        asyncio.get_running_loop().call_later(60, self.ring)
        self.rung = False

    def ring(self) -> None:
        self.rung = True

    def tell(self) -> dict[str, Any]:
        told: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, asyncio.Future):
                told[name] = value.result() if value.done() else "pending"
            elif isinstance(value, asyncio.Lock):
                told[name] = value.locked()
            elif isinstance(value, asyncio.Event):
                told[name] = value.is_set()
            elif isinstance(value, asyncio.Queue):
                told[name] = [value.maxsize, *(value.get_nowait() for _ in range(value.qsize()))]
            elif name == "text":
                told[name] = [len(value), value[:20], value == value[:20] * 200]
            elif name == "sets":
                told[name] = [sorted(one) for one in value]
            elif name == "values":
                told[name] = {key: repr(one) for key, one in value.items()}
                told["shared"] = value["a"] is value["b"]
            else:
                told[name] = value
        return told
