"""What every store promises of calls and of Indexed values, by example."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from perdure.store.base import CallFilter, CallRow, Checkpoint, Condition, IndexedRow, ObjectRow
from tests.contract.homes import Home, opened


def row(oid: int, key: str, status: str = "") -> ObjectRow:
    return ObjectRow(oid, "Order", key, 1, 1, 0, status, "", 1, 1, "v", b"s")


def called(n: int, oid: int = 1, status: str = "running", **facts: Any) -> CallRow:
    given = {"ended": 0, "deadline": 0, **facts}
    return CallRow(n, f"id{n}", f"m{n}", oid, "Order", "k", "run", "", status, **given)


def is_(name: str, value: bytes) -> Condition:
    return Condition(name, ((value, value + b"\0"),))


@asynccontextmanager
async def claimed(home: Home) -> AsyncIterator[tuple[Any, int]]:
    async with opened(home) as (store,):
        (claim,) = await store.claim([0])
        yield store, claim.epoch


async def test_open_calls_of_an_object_are_replaced_and_failed_ones_stay(home: Home) -> None:
    async with claimed(home) as (store, epoch):
        first = [called(1), called(2), called(3)]
        other = called(4, oid=2)
        await store.checkpoint(Checkpoint(0, epoch, calls=[(1, first), (2, [other])]))
        assert await store.calls(CallFilter(), None, 10) == [other, *reversed(first)]
        failed = called(2, status="failed", ended=9, failure="ValueError: no", unheard=True)
        await store.checkpoint(Checkpoint(0, epoch, calls=[(1, [first[2]])], failed=[failed]))
        assert await store.calls(CallFilter(), None, 10) == [other, first[2], failed]
        await store.checkpoint(Checkpoint(0, epoch, calls=[(1, [])]))
        assert await store.calls(CallFilter(), None, 10) == [other, failed]
        await store.checkpoint(Checkpoint(0, epoch, forget_calls=9))
        assert failed in await store.calls(CallFilter(), None, 10)
        await store.checkpoint(Checkpoint(0, epoch, forget_calls=10))
        assert await store.calls(CallFilter(), None, 10) == [other]


async def test_calls_are_filtered_and_come_in_pages(home: Home) -> None:
    async with claimed(home) as (store, epoch):
        rows = [
            called(1, deadline=50),
            called(2, status="queued"),
            called(3, status="failed", ended=5, unheard=True, deadline=7),
            called(4, status="cancelled", ended=6),
        ]
        await store.checkpoint(Checkpoint(0, epoch, calls=[(1, rows[:2])], failed=rows[2:]))

        async def ids(limit: int = 10, after: Any = None, **wanted: Any) -> list[str]:
            return [one.id for one in await store.calls(CallFilter(**wanted), after, limit)]

        assert await ids(statuses=("running", "failed")) == ["id3", "id1"]
        assert await ids(statuses=()) == []
        assert await ids(kind="Order") == ["id4", "id3", "id2", "id1"]
        assert await ids(kind="Other") == []
        assert await ids(oid=1, since=3) == ["id4", "id3"]
        assert await ids(oid=2) == []
        assert await ids(late=51) == ["id1"]
        assert await ids(late=50) == []
        assert await ids(unheard=True) == ["id3"]
        assert await ids(limit=2) == ["id4", "id3"]
        assert await ids(limit=2, after=(3, "id3")) == ["id2", "id1"]


async def test_a_deposed_owner_writes_no_lists(home: Home) -> None:
    async with claimed(home) as (store, epoch):
        await store.claim([0])
        late = Checkpoint(
            0,
            epoch,
            calls=[(1, [called(1)])],
            indexed=[IndexedRow(1, "Order", "a", {"status": b"x"})],
            indexed_kinds=[("Order", "status")],
        )
        assert not await store.checkpoint(late)
        assert await store.calls(CallFilter(), None, 10) == []
        assert await store.indexed(1) == {}
        assert await store.indexed_kinds() == {}


async def test_objects_are_found_by_their_values(home: Home) -> None:
    async with claimed(home) as (store, epoch):
        values = {
            "a": {"status": b"open", "total": b"1"},
            "b": {"status": b"open", "total": b"2"},
            "c": {"status": b"paid", "total": b"3"},
            "d": {"status": b"open"},
            "e": {"status": b"open", "total": b"3"},
        }
        rows = [row(n, key, "deleted" if key == "e" else "") for n, key in enumerate(values)]
        indexed = [IndexedRow(n, "Order", key, values[key]) for n, key in enumerate(values)]
        await store.checkpoint(Checkpoint(0, epoch, rows, indexed=indexed))

        async def keys(*wanted: Condition, after: str | None = None, limit: int = 10) -> list[str]:
            return [one.key for one in await store.find("Order", wanted, after, limit)]

        assert await keys(is_("status", b"open")) == ["a", "b", "d"]
        assert await keys(is_("status", b"ope")) == []
        assert await keys(is_("status", b"open"), is_("total", b"2")) == ["b"]
        assert await keys(Condition("total", ((b"2", b"4"),))) == ["b", "c"]
        assert await keys(Condition("total", ((b"1", b"1\0"), (b"3", b"9")))) == ["a", "c"]
        assert await keys(Condition("total", ())) == []
        assert await keys(is_("status", b"open"), after="a", limit=1) == ["b"]
        assert await store.find("Other", [is_("status", b"open")], None, 10) == []
        (found,) = await store.find("Order", [is_("status", b"paid")], None, 10)
        assert found.snapshot is None
        assert found.seq == 1
        await store.checkpoint(
            Checkpoint(0, epoch, indexed=[IndexedRow(0, "Order", "a", {}), indexed[1]])
        )
        assert await keys(is_("status", b"open")) == ["b", "d"]
        assert await store.indexed(0) == {}
        assert await store.indexed(1) == values["b"]


async def test_what_an_index_is_complete_for_is_kept(home: Home) -> None:
    async with claimed(home) as (store, epoch):
        await store.checkpoint(Checkpoint(0, epoch, indexed_kinds=[("A", "x,y"), ("B", "")]))
        await store.checkpoint(Checkpoint(0, epoch, indexed_kinds=[("A", "x")]))
        assert await store.indexed_kinds() == {"A": "x", "B": ""}
