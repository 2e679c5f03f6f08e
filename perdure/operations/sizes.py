"""What of a store takes how much room."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from perdure.errors import BadSettings
from perdure.ref import format_address
from perdure.store.sqlite_file import DATABASE, connect, trouble

# The length of a blob is in its row's head: the bodies themselves are not read.
_BY_OBJECT = """
WITH part_of (oid, state, history, blobs) AS (
    SELECT oid, length(body), 0, 0 FROM snapshot
    UNION ALL SELECT oid, length(body), 0, 0 FROM suspended
    UNION ALL SELECT oid, 0, length(body), 0 FROM segment
    UNION ALL SELECT oid, 0, 0, length(body) FROM blob
), object_size AS (
    SELECT oid, sum(state) AS state, sum(history) AS history, sum(blobs) AS blobs
      FROM part_of GROUP BY oid
)"""
_CLASSES = f"""{_BY_OBJECT}
SELECT kind, count(*), ifnull(sum(state), 0), ifnull(sum(history), 0), ifnull(sum(blobs), 0)
  FROM object LEFT JOIN object_size USING (oid) GROUP BY kind ORDER BY kind"""
_LARGEST = f"""{_BY_OBJECT}
SELECT kind, key, last, state, history, blobs FROM object JOIN object_size USING (oid)
 ORDER BY state + history + blobs DESC LIMIT ?"""


def sizes(data: Path, top: int) -> dict[str, Any]:
    """Bytes by class, of the `top` largest objects, and of the rest; served or not.

    Raises BadSettings where there is no store.
    """
    path = data / DATABASE
    if not path.is_file():
        raise BadSettings(
            f"{data} has no store", hint="--data DIR is the directory that perdure serves from."
        )
    try:
        with closing(connect(path, reads_only=True)) as store:
            store.execute("BEGIN")
            return _sizes(store, top)
    except sqlite3.Error as error:
        raise trouble(error, path) from error


def _sizes(store: sqlite3.Connection, top: int) -> dict[str, Any]:
    def number(statement: str) -> int:
        return int(store.execute(statement).fetchone()[0])

    names = ("class", "objects", "state", "history", "blobs")
    page = number("PRAGMA page_size")
    return {
        "classes": [dict(zip(names, row, strict=True)) for row in store.execute(_CLASSES)],
        "largest": [
            {
                "address": format_address(kind, key),
                "turns": turns,
                "state": state,
                "history": history,
                "blobs": blobs,
            }
            for kind, key, turns, state, history, blobs in store.execute(_LARGEST, (top,))
        ],
        "log": number("SELECT ifnull(sum(length(body)), 0) FROM chunk"),
        "waypoints": number("SELECT ifnull(sum(length(body)), 0) FROM waypoint"),
        "versions": number("SELECT ifnull(sum(length(bundle)), 0) FROM version"),
        "file": page * number("PRAGMA page_count"),
        "free": page * number("PRAGMA freelist_count"),
    }
