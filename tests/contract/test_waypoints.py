"""Waypoints: snapshots on the way through a history, which every store keeps and lets go."""

from __future__ import annotations

from perdure.store.base import Checkpoint, Segment, Store, Suspended, Waypoint
from tests.contract.fence import row
from tests.contract.homes import Home, opened

OID = 7


def point(seq: int, version: str = "v1", oid: int = OID) -> Waypoint:
    return Waypoint(oid, seq, version, b"%d of %d" % (seq, oid))


async def seqs(store: Store, oid: int = OID) -> list[int]:
    return [seq for seq, _ in await store.waypoints(oid)]


async def test_the_newest_of_the_same_code_at_or_before_a_turn_is_found(home: Home) -> None:
    async with opened(home) as (store,):
        await store.put_waypoints([point(10), point(30), point(20, "v2"), point(5, oid=8)])
        assert await store.waypoint(OID, 9, "v1") is None
        assert await store.waypoint(OID, 10, "v1") == point(10)
        assert await store.waypoint(OID, 29, "v1") == point(10)
        assert await store.waypoint(OID, 99, "v1") == point(30)
        assert await store.waypoint(OID, 99, "v2") == point(20, "v2")
        assert await store.waypoint(OID, 99, "v3") is None
        assert await store.waypoints(OID) == [(10, 7), (20, 7), (30, 7)]


async def test_one_of_the_same_turn_takes_the_place_of_the_other(home: Home) -> None:
    async with opened(home) as (store,):
        await store.put_waypoints([point(10)])
        await store.put_waypoints([point(10, "v2")])
        assert await store.waypoint(OID, 10, "v1") is None
        assert await store.waypoint(OID, 10, "v2") == point(10, "v2")


async def test_a_range_of_them_can_go(home: Home) -> None:
    async with opened(home) as (store,):
        await store.put_waypoints([point(seq) for seq in (10, 20, 30)] + [point(20, oid=8)])
        await store.drop_waypoints(OID, 20, 30)
        assert await seqs(store) == [10, 30]
        assert await seqs(store, 8) == [20]


async def test_those_before_what_is_forgotten_go_with_it(home: Home) -> None:
    async with opened(home) as (store,):
        (claim,) = await store.claim([0])
        await store.put_waypoints([point(seq) for seq in (10, 20, 30)])
        assert await store.checkpoint(Checkpoint(0, claim.epoch, forget=[(OID, 20)]))
        assert await seqs(store) == [20, 30]


async def test_a_dropped_object_leaves_nothing_and_a_new_one_may_take_its_place(
    home: Home,
) -> None:
    async with opened(home) as (store,):
        (claim,) = await store.claim([0])
        old = row(OID, seq=2, last=9, snapshot=b"old")
        other = row(8, key="other", seq=1, last=1, snapshot=b"other")
        segments = [Segment(OID, 1, 4, b"a"), Segment(OID, 5, 9, b"b"), Segment(8, 1, 1, b"c")]
        cache = [Suspended(OID, 5, b"code")]
        assert await store.checkpoint(
            Checkpoint(0, claim.epoch, [old, other], segments, suspended=cache)
        )
        await store.put_waypoints([point(3), point(1, oid=8)])
        new = row(OID, seq=3, last=3, snapshot=b"new")
        fresh = [Segment(OID, 1, 3, b"n")]
        assert await store.checkpoint(Checkpoint(0, claim.epoch, [new], fresh, drop=[OID]))
        stored = await store.load(0, OID)
        assert stored is not None
        assert (stored.row.snapshot, stored.suspended) == (b"new", None)
        assert await store.history(0, OID, 0, 10) == fresh
        assert await seqs(store) == []
        assert await store.history(0, 8, 0, 10) == [Segment(8, 1, 1, b"c")]
        assert await seqs(store, 8) == [1]
        assert await store.checkpoint(Checkpoint(0, claim.epoch, drop=[OID]))
        assert await store.load(0, OID) is None
        assert await store.history(0, OID, 0, 10) == []
