"""Puts an object with a past into a store: a fork of one that is there, or one from a file.

What it gets is the past of its origin, turn by turn, and one turn more, `Forked`, at which it
becomes itself; from there on it is held back from the outside until it is released
(host/forking.py). All of it lands in one write, so a crash leaves the whole object or nothing.
Calls that come in meanwhile wait, and find the object as it is then.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from perdure.errors import Conflict, NotSerializable, Unavailable, UnknownKind, UnknownObject
from perdure.host.activation import Activation, State
from perdure.host.indexing import Seen
from perdure.host.raw_requests import clients_of
from perdure.journal import codec
from perdure.journal.entry import RULES, Command, Entry, Forked, Promised, Released
from perdure.journal.identity import oid_of
from perdure.kind import Kind
from perdure.past.extract import (
    Export,
    Extract,
    ExtractRecord,
    calls_without_answer,
    extract,
    first_of,
    segments_of,
)
from perdure.past.looking import turn_at
from perdure.past.moment import Moment
from perdure.past.record import record_of
from perdure.past.walk import walk
from perdure.ref import check_key, format_address, parse_address
from perdure.store.base import (
    Blob,
    Checkpoint,
    IndexedRow,
    ObjectRow,
    PromiseRow,
    Segment,
    Suspended,
)
from perdure.suspend import heap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from perdure.host.host import Host

_TRIES = 16


async def fork(
    host: Host, address: str, key: str, at: Moment | None, *, live: bool = False
) -> dict[str, Any]:
    """A new object of the same class, with the past of `address` up to a moment.

    Raises UnknownTurn, Conflict if there is such an object already, DivergenceError where the
    past does not replay.
    """
    record = await record_of(host, address)
    kind, name = _target(record.kind.name, key)
    if kind != record.kind.name:
        raise Conflict(f"{address} cannot become a {kind}", hint="Give a key of its own class.")
    one = await extract(record, await turn_at(record, at))
    return await plant(host, one, name, live=live)


async def bring_in(
    host: Host, export: Export, key: str | None, *, replace: bool = False, live: bool = False
) -> list[dict[str, Any]]:
    """Put the objects of a file into the store; under another key if one is given.

    Raises Conflict if one is there already and `replace` is False, UnknownKind if its class is
    not served; then nothing was put that is not in what was told before.
    """
    if key is not None and len(export.objects) != 1:
        raise Conflict(
            f"the file has {len(export.objects)} objects, and one key is given",
            hint="Leave it out, and each keeps its own.",
        )
    for one in export.objects:
        if one.kind not in host.kinds:
            raise UnknownKind(f"no class {one.kind!r} is served here")
        kind, name = _target(one.kind, key if key is not None else one.key)
        if kind != one.kind:
            raise Conflict(f"{one.address} cannot become a {kind}")
        if not replace and await _is_there(host, kind, name):
            raise _taken(kind, name, replaceable=True)
    for version, bundle in export.versions.items():
        await host.store.put_version(version, bundle, host.clock.now_ns())
    return [
        await plant(
            host,
            one,
            _target(one.kind, key if key is not None else one.key)[1],
            replace=replace,
            live=live,
        )
        for one in export.objects
    ]


async def release(host: Host, address: str) -> None:
    """Let a copy reach the outside; returns when that is on disk. Raises Conflict if it may."""
    kind, key = parse_address(address)
    if kind not in host.kinds:
        raise UnknownKind(f"no class {kind!r} is served here")
    activation = await host.wake(oid_of(kind, key))
    if activation is None:
        raise UnknownObject(f"there is no object {address}")
    if activation.machine.held is None:
        raise Conflict(f"{address} is not held back from anything")
    if host.draining or host.log.refusing:
        raise host.unavailable()
    activation.event(Released())
    await activation.rest()
    await host.log.durable(activation.last_lsn)


async def plant(
    host: Host, one: Extract, key: str, *, replace: bool = False, live: bool = False
) -> dict[str, Any]:
    """Put an object into the store under a key of its class; tells its address and turn."""
    kind = host.kinds[one.kind]
    address = format_address(kind.name, check_key(key))
    oid = oid_of(kind.name, key)
    if not replace and await _is_there(host, kind.name, key):
        raise _taken(kind.name, key)
    if host.draining or host.log.refusing:
        raise host.unavailable()
    slice_ = await _slice(host, one, kind, key, oid)
    async with _alone(host, kind.name, key, oid, replace=replace):
        for name, body in one.blobs.items():
            await host.store.put_blob(host.log.part, host.log.epoch, oid, name, body)
        await host.checkpointer.put(slice_)
        host.stash.pop(oid, None)
        host.sleepers.remove(oid)
        host.quarantine.release(oid)
    if live:
        await release(host, address)
    return {"address": address, "origin": one.address, "seq": one.last + 1, "held": not live}


async def _slice(host: Host, one: Extract, kind: Kind, key: str, oid: int) -> Checkpoint:
    """The new object as one write."""
    surroundings = host.surroundings.copy()
    surroundings.blob = lambda _, name: codec.read_blob(one.blobs[name], f"blob {name}")
    record = ExtractRecord(one, kind, surroundings)
    machine = await walk(record, one.last)
    try:
        asked = await calls_without_answer(record, machine)
        machine.home = oid
        now = max(host.clock.now_ns(), machine.now_ns)
        address = format_address(kind.name, key)
        reloaded, machine.reloaded = machine.reloaded, False
        event = Forked(one.address, address, asked)
        commands = machine.turn(event, now)
        # Their sockets are the origin's: when it is loaded they are found to be lost, and
        # `on_disconnect` runs for each.
        connections = clients_of(machine)
        values = Seen(machine).keys
        entry = Entry(
            machine.seq, machine.now_ns, machine.kind.version, event, commands,
            machine.wake_at(), 0, address if machine.seq == 1 else "", False, reloaded, RULES,
            connections=connections, indexed=values or None,
        )  # fmt: skip
        snapshot: bytes | None = None
        quiescent = machine.quiescent()
        try:
            snapshot = heap.dump_heap(machine)
            quiescent = quiescent and not heap.is_suspended(snapshot)
        except NotSerializable as error:
            if one.first > 1:
                raise Conflict(
                    f"{one.address} at turn {one.last} cannot be copied: {error.message}",
                    hint="Its history does not reach back to where it could be run again from.",
                ) from error
        alive = machine.instance is not None
        wake_at, version = machine.wake_at(), machine.kind.version
    finally:
        machine.discard()
    created = entry.time
    if one.segments:
        created = first_of(one.segments[0], f"the past of {one.address}").time
    plain = snapshot is not None and (quiescent or one.first > 1)
    row = ObjectRow(
        oid, kind.name, key, entry.seq if plain else 0, entry.seq, wake_at,
        "" if alive else "deleted", "", created, entry.time, version,
        snapshot if plain else None, connections,
    )  # fmt: skip
    cache = [Suspended(oid, entry.seq, snapshot)] if snapshot is not None and not plain else []
    segments = await _segments(oid, one)
    segments.append(Segment(oid, entry.seq, entry.seq, next(segments_of(oid, [entry]))))
    return Checkpoint(
        host.log.part,
        host.log.epoch,
        [row],
        segments,
        suspended=cache,
        blobs=[Blob(oid, name, one.last) for name in one.blobs],
        promises=_promises(oid, entry.time, commands),
        indexed=[IndexedRow(oid, kind.name, key, values)] if values else [],
        drop=[oid],
    )


async def _segments(oid: int, one: Extract) -> list[Segment]:
    """The turns of the origin as segments of its copy."""
    found: list[Segment] = []
    first = one.first
    for n, body in enumerate(one.segments):
        place = f"the past of {one.address}, segment {n}"
        frames = [codec.frame(oid, bytes(entry)) for _, entry in codec.read_chunk(body, place)]
        found.append(Segment(oid, first, first + len(frames) - 1, codec.write_chunk(frames)))
        first += len(frames)
        await asyncio.sleep(0)
    if first != one.last + 1:
        raise codec.corrupt(f"the past of {one.address}", f"turn {first} is missing")
    return found


def _promises(oid: int, time_ns: int, commands: list[Command]) -> list[PromiseRow]:
    return [
        PromiseRow(time_ns, one.token, oid, *parse_address(one.address), one.of, one.until_ns)
        for one in commands
        if isinstance(one, Promised)
    ]


# --- the place it goes to


@asynccontextmanager
async def _alone(
    host: Host, kind: str, key: str, oid: int, *, replace: bool
) -> AsyncIterator[Activation]:
    """Nobody's turns at a key: calls that come wait until another object is in its place."""
    for _ in range(_TRIES):
        # What is in the tail of the log would be taken for turns of the new one.
        if oid in host.log.dirty() or oid in host.stash:
            await host.checkpointer.run()
        activation = host.find(oid) or host.activate(kind, key, oid)
        state = await activation.settled()
        if oid not in host.log.dirty() and oid not in host.stash:
            break
    else:
        raise Unavailable(f"{kind}/{key} is too busy to be replaced", hint="Try again.")
    if not replace and activation.machine.seq:
        raise _taken(kind, key)
    if state is not State.ACTIVE:
        # Set aside, or gone: a fresh one takes the calls from here on.
        host.remove(activation)
        host.quarantine.release(oid)
        activation = host.activate(kind, key, oid)
    for number in list(activation.machine.steps or ()):
        host.effects.drop(oid, number)
    activation.pause()
    for call in host.take_waiting(oid):
        call.refuse(Conflict(f"{kind}/{key} was replaced while the call was under way"))
    try:
        yield activation
    finally:
        activation.taken = None
        activation.load()
    await activation.settled()


async def _is_there(host: Host, kind: str, key: str) -> bool:
    oid = oid_of(kind, key)
    activation = host.find(oid)
    if activation is not None and activation.machine.seq:
        return True
    return (
        oid in host.log.dirty()
        or oid in host.stash
        or await host.store.load(host.log.part, oid) is not None
    )


def _taken(kind: str, key: str, *, replaceable: bool = False) -> Conflict:
    return Conflict(
        f"there is an object {format_address(kind, key)} already",
        hint="Take another key" + (", or replace it: --replace." if replaceable else "."),
    )


def _target(kind: str, key: str) -> tuple[str, str]:
    """`Class/key`, or a key alone."""
    if key.startswith(f"{kind}/"):
        return parse_address(key)
    return kind, check_key(key)
