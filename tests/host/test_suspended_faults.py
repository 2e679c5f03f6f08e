"""The disk fails, or the process dies, at each operation while objects sleep and wake in a wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

import pytest

import perdure
from perdure import Object, query
from perdure.errors import OperatorError, StoreUnavailable, Unavailable
from perdure.journal.identity import oid_of
from perdure.store.memory import MemoryStore
from perdure.suspend import probe
from perdure.testing.faults import FaultyStore
from tests.host.stage import Stage, eventually

pytestmark = pytest.mark.skipif(
    bool(probe.unfit()), reason=f"suspended code cannot be kept here: {probe.unfit()}"
)


class Nested(Object):
    """Waits in a timeout in a group in a loop, while its helpers wait in their `finally`."""

    log: list[Any] = []

    async def run(self) -> None:
        done: asyncio.Queue[int] = asyncio.Queue()

        async def help_(n: int) -> None:
            try:
                await asyncio.sleep(n)
                raise KeyError(n)
            except KeyError as error:
                await asyncio.sleep(0.5)
                self.log.append(repr(error))
            finally:
                await asyncio.sleep(0.5)
                await done.put(n)

        async with asyncio.timeout(600), asyncio.TaskGroup() as group:
            for n in (1, 2, 3):
                group.create_task(help_(n))
            for i in range(3):
                self.log.append((i, await done.get()))
        self.log.append("end")

    @query
    async def read(self) -> list[Any]:
        return self.log


def is_complete(log: list[Any]) -> bool:
    """Each once. What is late is all due at the same moment, so the order may be another."""
    seen = [entry for entry in log[:-1] if isinstance(entry, tuple)]
    errors = [entry for entry in log[:-1] if isinstance(entry, str)]
    return (
        [i for i, _ in seen] == [0, 1, 2]
        and sorted(n for _, n in seen) == [1, 2, 3]
        and sorted(errors) == ["KeyError(1)", "KeyError(2)", "KeyError(3)"]
        and log[-1] == "end"
    )


OID = oid_of("Nested", "n")


async def within(seconds: float, work: Coroutine[Any, Any, Any]) -> None:
    """Whatever it comes to: the store may fail it, or a crash may leave it hanging."""
    task = asyncio.ensure_future(work)
    await asyncio.wait({task}, timeout=seconds)
    task.cancel()
    with contextlib.suppress(OperatorError, Unavailable, asyncio.CancelledError):
        await task


async def revive(stage: Stage, store: FaultyStore) -> None:
    """What the supervisor does: a node that is gone, or does not know what is on disk, is begun
    anew."""
    if store.crashed or stage.host.draining:
        await stage.crash()
        await stage.start()


async def comes_to_its_end(store: FaultyStore, number: int, how: str) -> int:
    """Run with one fault at an operation behind the beginning; gives how many there were."""
    stage = Stage(Nested, store=store, debug=False)
    await stage.start()
    await perdure.send(Nested.at("n").run)
    first = len(store.operations)
    if how.startswith("crash"):
        store.crash(first + number, after=how == "crash after")
    elif how:
        store.fail(first + number, StoreUnavailable("cut"), after=how == "fail after")
    for _ in range(14):
        await asyncio.sleep(0.4)
        await revive(stage, store)
        await stage.hibernate()
        await within(1.0, stage.host.checkpointer.run())
    await asyncio.sleep(10)
    await revive(stage, store)
    await asyncio.sleep(10)
    made = len(store.operations) - first
    assert is_complete(await Nested.at("n").read()), (number, how)
    assert stage.host.quarantine.list() == [], (number, how)
    # And again from disk alone.
    await stage.restart()
    assert is_complete(await Nested.at("n").read()), (number, how)
    await stage.node.drain()
    return made


@pytest.mark.parametrize("how", ["fail before", "fail after", "crash before", "crash after"])
async def test_it_comes_to_its_end_whatever_happens_at_each_operation(how: str) -> None:
    count = await comes_to_its_end(FaultyStore(MemoryStore()), 0, "")
    assert count > 40
    for number in range(1, count + 1):
        await comes_to_its_end(FaultyStore(MemoryStore()), number, how)


class Reads(FaultyStore):
    """Of which all reads of objects can fail for a while."""

    down = False
    refused = 0

    def load(self, part: int, oid: int) -> Any:
        if self.down:
            self.refused += 1
            future = asyncio.get_running_loop().create_future()
            future.set_exception(StoreUnavailable("cut"))
            return future
        return super().load(part, oid)


async def test_a_sleeper_whose_time_has_come_is_read_again_until_the_disk_is_back() -> None:
    store = Reads(MemoryStore())
    async with Stage(Nested, store=store, debug=False) as stage:
        await perdure.send(Nested.at("n").run)
        await stage.hibernate()
        await stage.host.checkpointer.run()
        store.down = True
        await asyncio.sleep(20)
        assert store.refused > 2
        assert stage.host.stats().live == 0
        with pytest.raises(Unavailable):
            await Nested.at("n").read()
        store.down = False
        await asyncio.sleep(30)
        assert is_complete(await Nested.at("n").read())
        assert stage.host.quarantine.list() == []


async def test_a_cache_that_does_not_load_while_the_disk_fails_costs_time_alone() -> None:
    inner = MemoryStore()
    store = Reads(inner)
    async with Stage(Nested, store=store, debug=False) as stage:
        await perdure.send(Nested.at("n").run)
        await stage.hibernate()
        await stage.host.checkpointer.run()
        await stage.crash()
        cache = inner._suspended[OID]
        inner._suspended[OID] = cache._replace(body=cache.body[:-3] + b"bad")
        really = Reads.load

        def once(self: Reads, part: int, oid: int) -> Any:
            # The cache comes, and does not load; the base behind it cannot be read.
            future = really(self, part, oid)
            self.down = True
            return future

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Reads, "load", once)
            await stage.start()
            await eventually(lambda: store.refused > 0)
        store.down = False
        await asyncio.sleep(30)
        assert is_complete(await Nested.at("n").read())
        assert stage.host.quarantine.list() == []


async def test_on_a_full_disk_it_sleeps_on_and_wakes_when_there_is_room() -> None:
    store = FaultyStore(MemoryStore())
    async with Stage(Nested, store=store, debug=False) as stage:
        await perdure.send(Nested.at("n").run)
        await stage.hibernate()
        await stage.host.checkpointer.run()
        store.full = True
        await asyncio.sleep(20)
        assert await Nested.at("n").read() == []
        store.full = False
        await asyncio.sleep(60)
        assert is_complete(await Nested.at("n").read())
        assert stage.host.quarantine.list() == []
