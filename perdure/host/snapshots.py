"""Snapshots of live objects: when they are worth it, and what becomes of them.

One of an object whose code is all at rest is plain data, and the base that its journal is replayed
from. One that holds suspended code is a cache beside the base: it shortens the replay, and is
checked and thrown away on any doubt (load.py). Only for an object that is never at rest it becomes
the base, by `promotable`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from perdure.errors import NotSerializable, PerdureError
from perdure.host.machine import Machine
from perdure.host.raw_requests import clients_of
from perdure.host.replay import replay_segments
from perdure.host.upgrades import begin_from, settle
from perdure.journal.identity import first_name
from perdure.logs import logger
from perdure.store.base import ObjectRow, Stored, Suspended
from perdure.suspend import heap

if TYPE_CHECKING:
    from perdure.host.activation import Activation
    from perdure.host.host import Host


# A snapshot with suspended code costs about as much as replaying this many turns.
TURNS_WORTH_A_CACHE = 200

# An object that cannot be kept as bytes leaves memory only while it is this young: a replay of so
# many turns takes some milliseconds.
REPLAY_MAX = 2_000

# So many turns behind its base, an object that is never at rest gets a newer base.
TURNS_BEHIND_BASE = 5_000

_PAGE = 16


def take_snapshot(host: Host, activation: Activation, *, stays: bool) -> Stored | None:
    """The object as it is after its last turn; None if it cannot be kept as bytes.

    One that stays in memory goes on from the bytes where they hold sets, or suspended code: a set
    is walked in another order after a round trip than before it, and a later replay begins from
    the bytes; and that a rebuilt copy goes on as the original would is seen by letting it.
    """
    machine = activation.machine
    if activation.taken is not None and newest_seq(activation.taken) == machine.seq:
        # Bytes of a memory that came from bytes would have its sets in a third order.
        return activation.taken
    quiescent = machine.quiescent()
    try:
        snapshot = heap.dump_heap(machine)
        # A function made in a function, kept in an attribute or as a timer, is code too.
        quiescent = quiescent and not heap.is_suspended(snapshot)
        if stays and (heap.has_sets(snapshot) or not quiescent):
            activation.adopt(snapshot)
    except (NotSerializable, heap.CodeChanged) as error:
        if quiescent:
            logger.warning("an object has no snapshot", object=machine.address, why=str(error))
        activation.unkept = str(error)
        return None
    activation.unkept = ""
    machine = activation.machine
    if quiescent:
        stored = Stored(_row(host, machine, machine.seq, snapshot, activation.wake_at), [])
    else:
        row = _row(host, machine, activation.base_seq, None, activation.wake_at)
        stored = Stored(row, [], Suspended(machine.oid, machine.seq, snapshot))
    if machine.reloaded:
        activation.taken = stored
    return stored


def newest_seq(stored: Stored) -> int:
    """The turn of the newest snapshot that a stored object has."""
    cache = stored.suspended
    return max(stored.row.seq, cache.seq if cache is not None else 0)


def worth_it(activation: Activation) -> bool:
    """Whether a checkpoint should take a snapshot: it costs less than the replay it saves.

    Not where the stored one is about to be tried as a base: a newer one would take its place.
    """
    machine = activation.machine
    behind = machine.seq - activation.snapshot_seq
    if behind <= 0 or machine.quiescent():
        return behind > 0
    cached = activation.snapshot_seq > activation.base_seq
    far = activation.host.checkpointer.far_behind(machine.oid)
    if cached and machine.seq - activation.base_seq >= far:
        return False
    return behind >= TURNS_WORTH_A_CACHE


def _row(host: Host, machine: Machine, seq: int, snapshot: bytes | None, wake_at: int) -> ObjectRow:
    return ObjectRow(
        oid=machine.oid,
        kind=first_name(machine.kind.name),
        key=machine.key,
        seq=seq,
        last=0,
        wake_at=wake_at,
        status="" if machine.instance is not None else "deleted",
        detail="",
        created=0,
        updated=machine.now_ns,
        version=machine.kind.version or host.version,
        snapshot=snapshot,
        connections=clients_of(machine),
    )


async def promotable(host: Host, stored: Stored) -> bool:
    """Whether the stored cache of an object may become its base.

    The journal is replayed from the base up to the turn that the cache was taken at: then what
    the cache's bytes load to has to be the same memory. It goes on through the turns that the live
    object has run since, from the copy that those bytes gave; each of them has to ask for what the
    journal says. Both together are all that anybody can see of a difference. It takes pages at a
    time, so that calls are answered in between.
    """
    row, cache = stored.row, stored.suspended
    if cache is None or row.last <= cache.seq:
        return False
    machine, copy = (
        Machine(host.kinds[row.kind], row.key, row.oid, host.surroundings) for _ in range(2)
    )
    why = ""
    try:
        # First, since it costs least: under another Python or other code it does not load.
        begin_from(copy, cache.body, cache.seq)
        await host.versions.having(lambda: settle(copy))
        if row.snapshot is not None:
            begin_from(machine, row.snapshot, row.seq)
        while machine.seq < row.last:
            page = await host.store.history(host.log.part, row.oid, machine.seq, _PAGE)
            await host.blobs.fetch_for(row.oid, page)
            having = host.versions.having
            if machine.seq < cache.seq:
                part = functools.partial(replay_segments, machine, page, cache.seq)
                replayed = await having(part)
                if machine.seq == cache.seq and not heap.same_heap(machine, copy):
                    why = f"a replay of {machine.seq - row.seq} turns comes to something else"
            else:
                replayed = await having(functools.partial(replay_segments, machine, page))
            if why or not replayed:
                break
    except PerdureError as error:
        why = str(error)
    finally:
        done = machine.seq >= row.last
        machine.discard()
        copy.discard()
    if why:
        logger.warning("a snapshot stays a cache", object=machine.address, why=why)
    return done and not why
