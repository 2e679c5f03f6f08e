"""What a checkpoint does to the tables of objects in the embedded store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from perdure.store import sqlite_blobs, sqlite_calls, sqlite_indexed, sqlite_promises
from perdure.store import sqlite_past as past_sql
from perdure.store import sqlite_sql as sql
from perdure.store.base import Checkpoint

DELETED = "deleted"


def checkpoint(
    execute: Callable[..., Any],
    put: Callable[[str, Sequence[tuple[object, ...]]], None],
    many: Callable[[str, Sequence[Any]], Any],
    slice_: Checkpoint,
) -> None:
    """Write a slice, inside a transaction. `put` inserts rows in few statements."""
    for oid in slice_.drop:
        for statement in past_sql.DROP_OBJECT:
            execute(statement, (oid,))
    rows, rows_alone, snapshots, dropped = [], [], [], []
    for row in slice_.rows:
        values = (
            *(row.oid, slice_.part, row.kind, row.key, row.last, row.wake_at, row.status),
            *(row.detail, row.created, row.updated, row.version, row.connections),
        )
        if row.snapshot is not None:
            rows.append((*values, row.seq))
            snapshots.append((row.oid, row.snapshot))
        elif row.seq > 0 and row.status != DELETED:
            rows_alone.append((*values, 0))
        else:
            rows.append((*values, row.seq))
            dropped.append((row.oid,))
    put(sql.PUT_ROW, rows)
    put(sql.PUT_ROW_ALONE, rows_alone)
    execute(sql.NEXT_STAMP, (slice_.part,))
    many(sql.STAMP, [(slice_.part, row.oid) for row in slice_.rows])
    put(sql.PUT_SNAPSHOT, snapshots)
    many(sql.DROP_SNAPSHOT, dropped)
    fresh = {suspended.oid for suspended in slice_.suspended}
    stale = [(row[0],) for row in rows if row[0] not in fresh]
    many(sql.DROP_SUSPENDED, stale)
    put(sql.PUT_SUSPENDED, slice_.suspended)
    put(sql.PUT_SEGMENT, slice_.segments)
    many(sql.FORGET, slice_.forget)
    sqlite_blobs.checkpoint(execute, slice_.blobs, slice_.forget)
    many(sqlite_promises.DROP_PROMISE, [(token,) for token in slice_.settled])
    promises = [(slice_.part, *promise) for promise in slice_.promises]
    put(sqlite_promises.PUT_PROMISE, promises)
    stale_waypoints = [(oid, 0, upto) for oid, upto in slice_.forget]
    many(past_sql.DROP_WAYPOINTS, stale_waypoints)
    sqlite_calls.checkpoint(put, many, slice_)
    sqlite_indexed.checkpoint(put, many, slice_)
