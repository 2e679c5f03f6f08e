"""Calls: which run and what they wait for, which have failed, which have ended.

What is open or failed is known without looking at objects (host/register.py). What each call of
a page waits for is told by objects in memory, and by those that sleep as of when they fell asleep;
one of which that is not known is woken for it. Calls that ended well stand in the journals alone
and are read there, of the objects whose journals have grown since the time that was asked for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from perdure.clock import NS, iso
from perdure.errors import BadArguments, PerdureError, UnknownKind
from perdure.host.activation import State
from perdure.host.apart import Apart
from perdure.host.mirror import Mirror
from perdure.host.register import CANCELLED, FAILED, OPEN, QUEUED, RUNNING
from perdure.journal import codec
from perdure.journal.entry import Answered, Call, Ended, Entry, Reply, Sent
from perdure.journal.identity import oid_of
from perdure.ref import format_address, parse_address
from perdure.sight.waits import Waits, queued_behind
from perdure.store.base import CallFilter, CallRow, ObjectFilter

if TYPE_CHECKING:
    from perdure.host.host import Host
    from perdure.host.machine import Machine

DONE = "done"
STATUSES = (RUNNING, QUEUED, DONE, FAILED, CANCELLED)

LIMIT_MAX = 1000
TURNS_READ = 1000
"""Of each object, so many of its last turns are read for calls that ended well."""
OBJECTS_READ = 10_000
DONE_SINCE_S = 3600.0

_PAGE = 500
_LAST_NS = (1 << 63) - 1


async def list_calls(
    host: Host,
    *,
    status: str | None = None,
    kind: str | None = None,
    address: str | None = None,
    since: int = 0,
    limit: int = 100,
    after: tuple[int, str] | None = None,
) -> tuple[list[dict[str, Any]], tuple[int, str] | None]:
    """Calls that fit, the newest first, behind `after`; at most `limit`. And where the next page
    begins, if there may be one.

    Without `status` and `address`: all that are open, failed or were cancelled. Those that ended
    well are listed with the status `done`, and with all others of the object `address`.
    `since` is when they began. Raises BadArguments, UnknownKind, InvalidKey.
    """
    if status is not None and status not in (*STATUSES, "open"):
        known = ", ".join(("open", *STATUSES))
        raise BadArguments(f"there is no status {status!r}; there are {known}")
    if not 0 < limit <= LIMIT_MAX:
        raise BadArguments(f"limit is from 1 to {LIMIT_MAX}, not {limit}")
    # Times that no store takes are as good as the last one it does.
    since = min(max(since, 0), _LAST_NS)
    oid = None
    if address is not None:
        kind, key = parse_address(address)
        oid = oid_of(kind, key)
    if kind is not None and kind not in host.kinds:
        raise UnknownKind(f"no class {kind!r} is served here")
    rows: list[CallRow] = []
    if status != DONE:
        statuses = None if status is None else OPEN if status == "open" else (status,)
        wanted = CallFilter(statuses, kind, oid, since)
        rows = await host.register.list(wanted, after, limit)
    if status == DONE or (status is None and address is not None):
        if not since and address is None:
            since = host.clock.now_ns() - int(DONE_SINCE_S * NS)
        known_ids = {row.id for row in rows}
        async for row in _done(host, kind, address, since):
            if row.id not in known_ids and (after is None or (row.since, row.id) < after):
                rows.append(row)
        rows.sort(key=lambda row: (row.since, row.id), reverse=True)
        del rows[limit:]
    following = (rows[-1].since, rows[-1].id) if len(rows) == limit else None
    return [await _line(host, row) for row in rows], following


async def _line(host: Host, row: CallRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "object": format_address(row.kind, row.key),
        "handler": row.handler,
        "status": row.status,
        "since": iso(row.since),
        "waiting_on": (await waiting(host, row))[1] if row.status in OPEN else None,
        "caller": row.caller or None,
        "ended": iso(row.ended) if row.ended else None,
        "deadline": iso(row.deadline) if row.deadline else None,
        "error": row.failure or None,
    }


# --- what a call waits for


async def waiting(host: Host, row: CallRow) -> tuple[str, str | None]:
    """(what it comes down to, in words) for an open call: as `end` in `why`, or `retry`."""
    activation = host.find(row.oid)
    if activation is None:
        if row.waiting:
            end, _, text = row.waiting.partition("\t")
            return end, text
        try:
            activation = await host.wake(row.oid)
        except PerdureError:
            activation = None
    if activation is None or activation.state is not State.ACTIVE:
        return "", None
    machine = activation.machine
    running = (machine.running or {}).get(row.id)
    if running is None:
        return "", queued_behind(machine) if row.status == QUEUED else None
    if isinstance(activation, Apart):
        told = await activation.look("perdure.sight.calls:words_there")
        end, _, text = told.get(row.id, "").partition("\t")
        return end, text or None
    return _told(Waits(machine), running.task)


def words_there(there: Any) -> dict[str, str]:
    """What each running call waits for, in the object's own process."""
    return words(there.machine)


def words(machine: Machine) -> dict[str, str]:
    """What each running call of an object waits for, to be kept while it sleeps."""
    if isinstance(machine, Mirror):
        return {}  # Its process knows, and is about to end.
    waits = Waits(machine)
    return {
        id_: "\t".join(_told(waits, running.task))
        for id_, running in (machine.running or {}).items()
    }


def _told(waits: Waits, task: Any) -> tuple[str, str]:
    wait = waits.of(task)
    return ("retry" if ", attempt " in wait.on else wait.end), wait.on


# --- calls that ended well


async def _done(
    host: Host, kind: str | None, address: str | None, since: int
) -> AsyncIterator[CallRow]:
    async for oid, name, last in _grown(host, kind, address, since):
        begun: dict[str, CallRow] = {}
        by_number: dict[tuple[str, int], str] = {}
        async for entry in _last_turns(host, oid, last):
            event = entry.event
            if type(event) is Call and not entry.undone:
                begun[event.id] = CallRow(
                    entry.time, event.id, event.id, oid, *name, event.handler, event.caller, DONE,
                    deadline=event.deadline,
                )  # fmt: skip
                if event.answer_to:
                    by_number[event.caller, event.answer_to] = event.id
            elif type(event) is Ended:
                begun.clear()
            for id_, ok in _answers(entry, by_number):
                row = begun.pop(id_, None)
                if row is not None and ok and row.since >= since:
                    yield row._replace(ended=entry.time)


def _answers(entry: Entry, by_number: dict[tuple[str, int], str]) -> list[tuple[str, bool]]:
    """(id, whether it ended well) of the calls that a turn has answered."""
    found = []
    for command in entry.commands:
        if type(command) is Answered:
            found.append((command.id, command.ok))
        elif type(command) is Sent and type(command.event) is Reply:
            id_ = by_number.pop((command.to, command.event.number), None)
            if id_ is not None:
                found.append((id_, command.event.ok))
    return found


async def _grown(
    host: Host, kind: str | None, address: str | None, since: int
) -> AsyncIterator[tuple[int, tuple[str, str], int]]:
    """(oid, name, last turn in history) of objects with turns at that time or later."""
    if address is not None:
        name = parse_address(address)
        oid = oid_of(*name)
        stored = await host.store.load(host.log.part, oid)
        yield oid, name, stored.row.last if stored is not None else 0
        return
    dirty = set(host.log.dirty())
    after: tuple[str, str] | None = None
    read = 0
    while read < OBJECTS_READ:
        rows = await host.store.scan(ObjectFilter(kind), after, _PAGE)
        for row in rows:
            if row.updated >= since or row.oid in dirty:
                dirty.discard(row.oid)
                read += 1
                yield row.oid, (row.kind, row.key), row.last
        if len(rows) < _PAGE:
            break
        after = rows[-1].kind, rows[-1].key
    for oid in dirty:
        identity = await host.identity(oid)
        if identity is not None and kind in (None, identity[0]):
            yield oid, identity, 0


async def _last_turns(host: Host, oid: int, last: int) -> AsyncIterator[Entry]:
    seen = max(0, last - TURNS_READ)
    while seen < last:
        segments = await host.store.history(host.log.part, oid, seen, 16)
        if not segments:
            break
        for segment in segments:
            for _, entry in codec.read_entries(segment.body, f"history of object {oid:x}"):
                if entry.seq > seen:
                    seen = entry.seq
                    yield entry
    for body in host.log.entries_of(oid):
        entry = codec.decode_entry(body)
        if entry.seq > seen:
            seen = entry.seq
            yield entry
