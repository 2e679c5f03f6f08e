"""Copies under crashes, and of every program that asyncio allows."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import perdure
from perdure import Past
from perdure.errors import Conflict, PerdureError
from perdure.journal.identity import oid_of
from perdure.past import extract, planting
from perdure.store.memory import MemoryStore
from perdure.testing.faults import FaultyStore
from tests.host.programs import NAMES, Programs
from tests.host.stage import Stage
from tests.past.test_copies import Mail, Order, charged, mailed


@pytest.fixture(autouse=True)
def nothing_yet() -> None:
    charged.clear()
    mailed.clear()


async def prepared(stage: Stage) -> Past:
    """An order that waits, with a turn behind it."""
    await Order.at("o").note("first")
    await perdure.send(Order.at("o").pay, "visa")
    await asyncio.sleep(1)
    return Past(Order.at("o"))


async def operations() -> int:
    """How many operations of the store a fork takes."""
    store = FaultyStore(MemoryStore())
    async with Stage(Order, Mail, store=store) as stage:
        past = await prepared(stage)
        before = len(store.operations)
        await past.fork("f")
        return len(store.operations) - before


@pytest.mark.parametrize("after", [False, True])
async def test_a_crash_while_a_fork_is_made_leaves_all_of_it_or_nothing(after: bool) -> None:
    count = await operations()
    assert count > 2
    whole = 0
    for n in range(1, count + 1):
        store = FaultyStore(MemoryStore())
        async with Stage(Order, Mail, store=store) as stage:
            past = await prepared(stage)
            store.crash(len(store.operations) + n, after=after)
            forking = asyncio.ensure_future(past.fork("f"))
            for _ in range(200):
                await asyncio.sleep(0)
            forking.cancel()
            await asyncio.gather(forking, return_exceptions=True)
            await stage.restart()
            try:
                state = (await Past(Order.at("f")).state())["state"]
            except perdure.UnknownObject:
                state = None
            if state is None:
                await past.fork("f")
                state = (await Past(Order.at("f")).state())["state"]
            else:
                whole += 1
                with pytest.raises(Conflict):
                    await past.fork("f")
            assert state["log"][0] == "first"
            assert len(await Order.at("f").note("x")) == 3
            await asyncio.sleep(1000)
            assert len(charged) == 1
            charged.clear()
    assert 0 < whole < count


async def test_a_full_disk_refuses_a_fork_and_leaves_everything_as_it_was() -> None:
    store = FaultyStore(MemoryStore())
    async with Stage(Order, Mail, store=store) as stage:
        past = await prepared(stage)
        store.full = True
        with pytest.raises(PerdureError):
            await past.fork("f")
        store.full = False
        await asyncio.sleep(5)
        with pytest.raises(perdure.UnknownObject):
            await Past(Order.at("f")).state()
        await past.fork("f")
        assert stage.host.at("Order", "f") is not None


async def finished(key: str) -> list[Any]:
    await asyncio.sleep(200)
    return [line[:-1] for line in await Programs.at(key).read()]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "chances"])
async def test_a_program_forked_in_its_middle_comes_to_the_same_end(name: str) -> None:
    """And so does one that was exported, and brought in elsewhere."""
    async with Stage(Programs) as stage:
        await perdure.send(getattr(Programs.at("p"), name))
        await asyncio.sleep(1.7)
        past = Past(Programs.at("p"))
        await past.fork("f", live=True)
        await past.fork("held")
        file = extract.read(await past.export(), "a test")
        await stage.restart()
        expected = await finished("p")
        assert await finished("f") == expected
        # This one sleeps on; what it comes to depends on how long.
        assert len(await finished("held")) <= len(expected)
        await Past(Programs.at("held")).release()
        assert len(await finished("held")) > 0
        # Rebuilt from its first turn, through the turns of its origin.
        stage.store._suspended.pop(oid_of("Programs", "f"), None)
        await stage.restart()
        assert await finished("f") == expected
    async with Stage(Programs, store=MemoryStore()) as stage:
        await planting.bring_in(stage.host, file, "there", live=True)
        await stage.restart()
        assert await finished("there") == expected
