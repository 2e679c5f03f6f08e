"""What the fence has to withstand. Each check fails on a store that does not compare.

They are functions of a home, so that the suite can also show that they fail on an unfenced store.
"""

from __future__ import annotations

import asyncio
from typing import Any

from perdure.store.base import Batch, Checkpoint, ObjectRow, Segment
from tests.contract.homes import Home, opened
from tests.contract.race import check_race, race


def row(oid: int, **changes: Any) -> ObjectRow:
    """An object's row with everything filled in."""
    values: dict[str, Any] = {
        "kind": "Counter",
        "key": f"key-{oid}",
        "seq": 0,
        "last": 1,
        "wake_at": 0,
        "status": "",
        "detail": "",
        "created": 1,
        "updated": 2,
        "version": "v1",
        "snapshot": None,
    }
    return ObjectRow(oid=oid, **{**values, **changes})


async def a_deposed_owner_cannot_commit(home: Home) -> None:
    async with opened(home, 2) as (old, new):
        (before,) = await old.claim([0])
        assert await old.commit([Batch(0, before.epoch, 1, b"first")]) == {0}
        (after,) = await new.claim([0])
        assert after.epoch == before.epoch + 1
        assert after.tail == 1
        assert await old.commit([Batch(0, before.epoch, 2, b"late")]) == frozenset()
        assert await new.tail(0, 0) == [(1, b"first")]
        assert await new.commit([Batch(0, after.epoch, 2, b"second")]) == {0}
        assert await new.tail(0, 0) == [(1, b"first"), (2, b"second")]


async def the_same_commit_sent_twice_is_refused(home: Home) -> None:
    async with opened(home) as (store,):
        (claim,) = await store.claim([0])
        batch = Batch(0, claim.epoch, 1, b"once")
        assert await store.commit([batch]) == {0}
        assert await store.commit([batch]) == frozenset()
        assert await store.tail(0, 0) == [(1, b"once")]


async def a_commit_cannot_leave_a_gap(home: Home) -> None:
    async with opened(home) as (store,):
        (claim,) = await store.claim([0])
        assert await store.commit([Batch(0, claim.epoch, 2, b"second")]) == frozenset()
        assert await store.tail(0, 0) == []
        assert (await store.claim([0]))[0].tail == 0


async def an_epoch_that_was_never_given_cannot_commit(home: Home) -> None:
    async with opened(home) as (store,):
        (claim,) = await store.claim([0])
        assert await store.commit([Batch(0, claim.epoch + 1, 1, b"x")]) == frozenset()
        assert await store.tail(0, 0) == []


async def a_commit_over_partitions_is_refused_only_where_deposed(home: Home) -> None:
    async with opened(home, 2) as (old, new):
        mine = {claim.part: claim for claim in await old.claim([0, 1, 2])}
        await new.claim([1])
        batches = [Batch(part, claim.epoch, 1, b"%d" % part) for part, claim in mine.items()]
        assert await old.commit(batches) == {0, 2}
        assert await old.tail(0, 0) == [(1, b"0")]
        assert await old.tail(1, 0) == []
        assert await old.tail(2, 0) == [(1, b"2")]


async def a_deposed_owner_cannot_checkpoint(home: Home) -> None:
    async with opened(home, 2) as (old, new):
        (before,) = await old.claim([0])
        assert await old.commit([Batch(0, before.epoch, 1, b"first")]) == {0}
        await new.claim([0])
        slice_ = Checkpoint(
            part=0,
            epoch=before.epoch,
            rows=[row(5, snapshot=b"late", seq=1)],
            segments=[Segment(5, 1, 1, b"late")],
            upto=1,
            outbox=[b"late"],
        )
        assert await old.checkpoint(slice_) is False
        assert await new.load(0, 5) is None
        assert await new.history(0, 5, 0, 10) == []
        assert await new.tail(0, 0) == [(1, b"first")]
        assert (await new.claim([0]))[0].outbox == []


async def owners_who_steal_from_each_other_never_mix(home: Home) -> None:
    accepted = []
    async with opened(home, 3) as stores:
        # Turns are taken at each await: the seeds decide who is where when the other strikes.
        for seed in range(5):
            racers = [
                race(store, f"racer-{number}", seed=seed * 10 + number, rounds=40)
                for number, store in enumerate(stores)
            ]
            for chunks in await asyncio.gather(*racers):
                accepted += chunks
        check_race(accepted, await stores[0].tail(0, 0))


FENCE_CHECKS = [
    a_deposed_owner_cannot_commit,
    the_same_commit_sent_twice_is_refused,
    a_commit_cannot_leave_a_gap,
    an_epoch_that_was_never_given_cannot_commit,
    a_commit_over_partitions_is_refused_only_where_deposed,
    a_deposed_owner_cannot_checkpoint,
    owners_who_steal_from_each_other_never_mix,
]
