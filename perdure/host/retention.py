"""What of the past goes: history that nobody wants to keep, and all that is stored of an object."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from perdure.errors import UnknownKind, UnknownObject
from perdure.journal.identity import oid_of
from perdure.ref import parse_address
from perdure.settings import kept_ns
from perdure.store.base import Pruned, Pruning

if TYPE_CHECKING:
    from perdure.host.host import Host


def cutoffs(host: Host) -> dict[str, int]:
    """By class, the time before which its history is not kept; those that keep it are left out."""
    now = host.clock.now_ns()
    found: dict[str, int] = {}
    for kind in host.kinds.values():
        kept = kept_ns(kind.history or host.settings.history)
        if kept is not None:
            found[kind.name] = now - kept
    return found


async def prune(
    host: Host, before: Mapping[str, int], *, apply: bool, over: Mapping[str, int] | None = None
) -> Pruned:
    """Remove history of classes from before a time for each, and of each object what is `over` so
    many bytes for its class, as far as no rebuild needs it.

    With `apply=False` only say what would go. Raises UnknownKind, and what the store raises.
    """
    for name in (*before, *(over or {})):
        if name not in host.kinds:
            raise UnknownKind(f"no class {name!r} is served here")
    if apply:
        # The newest snapshots come first: what lies before them is what may go.
        await host.checkpointer.run()
    asked = Pruning(host.log.part, host.log.epoch, before, over or {}, apply)
    pruned = await host.store.prune(asked)
    if pruned is None:
        raise host.log.fenced()
    return pruned


async def erase(host: Host, address: str, *, name: bool, compact: bool) -> int:
    """End an object and remove all that is stored of it; gives the turns that are gone.

    Its row stays, with class, key, times and how many turns it had, unless `name` is to go as
    well. `compact` rewrites the store, so that not even free space has a trace. What other objects
    were told is theirs, and stays. Raises UnknownKind, UnknownObject, and what the store raises.
    """
    oid = oid_of(*parse_address(address))
    if await host.identity(oid) is None:
        raise UnknownObject(f"there is no object {address}")
    await host.delete(address)
    # Out of memory, and its entries out of the log.
    activation = host.find(oid)
    if activation is not None:
        host.residency.let_go(activation)
    await host.checkpointer.run()
    log = host.log
    stored = await host.store.load(log.part, oid)
    if stored is None:
        raise UnknownObject(f"there is no object {address}")
    row = dataclasses.replace(stored.row, detail="erased") if not name else None
    if not await host.store.erase(log.part, log.epoch, oid, row, host.clock.now_ns()):
        raise log.fenced()
    if compact:
        await host.store.compact()
    return stored.row.last
