"""What a SQLite store reads: in the calling thread, by a connection of its own.

So nothing here waits for a commit. What takes several statements sees one moment all the same,
though a thread may be writing meanwhile.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perdure.errors import StoreUnavailable
from perdure.store import sqlite_blobs, sqlite_calls, sqlite_indexed, sqlite_promises
from perdure.store import sqlite_past as past_sql
from perdure.store import sqlite_sql as sql
from perdure.store.base import (
    CallFilter,
    CallRow,
    Condition,
    ObjectFilter,
    ObjectRow,
    PromiseFilter,
    PromiseRow,
    Segment,
    Stored,
    Suspended,
    Waypoint,
)
from perdure.store.sqlite_file import lost_chunk, trouble


class Reads:
    """The methods of the embedded store that read; `SqliteStore` opens what they stand on."""

    _loop: asyncio.AbstractEventLoop
    _directory: Path
    _path: Path
    _reader: sqlite3.Connection
    _is_open: bool

    # -- an object, and the log

    def load(self, part: int, oid: int) -> asyncio.Future[Stored | None]:
        """One indexed read, in the calling thread."""
        future: asyncio.Future[Stored | None] = self._loop.create_future()
        try:
            future.set_result(self._load(part, oid))
        except Exception as error:
            future.set_exception(error)
        return future

    def _load(self, part: int, oid: int) -> Stored | None:
        found = self._read(sql.LOAD, (oid, part))
        if not found:
            return None
        stored = _stored(found[0])
        if stored.row.last <= _newest(stored):
            return stored
        with self._one_moment():
            stored = _stored(self._read(sql.LOAD, (oid, part))[0])
            return stored._replace(segments=self._segments(oid, _newest(stored), -1))

    async def tail(self, part: int, after: int) -> list[tuple[int, bytes]]:
        """The log, checked for gaps."""
        base = part << sql.LSN_BITS
        with self._one_moment():
            ((_, tail, checkpoint),) = self._read(sql.PART, (part,))
            after = max(after, checkpoint)
            chunks = self._read(sql.CHUNKS, (base + after, base + tail))
        for lsn, (id_, _) in zip(range(after + 1, tail + 1), chunks, strict=False):
            if id_ != base + lsn:
                raise lost_chunk(self._path, part, lsn)
        if len(chunks) < tail - after:
            raise lost_chunk(self._path, part, after + len(chunks) + 1)
        return [(id_ - base, body) for id_, body in chunks]

    async def history(self, part: int, oid: int, after: int, limit: int) -> list[Segment]:
        """From the index of segments."""
        return self._segments(oid, after, limit)

    def _segments(self, oid: int, after: int, limit: int) -> list[Segment]:
        values = {"oid": oid, "after": after, "limit": limit}
        return [Segment(*row) for row in self._read(sql.SEGMENTS, values)]

    def get_blob(self, part: int, oid: int, name: str) -> asyncio.Future[bytes | None]:
        """One indexed read, in the calling thread."""
        future: asyncio.Future[bytes | None] = self._loop.create_future()
        try:
            found = self._read(sqlite_blobs.GET, (oid, name, part))
            future.set_result(found[0][0] if found else None)
        except Exception as error:
            future.set_exception(error)
        return future

    async def unnamed_blobs(self, part: int) -> list[tuple[int, str]]:
        """From an index that holds them alone."""
        return self._read(sqlite_blobs.UNNAMED, (part,))

    async def waypoint(self, oid: int, upto: int, version: str) -> Waypoint | None:
        """One indexed read."""
        found = self._read(past_sql.GET_WAYPOINT, (oid, upto, version))
        return Waypoint(*found[0]) if found else None

    async def waypoints(self, oid: int) -> list[tuple[int, int]]:
        """From the index."""
        return self._read(past_sql.WAYPOINTS, (oid,))

    # -- lists

    async def due(self, parts: Sequence[int], before: int, limit: int) -> list[ObjectRow]:
        """From an index that holds the waiting objects alone."""
        found = self._read(sql.due(len(parts)), (before, *parts, limit))
        return [ObjectRow(*row) for row in found]

    async def connected(self, part: int, after: int, limit: int) -> list[ObjectRow]:
        """From an index that holds the objects with connections alone."""
        return [ObjectRow(*row) for row in self._read(sql.CONNECTED, (part, after, limit))]

    async def scan(
        self, wanted: ObjectFilter, after: tuple[str, str] | None, limit: int
    ) -> list[ObjectRow]:
        """From the index of names, or that of states for any but the idle ones."""
        statement, values = sql.scan(wanted, after, limit)
        return [ObjectRow(*row) for row in self._read(statement, values)]

    async def promises(
        self, wanted: PromiseFilter, after: tuple[int, str] | None, limit: int
    ) -> list[PromiseRow]:
        """From an index in the order of the list."""
        statement, values = sqlite_promises.listing(wanted, after, limit)
        return [PromiseRow(*row) for row in self._read(statement, values)]

    async def calls(
        self, wanted: CallFilter, after: tuple[int, str] | None, limit: int
    ) -> list[CallRow]:
        """From an index in the order of the list."""
        statement, values = sqlite_calls.listing(wanted, after, limit)
        return [CallRow._make((*row[:-1], bool(row[-1]))) for row in self._read(statement, values)]

    async def find(
        self, kind: str, conditions: Sequence[Condition], after: str | None, limit: int
    ) -> list[ObjectRow]:
        """From the index of values."""
        found = sqlite_indexed.search(kind, conditions, after, limit, sql.COLUMNS)
        return [ObjectRow(*row) for row in self._read(*found)]

    async def indexed(self, oid: int) -> dict[str, bytes]:
        """By the object's number."""
        return dict(self._read(sqlite_indexed.VALUES, (oid,)))

    async def indexed_kinds(self) -> dict[str, str]:
        """A row for each class."""
        return dict(self._read(sqlite_indexed.KINDS, ()))

    # -- versions of the code

    async def versions(self) -> list[tuple[str, int, int]]:
        """The bundles, by what they are called."""
        return self._read(sql.VERSIONS, ())

    async def get_version(self, version: str) -> bytes | None:
        """The bundle, or None."""
        found = self._read(sql.GET_VERSION, (version,))
        return found[0][0] if found else None

    # -- how it is read

    def _read(self, statement: str, values: Sequence[object] | Mapping[str, object]) -> list[Any]:
        if not self._is_open:
            raise self._closed()
        try:
            # All rows at once: a statement left half read would hold the write-ahead log.
            return self._reader.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise trouble(error, self._path) from error

    @contextmanager
    def _one_moment(self) -> Iterator[None]:
        """Several reads that see the same state, though a thread may be writing meanwhile."""
        self._read("BEGIN", ())
        try:
            yield
        finally:
            # Nothing was written; and after an error a COMMIT would only repeat it.
            self._reader.execute(sql.ROLLBACK)

    def _closed(self) -> StoreUnavailable:
        return StoreUnavailable(f"the store in {self._directory} is closed")


def _stored(found: tuple[Any, ...]) -> Stored:
    """A row of LOAD."""
    *columns, seq, body = found
    row = ObjectRow(*columns)
    return Stored(row, [], Suspended(row.oid, seq, body) if body is not None else None)


def _newest(stored: Stored) -> int:
    """The turn of the newest snapshot."""
    return stored.suspended.seq if stored.suspended is not None else stored.row.seq
