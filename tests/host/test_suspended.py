"""Objects that sleep in the middle of a wait: they leave memory, and go on where they were."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import ctypes
import itertools
import queue
import re
import sys
import threading
import types
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest

import perdure
from perdure import Object, query
from perdure.host import checkpoint, sleepers, snapshots
from perdure.host.machine import Machine
from perdure.host.snapshots import TURNS_BEHIND_BASE
from perdure.journal.identity import oid_of
from perdure.sight import look
from perdure.store.memory import MemoryStore
from perdure.suspend import heap, probe
from tests.host.programs import NAMES, Programs
from tests.host.stage import Stage

pytestmark = pytest.mark.skipif(
    bool(probe.unfit()), reason=f"suspended code cannot be kept here: {probe.unfit()}"
)


async def run_through(stage: Stage, name: str, how: str) -> list[Any]:
    """Run a program; between any two turns the object leaves memory, as `how` says."""
    await perdure.send(getattr(Programs.at("p"), name))
    oid = oid_of("Programs", "p")
    while True:
        await stage.settle()
        activation = await stage.host.wake(oid)
        machine = activation.machine
        if machine.quiescent() and not machine.timers:
            return await Programs.at("p").read()
        if how == "hibernate":
            await stage.hibernate()
        elif how == "stop":
            await stage.node.drain()
            await stage.start()
        await asyncio.sleep(0.25)


@pytest.mark.parametrize("how", ["hibernate", "stop"])
@pytest.mark.parametrize("name", NAMES)
async def test_a_program_that_sleeps_between_its_turns_comes_to_the_same(
    name: str, how: str
) -> None:
    layout = MemoryStore().layout
    async with Stage(Programs, store=MemoryStore(layout), debug=False) as stage:
        undisturbed = await run_through(stage, name, "not at all")
    async with Stage(Programs, store=MemoryStore(layout), debug=False) as stage:
        disturbed = await run_through(stage, name, how)
        assert stage.host.stats().replayed == 0
        assert stage.host.quarantine.list() == []
        # What the journal says is the same as what came of the snapshots.
        stage.host.stash.clear()
        await stage.restart()
        assert await Programs.at("p").read() == disturbed
    if name == "chances":
        assert [line[:3] for line in disturbed] == [line[:3] for line in undisturbed]
    else:
        assert [line[:-1] for line in disturbed] == [line[:-1] for line in undisturbed]


class Ticker(Object):
    ticks: int = 0
    latest: list[int] = []

    async def run(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            self.ticks += 1
            self.latest = [*self.latest[-5:], self.ticks]

    @query
    async def read(self) -> int:
        return self.ticks


async def test_a_loop_that_never_rests_wakes_from_its_snapshot() -> None:
    async with Stage(Ticker, checkpoint_seconds=60.0, debug=False) as stage:
        await perdure.send(Ticker.at("t").run)
        await asyncio.sleep(300)
        before = await Ticker.at("t").read()
        assert before >= 5900
        await stage.restart()
        assert await Ticker.at("t").read() >= before
        assert stage.host.stats().replayed < 2000
        await asyncio.sleep(1)
        assert await Ticker.at("t").read() >= before + 19


async def test_a_snapshot_becomes_the_base_only_if_it_is_what_the_journal_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore()
    async with Stage(Ticker, store=store, checkpoint_seconds=60.0, debug=False) as stage:
        await perdure.send(Ticker.at("t").run)
        await asyncio.sleep(70)
        # No newer one from here on, as if the code could not be kept any more.
        monkeypatch.setattr(snapshots, "TURNS_WORTH_A_CACHE", 1_000_000)
        await asyncio.sleep(100)
        oid, host = oid_of("Ticker", "t"), stage.host
        stored = await store.load(host.log.part, oid)
        assert stored is not None
        cache = stored.suspended
        assert cache is not None
        assert await snapshots.promotable(host, stored)
        another = Machine(host.kinds["Ticker"], "t", oid, host.surroundings)
        heap.load_heap(another, cache.body)
        another.instance.ticks += 1  # type: ignore[union-attr]
        wrong = cache._replace(body=heap.dump_heap(another))
        another.discard()
        assert not await snapshots.promotable(host, stored._replace(suspended=wrong))
        broken = cache._replace(body=cache.body[:-3] + b"bad")
        assert not await snapshots.promotable(host, stored._replace(suspended=broken))
        monkeypatch.setattr(probe, "_reason", "the trial failed")
        assert not await snapshots.promotable(host, stored)


async def test_an_object_that_gets_no_newer_base_is_not_tried_at_each_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = []

    async def never(host: Any, stored: Any) -> bool:
        tried.append(stored.row.last - stored.row.seq)
        return False

    monkeypatch.setattr(checkpoint, "promotable", never)
    async with Stage(Ticker, checkpoint_seconds=10.0, debug=False) as stage:
        await perdure.send(Ticker.at("t").run)
        await asyncio.sleep(1200)
        # Meanwhile its caches are as new as ever.
        activation = stage.host.find(oid_of("Ticker", "t"))
        assert activation.machine.seq - activation.snapshot_seq < TURNS_BEHIND_BASE
    assert len(tried) == 3
    assert all(later >= 2 * earlier for earlier, later in itertools.pairwise(tried))


async def test_without_history_what_is_stored_of_a_ticker_stays_flat() -> None:
    store = MemoryStore()
    async with Stage(
        Ticker, store=store, checkpoint_seconds=60.0, history="none", debug=False
    ) as stage:
        await perdure.send(Ticker.at("t").run)
        oid = oid_of("Ticker", "t")
        await asyncio.sleep(600)
        assert stage.host.find(oid).base_seq > 0
        for _ in range(6):
            await asyncio.sleep(300)
            kept = await look.history(stage.host, "Ticker/t", 0, 1_000_000)
            assert len(kept) < TURNS_BEHIND_BASE * 2
        ticks = await Ticker.at("t").read()
        assert ticks > 45_000
        await stage.restart()
        assert await Ticker.at("t").read() >= ticks


@pytest.mark.soak
async def test_a_million_ticks_cost_what_the_first_thousands_do() -> None:
    store = MemoryStore()
    async with Stage(
        Ticker, store=store, checkpoint_seconds=60.0, history="none", debug=False
    ) as stage:
        await perdure.send(Ticker.at("t").run)
        oid = oid_of("Ticker", "t")
        ticks = 0
        while ticks < 1_000_000:
            await asyncio.sleep(3000)
            ticks = await Ticker.at("t").read()
            kept = await look.history(stage.host, "Ticker/t", 0, 1_000_000)
            assert len(kept) < TURNS_BEHIND_BASE * 2
            assert len(store._suspended[oid].body if oid in store._suspended else b"") < 4000
            await stage.restart()
            assert await Ticker.at("t").read() >= ticks
            assert stage.host.stats().replayed < TURNS_BEHIND_BASE * 2


class Keeper(Object):
    log: list[str] = []

    async def with_generator(self) -> None:
        numbers = (n for n in range(10))
        next(numbers)
        self.held = numbers
        await asyncio.sleep(10)
        self.log.append(str(list(numbers)))

    async def with_finally(self) -> None:
        try:
            await asyncio.sleep(10)
        finally:
            self.log.append("finally")

    async def with_lock(self) -> None:
        import threading

        lock = threading.Lock()
        await asyncio.sleep(10)
        self.log.append(str(lock.locked()))

    @query
    async def read(self) -> list[str]:
        return self.log


async def test_leaving_memory_runs_no_finally() -> None:
    async with Stage(Keeper) as stage:
        await perdure.send(Keeper.at("k").with_finally)
        await stage.hibernate()
        assert stage.host.stats().live == 0
        assert await Keeper.at("k").read() == []
        await asyncio.sleep(11)
        assert await Keeper.at("k").read() == ["finally"]


async def test_identity_is_kept_between_locals_and_attributes() -> None:
    async with Stage(Keeper) as stage:
        await perdure.send(Keeper.at("k").with_generator)
        await stage.hibernate()
        await asyncio.sleep(11)
        assert await Keeper.at("k").read() == ["[1, 2, 3, 4, 5, 6, 7, 8, 9]"]


async def test_what_cannot_be_kept_is_named_and_the_object_comes_back_by_replay() -> None:
    async with Stage(Keeper) as stage:
        await perdure.send(Keeper.at("k").with_lock)
        await stage.hibernate()
        shown = await look.show(stage.host, "Keeper/k")
        assert "replay" in shown["rebuild"]["by"]
        await asyncio.sleep(11)
        assert await Keeper.at("k").read() == ["False"]


async def test_however_many_are_due_at_once_all_are_woken_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sleepers, "SCAN_OBJECTS", 4)
    async with Stage(Keeper) as stage:
        for n in range(30):
            await perdure.send(Keeper.at(f"k{n}").with_finally)
        await stage.node.drain()
        await stage.start()
        assert stage.host.stats().live == 0
        await asyncio.sleep(11)
        assert stage.host.stats().live == 30


class Teller(Object):
    async def tell(self) -> AsyncIterator[int]:
        for i in range(6):
            await asyncio.sleep(10)
            yield i


async def test_a_handler_that_streams_leaves_memory_between_its_items() -> None:
    async with Stage(Teller) as stage:
        heard: list[int] = []

        async def listen() -> None:
            async for item in Teller.at("t").tell():
                heard.append(item)

        listening = asyncio.create_task(listen())
        for _ in range(6):
            await asyncio.sleep(5)
            await stage.hibernate()
            assert stage.host.stats().live == 0
            await asyncio.sleep(5)
        await listening
        assert heard == [0, 1, 2, 3, 4, 5]
        assert stage.host.stats().replayed == 0


class Keepsakes(Object):
    """Waits with something in its hands that exists in one process alone."""

    log: list[str] = []

    async def hold(self, what: str) -> None:
        self.log.append("began")
        held = MADE[what]()
        await asyncio.sleep(10)
        self.log.append(type(held).__name__)

    @query
    async def read(self) -> list[str]:
        return self.log


async def _numbers() -> Any:
    yield 1


MADE: dict[str, Any] = {
    "thread lock": threading.Lock,
    "memoryview": lambda: memoryview(b"abc"),
    "weakref": lambda: weakref.ref(Keepsakes),
    "weak proxy": lambda: weakref.proxy(Keepsakes),
    "frame": lambda: sys._getframe(),
    "local class": lambda: type("Local", (), {})(),
    "matches": lambda: re.finditer("a", "aa"),
    "deque iterator": lambda: iter(collections.deque([1])),
    "function of no module": lambda: types.FunctionType(_numbers.__code__, {}),
    "queue of threads": queue.Queue,
    "future of threads": concurrent.futures.Future,
    "foreign pointer": lambda: ctypes.pointer(ctypes.c_int(1)),
}


@pytest.mark.parametrize("what", MADE)
async def test_what_exists_in_one_process_alone_costs_a_replay_and_nothing_else(what: str) -> None:
    async with Stage(Keepsakes) as stage:
        await perdure.send(Keepsakes.at("k").hold, what)
        await stage.hibernate()
        assert stage.host.stats().live == 0
        shown = await look.show(stage.host, "Keepsakes/k")
        rebuild = shown["rebuild"]
        assert (rebuild["by"], rebuild["entries"]) == ("replay", 1)
        assert rebuild["why"].startswith("Keepsakes/k: hold() line ")
        assert ": local 'held'" in rebuild["why"]
        assert await Keepsakes.at("k").read() == ["began"]
        await stage.restart()
        await asyncio.sleep(11)
        expected = type(MADE[what]()).__name__
        assert await Keepsakes.at("k").read() == ["began", expected]
        assert stage.host.quarantine.list() == []


async def test_a_cache_that_does_not_load_is_thrown_away() -> None:
    store = MemoryStore()
    async with Stage(Programs, store=store) as stage:
        await perdure.send(Programs.at("p").sleeping)
        await asyncio.sleep(2)
        await stage.node.drain()
        [(oid, cache)] = store._suspended.items()
        store._suspended[oid] = cache._replace(body=cache.body[:-3] + b"bad")
        await stage.start()
        await asyncio.sleep(10)
        assert (await Programs.at("p").read())[-1][0] == "done"
        assert stage.host.quarantine.list() == []


class Gatherer(Object):
    numbers: set[int] = set()
    seen: list[list[int]] = []

    async def run(self) -> None:
        own: set[int] = set()
        for i in range(200):
            self.numbers.add(i * 7919 % 1009)
            own.add(i * 104729 % 2003)
            if i % 3 == 0:
                self.numbers.discard(next(iter(self.numbers)))
                own.discard(next(iter(own)))
            await asyncio.sleep(1)
        self.seen = [list(self.numbers), list(own)]

    @query
    async def read(self) -> list[list[int]]:
        return self.seen


async def test_sets_keep_their_order_where_suspended_code_can_no_longer_be_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore()
    async with Stage(Gatherer, store=store, debug=False) as stage:
        await perdure.send(Gatherer.at("g").run)
        for _ in range(25):
            await asyncio.sleep(9)
            await stage.hibernate()
        seen = await Gatherer.at("g").read()
        assert seen
        await stage.crash()
        # Another interpreter, as far as it matters: no snapshot loads, and none can be made.
        monkeypatch.setattr(probe, "_reason", "the trial failed")
        stage.host.stash.clear()
        await stage.start()
        assert await Gatherer.at("g").read() == seen
        assert stage.host.quarantine.list() == []
