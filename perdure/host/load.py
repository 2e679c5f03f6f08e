"""Brings an object into memory: the newest snapshot, and the turns behind it run again.

A snapshot that holds suspended code is a cache that shortens the replay. On any doubt about it
(its code has changed, the interpreter is another, a turn behind it comes out differently) it is
thrown away, and the object is built from its base: the last snapshot of plain data, or its first
turn. What the journal says decides, never the cache.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING

from perdure.errors import (
    CallError,
    DivergenceError,
    JournalCorrupt,
    UpgradeFailed,
    VersionUnusable,
)
from perdure.failure import described
from perdure.host.blobs import BlobElsewhere, named_in, named_in_segments
from perdure.host.replay import replay_segments, replay_tail
from perdure.host.snapshots import newest_seq
from perdure.host.stepping import untaken_blobs
from perdure.host.upgrades import begin_from, bring_over
from perdure.journal import codec
from perdure.logs import logger
from perdure.store.base import ObjectRow, Stored
from perdure.suspend import heap
from perdure.suspend.editions import VersionNotLoaded

if TYPE_CHECKING:
    from perdure.host.activation import Activation


REBUILD = b"rebuild"
"""A load as an event for the supervisor: it runs the app's code and can end the process."""

_PAGE = 64


def load(activation: Activation, read: asyncio.Future[Stored | None] | None = None) -> None:
    """Bring the object from the host's stash, from what was just read, or from the store."""
    host = activation.host
    stash = host.stash.get(activation.machine.oid)
    if stash is not None:
        loaded(activation, stash)
        return
    future = read or host.store.load(host.log.part, activation.machine.oid)
    if future.done():
        _load_done(activation, future)
    else:
        future.add_done_callback(lambda done: _load_done(activation, done))


def _load_done(activation: Activation, future: asyncio.Future[Stored | None]) -> None:
    if not activation.is_loading():
        return
    try:
        stored = future.result()
    except Exception as error:
        activation.unusable(error)
        return
    loaded(activation, stored)


def loaded(activation: Activation, stored: Stored | None) -> None:
    """Build the object from what was read; the activation begins, or is unusable."""
    host, machine = activation.host, activation.machine
    if stored is not None and (
        host.kinds.get(stored.row.kind) is not activation.kind or stored.row.key != machine.key
    ):
        # Two addresses with one number. It was never seen; it must not pass unseen.
        there = f"{stored.row.kind}/{stored.row.key}"
        text = f"{machine.address} and {there} hash to the same number"
        activation.unusable(CallError(text, hint="Rename one of them."))
        return
    if host.quarantine.kills(activation, REBUILD):
        return
    if host.slot is not None:
        host.slot.begin(machine.address, REBUILD)
    try:
        replayed = _build(activation, stored)
        upgrade = bring_over(activation)
    except BlobElsewhere as error:
        host.keep(_fetch_and_load(activation, stored, error.name))
        return
    except VersionNotLoaded as missing:
        host.keep(_load_with(activation, missing.version))
        return
    except UpgradeFailed as error:
        activation.unusable(error)
        return
    except Exception as error:
        if stored is None or not rests_on_code(stored):
            activation.unusable(error)
            return
        logger.warning(
            "a snapshot of suspended code is not used",
            object=machine.address,
            why=described(error),
        )
        host.keep(_build_from_base(activation))
        return
    finally:
        if host.slot is not None:
            host.slot.end()
    base_seq = stored.row.seq if stored is not None else 0
    suspended = stored.suspended if stored is not None else None
    snapshot_seq = suspended.seq if suspended is not None else base_seq
    activation.begin(replayed, base_seq, snapshot_seq, upgrade)


async def _load_with(activation: Activation, version: str) -> None:
    """Load once more, with a version of the code that was not in memory."""
    try:
        await activation.host.versions.fetch(version)
    except Exception as error:
        if activation.is_loading():
            activation.unusable(error)
        return
    if activation.is_loading():
        activation.renew_machine()
        load(activation)


async def _fetch_and_load(activation: Activation, stored: Stored | None, name: str) -> None:
    """Load again, with all blobs at hand that this load may need."""
    host, oid = activation.host, activation.machine.oid
    names = {name, *untaken_blobs(activation.machine)}
    try:
        names |= named_in_segments(stored.segments if stored is not None else [])
        for body in host.log.entries_of(oid):
            names.add(named_in(codec.decode_entry(body)))
        await host.blobs.fetch(oid, names - {""})
    except Exception as error:
        if activation.is_loading():
            activation.unusable(error)
        return
    if activation.is_loading():
        activation.renew_machine()
        activation.load()


def rests_on_code(stored: Stored) -> bool:
    """Whether the newest snapshot may have been spoilt by a change of code or interpreter alone.

    So may the base of an object that is never at rest: it was a cache before.
    """
    base = stored.row.snapshot or b""
    # It may be damaged, and too short to say.
    return stored.suspended is not None or (len(base) > 4 and heap.is_suspended(base))


def _build(activation: Activation, stored: Stored | None) -> int:
    machine = activation.machine
    replayed = 0
    if stored is not None:
        newest = stored.suspended.body if stored.suspended is not None else stored.row.snapshot
        if newest is not None:
            seq = newest_seq(stored)
            hint = stored.row.version if seq == stored.row.last else ""
            begin_from(machine, newest, seq, hint)
        replayed = replay_segments(machine, stored.segments)
    return replayed + replay_tail(machine, activation.host.log.entries_of(machine.oid))


async def _build_from_base(activation: Activation) -> None:
    """Without the cache: from the base, or from the first turn if the base cannot be loaded."""
    host, oid = activation.host, activation.machine.oid
    try:
        stored = await host.store.load(host.log.part, oid)
        row = stored.row if stored is not None else None
        activation.renew_machine()
        try:
            replayed, base_seq = await _replay_from(activation, row)
        except (DivergenceError, VersionUnusable):
            raise
        except Exception as error:
            if row is None or row.snapshot is None:
                raise
            activation.renew_machine()
            try:
                replayed, base_seq = await _replay_from(activation, None)
            except JournalCorrupt:
                # Its first turns are no longer kept: then this is why it cannot be loaded.
                raise error from None
        upgrade = await host.versions.having(lambda: bring_over(activation))
    except Exception as error:
        if activation.is_loading():
            activation.unusable(error)
        return
    if activation.is_loading():
        activation.begin(replayed, base_seq, base_seq, upgrade)


async def _replay_from(activation: Activation, row: ObjectRow | None) -> tuple[int, int]:
    """Run the journal behind a snapshot, page by page; gives how many turns, and from which on."""
    host, machine = activation.host, activation.machine
    if row is not None and row.snapshot is not None:
        hint = row.version if row.seq == row.last else ""
        begin_from(machine, row.snapshot, row.seq, hint)
    base_seq = machine.seq
    having = host.versions.having
    replayed = 0
    if host.blobs.elsewhere:
        tail = [named_in(codec.decode_entry(body)) for body in host.log.entries_of(machine.oid)]
        names = {*tail, *untaken_blobs(machine)} - {""}
        await host.blobs.fetch(machine.oid, names)
    while segments := await host.store.history(host.log.part, machine.oid, machine.seq, _PAGE):
        await host.blobs.fetch_for(machine.oid, segments)
        replayed += await having(functools.partial(replay_segments, machine, segments))
    entries = host.log.entries_of(machine.oid)
    return replayed + await having(lambda: replay_tail(machine, entries)), base_seq
