"""The SQLite file: connections to it, its schema, and what its errors mean.

A file that is not ours, that is damaged, or that a newer perdure has written is refused here,
before anything is written to it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import Any

from perdure.errors import JournalCorrupt, SchemaTooNew, StoreFull, StoreUnavailable
from perdure.store.base import SCHEMA_VERSION, Layout, new_layout

DATABASE = "perdure.db"

# How long a write waits for another process that has the file open, say a shell.
_BUSY_S = 5.0


def connect(path: Path, *, reads_only: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode, for whichever thread has it at the moment."""
    # The file is there already (place.py), with the right mode: `rw` never makes one.
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=_BUSY_S,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.execute("PRAGMA page_size = 4096")
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StoreUnavailable(
                f"{path}: no write-ahead log is possible there",
                hint="The data directory has to be on a local disk.",
            )
        # FULL: each commit is synced, not only each move of the log into the database.
        connection.execute("PRAGMA synchronous = FULL")
        # A commit must not move the log into the database in passing.
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        # The log's file shrinks to this after something large.
        connection.execute(f"PRAGMA journal_size_limit = {64 * 1024 * 1024}")
        # Some builds overwrite what is deleted: each chunk would be written twice.
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute("PRAGMA cache_size = -4096")
        if reads_only:
            connection.execute("PRAGMA query_only = ON")
    except UnicodeDecodeError as error:
        # SQLite names what it cannot read of the schema, in the bytes that are there.
        connection.close()
        raise _corrupt(path, "malformed database schema") from error
    except BaseException:
        connection.close()
        raise
    return connection


def prepare_schema(
    connection: sqlite3.Connection,
    path: Path,
    partitions: int,
    random_bytes: Callable[[int], bytes],
) -> Layout:
    """Make the tables of a new file or bring those of an older perdure up to date."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _schema_version(connection, path)
        for number, script in _scripts():
            if number > version:
                for statement in _statements(script):
                    connection.execute(statement)
        if version == 0:
            _decide_layout(connection, partitions, random_bytes)
        _put_meta(connection, schema=SCHEMA_VERSION)
        layout = Layout(
            partitions=_meta(connection, "partitions"),
            hash_seed=_meta(connection, "hash_seed"),
            secret=_meta(connection, "secret"),
        )
        connection.execute("COMMIT" if version < SCHEMA_VERSION else "ROLLBACK")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return layout


def trouble(error: sqlite3.Error, path: Path) -> Exception:
    """What to raise for an error of SQLite: by who has to act."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        # SQLite says so before the last page of a transaction is written, so nothing of it counts.
        return StoreFull(
            f"no room left for {path}; nothing of this was written",
            hint="Make room on the disk. It goes on by itself.",
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return _corrupt(path, str(error))
    if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
        return error  # a bug of ours
    if code == sqlite3.SQLITE_ERROR and str(error).startswith("no such table"):
        return _corrupt(path, f"this is no store of perdure, or not all of one: {error}")
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return StoreUnavailable(f"{path}: {error} ({name})")


def trouble_of_copying(error: sqlite3.Error, source: Path, copy: Path) -> Exception:
    """The same for what reads one file and writes another, which SQLite does not tell apart."""
    meaning = trouble(error, copy)
    if isinstance(meaning, StoreFull) or _is_sound(source):
        return meaning
    return trouble(error, source)


def _is_sound(path: Path) -> bool:
    try:
        with closing(connect(path, reads_only=True)) as connection:
            connection.execute("SELECT count(*) FROM meta").fetchone()
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            return bool(found == "ok")
    except (sqlite3.Error, JournalCorrupt):
        return False


def lost_chunk(path: Path, part: int, lsn: int) -> JournalCorrupt:
    """For a log with a gap."""
    return _corrupt(path, f"chunk {lsn} of partition {part} is missing")


def _corrupt(path: Path, what: str) -> JournalCorrupt:
    return JournalCorrupt(
        f"{path}: {what}",
        hint=f"Stop perdure and copy the whole directory {path.parent} to a safe place first. Then "
        f"restore a backup, or see what `sqlite3 {path.name} .recover` can save.",
    )


def _schema_version(connection: sqlite3.Connection, path: Path) -> int:
    """0 for a new file. Raises for one that is not ours to write."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if not tables:
        return 0
    if not {"meta", "part", "chunk"} <= tables:
        raise _corrupt(path, "this is a database, but no store of perdure")
    version: int = _meta(connection, "schema")
    if version > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"{path} was written by a newer perdure: its schema is {version}, "
            f"and this one knows those up to {SCHEMA_VERSION}",
            hint="pip install --upgrade perdure",
        )
    return version


def _decide_layout(
    connection: sqlite3.Connection, partitions: int, random_bytes: Callable[[int], bytes]
) -> None:
    layout = new_layout(partitions, random_bytes)
    _put_meta(
        connection,
        partitions=layout.partitions,
        hash_seed=layout.hash_seed,
        secret=layout.secret,
    )
    connection.executemany(
        "INSERT INTO part (part, epoch, tail, checkpoint, swept, node) VALUES (?, 0, 0, 0, 0, '')",
        [(part,) for part in range(partitions)],
    )


def _meta(connection: sqlite3.Connection, name: str) -> Any:
    return connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()[0]


def _put_meta(connection: sqlite3.Connection, **values: int | bytes) -> None:
    connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())


def _scripts() -> list[tuple[int, str]]:
    """The numbered files, ascending."""
    folder = files("perdure.store") / "schema" / "sqlite"
    return sorted(
        (int(file.name.partition("_")[0]), file.read_text(encoding="utf-8"))
        for file in folder.iterdir()
        if file.name.endswith(".sql")
    )


def _statements(script: str) -> Iterator[str]:
    """A script's statements: `executescript` would commit before the first one."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
