"""Which store the settings name, and what is known of it before a node runs."""

from __future__ import annotations

import os

from perdure.errors import BadSettings
from perdure.settings import Settings
from perdure.store.base import Layout, Store, new_layout
from perdure.store.memory import MemoryStore
from perdure.store.sqlite import SqliteStore

__all__ = ["open_store", "prepare"]


def open_store(settings: Settings) -> Store:
    """The store of `settings.store`, else the one in `settings.data`. It is not yet opened.

    Raises BadSettings for an URL that no store is known for.
    """
    kind, directory = _where(settings)
    if kind == "memory":
        return MemoryStore(_memory_layout())
    return SqliteStore(directory, commit_inline_ms=settings.commit_inline_ms)


def prepare(settings: Settings) -> Layout:
    """Make the store if it is not there, and say what it was made with.

    The supervisor needs the hash seed before there is a process that could open the store for
    good. Raises what `Store.open` raises.
    """
    kind, directory = _where(settings)
    if kind == "memory":
        return _memory_layout()
    store = SqliteStore(directory)
    layout = store.open_files("")
    store.close_files()
    return layout


def _where(settings: Settings) -> tuple[str, str]:
    if settings.store is None:
        return "sqlite", settings.data
    kind, colon, rest = settings.store.partition(":")
    if settings.store == "memory:" or (kind == "sqlite" and colon and rest):
        return kind, rest
    raise BadSettings(
        f"no store is known for {settings.store!r}",
        hint="known are: sqlite:DIR (or --data DIR), memory:",
    )


def _memory_layout() -> Layout:
    """It ends with the process, so the seed this process already has is as good as any."""
    layout = new_layout()
    seed = os.environ.get("PYTHONHASHSEED", "")
    if seed.isdecimal() and 0 < int(seed) < 2**32:
        layout = Layout(layout.partitions, int(seed), layout.secret)
    return layout
