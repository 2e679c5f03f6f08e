"""The embedded store's long work: an object erased, history pruned, free space given back.

All of it is done by the connection that writes, in the thread that writes.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, NoReturn, TypeVar

from perdure.store import sqlite_sql as sql
from perdure.store.base import Checkpoint, ObjectRow, Pruned, Pruning
from perdure.store.sqlite_objects import checkpoint
from perdure.store.sqlite_past import DROP_OBJECT

T = TypeVar("T")
R = TypeVar("R")

_ERASE = (
    *DROP_OBJECT,
    "DELETE FROM blob WHERE oid = ?",
    "DELETE FROM promise WHERE oid = ?",
    "DELETE FROM calls WHERE oid = ?",
    "DELETE FROM indexed WHERE oid = ?",
)
_REMEMBER = "INSERT OR REPLACE INTO erased (part, n, time) VALUES (?, ?, ?)"
_SWEEP = (
    "DELETE FROM chunk WHERE id > (:part << 40) AND id <= (:part << 40) + "
    "(SELECT checkpoint FROM part WHERE part = :part)",
    "UPDATE part SET swept = checkpoint WHERE part = :part",
)

# What lies at or before the snapshot, and ended before its time. Without a snapshot the first
# turns are what an object is rebuilt from.
_OLD = """
FROM segment JOIN object USING (oid) JOIN snapshot USING (oid)
WHERE object.part = :part AND object.kind = :kind
  AND segment.until > 0 AND segment.until < :before AND segment.last <= object.seq"""
# Behind so many bytes of an object's newer history.
_BEYOND = """
FROM (
    SELECT segment.oid, segment.last, segment.body, object.seq,
           sum(length(segment.body)) OVER (
               PARTITION BY segment.oid ORDER BY segment.last DESC
               ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
           ) AS newer
      FROM segment JOIN object USING (oid) JOIN snapshot USING (oid)
     WHERE object.part = :part AND object.kind = :kind
) AS segment
WHERE segment.newer >= :over AND segment.last <= segment.seq"""
_COUNT_BEYOND = (
    f"SELECT count(DISTINCT oid), count(*), ifnull(sum(length(segment.body)), 0) {_BEYOND}"
)
_BEYOND_ENDS = f"SELECT oid, max(segment.last) {_BEYOND} GROUP BY oid"

_COUNT_OLD = f"SELECT count(DISTINCT oid), count(*), ifnull(sum(length(segment.body)), 0) {_OLD}"
_OLD_ENDS = f"SELECT oid, max(segment.last) {_OLD} GROUP BY oid"


class Erasure(NamedTuple):
    """What `erase` was asked for."""

    part: int
    epoch: int
    oid: int
    row: ObjectRow | None
    now: int


def erase(
    connection: sqlite3.Connection, asked: Erasure, put: Callable[[Checkpoint], None]
) -> bool:
    """In one transaction, with what is freed overwritten by zeros. `put` writes a slice."""
    connection.execute("PRAGMA secure_delete = ON")
    try:
        if not _begin(connection, asked.part, asked.epoch):
            return False
        for statement in _ERASE:
            connection.execute(statement, (asked.oid,))
        if asked.row is not None:
            put(Checkpoint(asked.part, asked.epoch, [asked.row]))
        connection.execute(_REMEMBER, (asked.part, asked.oid, asked.now))
        for statement in _SWEEP:
            connection.execute(statement, {"part": asked.part})
        connection.execute(sql.COMMIT)
        # The write-ahead log still has the pages as they were.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.execute("PRAGMA secure_delete = OFF")
    return True


def compact(connection: sqlite3.Connection) -> None:
    """The whole file anew."""
    connection.execute("VACUUM")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def prune(connection: sqlite3.Connection, asked: Pruning) -> Pruned | None:
    """One class after the other, in one transaction."""
    objects = segments = size = 0
    if not _begin(connection, asked.part, asked.epoch):
        return None
    wanted = [
        *((_COUNT_OLD, _OLD_ENDS, kind, "before", time) for kind, time in asked.before.items()),
        *((_COUNT_BEYOND, _BEYOND_ENDS, kind, "over", most) for kind, most in asked.over.items()),
    ]
    for count, find_ends, kind, name, bound in wanted:
        values = {"part": asked.part, "kind": kind, name: bound}
        found = connection.execute(count, values).fetchone()
        objects, segments, size = objects + found[0], segments + found[1], size + found[2]
        if asked.apply and found[1]:
            ends = connection.execute(find_ends, values).fetchall()
            connection.executemany(sql.FORGET, ends)
            connection.executemany("DELETE FROM blob WHERE oid = ? AND seq > 0 AND seq <= ?", ends)
            connection.executemany("DELETE FROM waypoint WHERE oid = ? AND seq <= ?", ends)
    connection.execute(sql.COMMIT)
    return Pruned(objects, segments, size)


def _begin(connection: sqlite3.Connection, part: int, epoch: int) -> bool:
    connection.execute(sql.BEGIN)
    (owner, *_) = connection.execute(sql.PART, (part,)).fetchone()
    if owner != epoch:
        connection.execute(sql.ROLLBACK)
    return bool(owner == epoch)


class Upkeep:
    """The methods of the embedded store for it; `SqliteStore` brings what they stand on."""

    if TYPE_CHECKING:
        _writer: sqlite3.Connection
        _execute: Callable[..., sqlite3.Cursor]

        def _in_lane(self, work: Callable[[T], R], argument: T) -> asyncio.Future[R]: ...

        def _undo(self, error: BaseException) -> NoReturn: ...

        def _put(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None: ...

    async def erase(self, part: int, epoch: int, oid: int, row: ObjectRow | None, now: int) -> bool:
        """In the thread: it waits for the disk several times."""
        return await self._in_lane(self._erase, Erasure(part, epoch, oid, row, now))

    def _erase(self, asked: Erasure) -> bool:
        def put(slice_: Checkpoint) -> None:
            checkpoint(self._execute, self._put, self._writer.executemany, slice_)

        try:
            return erase(self._writer, asked, put)
        except BaseException as error:
            self._undo(error)

    async def compact(self) -> None:
        """As long as the file is large, and with as much room again."""
        await self._in_lane(self._compact, None)

    def _compact(self, _: None) -> None:
        try:
            compact(self._writer)
        except BaseException as error:
            self._undo(error)

    async def prune(self, asked: Pruning) -> Pruned | None:
        """In one transaction."""
        return await self._in_lane(self._prune, asked)

    def _prune(self, asked: Pruning) -> Pruned | None:
        try:
            return prune(self._writer, asked)
        except BaseException as error:
            self._undo(error)
