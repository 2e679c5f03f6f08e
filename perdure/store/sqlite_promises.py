"""The index of open promises in the embedded store: its statements, and the list."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from perdure.store.base import PromiseFilter, PromiseRow

PUT_PROMISE = """
INSERT OR REPLACE INTO promise (part, since, token, oid, kind, key, type, until)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
DROP_PROMISE = "DELETE FROM promise WHERE token = ?"


def listing(
    wanted: PromiseFilter, after: tuple[int, str] | None, limit: int
) -> tuple[str, Sequence[object]]:
    """The statement for a list of promises, and its values."""
    filters = {"kind = ?": wanted.kind, "key = ?": wanted.key, "type = ?": wanted.type}
    given = {text: value for text, value in filters.items() if value is not None}
    statement = _listing(tuple(given), after is not None)
    return statement, (*given.values(), *(after or ()), limit)


@cache
def _listing(conditions: tuple[str, ...], goes_on: bool) -> str:
    both = (*conditions, "(since, token) > (?, ?)") if goes_on else conditions
    where = f"WHERE {' AND '.join(both)}" if both else ""
    columns = ", ".join(PromiseRow._fields)
    return f"SELECT {columns} FROM promise {where} ORDER BY since, token LIMIT ?"
