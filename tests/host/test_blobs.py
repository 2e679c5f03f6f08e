"""What is too large for the journal: on disk before its entry, gone with its history."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import pytest

from perdure import Object, query, send, step, step_items
from perdure.errors import OutcomeUnknown, StoreUnavailable
from perdure.host.blobs import BLOB_FROM
from perdure.journal.identity import oid_of
from perdure.store.memory import MemoryStore
from perdure.testing.faults import FaultyStore
from tests.host.stage import Stage, eventually, through_crashes

SIZE = BLOB_FROM * 2

ran: list[Any] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    ran.clear()


@step
async def download(n: int) -> bytes:
    ran.append(n)
    return bytes([n]) * SIZE


@step
async def download_slowly(n: int) -> bytes:
    await asyncio.sleep(1)
    return bytes([n]) * SIZE


@step
async def pages(count: int) -> AsyncIterator[bytes]:
    given = step_items()
    ran.append([len(item) for item in given])
    for n in range(len(given), count):
        yield bytes([n]) * (SIZE if n % 2 else 10)
        await asyncio.sleep(1)


class Archive(Object):
    sums: list[int] = []
    begun: bool = False

    async def add(self, n: int) -> int:
        body = await download(n)
        self.sums.append(sum(body))
        return len(body)

    async def add_later(self, n: int) -> None:
        self.sums.append(sum(await download_slowly(n)))

    async def slowly(self, n: int) -> None:
        body = await download(n)
        await asyncio.sleep(60)
        self.sums.append(sum(body))

    async def read_pages(self, count: int, pause: float = 0.0) -> None:
        async for page in pages(count):
            await asyncio.sleep(pause)
            self.sums.append(sum(page))

    async def read_pages_once(self, count: int) -> None:
        if not self.begun:
            self.begun = True
            await self.read_pages(count)

    @query
    async def read(self) -> list[int]:
        return self.sums


def blobs_of(stage: Stage) -> dict[Any, Any]:
    store: Any = stage.store
    while not isinstance(store, MemoryStore):
        store = store.inner
    return store._blobs


class FarStore(FaultyStore):
    """Takes its time with blobs, as one behind a network does."""

    def get_blob(self, part: int, oid: int, name: str) -> asyncio.Future[bytes | None]:
        async def later() -> bytes | None:
            await asyncio.sleep(0.01)
            return await FaultyStore.get_blob(self, part, oid, name)

        return asyncio.ensure_future(later())


STORES = {"embedded": FaultyStore, "far": FarStore}


@pytest.fixture(params=sorted(STORES))
def store(request: pytest.FixtureRequest) -> FaultyStore:
    return STORES[request.param](MemoryStore())


async def test_a_large_result_is_not_in_the_journal_and_a_replay_has_it(store: FaultyStore) -> None:
    async with Stage(Archive, store=store) as stage:
        assert await Archive.at("1").add(1) == SIZE
        await send(Archive.at("1").slowly, 2)
        await eventually(lambda: len(ran) == 2)
        await asyncio.sleep(1)
        oid = oid_of("Archive", "1")
        assert max(map(len, stage.host.log.entries_of(oid))) < 1000
        for _ in range(3):
            await stage.restart()
            assert await Archive.at("1").read() == [SIZE]
        await asyncio.sleep(60)
        assert await Archive.at("1").read() == [SIZE, 2 * SIZE]
        assert ran == [1, 2]
        assert len(blobs_of(stage)) == 2


async def test_large_items_are_had_again_by_the_step_and_by_the_object(store: FaultyStore) -> None:
    async with Stage(Archive, store=store, checkpoint_seconds=2.0) as stage:
        await send(Archive.at("1").read_pages, 8, 1.5)
        for _ in range(3):
            await asyncio.sleep(2.5)
            await stage.restart()
        await asyncio.sleep(60)
        expected = [n * (SIZE if n % 2 else 10) for n in range(8)]
        assert await Archive.at("1").read() == expected
        assert ran[0] == []
        assert ran[-1] == [SIZE if n % 2 else 10 for n in range(len(ran[-1]))]
        assert stage.host.effects.running == 0


async def test_rebuilt_from_its_first_turn_it_finds_all_of_them(store: FaultyStore) -> None:
    """The base and everything behind it: history is read page by page."""
    async with Stage(Archive, store=store) as stage:
        for n in range(5):
            await Archive.at("1").add(n)
        await stage.node.drain()
        inner: Any = stage.store.inner  # type: ignore[attr-defined]
        oid = oid_of("Archive", "1")
        part, row = inner._rows[oid]
        inner._rows[oid] = (part, dataclasses.replace(row, seq=0, snapshot=None))
        await stage.start()
        assert await Archive.at("1").read() == [n * SIZE for n in range(5)]
        assert ran == list(range(5))


async def test_a_full_disk_is_waited_for() -> None:
    store = FaultyStore(MemoryStore())
    async with Stage(Archive, store=store):
        call = asyncio.create_task(Archive.at("1").add(1))
        await eventually(lambda: "commit" in store.operations)
        store.full = True
        await asyncio.sleep(30)
        store.full = False
        assert await call == SIZE
        assert ran == [1]


async def test_what_nobody_names_is_removed_at_the_next_start() -> None:
    store = FaultyStore(MemoryStore())
    async with Stage(Archive, store=store) as stage:
        await Archive.at("1").add(1)
        part = stage.host.log.part
        await store.put_blob(part, stage.host.log.epoch, 77, "5", b"left over")
        await stage.restart()
        assert [oid for oid, _ in blobs_of(stage)] == [oid_of("Archive", "1")]
        assert await Archive.at("1").read() == [SIZE]


async def test_without_history_they_go_at_the_next_checkpoint() -> None:
    async with Stage(Archive, history="none", checkpoint_seconds=1.0) as stage:
        await Archive.at("1").add(1)
        assert len(blobs_of(stage)) == 1
        await asyncio.sleep(5)
        await Archive.at("1").add(2)
        await asyncio.sleep(5)
        assert blobs_of(stage) == {}
        assert await Archive.at("1").read() == [SIZE, 2 * SIZE]


async def test_with_history_they_stay() -> None:
    async with Stage(Archive, checkpoint_seconds=1.0) as stage:
        await Archive.at("1").add(1)
        await asyncio.sleep(5)
        await stage.host.delete("Archive/1")
        await asyncio.sleep(5)
        await stage.restart()
        assert len(blobs_of(stage)) == 1
        assert not stage.host.log.blobs


@pytest.mark.parametrize("handler", ["add_later", "read_pages"])
async def test_a_process_that_was_deposed_tells_so_and_puts_no_more(
    store: FaultyStore, handler: str
) -> None:
    async with Stage(Archive, store=store) as stage:
        call = asyncio.create_task(getattr(Archive.at("1"), handler)(2))
        await asyncio.sleep(0.5)
        appended = stage.host.log.appended_lsn
        await store.inner.claim([stage.host.log.part])
        with pytest.raises(OutcomeUnknown):
            await asyncio.wait_for(call, 10)
        await asyncio.sleep(60)
        assert [type(error) for error in stage.lost] == [StoreUnavailable]
        assert store.operations.count("put_blob") == 1
        # The step has not failed: nothing was made of it that the next owner would not know.
        assert stage.host.log.appended_lsn == appended
        assert stage.host.draining


async def scenario(store: FaultyStore) -> list[int]:
    stage = Stage(Archive, store=store)

    async def life() -> None:
        await stage.start()
        if not await Archive.at("1").read():
            await send(Archive.at("1").read_pages_once, 4)
        while len(await Archive.at("1").read()) < 4:
            await asyncio.sleep(0.5)
        await stage.node.drain()

    await through_crashes(stage, store, life)
    await stage.start()
    read = await Archive.at("1").read()
    names = {name for _, name in blobs_of(stage)}
    await stage.node.drain()
    assert len(names) == len(read) // 2
    return read


async def test_a_crash_at_each_operation_of_the_store() -> None:
    plain = FaultyStore(MemoryStore())
    expected = await scenario(plain)
    last = plain.operations.index("close") + 1
    assert "put_blob" in plain.operations
    for number in range(1, last + 1):
        for after in (False, True):
            store = FaultyStore(MemoryStore())
            store.crash(number, after=after)
            assert await scenario(store) == expected
