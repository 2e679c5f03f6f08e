"""Indexed attributes in the embedded store: the statements of their table, and the search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from perdure.store.base import Checkpoint, Condition

DROP = "DELETE FROM indexed WHERE oid = ?"
PUT = "INSERT OR REPLACE INTO indexed (oid, kind, key, name, value) VALUES (?, ?, ?, ?, ?)"
PUT_KIND = "INSERT OR REPLACE INTO indexed_kind (kind, names) VALUES (?, ?)"
KINDS = "SELECT kind, names FROM indexed_kind"
VALUES = "SELECT name, value FROM indexed WHERE oid = ?"


def checkpoint(
    put: Callable[[str, Sequence[tuple[object, ...]]], None],
    many: Callable[[str, Sequence[tuple[object, ...]]], Any],
    slice_: Checkpoint,
) -> None:
    """Replace the values of objects."""
    if slice_.indexed:
        many(DROP, [(row.oid,) for row in slice_.indexed])
        put(
            PUT,
            [
                (row.oid, row.kind, row.key, name, value)
                for row in slice_.indexed
                for name, value in row.values.items()
            ],
        )
    if slice_.indexed_kinds:
        put(PUT_KIND, slice_.indexed_kinds)


def search(
    kind: str, conditions: Sequence[Condition], after: str | None, limit: int, columns: str
) -> tuple[str, list[object]]:
    """The statement that finds objects, and its values.

    The first condition goes through the index of values, which has the keys in order behind an
    equal value; the others look at the object's own rows.
    """
    first, *others = conditions
    values: list[object] = [kind, first.name]
    where = [f"i.kind = ? AND i.name = ? AND ({_ranges('i', first, values)})"]
    for number, condition in enumerate(others):
        table = f"i{number}"
        values.append(condition.name)
        where.append(
            f"EXISTS (SELECT 1 FROM indexed {table} WHERE {table}.oid = i.oid"
            f" AND {table}.name = ? AND ({_ranges(table, condition, values)}))"
        )
    if after is not None:
        where.append("i.key > ?")
        values.append(after)
    statement = f"""
SELECT {columns}, NULL, connections FROM indexed i CROSS JOIN object USING (oid)
 WHERE {" AND ".join(where)} AND object.status <> 'deleted'
 ORDER BY i.key LIMIT ?"""
    return statement, [*values, limit]


def _ranges(table: str, condition: Condition, values: list[object]) -> str:
    parts = []
    for low, high in condition.ranges:
        parts.append(f"{table}.value >= ? AND {table}.value < ?")
        values += (low, high)
    return " OR ".join(parts) or "0"
