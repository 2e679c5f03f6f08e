"""The store with faults on order."""

from __future__ import annotations

import asyncio

import pytest

from perdure.errors import StoreFull, StoreUnavailable
from perdure.store.base import Batch, Checkpoint, ObjectFilter
from perdure.store.memory import MemoryStore
from perdure.testing.faults import FaultyStore


async def scenario(store: FaultyStore) -> None:
    """Six operations."""
    await store.open("node")
    (claim,) = await store.claim([0])
    await store.commit([Batch(0, claim.epoch, 1, b"one")])
    await store.commit([Batch(0, claim.epoch, 2, b"two")])
    await store.checkpoint(Checkpoint(0, claim.epoch, upto=1))
    await store.load(0, 1)


async def left(memory: MemoryStore) -> tuple[int, int, int]:
    partition = memory.partitions[0]
    return partition.epoch, partition.tail, partition.checkpoint


async def run_until_stuck(store: FaultyStore) -> asyncio.Task[None]:
    """The scenario, until it has ended or waits for something that never comes."""
    task = asyncio.ensure_future(scenario(store))
    for _ in range(20):
        await asyncio.sleep(0)
    return task


async def test_without_faults_it_is_the_store_behind_it() -> None:
    memory = MemoryStore()
    store = FaultyStore(memory)
    await scenario(store)
    assert store.operations == ["open", "claim", "commit", "commit", "checkpoint", "load"]
    assert await left(memory) == (1, 2, 1)
    assert store.stats() == memory.stats()


async def test_an_answer_that_is_there_at_once_stays_so() -> None:
    store = FaultyStore(MemoryStore())
    await store.open("node")
    (claim,) = await store.claim([0])
    assert store.commit([Batch(0, claim.epoch, 1, b"one")]).done()
    assert store.load(0, 1).done()


AFTER = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 2, 0), (1, 2, 1), (1, 2, 1)]


@pytest.mark.parametrize("number", range(1, 7))
@pytest.mark.parametrize("after", [False, True])
async def test_a_crash_at_each_operation(number: int, after: bool) -> None:
    memory = MemoryStore()
    crashes: list[int] = []
    store = FaultyStore(memory, on_crash=lambda: crashes.append(number))
    store.crash(number, after=after)
    task = await run_until_stuck(store)
    assert not task.done()
    assert crashes == [number]
    assert store.crashed
    expected = AFTER[number - 1] if after else ((0, 0, 0), *AFTER)[number - 1]
    assert await left(memory) == expected
    # Whatever it still asks for is not answered, and not done.
    forgotten = store.commit([Batch(0, 1, memory.partitions[0].tail + 1, b"late")])
    await store.close()
    assert not forgotten.done()
    assert await left(memory) == expected
    assert len(store.operations) == number
    task.cancel()
    # The next life begins with open, and has all that landed.
    await store.open("node")
    (claim,) = await store.claim([0])
    assert (claim.epoch, claim.tail, claim.checkpoint) == (expected[0] + 1, *expected[1:])


@pytest.mark.parametrize("after", [False, True])
async def test_a_failure_before_or_after_the_commit_took_effect(after: bool) -> None:
    memory = MemoryStore()
    store = FaultyStore(memory)
    store.fail(4, StoreUnavailable("cut"), after=after)
    with pytest.raises(StoreUnavailable, match="cut"):
        await scenario(store)
    assert memory.partitions[0].tail == (2 if after else 1)
    assert not store.crashed
    assert await store.tail(0, 0)


async def test_failures_of_what_is_awaited() -> None:
    store = FaultyStore(MemoryStore())
    store.fail(2, StoreUnavailable("claim"))
    store.fail(3, StoreUnavailable("scan"), after=True)
    await store.open("node")
    with pytest.raises(StoreUnavailable, match="claim"):
        await store.claim([0])
    with pytest.raises(StoreUnavailable, match="scan"):
        await store.scan(ObjectFilter(), None, 1)
    assert (await store.claim([0]))[0].epoch == 1


async def test_a_full_disk_refuses_writes_until_there_is_room() -> None:
    store = FaultyStore(MemoryStore())
    await store.open("node")
    (claim,) = await store.claim([0])
    store.full = True
    for write in (
        store.commit([Batch(0, claim.epoch, 1, b"one")]),
        store.checkpoint(Checkpoint(0, claim.epoch)),
        store.put_version("v", b"", 1),
        store.claim([0]),
    ):
        with pytest.raises(StoreFull):
            await write
    assert await store.load(0, 1) is None
    assert await store.tail(0, 0) == []
    store.full = False
    assert await store.commit([Batch(0, claim.epoch, 1, b"one")]) == {0}


async def test_writes_that_are_held_take_effect_at_the_release() -> None:
    memory = MemoryStore()
    store = FaultyStore(memory)
    await store.open("node")
    (claim,) = await store.claim([0])
    store.hold()
    first = store.commit([Batch(0, claim.epoch, 1, b"one")])
    moved = store.checkpoint(Checkpoint(0, claim.epoch, upto=1))
    assert store.load(0, 1).done()
    assert (store.held, memory.partitions[0].tail) == (2, 0)
    store.release()
    assert await first == {0}
    assert await moved
    assert store.commit([Batch(0, claim.epoch, 2, b"two")]).done()


@pytest.mark.parametrize("landed", [0, 1, 2])
async def test_of_the_writes_under_way_at_a_crash_some_have_landed(landed: int) -> None:
    memory = MemoryStore()
    store = FaultyStore(memory)
    await store.open("node")
    (claim,) = await store.claim([0])
    store.hold()
    waiting = [store.commit([Batch(0, claim.epoch, lsn, b"%d" % lsn)]) for lsn in (1, 2)]
    store.crash_now(landed=landed)
    await store.open("node")
    assert memory.partitions[0].tail == landed
    assert not any(future.done() for future in waiting)
