"""What a live object was like after each of its turns, as its past must show it; and objects whose
lives are drawn by chance."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

import perdure
from perdure import Object, Retry, Transient, atomic, step, transient
from perdure.host.activation import Activation
from perdure.past.state import state_of
from tests.host.stage import Stage

States = dict[int, Any]


@contextmanager
def observing(address: str) -> Iterator[States]:
    """The states of an object by turn, as its live memory had them."""
    states: States = {0: None}
    real = Activation._record

    def record(self: Activation, *args: Any) -> None:
        machine = self.machine
        seq, undone = machine.seq, machine.undone
        if machine.address == address and not undone:
            states[seq] = state_of(machine)
        real(self, *args)
        if machine.address == address and undone:
            states[seq] = states[seq - 1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Activation, "_record", record)
        yield states


@dataclass
class Line:
    name: str
    price: float
    tags: set[str] = field(default_factory=set)


class Owner:
    def __init__(self, name: str) -> None:
        self.name = name


@step(retry=Retry(attempts=3, initial=0.5))
async def quote(name: str) -> float:
    if random.random() < 0.2:
        raise ValueError("no price today")
    return round(random.random() * 100, 2)


class Basket(Object):
    """Does a bit of everything that an object can do."""

    lines: list[Line] = []
    by_name: dict[str, Line] = {}
    seen: set[str] = set()
    owner: Any = None
    count: int = 0
    cache: Transient[dict[str, int]] = transient(dict)

    async def put(self, name: str, price: float) -> int:
        line = Line(name, price, {name[:1], "new"})
        self.lines.append(line)
        self.by_name[name] = line
        self.seen.add(name)
        self.cache[name] = 1
        return len(self.lines)

    async def reprice(self, name: str) -> float:
        price = await quote(name)
        self.by_name[name].price = price
        self.by_name[name].tags.discard("new")
        return price

    async def walk_set(self) -> list[str]:
        order = list(self.seen)
        self.owner = Owner(order[0] if order else "nobody")
        return order

    async def later(self, seconds: float) -> str:
        ids = []
        for _ in range(3):
            await asyncio.sleep(seconds)
            self.count += 1
            ids.append(str(uuid.uuid4()))
        self.owner = ids
        return ids[-1]

    async def tell(self, to: str) -> None:
        await perdure.send(Basket.at(to).put, f"from-{self.key}", random.random())

    async def ask(self, to: str) -> list[str]:
        return await Basket.at(to).walk_set()

    @atomic
    async def fails(self, how: str) -> None:
        self.count += 1000
        if how:
            raise ValueError(how)

    async def breaks(self, name: str) -> float:
        where = {"name": name, "known": len(self.by_name)}
        self.count += 1
        return self.by_name[name].price + where["known"]


class Life:
    """A random life of `Basket/b` on a stage, with crashes, sleep and checkpoints in it."""

    def __init__(self, stage: Stage, rng: random.Random) -> None:
        self.stage = stage
        self.rng = rng
        self.basket = Basket.at("b")
        self.names = ["apple", "bread", "cheese", "dill", "eggs"]
        self.running: list[asyncio.Task[Any]] = []

    async def go(self, deeds: int) -> None:
        """So many deeds, then until nothing waits any more."""
        for _ in range(deeds):
            await self.deed()
        await self.stage.settle()
        for _ in range(60):
            await asyncio.sleep(1)
        for task in self.running:
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)

    async def deed(self) -> None:
        rng, basket = self.rng, self.basket
        name = rng.choice(self.names)
        match rng.randrange(14):
            case 0 | 1 | 2:
                await basket.put(name, float(rng.randrange(100)))
            case 3:
                await basket.walk_set()
            case 4 | 5:
                self.begin(basket.reprice(name))
            case 6:
                self.begin(basket.later(rng.choice([0.1, 3.0])))
            case 7:
                self.begin(basket.tell(rng.choice(["b", "c"])))
            case 8:
                self.begin(basket.ask("c"))
            case 9:
                self.begin(basket.fails(rng.choice(["", "on purpose"])))
            case 10:
                self.begin(basket.breaks(name))
            case 11:
                await asyncio.sleep(rng.choice([0.2, 2.0]))
            case 12:
                await self.stage.host.checkpointer.run()
            case _:
                await self.stage.settle()
                if rng.random() < 0.5:
                    await self.stage.restart()
                else:
                    await self.stage.hibernate()

    def begin(self, call: Any) -> None:
        self.running.append(asyncio.ensure_future(call))
