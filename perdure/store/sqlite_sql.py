"""The statements of the embedded store. The tables: schema/sqlite/."""

from __future__ import annotations

from functools import cache

from perdure.store.base import ObjectFilter

LSN_BITS = 40
"""A chunk's id is its partition, shifted by so many bits, plus its lsn."""

BEGIN = "BEGIN IMMEDIATE"
COMMIT = "COMMIT"
ROLLBACK = "ROLLBACK"

# A commit, with the fence and all: the trigger behind it refuses with this text.
APPEND = "INSERT INTO append (part, epoch, lsn, body) VALUES (?, ?, ?, ?)"
FENCED = "fenced"

PART = "SELECT epoch, tail, checkpoint FROM part WHERE part = ?"
CLAIM = "UPDATE part SET epoch = epoch + 1, node = ? WHERE part = ?"
OUTBOX = "SELECT body FROM outbox WHERE part = ? ORDER BY n"
CHUNKS = "SELECT id, body FROM chunk WHERE id > ? AND id <= ? ORDER BY id"

COLUMNS = (
    "oid, object.kind, object.key, object.seq, last, wake_at, status, detail, created, updated, "
    "version"
)

LOAD = f"""
SELECT {COLUMNS}, snapshot.body, connections, suspended.seq, suspended.body
  FROM object LEFT JOIN snapshot USING (oid) LEFT JOIN suspended USING (oid)
 WHERE oid = ? AND part = ?"""
# Segments do not overlap, so the one that holds turn `after` is the last that begins at or before.
SEGMENTS = """
SELECT oid, first, last, body, until FROM segment
 WHERE oid = :oid AND last > :after
   AND first >= ifnull((SELECT max(first) FROM segment WHERE oid = :oid AND first <= :after), 0)
 ORDER BY first LIMIT :limit"""

_PUT = """
INSERT INTO object
    (oid, part, kind, key, last, wake_at, status, detail, created, updated, version, connections,
     seq)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (oid) DO UPDATE SET
    part = excluded.part, last = excluded.last, wake_at = excluded.wake_at,
    status = excluded.status, detail = excluded.detail, created = excluded.created,
    updated = excluded.updated, version = excluded.version, connections = excluded.connections"""
PUT_ROW = _PUT + ", seq = excluded.seq"
# The snapshot stays as it is, and with it the seq it was taken at.
PUT_ROW_ALONE = _PUT
PUT_SNAPSHOT = "INSERT OR REPLACE INTO snapshot (oid, body) VALUES (?, ?)"
DROP_SNAPSHOT = "DELETE FROM snapshot WHERE oid = ?"
PUT_SUSPENDED = "INSERT OR REPLACE INTO suspended (oid, seq, body) VALUES (?, ?, ?)"
DROP_SUSPENDED = "DELETE FROM suspended WHERE oid = ?"
NEXT_STAMP = "UPDATE part SET stamp = stamp + 1 WHERE part = ?"
STAMP = "UPDATE object SET stamp = (SELECT stamp FROM part WHERE part = ?) WHERE oid = ?"
PUT_SEGMENT = (
    "INSERT OR REPLACE INTO segment (oid, first, last, body, until) VALUES (?, ?, ?, ?, ?)"
)
FORGET = "DELETE FROM segment WHERE oid = ? AND last <= ?"
MOVE_CHECKPOINT = "UPDATE part SET checkpoint = ? WHERE part = ?"
DROP_OUTBOX = "DELETE FROM outbox WHERE part = ?"
PUT_OUTBOX = "INSERT INTO outbox (part, n, body) VALUES (?, ?, ?)"

CONNECTED = f"""
SELECT {COLUMNS}, NULL, connections FROM object
 WHERE connections > 0 AND part = ? AND oid > ? ORDER BY oid LIMIT ?"""

PUT_VERSION = "INSERT OR IGNORE INTO version (version, bundle, created) VALUES (?, ?, ?)"
VERSIONS = "SELECT version, created, length(bundle) FROM version ORDER BY created, rowid"
GET_VERSION = "SELECT bundle FROM version WHERE version = ?"

MOVE_WAL = "PRAGMA wal_checkpoint(PASSIVE)"


@cache
def for_many(statement: str, rows: int) -> str:
    """An INSERT of one row, turned into one of `rows` rows.

    In a thread each statement is a wait for the GIL, and one that holds the loop up; a single one
    runs beside the loop.
    """
    head, _, rest = statement.partition("VALUES (")
    values, _, tail = rest.partition(")")
    return f"{head}VALUES {', '.join([f'({values})'] * rows)}{tail}"


def due(parts: int) -> str:
    """For `parts` partitions; the first condition is that of the index."""
    places = ", ".join("?" * parts)
    return f"""
SELECT {COLUMNS}, NULL, connections FROM object
 WHERE wake_at > 0 AND status = '' AND wake_at <= ? AND part IN ({places})
 ORDER BY wake_at, oid LIMIT ?"""


def scan(
    wanted: ObjectFilter, after: tuple[str, str] | None, limit: int
) -> tuple[str, list[object]]:
    """A statement and its values, so that each combination uses an index as far as it can."""
    kind, prefix, status = wanted
    conditions = ["1"]
    values: list[object] = []

    def add(condition: str, *more: object) -> None:
        conditions.append(condition)
        values.extend(more)

    if kind is not None:
        add("kind = ?", kind)
    if prefix:
        add("key >= ?", prefix)
        end = behind_prefix(prefix)
        if end is not None:
            add("key < ?", end)
    if after is not None:
        add("(kind, key) > (?, ?)", *after)
    if status is None:
        # The plus keeps SQLite from taking the index of states, which would need sorting.
        add("+status <> 'deleted'")
    elif status:
        add("status = ? AND status <> ''", status)
    else:
        add("+status = ''")
    where = " AND ".join(conditions)
    order = "ORDER BY kind, key LIMIT ?"
    statement = f"SELECT {COLUMNS}, NULL, connections FROM object WHERE {where} {order}"
    return statement, [*values, limit]


def behind_prefix(prefix: str) -> str | None:
    """The first text behind all that begin with `prefix`, by code point; None if there is none."""
    for end in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[end])
        if code < 0x10FFFF:
            # Surrogates are no text.
            successor = 0xE000 if code == 0xD7FF else code + 1
            return prefix[:end] + chr(successor)
    return None
