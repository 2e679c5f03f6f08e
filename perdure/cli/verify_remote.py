"""The objects of a running server, for `perdure verify --url`: each is exported, one at a time.

An export holds the chance of each turn and nothing of the store's secret; it needs the admin token.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

from perdure.cli.client import Server
from perdure.errors import UnknownObject
from perdure.journal.entry import Entry
from perdure.journal.identity import oid_of
from perdure.past import extract
from perdure.past.extract import Extract
from perdure.past.verify import Source
from perdure.store.base import Layout, ObjectRow, Stored
from perdure.store.memory import MemoryStore

_PAGE = 1000


class RemoteSource(Source):
    """What a server has, as of the moment each object is asked for."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._store = MemoryStore()
        self._names: dict[int, tuple[str, str]] = {}
        self._one: tuple[int, Extract] | None = None
        self._store.get_blob = self._get_blob  # type: ignore[method-assign]
        super().__init__(self._store, Layout(1, 1, b""))

    def hash_seed(self) -> int | None:
        """That of the server's processes; None if there is no object to tell it."""
        for kind, key in self._list(None, limit=1):
            return self._export(kind, key).head.hash_seed
        return None

    async def read_tail(self) -> None:
        """An export has it."""

    async def names(self, kind: str | None) -> list[tuple[str, str]]:
        """As `perdure ls` has them."""
        found = self._list(kind)
        self._names = {oid_of(*name): name for name in found}
        return found

    def _list(self, kind: str | None, limit: int = 0) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        after = None
        while True:
            page = self._server.get(
                "objects", **{"class": kind, "after": after, "limit": limit or _PAGE}
            )
            found += [(one["class"], one["key"]) for one in page]
            if limit or len(page) < _PAGE:
                return found
            after = page[-1]["address"]

    def _export(self, kind: str, key: str) -> extract.Export:
        path = f"/_perdure/objects/{quote(kind, safe='')}/{quote(key, safe='')}/export"
        answer = self._server.request("GET", path)
        return extract.read(answer.body, f"export of {kind}/{key}")

    def _extract(self, oid: int) -> Extract | None:
        if self._one is None or self._one[0] != oid:
            if oid not in self._names:
                return None
            export = self._export(*self._names[oid])
            if not export.objects:
                raise UnknownObject("an export without an object")
            self._store.take_in_versions(export.versions)
            self._one = oid, export.objects[0]
        return self._one[1]

    def _get_blob(self, part: int, oid: int, name: str) -> asyncio.Future[bytes | None]:
        future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        future.set_result(self._one[1].blobs.get(name) if self._one is not None else None)
        return future

    async def load(self, oid: int) -> Stored | None:
        """The object with the snapshot that the export has."""
        one = self._extract(oid)
        if one is None:
            return None
        row: dict[str, Any] = {
            "oid": oid, "kind": one.kind, "key": one.key, "seq": one.snapshot_seq,
            "last": one.last, "wake_at": 0, "status": "", "detail": "", "created": 0,
            "updated": 0, "version": "", "snapshot": one.snapshot or None,
        }  # fmt: skip
        return Stored(ObjectRow(**row), [])

    def tail_of(self, oid: int) -> list[Entry]:
        return []

    async def pages(self, oid: int, after: int) -> AsyncIterator[list[Entry]]:
        """Its turns, all at once."""
        one = self._extract(oid)
        entries = [entry for entry in one.entries() if entry.seq > after] if one else []
        if entries:
            yield entries
