"""Where stores live, so that one suite can ask for several owners of the same data.

A home hands out stores: each is what another process would have. Opening one while others are
open, or after they were left without closing, is what a takeover and a crash look like.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from perdure.store.base import Store, new_layout
from perdure.store.memory import MemoryStore
from perdure.store.sqlite import SqliteStore
from perdure.testing.faults import FaultyStore

PARTITIONS = 4


class Home(Protocol):
    def store(self) -> Store: ...


class MemoryHome:
    def __init__(self, kind: type[MemoryStore] = MemoryStore, *, faulty: bool = False) -> None:
        self.memory = kind(new_layout(PARTITIONS))
        self.faulty = faulty

    def store(self) -> Store:
        return FaultyStore(self.memory) if self.faulty else self.memory


class SqliteHome:
    def __init__(self, directory: Path, **options: Any) -> None:
        self.directory = directory
        self.options = options

    def store(self) -> SqliteStore:
        # Without the lock of the directory: the fence alone has to keep owners apart.
        return SqliteStore(self.directory, partitions=PARTITIONS, exclusive=False, **self.options)


@asynccontextmanager
async def opened(home: Home, count: int = 1) -> AsyncIterator[list[Store]]:
    """So many stores of a home, opened, and closed at the end."""
    async with AsyncExitStack() as stack:
        stores = []
        for number in range(count):
            store = home.store()
            await store.open(f"node-{number}")
            stack.push_async_callback(store.close)
            stores.append(store)
        yield stores
