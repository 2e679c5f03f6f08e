"""The table of calls in the embedded store: its statements, and what a checkpoint does to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from perdure.store.base import CallFilter, CallRow, Checkpoint

_COLUMNS = ", ".join(CallRow._fields)

PUT_CALL = f"""
INSERT OR REPLACE INTO calls (part, {_COLUMNS})
VALUES (?, {", ".join("?" * len(CallRow._fields))})"""
DROP_OPEN = "DELETE FROM calls WHERE oid = ? AND ended = 0"
DROP_OLD = "DELETE FROM calls WHERE ended > 0 AND ended < ?"


def checkpoint(
    put: Callable[[str, Sequence[tuple[object, ...]]], None],
    many: Callable[[str, Sequence[tuple[object, ...]]], Any],
    slice_: Checkpoint,
) -> None:
    """Replace the open calls of objects, add those that failed, and drop old ones."""
    many(DROP_OPEN, [(oid,) for oid, _ in slice_.calls])
    rows = [row for _, rows in slice_.calls for row in rows]
    # What is open comes first: a call that failed in a later turn has failed.
    put(PUT_CALL, [(slice_.part, *row) for row in (*rows, *slice_.failed)])
    if slice_.forget_calls:
        many(DROP_OLD, [(slice_.forget_calls,)])


def listing(
    wanted: CallFilter, after: tuple[int, str] | None, limit: int
) -> tuple[str, list[object]]:
    """The statement for a list of calls, the newest first, and its values."""
    conditions: list[str] = []
    values: list[object] = []

    def add(condition: str, *more: object) -> None:
        conditions.append(condition)
        values.extend(more)

    if wanted.statuses is not None:
        add(f"status IN ({', '.join('?' * len(wanted.statuses))})", *wanted.statuses)
    if wanted.kind is not None:
        add("kind = ?", wanted.kind)
    if wanted.oid is not None:
        add("oid = ?", wanted.oid)
    if wanted.since:
        add("since >= ?", wanted.since)
    if wanted.late:
        add("ended = 0 AND deadline > 0 AND deadline < ?", wanted.late)
    if wanted.unheard:
        add("unheard = 1 AND ended > 0")
    if after is not None:
        add("(since, id) < (?, ?)", *after)
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    statement = f"SELECT {_COLUMNS} FROM calls {where} ORDER BY since DESC, id DESC LIMIT ?"
    return statement, [*values, limit]
