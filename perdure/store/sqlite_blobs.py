"""Blobs in the embedded store: the statements, and what is done with them in the writer's hands.

The fence is the same as everywhere: the epoch is compared in the transaction that writes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import NamedTuple

from perdure.store import sqlite_sql as sql
from perdure.store.base import Blob

GET = "SELECT body FROM blob WHERE oid = ? AND name = ? AND part = ?"
UNNAMED = "SELECT oid, name FROM blob WHERE seq = 0 AND part = ? ORDER BY oid, name"

_PUT = """
INSERT INTO blob (part, oid, name, seq, body) VALUES (?, ?, ?, 0, ?)
ON CONFLICT (oid, name) DO UPDATE SET part = excluded.part, seq = 0, body = excluded.body"""
_DROP = "DELETE FROM blob WHERE oid = ? AND name = ?"
_NAME = "UPDATE blob SET seq = ? WHERE oid = ? AND name = ?"
_FORGET = "DELETE FROM blob WHERE oid = ? AND seq > 0 AND seq <= ?"

Execute = Callable[..., sqlite3.Cursor]


class Put(NamedTuple):
    """What `put_blob` was asked for."""

    part: int
    epoch: int
    oid: int
    name: str
    body: bytes


def put(execute: Execute, blob: Put) -> bool:
    """Write one, in a transaction of its own."""
    if not _begin(execute, blob.part, blob.epoch):
        return False
    execute(_PUT, (blob.part, blob.oid, blob.name, blob.body))
    execute(sql.COMMIT)
    return True


def drop(execute: Execute, part: int, epoch: int, blobs: Sequence[tuple[int, str]]) -> bool:
    """Remove some, in a transaction of their own."""
    if not _begin(execute, part, epoch):
        return False
    for place in blobs:
        execute(_DROP, place)
    execute(sql.COMMIT)
    return True


def _begin(execute: Execute, part: int, epoch: int) -> bool:
    # From here on nobody else can write, so a look at the epoch is as good as a write.
    execute(sql.BEGIN)
    (owner, *_) = execute(sql.PART, (part,)).fetchone()
    if owner != epoch:
        execute(sql.ROLLBACK)
    return bool(owner == epoch)


def checkpoint(execute: Execute, blobs: Sequence[Blob], forget: Sequence[tuple[int, int]]) -> None:
    """The part of a checkpoint's slice that is about blobs, in its transaction."""
    for oid, name, seq in blobs:
        execute(_NAME, (seq, oid, name))
    for place in forget:
        execute(_FORGET, place)
