"""The embedded store: one SQLite file for one process.

What it guarantees beyond the protocol (base.py):

- A commit is one transaction in the write-ahead log, synced before its future is done. It touches
  the partition's row and the end of the table `chunk`: about five pages, however many objects.
- `load` never waits for a commit: readers have a connection of their own.
- Moving the write-ahead log into the database happens beside the commits, except for its last
  part, which takes about as long as a commit.

The tables and their reasons: schema/sqlite/0001_tables.sql. Which thread writes: lane.py. This
file is opening and writing; sqlite_reads.py has what is read, sqlite_upkeep.py the long work.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from perdure.clock import RealClock
from perdure.store import sqlite_blobs, sqlite_objects
from perdure.store import sqlite_past as past_sql
from perdure.store import sqlite_sql as sql
from perdure.store.base import Batch, Checkpoint, Claim, Layout, StoreStats, Waypoint
from perdure.store.lane import Lane, Pace
from perdure.store.place import Place
from perdure.store.sqlite_file import DATABASE, connect, prepare_schema, trouble
from perdure.store.sqlite_reads import Reads
from perdure.store.sqlite_upkeep import Upkeep

T = TypeVar("T")
R = TypeVar("R")

_PAGE = 4096
# The write-ahead log is moved into the database when it has grown by so many pages of 4 KB. More
# means fewer interruptions, and a longer look through it after a crash (about 20 ms for 16 MB).
_WAL_PAGES = 4096
# What may be left over from that for the connection that writes, and how often to try for less.
_WAL_REST_PAGES = 256
_WAL_ROUNDS = 3
# A checkpoint slice of at most so much is written in the calling thread, like a commit: about
# half a millisecond.
_SMALL_SLICE_COUNT = 16
_SMALL_SLICE_BYTES = 64 * 1024


class SqliteStore(Reads, Upkeep):
    """A store in the directory `directory`; see `Store` for what its methods promise.

    `exclusive=False` leaves out the lock of the directory, for tests of the fence. `before_commit`
    is called before each COMMIT of `commit`, in its thread: a test's slow disk. `monotonic` is
    what commits are timed by.
    """

    _place: Place
    _lane: Lane
    _background: Lane
    # Used by whoever has the lane, and by the background; the loop's own thread has `_reader`.
    _writer: sqlite3.Connection
    _keeper: sqlite3.Connection
    _cursor: sqlite3.Cursor
    _execute: Callable[..., sqlite3.Cursor]

    def __init__(
        self,
        directory: str | Path,
        *,
        commit_inline_ms: float = 0.5,
        partitions: int = 1,
        exclusive: bool = True,
        before_commit: Callable[[], None] | None = None,
        monotonic: Callable[[], float] = RealClock.monotonic,
        random_bytes: Callable[[int], bytes] = RealClock.random_bytes,
    ) -> None:
        self._directory = Path(directory).absolute()
        self._partitions = partitions
        self._exclusive = exclusive
        self._before_commit = before_commit
        self._monotonic = monotonic
        self._random_bytes = random_bytes
        self._pace = Pace(commit_inline_ms / 1000)
        self._node = ""
        self._is_open = False
        # Pages written (estimated) since the write-ahead log was last moved.
        self._wal_pages = 0
        self._moving_wal = False
        self._commits = 0
        self._committed_bytes = 0
        self._commit_seconds = 0.0

    # -- opening and closing

    async def open(self, node: str) -> Layout:
        """Make or check the file, take the directory, start the threads."""
        layout = self.open_files(node)
        self._loop = asyncio.get_running_loop()
        self._lane = Lane(self._loop, "perdure-commits")
        self._background = Lane(self._loop, "perdure-wal")
        self._is_open = True
        return layout

    def open_files(self, node: str) -> Layout:
        """What `open` does without a loop; `close_files` undoes it."""
        assert not self._is_open, "this store is open already"
        self._place = Place(self._directory, exclusive=self._exclusive)
        try:
            self._path = self._place.file(DATABASE)
            self._writer = connect(self._path)
            layout = prepare_schema(self._writer, self._path, self._partitions, self._random_bytes)
            self._reader = connect(self._path, reads_only=True)
            self._keeper = connect(self._path)
        except BaseException as error:
            self.close_files()
            if isinstance(error, sqlite3.Error):
                raise trouble(error, self._path) from error
            raise
        self._cursor = self._writer.cursor()
        self._execute = self._cursor.execute
        self._node = node
        # What a process that died has left there.
        log = self._path.with_name(DATABASE + "-wal")
        self._wal_pages = log.stat().st_size // _PAGE if log.exists() else 0
        return layout

    async def close(self) -> None:
        """Finish what was asked for, then close the file and let the directory go."""
        if await self._end_work():
            self.close_files()

    async def hand_over(self) -> None:
        """Let the directory go, and leave the files to the end of the process: with the last
        connection SQLite would move the rest of the write-ahead log, and sync three times."""
        if await self._end_work():
            self._place.release()

    async def _end_work(self) -> bool:
        """Finish what was asked for; False if somebody else did."""
        if not self._is_open:
            return False
        self._is_open = False
        await self._background.close()
        await self._lane.close()
        return True

    def close_files(self) -> None:
        """Close what `open_files` has opened, as far as it came."""
        # The cursor first: after an error it may still have a statement, and a connection with
        # one of those is closed only in name. The writer last: with the last connection SQLite
        # moves the rest of the write-ahead log.
        for name in ("_cursor", "_keeper", "_reader", "_writer"):
            resource = self.__dict__.pop(name, None)
            if resource is not None:
                resource.close()
        self._place.release()

    # -- commits: the hot path

    def commit(self, batches: Sequence[Batch]) -> asyncio.Future[frozenset[int]]:
        """Append, in the calling thread while the disk is fast."""
        began_s = self._monotonic()
        if not (self._is_open and self._lane.empty and self._pace.here(began_s)):
            return self._in_lane(self._commit, batches)
        future: asyncio.Future[frozenset[int]] = self._loop.create_future()
        try:
            accepted = self._commit(batches)
        except Exception as error:
            future.set_exception(error)
        else:
            end_s = self._monotonic()
            self._pace.took(end_s - began_s, end_s)
            future.set_result(accepted)
        if self._wal_pages > _WAL_PAGES:
            self._move_wal()
        return future

    def _commit(self, batches: Sequence[Batch]) -> frozenset[int]:
        began_s = self._monotonic()
        try:
            if self._before_commit is not None:
                self._before_commit()
            # A single statement is a transaction by itself.
            several = len(batches) > 1
            if several:
                self._execute(sql.BEGIN)
            accepted = [batch for batch in batches if self._append(batch)]
            if several:
                self._execute(sql.COMMIT if accepted else sql.ROLLBACK)
        except BaseException as error:
            self._undo(error)
        written = sum([len(batch.chunk) for batch in accepted])
        self._wal_pages += 3 * len(accepted) + written // _PAGE
        self._commits += 1
        self._committed_bytes += written
        self._commit_seconds += self._monotonic() - began_s
        return frozenset([batch.part for batch in accepted])

    def _append(self, batch: Batch) -> bool:
        try:
            self._execute(sql.APPEND, batch)
        except sqlite3.IntegrityError as error:
            if error.args[0] == sql.FENCED:
                return False
            raise
        return True

    # -- ownership and checkpoints

    async def claim(self, parts: Sequence[int]) -> list[Claim]:
        """Raise the epochs, in one transaction."""
        return await self._write(self._claim, parts, small=True)

    def _claim(self, parts: Sequence[int]) -> list[Claim]:
        execute = self._execute
        claims = []
        try:
            execute(sql.BEGIN)
            for part in parts:
                if execute(sql.CLAIM, (self._node, part)).rowcount != 1:
                    raise ValueError(f"the store has no partition {part}")
                epoch, tail, checkpoint = execute(sql.PART, (part,)).fetchone()
                outbox = [body for (body,) in execute(sql.OUTBOX, (part,)).fetchall()]
                claims.append(Claim(part, epoch, tail, checkpoint, outbox))
            execute(sql.COMMIT)
        except BaseException as error:
            self._undo(error)
        self._wal_pages += len(claims)
        return claims

    def checkpoint(self, slice_: Checkpoint) -> asyncio.Future[bool]:
        """A small slice is written like a commit, a large one in the thread."""
        size = sum(len(row.snapshot or b"") for row in slice_.rows)
        size += sum(len(segment.body) for segment in slice_.segments)
        size += sum(len(body) for body in slice_.outbox)
        size += sum(len(suspended.body) for suspended in slice_.suspended)
        count = len(slice_.rows) + len(slice_.segments) + len(slice_.outbox)
        count += len(slice_.suspended) + len(slice_.forget) + len(slice_.blobs)
        count += len(slice_.promises) + len(slice_.settled) + len(slice_.indexed)
        count += len(slice_.failed) + sum(len(rows) for _, rows in slice_.calls)
        count += len(slice_.drop)
        self._wal_pages += 2 * count + size // _PAGE
        small = count <= _SMALL_SLICE_COUNT and size <= _SMALL_SLICE_BYTES
        return self._write(self._checkpoint, slice_, small=small)

    def _checkpoint(self, slice_: Checkpoint) -> bool:
        execute = self._execute
        part = slice_.part
        try:
            # From here on nobody else can write, so a look at the epoch is as good as a write.
            execute(sql.BEGIN)
            epoch, tail, checkpoint = execute(sql.PART, (part,)).fetchone()
            if epoch != slice_.epoch:
                execute(sql.ROLLBACK)
                return False
            sqlite_objects.checkpoint(self._execute, self._put, self._writer.executemany, slice_)
            if slice_.upto is not None:
                assert checkpoint <= slice_.upto <= tail, (checkpoint, slice_.upto, tail)
                execute(sql.MOVE_CHECKPOINT, (slice_.upto, part))
                execute(sql.DROP_OUTBOX, (part,))
                outbox = [(part, n, body) for n, body in enumerate(slice_.outbox)]
                self._put(sql.PUT_OUTBOX, outbox)
            execute(sql.COMMIT)
        except BaseException as error:
            self._undo(error)
        return True

    def _put(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        """Insert rows, in few statements, of few lengths so that each is prepared once."""
        done = 0
        for length in (64, 8, 1):
            while len(rows) - done >= length:
                values = [value for row in rows[done : done + length] for value in row]
                self._execute(sql.for_many(statement, length), values)
                done += length

    # -- what is written beside the log

    def put_blob(
        self, part: int, epoch: int, oid: int, name: str, body: bytes
    ) -> asyncio.Future[bool]:
        """In the thread, unless it is small: a large one takes longer than a commit may."""
        self._wal_pages += 2 + len(body) // _PAGE
        put = sqlite_blobs.Put(part, epoch, oid, name, body)
        return self._write(self._put_blob, put, small=len(body) <= _SMALL_SLICE_BYTES)

    def _put_blob(self, put: sqlite_blobs.Put) -> bool:
        try:
            return sqlite_blobs.put(self._execute, put)
        except BaseException as error:
            self._undo(error)

    async def drop_blobs(self, part: int, epoch: int, blobs: Sequence[tuple[int, str]]) -> bool:
        """In one transaction."""
        return await self._write(self._drop_blobs, (part, epoch, blobs), small=False)

    def _drop_blobs(self, asked: tuple[int, int, Sequence[tuple[int, str]]]) -> bool:
        try:
            return sqlite_blobs.drop(self._execute, *asked)
        except BaseException as error:
            self._undo(error)

    async def put_version(self, version: str, bundle: bytes, now: int) -> None:
        """Once for each version."""
        self._wal_pages += len(bundle) // _PAGE
        await self._write(self._put_version, (version, bundle, now), small=True)

    def _put_version(self, values: tuple[str, bytes, int]) -> None:
        try:
            self._execute(sql.PUT_VERSION, values)
        except sqlite3.Error as error:
            self._undo(error)

    async def put_waypoints(self, waypoints: Sequence[Waypoint]) -> None:
        """In the thread: nobody waits for them."""
        self._wal_pages += sum(2 + len(one.body) // _PAGE for one in waypoints)
        await self._write(self._many, (past_sql.PUT_WAYPOINT, waypoints), small=False)

    async def drop_waypoints(self, oid: int, first: int, end: int) -> None:
        """In the thread."""
        values = [(oid, first, end)]
        await self._write(self._many, (past_sql.DROP_WAYPOINTS, values), small=False)

    def _many(self, work: tuple[str, Sequence[Sequence[object]]]) -> None:
        statement, rows = work
        try:
            self._execute(sql.BEGIN)
            self._cursor.executemany(statement, rows)
            self._execute(sql.COMMIT)
        except BaseException as error:
            self._undo(error)

    def stats(self) -> StoreStats:
        """Figures since the store was made."""
        return StoreStats(
            self._commits, self._committed_bytes, self._commit_seconds, self._pace.inline
        )

    # -- writing, in one thread or the other

    def _write(self, work: Callable[[T], R], argument: T, *, small: bool) -> asyncio.Future[R]:
        """Do something small here while commits run here as well; else in the thread."""
        if not (small and self._is_open and self._lane.empty and self._pace.inline):
            return self._in_lane(work, argument)
        future: asyncio.Future[R] = self._loop.create_future()
        try:
            future.set_result(work(argument))
        except Exception as error:
            future.set_exception(error)
        if self._wal_pages > _WAL_PAGES:
            self._move_wal()
        return future

    def _in_lane(self, work: Callable[[T], R], argument: T) -> asyncio.Future[R]:
        if not self._is_open:
            future: asyncio.Future[R] = self._loop.create_future()
            future.set_exception(self._closed())
            return future
        if self._wal_pages > _WAL_PAGES:
            self._move_wal()
        return self._lane.submit(work, argument)

    def _undo(self, error: BaseException) -> NoReturn:
        """Roll back what `error` interrupted, and raise what it means."""
        try:
            if self._writer.in_transaction:
                self._execute(sql.ROLLBACK)
        except sqlite3.Error:
            pass  # SQLite has undone it by itself; the first error is the one that tells
        meaning = trouble(error, self._path) if isinstance(error, sqlite3.Error) else error
        if meaning is error:
            raise error
        raise meaning from error

    # -- the write-ahead log

    def _move_wal(self) -> None:
        """Begin to move the write-ahead log into the database, beside the commits.

        SQLite begins the log anew only when all of it is moved, and under load a few commits are
        always behind. So the last part is done by the connection that writes, between two
        commits, when the background has left little of it.
        """
        if not self._moving_wal and self._is_open:
            self._moving_wal = True
            self._move_round(_WAL_ROUNDS)

    def _move_round(self, rounds: int) -> None:
        def moved(future: asyncio.Future[int]) -> None:
            if future.exception() is None and self._is_open:
                if future.result() > _WAL_REST_PAGES and rounds > 1:
                    self._move_round(rounds - 1)
                    return
                self._write(_move_wal, self._writer, small=True).add_done_callback(finished)
            else:
                finished(future)

        def finished(future: asyncio.Future[int]) -> None:
            # An error here loses nothing, and is met again by the next commit or the next move.
            future.exception()
            self._wal_pages = 0
            self._moving_wal = False

        self._background.submit(_move_wal, self._keeper).add_done_callback(moved)


def _move_wal(connection: sqlite3.Connection) -> int:
    """Move what can be moved without waiting for anybody; how many pages are left."""
    _, pages, moved = connection.execute(sql.MOVE_WAL).fetchone()
    return int(pages - moved)
