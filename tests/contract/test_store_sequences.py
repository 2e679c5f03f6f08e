"""Sequences of operations by several owners: each store answers as the store in memory does."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from perdure.store.base import Batch, Checkpoint, ObjectFilter, ObjectRow, Segment, Store
from perdure.store.memory import MemoryStore
from tests.contract.homes import PARTITIONS, Home, MemoryHome, SqliteHome

OWNERS = 3
owners = st.integers(0, OWNERS - 1)
parts = st.integers(0, 1)
# An object belongs to one partition for ever: here, by its lowest bit.
objects = st.integers(1, 6)
chunks = st.binary(max_size=40) | st.just(b"x" * 9000)
Ask = Callable[[Store], Awaitable[Any]]


class Sequences(RuleBasedStateMachine):
    """Owners that claim, commit and checkpoint, each with the epoch it got last."""

    make_home: ClassVar[Callable[[Path], Home]]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = tempfile.TemporaryDirectory()
        self.home = type(self).make_home(Path(self.directory.name))
        self.model = MemoryHome()
        # What an owner was told: epoch by partition. And the segments that were written.
        self.epochs: list[dict[int, int]] = [{} for _ in range(OWNERS)]
        self.segments: dict[int, tuple[int, int]] = {}
        self.stores: list[Store] = []
        self.crashed: list[Store] = []

    @initialize()
    def open_stores(self) -> None:
        self.stores = [self.opened() for _ in range(OWNERS)]
        self.claim(0, [0, 1])

    def opened(self) -> Store:
        store = self.home.store()
        self.loop.run_until_complete(store.open("node"))
        return store

    def both(self, owner: int, ask: Ask) -> Any:
        """Ask the store of an owner and the model; the answers have to be equal."""

        async def answers() -> tuple[Any, Any]:
            return await ask(self.stores[owner]), await ask(self.model.memory)

        found, expected = self.loop.run_until_complete(answers())
        assert found == expected
        return found

    # -- what owners do

    @rule(owner=owners, claimed=st.lists(parts, unique=True))
    def claim(self, owner: int, claimed: list[int]) -> None:
        for claim in self.both(owner, lambda store: store.claim(claimed)):
            self.epochs[owner][claim.part] = claim.epoch

    @rule(owner=owners, ahead=st.integers(0, 2))
    def commit_to_all(self, owner: int, ahead: int) -> None:
        """To each partition the owner has claimed, be it still its own or not."""
        batches = [
            Batch(part, epoch, self.model.memory.partitions[part].tail + ahead, b"by %d" % owner)
            for part, epoch in self.epochs[owner].items()
        ]
        self.both(owner, lambda store: store.commit(batches))

    @rule(part=parts, bodies=st.lists(chunks, min_size=1, max_size=12))
    def commit(self, part: int, bodies: list[bytes]) -> None:
        owner, epoch = self.current(part)
        tail = self.model.memory.partitions[part].tail
        for lsn, body in enumerate(bodies, tail + 1):
            batch = Batch(part, epoch, lsn, body)
            self.both(owner, lambda store, batch=batch: store.commit([batch]))

    def current(self, part: int) -> tuple[int, int]:
        """The owner with the highest epoch, which it may not have if the last one crashed."""
        return max(enumerate(one.get(part, 0) for one in self.epochs), key=lambda pair: pair[1])

    @rule(owner=owners, part=parts)
    def checkpoint_late(self, owner: int, part: int) -> None:
        """By whoever, with whatever epoch it has."""
        partition = self.model.memory.partitions[part]
        epoch = self.epochs[owner].get(part, 0)
        slice_ = Checkpoint(part, epoch, upto=partition.tail, outbox=[b"%d" % owner])
        self.both(owner, lambda store: store.checkpoint(slice_))

    @rule(
        part=parts,
        found=st.data(),
        oids=st.sets(objects),
        ends=st.booleans(),
        outbox=st.lists(chunks, max_size=3),
    )
    def checkpoint(
        self,
        part: int,
        found: st.DataObject,
        oids: set[int],
        ends: bool,
        outbox: list[bytes],
    ) -> None:
        owner, epoch = self.current(part)
        mine = [oid for oid in sorted(oids) if oid % 2 == part]
        partition = self.model.memory.partitions[part]
        segments = [self.draw_segment(oid, found) for oid in mine if found.draw(st.booleans())]
        # A row says what the last turn in history is, so it is never behind the segments.
        lasts = {oid: last for oid, (_, last) in self.segments.items()}
        lasts |= {segment.oid: segment.last for segment in segments}
        slice_ = Checkpoint(
            part,
            epoch,
            [found.draw(rows(oid, max(20, lasts.get(oid, 0)))) for oid in mine],
            segments,
            found.draw(st.integers(partition.checkpoint, partition.tail)) if ends else None,
            outbox if ends else [],
        )
        if self.both(owner, lambda store: store.checkpoint(slice_)):
            self.segments |= {one.oid: (one.first, one.last) for one in segments}

    def draw_segment(self, oid: int, found: st.DataObject) -> Segment:
        """The next one of an object, or the last one again and longer."""
        first, last = self.segments.get(oid, (1, 0))
        if last and found.draw(st.booleans()):
            return Segment(oid, first, found.draw(st.integers(last, last + 3)), b"again")
        return Segment(oid, last + 1, last + found.draw(st.integers(1, 5)), b"next")

    @rule(owner=owners, version=st.sampled_from(["v1", "v2"]), bundle=st.binary(max_size=9))
    def put_version(self, owner: int, version: str, bundle: bytes) -> None:
        self.both(owner, lambda store: store.put_version(version, bundle, 1))
        self.both(owner, lambda store: store.get_version(version))

    @rule(owner=owners)
    def crash(self, owner: int) -> None:
        """Gone without closing; another one comes, and knows no epoch."""
        self.crashed.append(self.stores[owner])
        self.stores[owner] = self.opened()
        self.epochs[owner] = {}

    @rule(owner=owners)
    def restart(self, owner: int) -> None:
        self.loop.run_until_complete(self.stores[owner].close())
        self.stores[owner] = self.opened()

    # -- what can be read

    @invariant()
    def everything_stored_is_the_same(self) -> None:
        if not self.stores:
            return
        for part in range(PARTITIONS):
            self.both(0, lambda store, part=part: store.tail(part, 0))
        for oid in range(1, 7):
            self.both(1, lambda store, oid=oid: store.load(oid % 2, oid))
        self.both(2, lambda store: store.due([0, 1], 9, 10))
        self.both(2, lambda store: store.connected(0, 0, 10))
        self.both(2, lambda store: store.scan(ObjectFilter(), None, 10))

    @rule(
        owner=owners,
        part=parts,
        oid=objects,
        turn=st.integers(0, 20),
        limit=st.integers(1, 4),
        kind=st.none() | st.sampled_from(["A", "B"]),
        prefix=st.sampled_from(["", "k", "k-", "k-1", "l"]),
        status=st.none() | st.sampled_from(["", "deleted", "quarantined"]),
        behind=st.none() | st.tuples(st.sampled_from(["A", "B"]), st.sampled_from(["", "k-2"])),
    )
    def read(
        self,
        owner: int,
        part: int,
        oid: int,
        turn: int,
        limit: int,
        kind: str | None,
        prefix: str,
        status: str | None,
        behind: tuple[str, str] | None,
    ) -> None:
        self.both(owner, lambda store: store.tail(part, turn))
        self.both(owner, lambda store: store.load(part, oid))
        self.both(owner, lambda store: store.history(oid % 2, oid, turn, limit))
        self.both(owner, lambda store: store.due([part], turn, limit))
        self.both(owner, lambda store: store.connected(part, oid, limit))
        self.both(
            owner, lambda store: store.scan(ObjectFilter(kind, prefix, status), behind, limit)
        )

    def teardown(self) -> None:
        for store in (*self.stores, *self.crashed):
            self.loop.run_until_complete(store.close())
        self.loop.close()
        self.directory.cleanup()


def rows(oid: int, last: int) -> st.SearchStrategy[ObjectRow]:
    """What a checkpoint may write for an object."""
    return st.builds(
        ObjectRow,
        oid=st.just(oid),
        kind=st.just("A" if oid < 4 else "B"),
        key=st.just(f"k-{oid}"),
        seq=st.integers(0, 20),
        last=st.just(last),
        wake_at=st.integers(0, 9),
        status=st.sampled_from(["", "", "deleted", "quarantined"]),
        detail=st.sampled_from(["", "{}"]),
        created=st.just(1),
        updated=st.integers(1, 9),
        version=st.just("v1"),
        snapshot=st.none() | st.binary(max_size=30),
        connections=st.integers(0, 2),
    )


@pytest.mark.parametrize(
    "make_home",
    [
        pytest.param(lambda path: SqliteHome(path, commit_inline_ms=1e9), id="sqlite"),
        pytest.param(lambda path: SqliteHome(path, commit_inline_ms=0), id="sqlite-threaded"),
        pytest.param(lambda path: MemoryHome(faulty=True), id="faulty"),
    ],
)
def test_sequences(make_home: Callable[[Path], Home]) -> None:
    machine = type("Machine", (Sequences,), {"make_home": staticmethod(make_home)})
    # A step is a transaction or two: fewer examples than where nothing is written.
    examples = settings.default.max_examples // 2
    run = settings(max_examples=examples, stateful_step_count=30, deadline=None)
    run_state_machine_as_test(machine, settings=run)


class Forgetful(MemoryStore):
    """Loses the end of an outbox: the sequences have to notice."""

    def checkpoint(self, slice_: Checkpoint) -> asyncio.Future[bool]:
        shorter = slice_.outbox[:2]
        return super().checkpoint(
            Checkpoint(
                slice_.part, slice_.epoch, slice_.rows, slice_.segments, slice_.upto, shorter
            )
        )


def test_the_sequences_notice_a_store_that_forgets() -> None:
    machine = type(
        "Machine", (Sequences,), {"make_home": staticmethod(lambda path: MemoryHome(Forgetful))}
    )
    # No shrinking: that it is noticed is enough.
    run = settings(
        max_examples=300,
        stateful_step_count=30,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=run)
