"""The store: where bytes rest. One protocol, one contract suite (tests/contract) for every store.

A store knows partitions, numbers and bytes, and nothing of what the bytes mean. What it promises:

- **Atomic.** A commit of a partition is there whole or not at all, and on disk (fsync) when its
  future is done. A refused partition leaves nothing behind.
- **Fenced.** Each write of a partition carries the epoch of its owner and, for a commit, the
  number after the tail. Both are compared inside the write itself. Once `claim` has returned, no
  write of an older epoch can land, and the same commit sent twice is refused the second time.
- **Honest.** StoreFull means that nothing was written, and the owner goes on with the same epoch
  and lsn. StoreUnavailable means that nobody knows; the owner has to claim again and look at the
  tail.

Opaque here: chunks and segments (journal/codec.py), snapshots (suspend/heap.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from perdure.clock import RealClock

SCHEMA_VERSION = 2


@dataclass(frozen=True, slots=True)
class Layout:
    """What was decided when the store was made, and never changes afterwards."""

    partitions: int
    hash_seed: int
    """PYTHONHASHSEED of each process that runs its objects: 1 .. 2**32 - 1."""
    secret: bytes
    """32 bytes from which the chance inside turns is derived."""


def new_layout(
    partitions: int = 1, random_bytes: Callable[[int], bytes] = RealClock.random_bytes
) -> Layout:
    """What a new store decides once and for all."""
    hash_seed = 1 + int.from_bytes(random_bytes(8), "big") % (2**32 - 1)
    return Layout(partitions, hash_seed, random_bytes(32))


class Claim(NamedTuple):
    """What a new owner of a partition gets."""

    part: int
    epoch: int
    tail: int
    """Number (lsn) of the last committed chunk."""
    checkpoint: int
    """Chunks up to this one are in history; the log begins behind it."""
    outbox: list[bytes]
    """Messages sent up to `checkpoint` and not delivered up to it, in order."""


class Batch(NamedTuple):
    """One commit of one partition."""

    part: int
    epoch: int
    lsn: int
    """tail + 1: the compare-and-set."""
    chunk: bytes


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """What a store keeps for an object, as of its last checkpoint."""

    oid: int
    """63-bit hash of the address. The partition follows from it, so it is unique in the store."""
    kind: str
    key: str
    seq: int
    """The turn the snapshot was taken after; 0 where there is none yet."""
    last: int
    """The last turn that is in history; at least `seq`."""
    wake_at: int
    """When it has something to do by itself: 0 never, 1 at once, else nanoseconds since 1970."""
    status: str
    """`` (idle or running), `deleted`, or `quarantined`."""
    detail: str
    """Why it is quarantined, as JSON; else empty."""
    created: int
    updated: int
    """Nanoseconds since 1970: the first turn, and the last one that is in history."""
    version: str
    """The code version of the last turn in history."""
    snapshot: bytes | None = field(repr=False)
    """None: there is none yet, or the object is deleted. `scan` and `due` leave it out."""
    connections: int = 0
    """How many are open after the last turn: connections, and bodies of requests on their way."""


class Segment(NamedTuple):
    """Entries of one object, moved out of the log: turns `first` to `last`."""

    oid: int
    first: int
    last: int
    body: bytes
    until: int = 0
    """When the last of them was, in nanoseconds since 1970; 0: not known."""


class Pruning(NamedTuple):
    """Which history nobody wants to keep any longer, by class."""

    part: int
    epoch: int
    before: Mapping[str, int] = {}
    """What ended before that time, in nanoseconds since 1970."""
    over: Mapping[str, int] = {}
    """Of each object, what is left when its newest so many bytes are kept."""
    apply: bool = False
    """Else nothing is removed, and the answer says what would be."""


class Pruned(NamedTuple):
    """History that is, or would be, removed since nobody wants to keep it any longer."""

    objects: int
    segments: int
    bytes: int


class Suspended(NamedTuple):
    """A snapshot that holds suspended code: a cache that shortens replay, beside the row's own.

    There is at most one for an object, of a later turn than the row's snapshot.
    """

    oid: int
    seq: int
    body: bytes


class PromiseRow(NamedTuple):
    """An open promise, as of the last checkpoint of its object."""

    since: int
    token: str
    oid: int
    kind: str
    key: str
    type: str
    until: int
    """When it ends by itself; 0: never. As `since`, in nanoseconds since 1970."""


class ObjectFilter(NamedTuple):
    """Which objects are listed."""

    kind: str | None = None
    """None: of all classes."""
    prefix: str = ""
    """What their keys begin with."""
    status: str | None = None
    """None: all but `deleted`."""

    def fits(self, row: ObjectRow) -> bool:
        """Whether an object is listed."""
        return (
            (self.kind is None or row.kind == self.kind)
            and row.key.startswith(self.prefix)
            and (row.status != "deleted" if self.status is None else row.status == self.status)
        )


class PromiseFilter(NamedTuple):
    """Which promises are listed; None: all."""

    kind: str | None = None
    key: str | None = None
    type: str | None = None

    def fits(self, row: PromiseRow) -> bool:
        """Whether a promise is listed."""
        return (
            (self.kind is None or row.kind == self.kind)
            and (self.key is None or row.key == self.key)
            and (self.type is None or row.type == self.type)
        )


class CallRow(NamedTuple):
    """A call that has not ended, or that failed, as of its object's last checkpoint."""

    since: int
    id: str
    mark: str
    """What it is known by: its id, and the object where that is not the one the id begins with."""
    oid: int
    kind: str
    key: str
    handler: str
    caller: str
    """Address of the calling object; else empty."""
    status: str
    """`running`, `queued`, `failed` or `cancelled`."""
    ended: int = 0
    deadline: int = 0
    waiting: str = ""
    failure: str = ""
    """Error and message of one that failed."""
    unheard: bool = False
    """Nobody was told how it ended: it was sent, or made by a schedule."""


class CallFilter(NamedTuple):
    """Which calls are listed; None and 0: all."""

    statuses: tuple[str, ...] | None = None
    kind: str | None = None
    oid: int | None = None
    since: int = 0
    """Begun at that time or later."""
    late: int = 0
    """Open, and with a deadline before that time."""
    unheard: bool = False
    """Ended without anybody being told."""

    def fits(self, row: CallRow) -> bool:
        """Whether a call is listed."""
        return (
            (self.statuses is None or row.status in self.statuses)
            and (self.kind is None or row.kind == self.kind)
            and (self.oid is None or row.oid == self.oid)
            and row.since >= self.since
            and (not self.late or (not row.ended and 0 < row.deadline < self.late))
            and (not self.unheard or (row.unheard and row.ended > 0))
        )


class IndexedRow(NamedTuple):
    """The values of an object's Indexed attributes, by name."""

    oid: int
    kind: str
    key: str
    values: dict[str, bytes]
    """In bytes whose order is that of the values; an attribute that is not there is missing."""


class Condition(NamedTuple):
    """What a value of an Indexed attribute has to be: in a range `low <= value < high`."""

    name: str
    ranges: tuple[tuple[bytes, bytes], ...]


def meets(values: Mapping[str, bytes], conditions: Sequence[Condition]) -> bool:
    """Whether an object with these values is found."""
    return all(
        any(low <= value < high for low, high in condition.ranges)
        for condition in conditions
        for value in (values.get(condition.name, b""),)
    )


class Blob(NamedTuple):
    """That a turn of history names what rests beside it: `put_blob` was told no turn."""

    oid: int
    name: str
    seq: int
    """The last turn that names it. It goes when that turn is forgotten."""


class Waypoint(NamedTuple):
    """A snapshot on the way through an object's history: a cache for looks at its past."""

    oid: int
    seq: int
    version: str
    """The code that replayed the turns up to there."""
    body: bytes


class Stored(NamedTuple):
    """A cold object: its row, and the history behind its newest snapshot."""

    row: ObjectRow
    segments: list[Segment]
    """Those with `last` behind `row.seq` and behind `suspended.seq`, ascending."""
    suspended: Suspended | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One slice of moving entries out of the log. All of it lands, or nothing.

    A checkpoint of many objects is written in several slices, so that none of them holds up the
    commits for long. Only the last one has `upto`: it drops the log and replaces the outbox.
    """

    part: int
    epoch: int
    rows: Sequence[ObjectRow] = ()
    """Replace what was there; an object's kind and key never change, and no oid comes twice.

    `snapshot=None` with `seq > 0` keeps the stored snapshot and its seq (none and 0 where no row
    was there), unless the status is `deleted`: then the snapshot goes, and `seq` is as given.
    """
    segments: Sequence[Segment] = ()
    """Replace a segment of the same oid and `first`; those of an object never overlap."""
    upto: int | None = None
    """At least the last checkpoint, and at most the tail."""
    outbox: Sequence[bytes] = ()
    """With `upto`: what was sent up to it and not delivered up to it, in order."""
    suspended: Sequence[Suspended] = ()
    """Each takes the place of the one before it. A row that does not keep its stored snapshot
    drops the one of its object, unless the slice brings another."""
    forget: Sequence[tuple[int, int]] = ()
    """(oid, seq): the object's segments that end at or before that turn are removed, the blobs
    whose `seq` is at or before it, and the waypoints before it."""
    blobs: Sequence[Blob] = ()
    """Blobs that turns in history name."""
    promises: Sequence[PromiseRow] = ()
    """Replace those of the same token."""
    settled: Sequence[str] = ()
    """Tokens whose rows go; none of them is in `promises`, and some may not be there."""
    drop: Sequence[int] = ()
    """Objects of which everything goes (row, snapshots, segments, waypoints, promises, and blobs
    that a turn names) before the rest of the slice is written."""
    calls: Sequence[tuple[int, Sequence[CallRow]]] = ()
    """All open calls of each object named: they replace those that were there."""
    failed: Sequence[CallRow] = ()
    """Calls that ended without a result; each replaces the open one of the same mark."""
    forget_calls: int = 0
    """Calls that ended before that time are removed."""
    indexed: Sequence[IndexedRow] = ()
    """Each replaces all values of its object."""
    indexed_kinds: Sequence[tuple[str, str]] = ()
    """(class, names): for which attributes of a class the values are complete."""


class StoreStats(NamedTuple):
    """Figures for metrics and `stats()`."""

    commits: int
    committed_bytes: int
    commit_seconds: float
    """Time spent in commits, in all."""
    inline: bool
    """Whether commits run in the calling thread at the moment."""


class Store(Protocol):
    """What a host asks of a store. Times are nanoseconds since 1970."""

    async def open(self, node: str) -> Layout:
        """Make or check the schema and take the place for this process and its running loop.

        Raises StoreBusy if another process has it (embedded stores), SchemaTooNew, or
        JournalCorrupt where the file is no store.
        """
        ...

    async def claim(self, parts: Sequence[int]) -> list[Claim]:
        """Become the owner: epoch + 1 for each partition. No older epoch can write afterwards.

        The answers come in the order of `parts`.
        """
        ...

    def commit(self, batches: Sequence[Batch]) -> asyncio.Future[frozenset[int]]:
        """Append a chunk to each partition; the future gives the accepted partitions.

        Done means on disk. It may be done already when it is returned: the embedded store
        commits inline while the disk is fast. At most one commit of a partition is in flight;
        the caller sees to that. Raises (in the future) StoreFull or StoreUnavailable.
        """
        ...

    async def tail(self, part: int, after: int) -> list[tuple[int, bytes]]:
        """The log behind `after`, as (lsn, chunk), ascending and without a gap.

        What is at or below the checkpoint is no longer in the log. Raises JournalCorrupt where a
        chunk is missing.
        """
        ...

    def load(self, part: int, oid: int) -> asyncio.Future[Stored | None]:
        """A cold object, or None if it has no row. May be done already, like `commit`."""
        ...

    def checkpoint(self, slice_: Checkpoint) -> asyncio.Future[bool]:
        """Write a slice; False, and nothing written, for a deposed owner. May be done already.

        Commits may follow before its future is done: what was asked for first is written first.
        Raises (in the future) StoreFull or StoreUnavailable.
        """
        ...

    async def due(self, parts: Sequence[int], before: int, limit: int) -> list[ObjectRow]:
        """Objects with 0 < wake_at <= before and status ``, the earliest first, then by oid."""
        ...

    async def connected(self, part: int, after: int, limit: int) -> list[ObjectRow]:
        """Objects of a partition with open connections and an oid behind `after`, by oid."""
        ...

    async def history(self, part: int, oid: int, after: int, limit: int) -> list[Segment]:
        """Segments with `last > after`, ascending, at most `limit`."""
        ...

    async def put_waypoints(self, waypoints: Sequence[Waypoint]) -> None:
        """Keep snapshots of turns that are in history; each replaces one of the same turn.

        They are no part of what is fenced: what is in them follows from history.
        """
        ...

    async def waypoint(self, oid: int, upto: int, version: str) -> Waypoint | None:
        """The newest waypoint of that code at or before turn `upto`."""
        ...

    async def waypoints(self, oid: int) -> list[tuple[int, int]]:
        """(seq, bytes) of each waypoint of an object, ascending."""
        ...

    async def drop_waypoints(self, oid: int, first: int, end: int) -> None:
        """Remove the waypoints of turns `first` up to, and not with, `end`."""
        ...

    async def scan(
        self, wanted: ObjectFilter, after: tuple[str, str] | None, limit: int
    ) -> list[ObjectRow]:
        """Rows that fit, in the order of (kind, key) behind `after`; text is ordered by code point,
        as Python does."""
        ...

    async def promises(
        self, wanted: PromiseFilter, after: tuple[int, str] | None, limit: int
    ) -> list[PromiseRow]:
        """Open promises that fit, in the order of (since, token) behind `after`."""
        ...

    async def calls(
        self, wanted: CallFilter, after: tuple[int, str] | None, limit: int
    ) -> list[CallRow]:
        """Calls that fit, the newest first, in the falling order of (since, id) behind `after`."""
        ...

    async def find(
        self, kind: str, conditions: Sequence[Condition], after: str | None, limit: int
    ) -> list[ObjectRow]:
        """Objects of a class that meet all conditions (at least one), by key, behind `after`."""
        ...

    async def indexed(self, oid: int) -> dict[str, bytes]:
        """The values of an object's Indexed attributes."""
        ...

    async def indexed_kinds(self) -> dict[str, str]:
        """By class, what `Checkpoint.indexed_kinds` said last."""
        ...

    def put_blob(
        self, part: int, epoch: int, oid: int, name: str, body: bytes
    ) -> asyncio.Future[bool]:
        """Keep something too large for the log; False, and nothing written, for a deposed owner.

        Done means on disk: an entry that names it is committed afterwards. One of the same name
        is replaced. Nobody names it until a checkpoint says so. Raises (in the future) StoreFull
        or StoreUnavailable. May be done already.
        """
        ...

    def get_blob(self, part: int, oid: int, name: str) -> asyncio.Future[bytes | None]:
        """What was put under the name, or None. May be done already."""
        ...

    async def unnamed_blobs(self, part: int) -> list[tuple[int, str]]:
        """(oid, name) of each blob that no checkpoint has named, in that order."""
        ...

    async def drop_blobs(self, part: int, epoch: int, blobs: Sequence[tuple[int, str]]) -> bool:
        """Remove blobs, by (oid, name); False, and nothing removed, for a deposed owner."""
        ...

    async def erase(self, part: int, epoch: int, oid: int, row: ObjectRow | None, now: int) -> bool:
        """Remove everything that is stored of an object, and what is left of the log up to the
        checkpoint; False, and nothing removed, for a deposed owner.

        `row`, if given, stays in its place. Bytes are overwritten where the store can; an older
        copy of them may be left in free space until `compact`. A checkpoint came before.
        """
        ...

    async def compact(self) -> None:
        """Write the store anew, without free space. Commits wait meanwhile."""
        ...

    async def prune(self, asked: Pruning) -> Pruned | None:
        """Remove history; None, and nothing removed, for a deposed owner.

        Only what lies at or before an object's snapshot goes: it can still be rebuilt.
        """
        ...

    async def put_version(self, version: str, bundle: bytes, now: int) -> None:
        """Keep the source of a code version; nothing happens if it is there already."""
        ...

    async def versions(self) -> list[tuple[str, int, int]]:
        """(version, when it was put, bytes of its bundle) of each, the oldest first."""
        ...

    async def get_version(self, version: str) -> bytes | None:
        """The source of a code version, or None if it was never put."""
        ...

    async def close(self) -> None:
        """Wait for what is in flight and let the place go. A second time does nothing."""
        ...

    async def hand_over(self) -> None:
        """As `close`, by a process that ends at once, to one that waits for the place: what only
        tidies up is left to that."""
        ...

    def stats(self) -> StoreStats:
        """Figures since the store was opened."""
        ...
