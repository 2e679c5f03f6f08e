"""What every store promises (perdure/store/base.py), by example."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perdure.errors import JournalCorrupt
from perdure.store.base import (
    Batch,
    Checkpoint,
    Claim,
    ObjectFilter,
    ObjectRow,
    Segment,
    Store,
    Stored,
    Suspended,
)
from perdure.store.memory import MemoryStore
from tests.contract.fence import FENCE_CHECKS, row
from tests.contract.homes import PARTITIONS, Home, MemoryHome, SqliteHome, opened

FenceCheck = Callable[[Home], Awaitable[None]]


async def commit(store: Store, claim: Claim, *chunks: bytes) -> None:
    """Append chunks behind the tail that `claim` has seen."""
    for lsn, chunk in enumerate(chunks, claim.tail + 1):
        assert await store.commit([Batch(claim.part, claim.epoch, lsn, chunk)]) == {claim.part}


async def put(store: Store, *rows: ObjectRow, segments: tuple[Segment, ...] = ()) -> None:
    """Write rows as a new owner of partition 0."""
    (claim,) = await store.claim([0])
    assert await store.checkpoint(Checkpoint(0, claim.epoch, rows, segments))


# -- the fence


@pytest.mark.parametrize("check", FENCE_CHECKS)
async def test_fence(check: FenceCheck, home: Home) -> None:
    await check(home)


class UnfencedStore(MemoryStore):
    """Believes whoever writes, as a store would that looks first and writes then."""

    def _owns(self, part: int, epoch: int) -> bool:
        return True

    def _may_append(self, batch: Batch) -> bool:
        return True


@pytest.mark.parametrize("check", FENCE_CHECKS)
async def test_the_fence_checks_fail_on_an_unfenced_store(check: FenceCheck) -> None:
    # KeyError: the log has a gap, and reading it stumbles.
    with pytest.raises((AssertionError, KeyError)):
        await check(MemoryHome(UnfencedStore))


UNFENCED_TRIGGER = """
DROP TRIGGER append_chunk;
CREATE TRIGGER append_chunk INSTEAD OF INSERT ON append BEGIN
    UPDATE part SET tail = NEW.lsn WHERE part = NEW.part;
    INSERT OR REPLACE INTO chunk (id, body) VALUES ((NEW.part << 40) + NEW.lsn, NEW.body);
END;
"""


@pytest.mark.parametrize(
    "check", [check for check in FENCE_CHECKS if "checkpoint" not in check.__name__]
)
async def test_the_fence_checks_fail_on_an_unfenced_statement(
    check: FenceCheck, tmp_path: Path
) -> None:
    home = SqliteHome(tmp_path)
    async with opened(home):
        shell = sqlite3.connect(tmp_path / "perdure.db")
        shell.executescript(UNFENCED_TRIGGER)
        shell.close()
    # JournalCorrupt: the log has a gap, and reading it finds that.
    with pytest.raises((AssertionError, JournalCorrupt)):
        await check(home)


# -- opening and claiming


async def test_what_was_decided_at_the_beginning_stays(home: Home) -> None:
    store = home.store()
    layout = await store.open("a")
    await store.close()
    assert layout.partitions == PARTITIONS
    assert 1 <= layout.hash_seed < 2**32
    assert len(layout.secret) == 32
    again = home.store()
    assert await again.open("b") == layout
    await again.close()


async def test_closing_twice_is_closing_once(home: Home) -> None:
    store = home.store()
    await store.open("a")
    await store.close()
    await store.close()


async def test_a_claim_raises_the_epoch_and_answers_in_the_order_asked(home: Home) -> None:
    async with opened(home) as (store,):
        assert await store.claim([2, 0]) == [Claim(2, 1, 0, 0, []), Claim(0, 1, 0, 0, [])]
        assert await store.claim([0, 1]) == [Claim(0, 2, 0, 0, []), Claim(1, 1, 0, 0, [])]
        assert await store.claim([]) == []


async def test_a_claim_of_what_does_not_exist_claims_nothing(home: Home) -> None:
    async with opened(home) as (store,):
        with pytest.raises(ValueError, match=f"no partition {PARTITIONS}"):
            await store.claim([0, PARTITIONS])
        assert (await store.claim([0]))[0].epoch == 1


# -- the log


async def test_a_commit_that_is_done_can_be_read_by_others(home: Home) -> None:
    async with opened(home, 2) as (store, other):
        (claim,) = await store.claim([0])
        await commit(store, claim, b"one", b"", b"\x00\xff" * 70_000)
        expected = [(1, b"one"), (2, b""), (3, b"\x00\xff" * 70_000)]
        assert await other.tail(0, 0) == expected
        assert await other.tail(0, 1) == expected[1:]
        assert await other.tail(0, 3) == []


async def test_partitions_have_logs_of_their_own(home: Home) -> None:
    async with opened(home) as (store,):
        claims = await store.claim([0, 1, 3])
        batches = [Batch(claim.part, claim.epoch, 1, b"%d" % claim.part) for claim in claims]
        assert await store.commit(batches) == {0, 1, 3}
        assert await store.tail(1, 0) == [(1, b"1")]
        assert await store.tail(2, 0) == []
        assert await store.tail(3, 0) == [(1, b"3")]


async def test_committing_nothing_is_allowed(home: Home) -> None:
    async with opened(home) as (store,):
        assert await store.commit([]) == frozenset()


async def test_what_was_committed_outlives_an_owner_that_never_closed(home: Home) -> None:
    crashed = home.store()
    await crashed.open("a")
    (claim,) = await crashed.claim([0])
    await commit(crashed, claim, b"one", b"two")
    async with opened(home) as (store,):
        (again,) = await store.claim([0])
        assert again == Claim(0, claim.epoch + 1, 2, 0, [])
        assert await store.tail(0, 0) == [(1, b"one"), (2, b"two")]
    await crashed.close()


async def test_commits_asked_for_without_waiting_land_in_order(home: Home) -> None:
    async with opened(home) as (store,):
        claims = await store.claim([0, 1])
        futures = [
            store.commit([Batch(claim.part, claim.epoch, lsn, b"%d" % lsn)])
            for lsn in range(1, 21)
            for claim in claims
        ]
        assert [await future for future in futures] == [{0}, {1}] * 20
        assert await store.tail(1, 0) == [(lsn, b"%d" % lsn) for lsn in range(1, 21)]


async def test_figures_count_commits(home: Home) -> None:
    async with opened(home) as (store,):
        (claim,) = await store.claim([0])
        before = store.stats()
        await commit(store, claim, b"12345", b"67890")
        after = store.stats()
        assert after.commits - before.commits == 2
        assert after.committed_bytes - before.committed_bytes == 10
        assert after.commit_seconds >= before.commit_seconds


# -- checkpoints


async def test_the_last_slice_of_a_checkpoint_drops_the_log(home: Home) -> None:
    async with opened(home) as (store,):
        (claim,) = await store.claim([0])
        await commit(store, claim, *(b"%d" % lsn for lsn in range(1, 31)))
        segments = [Segment(1, 1, 9, b"moved")]
        assert await store.checkpoint(Checkpoint(0, claim.epoch, [row(1)], segments))
        assert len(await store.tail(0, 0)) == 30
        assert await store.checkpoint(Checkpoint(0, claim.epoch, upto=28, outbox=[b"a", b"b"]))
        assert await store.tail(0, 0) == [(29, b"29"), (30, b"30")]
        assert await store.tail(0, 29) == [(30, b"30")]
        (again,) = await store.claim([0])
        assert again == Claim(0, claim.epoch + 1, 30, 28, [b"a", b"b"])


async def test_commits_go_on_behind_a_checkpoint(home: Home) -> None:
    async with opened(home) as (store,):
        (claim,) = await store.claim([0])
        lsn = 0
        for upto in (10, 10, 33, 34, 90):
            while lsn < upto + 4:
                lsn += 1
                assert await store.commit([Batch(0, claim.epoch, lsn, b"%d" % lsn)]) == {0}
            assert await store.checkpoint(Checkpoint(0, claim.epoch, upto=upto))
            assert await store.tail(0, 0) == [(n, b"%d" % n) for n in range(upto + 1, lsn + 1)]
        # And what a successor finds is the same.
        async with opened(home) as (other,):
            (again,) = await other.claim([0])
            assert (again.tail, again.checkpoint) == (lsn, 90)
            assert await other.commit([Batch(0, again.epoch, lsn + 1, b"new")]) == {0}
            assert (await other.tail(0, 0))[-1] == (lsn + 1, b"new")
            assert len(await other.tail(0, 0)) == lsn + 1 - 90


async def test_a_checkpoint_replaces_the_outbox_only_at_its_end(home: Home) -> None:
    async with opened(home) as (store,):
        (claim,) = await store.claim([0])
        await commit(store, claim, b"1", b"2")
        assert await store.checkpoint(Checkpoint(0, claim.epoch, upto=1, outbox=[b"a", b"", b"c"]))
        (claim,) = await store.claim([0])
        assert claim.outbox == [b"a", b"", b"c"]
        assert await store.checkpoint(Checkpoint(0, claim.epoch, [row(1)]))
        (claim,) = await store.claim([0])
        assert claim.outbox == [b"a", b"", b"c"]
        assert await store.checkpoint(Checkpoint(0, claim.epoch, upto=2))
        (claim,) = await store.claim([0])
        assert claim.outbox == []


async def test_a_large_slice_lands_whole(home: Home) -> None:
    async with opened(home) as (store,):
        (claim,) = await store.claim([0])
        rows = [row(oid, seq=1, snapshot=bytes(2000)) for oid in range(1, 1001)]
        segments = [Segment(oid, 1, 1, b"e") for oid in range(1, 1001)]
        written = store.checkpoint(Checkpoint(0, claim.epoch, rows, segments))
        following = store.commit([Batch(0, claim.epoch, 1, b"meanwhile")])
        assert await following == {0}
        # What was asked for first was written first.
        assert written.done()
        assert await written is True
        found = await store.load(0, 1000)
        assert found is not None
        assert found.row == rows[-1]


# -- objects


async def test_an_object_comes_back_as_it_was_stored(home: Home) -> None:
    stored = ObjectRow(
        oid=2**63 - 1,
        kind="Räume",
        key="a/b\x00c 🙂",
        seq=7,
        last=7,
        wake_at=2**62,
        status="quarantined",
        detail='{"reason": "diverged"}',
        created=1,
        updated=2**62,
        version="v" * 64,
        snapshot=b"\x00heap",
    )
    async with opened(home, 2) as (store, other):
        await put(store, stored, row(3))
        found = await other.load(0, stored.oid)
        assert found is not None
        assert found.row == stored
        assert found.segments == []


async def test_an_unknown_object_is_none(home: Home) -> None:
    async with opened(home) as (store,):
        await put(store, row(3))
        assert await store.load(0, 4) is None
        assert await store.load(1, 3) is None


async def test_a_row_without_snapshot_keeps_the_one_that_is_there(home: Home) -> None:
    async with opened(home) as (store,):
        await put(store, row(1, seq=5, last=5, snapshot=b"five"))
        await put(store, row(1, seq=9, last=9, wake_at=1, updated=77))
        found = await store.load(0, 1)
        assert found is not None
        assert found.row == row(1, seq=5, last=9, wake_at=1, updated=77, snapshot=b"five")


async def test_a_first_row_without_snapshot_has_none(home: Home) -> None:
    async with opened(home) as (store,):
        await put(store, row(1, seq=9, last=9), row(2, seq=0, last=9))
        for oid in (1, 2):
            found = await store.load(0, oid)
            assert found is not None
            assert found.row == row(oid, seq=0, last=9)


async def test_a_row_without_snapshot_and_seq_drops_what_is_there(home: Home) -> None:
    async with opened(home) as (store,):
        await put(store, row(1, seq=5, last=5, snapshot=b"five"))
        await put(store, row(1, seq=0, last=9))
        found = await store.load(0, 1)
        assert found is not None
        assert found.row == row(1, seq=0, last=9)


async def test_a_deleted_object_leaves_no_snapshot(home: Home) -> None:
    async with opened(home) as (store,):
        await put(store, row(1, seq=5, last=5, snapshot=b"five"))
        await put(store, row(1, seq=9, last=9, status="deleted"))
        found = await store.load(0, 1)
        assert found is not None
        assert found.row == row(1, seq=9, last=9, status="deleted")
        # And a new one under the same key begins behind it.
        await put(store, row(1, seq=12, last=12))
        found = await store.load(0, 1)
        assert found is not None
        assert found.row == row(1, seq=9, last=12)


async def test_suspended_code_stands_beside_the_snapshot(home: Home) -> None:
    segments = (Segment(1, 1, 4, b"1-4"), Segment(1, 5, 9, b"5-9"), Segment(1, 10, 12, b"10-12"))
    async with opened(home) as (store,):
        (claim,) = await store.claim([0])
        base = row(1, seq=4, last=12, snapshot=b"four")

        async def write(**what: Any) -> Stored:
            assert await store.checkpoint(Checkpoint(0, claim.epoch, **what))
            found = await store.load(0, 1)
            assert found is not None
            return found

        found = await write(rows=[base], segments=segments, suspended=[Suspended(1, 9, b"nine")])
        assert found == Stored(base, [segments[2]], Suspended(1, 9, b"nine"))
        # A row that keeps its snapshot keeps the cache too, which is replaced by a newer one.
        kept = row(1, seq=4, last=12, wake_at=5)
        found = await write(rows=[kept])
        assert found.suspended == Suspended(1, 9, b"nine")
        found = await write(rows=[kept], suspended=[Suspended(1, 12, b"twelve")])
        assert (found.segments, found.suspended) == ([], Suspended(1, 12, b"twelve"))
        # A new snapshot needs no cache.
        found = await write(rows=[row(1, seq=9, last=12, snapshot=b"quiescent")])
        assert (found.segments, found.suspended) == ([segments[2]], None)
        assert await store.history(0, 1, 0, 10) == list(segments)
        await write(forget=[(1, 9)])
        assert await store.history(0, 1, 0, 10) == [segments[2]]


async def test_a_load_brings_the_history_behind_the_snapshot(home: Home) -> None:
    segments = (
        Segment(1, 1, 4, b"1-4"),
        Segment(1, 5, 9, b"5-9"),
        Segment(1, 10, 12, b"10-12"),
        Segment(2, 6, 6, b"another's"),
    )
    async with opened(home) as (store,):
        for seq, expected in ((0, 3), (4, 2), (7, 2), (9, 1), (11, 1), (12, 0)):
            snapshot = b"heap" if seq else None
            await put(store, row(1, seq=seq, last=12, snapshot=snapshot), segments=segments)
            found = await store.load(0, 1)
            assert found is not None
            assert found.segments == list(segments[3 - expected : 3])


async def test_a_segment_that_begins_at_the_same_turn_is_replaced(home: Home) -> None:
    async with opened(home) as (store,):
        await put(store, row(1), segments=(Segment(1, 1, 4, b"1-4"), Segment(1, 5, 6, b"5-6")))
        await put(store, row(1), segments=(Segment(1, 5, 9, b"5-9"),))
        assert await store.history(0, 1, 0, 10) == [
            Segment(1, 1, 4, b"1-4"),
            Segment(1, 5, 9, b"5-9"),
        ]


async def test_history_is_read_from_any_turn(home: Home) -> None:
    segments = tuple(Segment(1, first, first + 9, b"%d" % first) for first in range(1, 100, 10))
    async with opened(home) as (store,):
        await put(store, row(1), segments=segments)
        assert await store.history(0, 1, 0, 3) == list(segments[:3])
        assert await store.history(0, 1, 10, 2) == list(segments[1:3])
        assert await store.history(0, 1, 15, 2) == list(segments[1:3])
        assert await store.history(0, 1, 99, 5) == list(segments[9:])
        assert await store.history(0, 1, 100, 5) == []
        assert await store.history(0, 2, 0, 5) == []


# -- finding objects


async def test_objects_with_connections_are_found(home: Home) -> None:
    rows = [
        row(1, connections=2),
        row(2),
        row(3, connections=1, snapshot=b"left out", seq=1),
        row(4, connections=3, status="quarantined"),
    ]
    async with opened(home) as (store,):
        await put(store, *rows)
        (claim,) = await store.claim([1])
        assert await store.checkpoint(Checkpoint(1, claim.epoch, [row(9, connections=5)]))
        assert [found.oid for found in await store.connected(0, 0, 10)] == [1, 3, 4]
        assert [found.oid for found in await store.connected(0, 1, 1)] == [3]
        assert await store.connected(0, 1, 1) == [replace(rows[2], snapshot=None)]
        assert [found.oid for found in await store.connected(1, 0, 10)] == [9]
        await put(store, row(1), row(2, connections=1))
        assert [found.oid for found in await store.connected(0, 0, 10)] == [2, 3, 4]
        stored = await store.load(0, 2)
        assert stored is not None
        assert stored.row.connections == 1


async def test_objects_that_are_due_come_earliest_first(home: Home) -> None:
    waiting = [
        row(1, wake_at=30),
        row(2, wake_at=1),
        row(3, wake_at=20, snapshot=b"left out", seq=1),
        row(4, wake_at=0),
        row(5, wake_at=10, status="quarantined"),
        row(6, wake_at=10, status="deleted"),
        row(7, wake_at=31),
        row(8, wake_at=20),
    ]
    async with opened(home) as (store,):
        await put(store, *waiting)
        (claim,) = await store.claim([1])
        assert await store.checkpoint(Checkpoint(1, claim.epoch, [row(9, wake_at=5)]))
        assert [found.oid for found in await store.due([0], 30, 10)] == [2, 3, 8, 1]
        assert [found.oid for found in await store.due([1, 0], 20, 3)] == [2, 9, 3]
        assert await store.due([2], 30, 10) == []
        assert (await store.due([0], 20, 2))[1] == replace(waiting[2], snapshot=None)
        await put(store, row(2, wake_at=0), row(1, wake_at=4))
        assert [found.oid for found in await store.due([0], 19, 10)] == [1]


NAMES = [
    ("A", "x"),
    ("Room", "a"),
    ("Room", "ab"),
    ("Room", "a%"),
    ("Room", "a_"),
    ("Room", "b"),
    ("Room", "\U0010ffff\U0010ffff"),
    ("Room", "\ud7ff"),
    ("Room", "\ue000"),
    ("Room", "é"),
    ("Room", "e\x00"),
    ("room", "a"),
]


async def names(
    store: Store,
    kind: str | None = None,
    prefix: str = "",
    status: str | None = None,
    after: tuple[str, str] | None = None,
    limit: int = 100,
) -> list[tuple[str, str]]:
    return [
        (row.kind, row.key)
        for row in await store.scan(ObjectFilter(kind, prefix, status), after, limit)
    ]


async def put_names(store: Store) -> None:
    await put(store, *(row(n, kind=kind, key=key) for n, (kind, key) in enumerate(NAMES, 1)))


async def test_a_scan_goes_by_kind_and_key(home: Home) -> None:
    async with opened(home) as (store,):
        await put_names(store)
        assert await names(store) == sorted(NAMES)
        assert await names(store, "Room") == sorted(name for name in NAMES if name[0] == "Room")
        assert await names(store, "Nothing") == []


@pytest.mark.parametrize("prefix", ["a", "a%", "a_", "\U0010ffff", "\ud7ff", "e\x00", "é", "zz"])
async def test_a_scan_by_prefix_takes_it_literally(prefix: str, home: Home) -> None:
    async with opened(home) as (store,):
        await put_names(store)
        expected = sorted(name for name in NAMES if name[1].startswith(prefix))
        assert await names(store, None, prefix) == expected
        assert await names(store, "Room", prefix) == [n for n in expected if n[0] == "Room"]


async def test_a_scan_goes_on_where_it_ended(home: Home) -> None:
    async with opened(home) as (store,):
        await put_names(store)
        for kind in (None, "Room"):
            whole = await names(store, kind)
            pages: list[tuple[str, str]] = []
            while page := await names(store, kind, after=pages[-1] if pages else None, limit=5):
                pages += page
            assert pages == whole


async def test_a_scan_by_status(home: Home) -> None:
    async with opened(home) as (store,):
        await put(
            store,
            row(1, key="idle"),
            row(2, key="gone", status="deleted"),
            row(3, key="stuck", status="quarantined", detail="{}", snapshot=b"x", seq=1),
        )
        assert await names(store) == [("Counter", "idle"), ("Counter", "stuck")]
        assert await names(store, status="") == [("Counter", "idle")]
        assert await names(store, status="deleted") == [("Counter", "gone")]
        assert await names(store, "Counter", "s", "quarantined") == [("Counter", "stuck")]
        assert await names(store, "Counter", "x", "quarantined") == []
        (stuck,) = await store.scan(ObjectFilter(status="quarantined"), None, 10)
        assert (stuck.detail, stuck.snapshot) == ("{}", None)


# -- code versions


async def test_a_version_is_kept_as_it_was_put_first(home: Home) -> None:
    async with opened(home, 2) as (store, other):
        assert await store.get_version("v1") is None
        await store.put_version("v1", b"source", 1)
        await other.put_version("v1", b"other source", 2)
        await store.put_version("v2", b"", 3)
        assert await other.get_version("v1") == b"source"
        assert await other.get_version("v2") == b""
        assert [(name, size) for name, _, size in await other.versions()] == [("v1", 6), ("v2", 0)]
