"""`@step(repeat=False)`: never begun twice, and the handler learns what nobody knows."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure import Limit, Object, OutcomeUnknown, query, send, step, step_id
from perdure.errors import StoreFull
from perdure.sight import look
from perdure.store.memory import MemoryStore
from perdure.testing.faults import FaultyStore
from tests.host.stage import Stage, eventually, through_crashes

began: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    began.clear()


@step(repeat=False)
async def launch(seconds: float) -> str:
    began.append(step_id())
    await asyncio.sleep(seconds)
    return "in orbit"


@step(repeat=False, limit=Limit(concurrency=1))
async def one_pad(seconds: float) -> str:
    return await launch.__wrapped__(seconds)  # type: ignore[attr-defined]


@step
async def repeatable(seconds: float) -> str:
    return await launch.__wrapped__(seconds)  # type: ignore[attr-defined]


STEPS: dict[str, Any] = {"launch": launch, "pad": one_pad, "repeatable": repeatable}


class Rocket(Object):
    told: list[str] = []

    async def go(self, name: str = "launch", seconds: float = 10.0) -> str:
        try:
            self.told.append(await STEPS[name](seconds))
        except OutcomeUnknown as error:
            self.told.append("unknown" if "step id" in str(error) else repr(error))
        return self.told[-1]

    @query
    async def read(self) -> list[str]:
        return self.told


async def test_without_a_crash_it_is_a_step_like_others() -> None:
    async with Stage(Rocket):
        assert await Rocket.at("1").go() == "in orbit"


async def test_a_crash_in_its_middle_is_told_and_it_is_not_begun_again() -> None:
    async with Stage(Rocket) as stage:
        await send(Rocket.at("1").go)
        await eventually(lambda: len(began) == 1)
        for _ in range(3):
            await stage.restart()
        await asyncio.sleep(100)
        assert await Rocket.at("1").read() == ["unknown"]
        assert len(began) == 1


async def test_one_that_waited_for_its_place_has_not_begun_and_does_so_after_the_crash() -> None:
    async with Stage(Rocket) as stage:
        for n in range(3):
            await send(Rocket.at(str(n)).go, "pad", 10.0)
        await eventually(lambda: len(began) == 1)
        await stage.restart()
        await asyncio.sleep(100)
        told = [(await Rocket.at(str(n)).read())[0] for n in range(3)]
        assert sorted(told) == ["in orbit", "in orbit", "unknown"]
        assert len(began) == len(set(began)) == 3


async def test_a_drain_waits_a_little_for_it() -> None:
    async with Stage(Rocket) as stage:
        await send(Rocket.at("1").go, "launch", 3.0)
        await eventually(lambda: len(began) == 1)
        await stage.node.drain()
        await stage.start()
        assert await Rocket.at("1").read() == ["in orbit"]


async def test_a_drain_does_not_wait_for_ever() -> None:
    async with Stage(Rocket) as stage:
        await send(Rocket.at("1").go, "launch", 3600.0)
        await eventually(lambda: len(began) == 1)
        await stage.node.drain()
        await stage.start()
        await asyncio.sleep(1)
        assert await Rocket.at("1").read() == ["unknown"]


@pytest.mark.parametrize("name", ["launch", "repeatable"])
async def test_a_full_disk_costs_no_second_run(name: str) -> None:
    """What it gave is offered again until it is on disk."""
    store = FaultyStore(MemoryStore())
    async with Stage(Rocket, store=store) as stage:
        await send(Rocket.at("1").go, name, 10.0)
        await eventually(lambda: len(began) == 1)
        await asyncio.sleep(5)
        store.full = True
        await asyncio.sleep(60)
        store.full = False
        await asyncio.sleep(60)
        assert await Rocket.at("1").read() == ["in orbit"]
        assert len(began) == 1
        assert (await look.show(stage.host, "Rocket/1"))["steps"] == []
        assert stage.host.effects.running == 0


async def test_it_does_not_begin_while_that_cannot_be_written() -> None:
    store = FaultyStore(MemoryStore())
    async with Stage(Rocket, store=store) as stage:
        await send(Rocket.at("0").go, "pad", 10.0)
        await send(Rocket.at("1").go, "pad", 10.0)
        await eventually(lambda: len(began) == 1)
        await asyncio.sleep(5)
        store.full = True
        await asyncio.sleep(60)
        assert len(began) == 1
        store.full = False
        await asyncio.sleep(60)
        assert await Rocket.at("1").read() == ["in orbit"]
        assert await Rocket.at("0").read() == ["in orbit"]
        assert stage.host.effects.running == 0


async def scenario(store: FaultyStore) -> tuple[list[str], int]:
    """One launch, whatever happens to the process: what the object was told, and how many began."""
    began.clear()
    stage = Stage(Rocket, store=store)

    async def life() -> None:
        await stage.start()
        if not await Rocket.at("1").read():
            await send(Rocket.at("1").go, "launch", 1.0)
        while not await Rocket.at("1").read():
            await asyncio.sleep(0.5)
        await stage.node.drain()

    await through_crashes(stage, store, life)
    await stage.start()
    told = await Rocket.at("1").read()
    await stage.node.drain()
    return told, len(began)


async def test_a_crash_at_each_operation_of_the_store() -> None:
    """Sent once more by a client that heard nothing, it may be a second launch; never more than
    was sent, and each that the object knows of is told once."""
    plain = FaultyStore(MemoryStore())
    assert await scenario(plain) == (["in orbit"], 1)
    outcomes = set()
    last = plain.operations.index("close") + 1
    for number in range(1, last + 1):
        for after in (False, True):
            store = FaultyStore(MemoryStore())
            store.crash(number, after=after)
            told, count = await scenario(store)
            assert len(told) in (1, 2), (number, after)
            assert count <= len(told), (number, after, told, count)
            assert count >= told.count("in orbit"), (number, after)
            outcomes.add(tuple(told))
    assert ("unknown",) in outcomes
    assert ("in orbit",) in outcomes


async def test_a_store_that_refuses_is_met_at_each_operation() -> None:
    plain = FaultyStore(MemoryStore())
    await scenario(plain)
    commits = [n for n, name in enumerate(plain.operations, 1) if name == "commit"]
    for number in commits:
        store = FaultyStore(MemoryStore())
        store.fail(number, StoreFull("full"))
        stage = Stage(Rocket, store=store)
        began.clear()
        await stage.start()
        while True:
            try:
                await send(Rocket.at("1").go, "launch", 1.0)
                break
            except Exception:
                await asyncio.sleep(1)
        await asyncio.sleep(20)
        assert await Rocket.at("1").read() == ["in orbit"]
        assert len(began) == 1
        await stage.node.drain()
