"""A consistent copy of a store, taken while a server writes to it; the next one brings only news.

The copy is a data directory itself: `perdure serve --data COPY` starts from it, `perdure fsck`
checks it. Everything is read in one transaction, so the copy is of one moment: timers, messages
under way and code that waits included.

What is new since the last copy is found by the stamp of each object's row, which says which slice
of a checkpoint has written it. Of those objects everything is copied again but the history
and the large values that are there already. The log (a few MB at most) is copied whole.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from perdure.errors import BadSettings, OperatorError
from perdure.store.sqlite_file import DATABASE, connect, trouble_of_copying

_CHANGED = "oid IN (SELECT oid FROM changed)"
# A segment is replaced as a whole, by one that goes on further.
_SAME_SEGMENT = (
    "l.oid = segment.oid AND l.first = segment.first AND l.id = segment.id "
    "AND l.last = segment.last"
)
# Tables that are not copied by object or as a whole.
_SEGMENT, _BLOB, _CHUNK, _VERSION, _WAYPOINT = "segment", "blob", "chunk", "version", "waypoint"


@dataclass(frozen=True, slots=True)
class Backup:
    """What was copied."""

    path: str
    whole: bool
    """It was the first copy; the others bring what is new."""
    objects: int
    """Objects copied; of a whole copy all."""
    segments: int
    bytes: int
    """Size of the copy's file."""
    tail: int
    """The newest chunk of the log that is in it."""


def back_up(data: Path, destination: Path) -> Backup:
    """Copy the store in `data` to the directory `destination`, or bring the copy there up to date.

    Raises BadSettings where there is no store, or the copy is of another one; what SQLite cannot
    do raises StoreFull, StoreUnavailable or JournalCorrupt. A copy that was interrupted is made
    anew or brought up to date by the next one.
    """
    source_path = data / DATABASE
    if not source_path.is_file():
        raise BadSettings(
            f"{data} has no store", hint="--data DIR is the directory that perdure serves from."
        )
    destination.mkdir(mode=0o700, parents=True, exist_ok=True)
    copy_path = destination / DATABASE
    if copy_path.exists() and copy_path.samefile(source_path):
        raise BadSettings(f"{destination} is the store itself; a backup goes elsewhere")
    try:
        with closing(connect(source_path)) as source:
            if copy_path.exists():
                return _bring_up_to_date(source, source_path, copy_path)
            return _copy_whole(source, copy_path)
    except sqlite3.Error as error:
        raise trouble_of_copying(error, source_path, copy_path) from error


def _copy_whole(source: sqlite3.Connection, path: Path) -> Backup:
    # Under another name until it is complete: half a copy must not pass for one.
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600)
    # Row by row, and not page by page: free space may hold what has been removed, or erased.
    source.execute("VACUUM INTO ?", (str(unfinished),))
    with closing(sqlite3.connect(unfinished, isolation_level=None)) as copy:
        found = _told(copy, path, whole=True, objects=0, segments=0)
    _sync(unfinished)
    unfinished.rename(path)
    _sync(path.parent)
    return found


def _bring_up_to_date(source: sqlite3.Connection, source_path: Path, path: Path) -> Backup:
    uri = path.absolute().as_uri()
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as copy:
        copy.execute("PRAGMA synchronous = FULL")
        copy.execute("PRAGMA secure_delete = ON")
        copy.execute("PRAGMA journal_mode = DELETE")
        if _secret(copy) != _secret(source):
            raise BadSettings(
                f"{path} is a copy of another store", hint="Each store has a directory of its own."
            )
        if _tables(copy) != _tables(source):
            raise OperatorError(
                f"{path} was made by an older perdure, with other tables",
                hint="Begin a new backup in another directory, and keep this one as long as you "
                "may want to go back.",
            )
        live = f"{source_path.absolute().as_uri()}?mode=ro"
        copy.execute("ATTACH DATABASE ? AS live", (live,))
        copy.execute("BEGIN IMMEDIATE")
        try:
            objects, segments = _copy_news(copy)
            copy.execute("COMMIT")
        except BaseException:
            copy.execute("ROLLBACK")
            raise
        return _told(copy, path, whole=False, objects=objects, segments=segments)


def _copy_news(copy: sqlite3.Connection) -> tuple[int, int]:
    tables = _tables(copy)
    columns = {table: _columns(copy, table) for table in tables}
    copy.execute("CREATE TEMP TABLE changed (oid INTEGER PRIMARY KEY)")
    for part, stamp in copy.execute("SELECT part, stamp FROM main.part").fetchall():
        copy.execute(
            "INSERT INTO changed SELECT oid FROM live.object WHERE stamp > ? AND part = ?",
            (stamp, part),
        )
    # Erased there, so here as well.
    copy.execute(
        "INSERT OR IGNORE INTO changed SELECT n FROM live.erased WHERE (part, n, time) NOT IN "
        "(SELECT part, n, time FROM main.erased)"
    )
    copy.execute(
        f"DELETE FROM main.segment WHERE {_CHANGED} AND NOT EXISTS "
        f"(SELECT 1 FROM live.segment l WHERE {_SAME_SEGMENT})"
    )
    segments = copy.execute(
        f"INSERT INTO main.segment SELECT * FROM live.segment l WHERE l.{_CHANGED} AND NOT EXISTS "
        f"(SELECT 1 FROM main.segment WHERE {_SAME_SEGMENT})"
    ).rowcount
    for table in tables:
        names = [name for name in columns[table] if not (table == _BLOB and name == "id")]
        if table in (_SEGMENT, _WAYPOINT):
            continue
        if table == _VERSION:
            copy.execute(f"INSERT OR IGNORE INTO main.{table} SELECT * FROM live.{table}")
        elif table == _BLOB:
            # A blob's body never changes, so only those that are not there are read.
            listed = ", ".join(names)
            copy.execute(
                f"DELETE FROM main.blob WHERE {_CHANGED} "
                f"AND (oid, name) NOT IN (SELECT oid, name FROM live.blob WHERE {_CHANGED})"
            )
            copy.execute(
                f"INSERT INTO main.blob ({listed}) SELECT {listed} FROM live.blob WHERE {_CHANGED} "
                f"AND (oid, name) NOT IN (SELECT oid, name FROM main.blob WHERE {_CHANGED})"
            )
            copy.execute(
                "UPDATE main.blob SET seq = (SELECT l.seq FROM live.blob l WHERE l.oid = blob.oid "
                f"AND l.name = blob.name) WHERE {_CHANGED}"
            )
        elif "oid" in names:
            copy.execute(f"DELETE FROM main.{table} WHERE {_CHANGED}")
            copy.execute(f"INSERT INTO main.{table} SELECT * FROM live.{table} WHERE {_CHANGED}")
        else:
            copy.execute(f"DELETE FROM main.{table}")
            copy.execute(f"INSERT INTO main.{table} SELECT * FROM live.{table}")
    (objects,) = copy.execute("SELECT count(*) FROM changed").fetchone()
    copy.execute("DROP TABLE changed")
    return objects, segments


def _told(
    copy: sqlite3.Connection, path: Path, *, whole: bool, objects: int, segments: int
) -> Backup:
    if whole:
        (objects,) = copy.execute("SELECT count(*) FROM object").fetchone()
        (segments,) = copy.execute("SELECT count(*) FROM segment").fetchone()
    (tail,) = copy.execute("SELECT ifnull(max(tail), 0) FROM part").fetchone()
    pages = copy.execute("PRAGMA page_count").fetchone()[0]
    size = copy.execute("PRAGMA page_size").fetchone()[0]
    return Backup(str(path.parent), whole, objects, segments, pages * size, tail)


def _secret(connection: sqlite3.Connection) -> bytes:
    row = connection.execute("SELECT value FROM meta WHERE name = 'secret'").fetchone()
    return bytes(row[0]) if row else b""


def _tables(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute(
        "SELECT name FROM main.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' "
        "ORDER BY name"
    )
    return [name for (name,) in rows]


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in connection.execute(f"PRAGMA main.table_info({table})")]


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
