"""A SQLite store that is only read, beside a server that may be running on it.

Nothing is locked and nothing is written: each reading method of the store gives what is on disk at
that moment.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from perdure.errors import StoreUnavailable
from perdure.store.base import SCHEMA_VERSION, Layout
from perdure.store.sqlite import SqliteStore
from perdure.store.sqlite_file import DATABASE, connect, trouble


class ReadingStore(SqliteStore):
    """For `scan`, `load`, `history`, `tail`, `get_blob`, `get_version`; the rest is refused."""

    def open_files(self, node: str) -> Layout:
        """Open the file to read from."""
        self._path = Path(self._directory) / DATABASE
        if not self._path.is_file():
            raise StoreUnavailable(
                f"there is no store in {self._directory}", hint="Is it the right directory?"
            )
        try:
            self._reader = connect(self._path, reads_only=True)
            found = dict(self._reader.execute("SELECT name, value FROM meta").fetchall())
        except sqlite3.Error as error:
            raise trouble(error, self._path) from error
        if found["schema"] != SCHEMA_VERSION:
            self.close_files()
            raise StoreUnavailable(
                f"{self._path} has schema {found['schema']}, and this perdure reads "
                f"{SCHEMA_VERSION}",
                hint="A start of a server of this release brings a copy of it up to date.",
            )
        return Layout(found["partitions"], found["hash_seed"], found["secret"])

    def close_files(self) -> None:
        """Close the file."""
        reader = self.__dict__.pop("_reader", None)
        if reader is not None:
            reader.close()
