"""The record of one object: all its turns, and the snapshots from which they can be run again.

A record is what every look at the past reads, wherever it is kept: in the store of a running host
(here), or in a file (extract.py). It is a record as of one moment: turns that follow do not
appear in it, and what it shows is on disk.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from perdure.errors import UnknownKind, UnknownObject, UnknownTurn
from perdure.host.asking import Surroundings
from perdure.host.machine import Machine
from perdure.journal import codec
from perdure.journal.entry import Entry
from perdure.journal.identity import oid_of
from perdure.kind import Kind
from perdure.ref import format_address, parse_address
from perdure.store.base import Waypoint

if TYPE_CHECKING:
    from perdure.host.host import Host

PAGE = 250
"""Entries in a page: a few milliseconds of replay."""


class Snapshot(NamedTuple):
    """A place to begin from."""

    seq: int
    body: bytes
    certain: bool
    """Plain data of the store, and not a cache that can be done without."""


class Record(Protocol):
    """What there is of one object's past."""

    kind: Kind
    key: str
    oid: int
    last: int
    """The newest turn; 0 if it never had one."""
    kept: int
    """Turns up to this one are in history for good, and no commit can take them back."""

    def machine(self, surroundings: Surroundings | None = None) -> Machine:
        """A fresh copy, of which nothing gets outside."""
        ...

    async def snapshot(self, upto: int) -> Snapshot | None:
        """The newest place to begin from at or before turn `upto`."""
        ...

    def pages(self, after: int, upto: int) -> AsyncIterator[list[Entry]]:
        """The turns behind `after`, up to `upto`, ascending, a few at a time."""
        ...

    async def probe(self, seq: int) -> Entry | None:
        """The turn `seq`, or the first one behind it that there is."""
        ...

    async def keep(self, snapshots: Sequence[tuple[int, bytes]]) -> None:
        """Keep places to begin from for the next look."""
        ...

    async def distrust(self, snapshot: Snapshot) -> None:
        """A cache has misled: let go of it."""
        ...


class HostRecord:
    """The record of an object of a running host."""

    def __init__(self, host: Host, kind: Kind, key: str, *, tail: list[bytes], kept: int) -> None:
        self.host = host
        self.kind = kind
        self.key = key
        self.oid = oid_of(kind.name, key)
        self.kept = kept
        self._tail = [entry for entry in map(codec.decode_entry, tail) if entry.seq > kept]
        self.last = self._tail[-1].seq if self._tail else kept

    @property
    def address(self) -> str:
        return format_address(self.kind.name, self.key)

    def machine(self, surroundings: Surroundings | None = None) -> Machine:
        """A copy under the host's secret, so that its chance is what it was."""
        return Machine(self.kind, self.key, self.oid, surroundings or self.host.surroundings)

    async def snapshot(self, upto: int) -> Snapshot | None:
        """The store's own, or one made by an earlier look, whichever is later."""
        store, found = self.host.store, None
        waypoint = await store.waypoint(self.oid, min(upto, self.kept), self.host.version)
        if waypoint is not None:
            found = Snapshot(waypoint.seq, waypoint.body, certain=False)
        stored = await store.load(self.host.log.part, self.oid)
        if stored is None:
            return found
        row, cache = stored.row, stored.suspended
        if row.snapshot is not None and (found.seq if found else -1) < row.seq <= upto:
            found = Snapshot(row.seq, row.snapshot, certain=True)
        if cache is not None and (found.seq if found else -1) < cache.seq <= upto:
            found = Snapshot(cache.seq, cache.body, certain=False)
        return found

    async def pages(self, after: int, upto: int) -> AsyncIterator[list[Entry]]:
        """History, then the tail of the log."""
        page: list[Entry] = []
        while after < min(upto, self.kept):
            segments = await self.host.store.history(self.host.log.part, self.oid, after, 1)
            if not segments:
                raise self._gone(after)
            await self.host.blobs.fetch_for(self.oid, segments)
            for segment in segments:
                if segment.first > after + 1:
                    raise self._gone(after)
                place = f"history of {self.address}, turns {segment.first} to {segment.last}"
                for entry in codec.read_turns(
                    segment.body, place, segment.first, after, min(upto, self.kept)
                ):
                    page.append(entry)
                    if len(page) >= PAGE:
                        yield page
                        page = []
                after = segment.last
        for entry in self._tail:
            if after < entry.seq <= upto:
                page.append(entry)
                if len(page) >= PAGE:
                    yield page
                    page = []
        if page:
            yield page

    async def probe(self, seq: int) -> Entry | None:
        """One read of the index."""
        if seq <= self.kept:
            found = await self.host.store.history(self.host.log.part, self.oid, seq - 1, 1)
            for segment in found:
                place = f"history of {self.address}, turns {segment.first} to {segment.last}"
                first = max(seq, segment.first)
                turns = codec.read_turns(segment.body, place, segment.first, first - 1, first)
                return next(turns, None)
        return next((entry for entry in self._tail if entry.seq >= seq), None)

    async def keep(self, snapshots: Sequence[tuple[int, bytes]]) -> None:
        """In the store, as waypoints of this code."""
        version = self.host.version
        await self.host.store.put_waypoints(
            [Waypoint(self.oid, seq, version, body) for seq, body in snapshots]
        )

    async def distrust(self, snapshot: Snapshot) -> None:
        """A waypoint goes; the cache of the live object is its own affair."""
        await self.host.store.drop_waypoints(self.oid, snapshot.seq, snapshot.seq + 1)

    def _gone(self, after: int) -> UnknownTurn:
        return UnknownTurn(
            f"turn {after + 1} of {self.address} is no longer kept",
            hint="How long history is kept is the setting `history`.",
        )


async def record_of(host: Host, address: str) -> HostRecord:
    """The record of an object as it is now, once that is on disk. Wakes nobody.

    Raises UnknownKind, or UnknownObject for one that never was.
    """
    name, key = parse_address(address)
    kind = host.kinds.get(name)
    if kind is None:
        raise UnknownKind(f"no class {name!r} is served here")
    oid = oid_of(name, key)
    # First the tail, then the row: what a checkpoint moves in between is in both.
    tail = host.log.entries_of(oid)
    await host.log.durable(host.log.newest_lsn(oid))
    stored = await host.store.load(host.log.part, oid)
    record = HostRecord(
        host, kind, key, tail=tail, kept=stored.row.last if stored is not None else 0
    )
    if not record.last:
        raise UnknownObject(f"there is no object {format_address(name, key)}")
    return record
