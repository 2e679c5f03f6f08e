"""Looking at objects: what there is, what one is like, what happened to it. Changes nothing.

The figures are those of CLI and admin HTTP; their shapes are in docs/reference.md.
"""

from __future__ import annotations

import gc
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from perdure.clock import iso
from perdure.connection import Connection
from perdure.errors import NotSerializable, ReadOnlyError, UnknownKind, UnknownObject
from perdure.failure import kept_text
from perdure.host import schedules
from perdure.host.activation import Activation
from perdure.host.apart import Apart
from perdure.host.machine import Machine
from perdure.host.querying import run_query
from perdure.host.replay import short_body, tell_command
from perdure.journal import codec
from perdure.journal.entry import (
    Call,
    Cancel,
    Connected,
    Disconnected,
    Ended,
    Entry,
    Fired,
    Forked,
    Item,
    Piece,
    Received,
    Refused,
    Released,
    Repaired,
    Reply,
    Resolved,
    Skipped,
    Started,
    StepBegun,
    StepDone,
    StepItem,
    Timetable,
    Upgraded,
)
from perdure.journal.identity import first_name, oid_of
from perdure.logs import logger
from perdure.object import Object
from perdure.ref import Ref, format_address, parse_address
from perdure.schedule import Schedule
from perdure.sight.carried import for_json
from perdure.sight.stacks import short
from perdure.sight.steps import tell_failed, tell_steps
from perdure.sight.waits import is_sleep, tell_waits
from perdure.store.base import ObjectFilter
from perdure.suspend import heap

if TYPE_CHECKING:
    from perdure.host.host import Host


_TEXT_MAX = 2000

_FUNCTIONS = (types.FunctionType, types.MethodType, types.BuiltinFunctionType)

# A larger memory is not compared before and after a look: that would take as long as two dumps.
_COMPARED_MAX = 1 << 20


# --- what there is


async def list_objects(
    host: Host, kind: str | None, prefix: str, status: str | None, limit: int, after: str | None
) -> list[dict[str, Any]]:
    """Objects in the order of class and key, behind the address `after`; at most `limit`.

    `status` is `active` (in memory), `asleep`, `quarantined`, or `unserved` (its class is not
    served any more). Raises UnknownKind.
    """
    if kind is not None and kind not in host.kinds:
        raise UnknownKind(f"no class {kind!r} is served here")
    begin = _stored(parse_address(after)) if after else None
    kind = first_name(kind) if kind is not None else None
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for name, entry in _in_tail(host):
        if (
            (kind is None or name[0] == kind)
            and name[1].startswith(prefix)
            and (begin is None or name > begin)
        ):
            found[name] = line(host, name, entry.seq, entry.time)
    # Rows whose object was deleted in the tail, or has another status, are passed over; so more
    # are read until there are enough.
    gone = {name for name, entry in _in_tail(host) if type(entry.event) is Ended}
    position = begin
    while True:
        rows = await host.store.scan(ObjectFilter(kind, prefix), position, limit)
        for row in rows:
            name = (row.kind, row.key)
            if name not in found:
                found[name] = line(host, name, row.last, row.updated)
        fitting = sorted(
            name
            for name, line in found.items()
            if name not in gone and status in (None, line["status"])
        )
        if len(rows) < limit:
            break
        position = (rows[-1].kind, rows[-1].key)
        if len(fitting) >= limit and fitting[limit - 1] <= position:
            break
    return [found[name] for name in fitting[:limit]]


def _in_tail(host: Host) -> Iterator[tuple[tuple[str, str], Entry]]:
    """((kind, key), last entry) of objects with entries that no checkpoint has moved yet."""
    for oid in host.log.dirty():
        last = host.log.last_entry(oid)
        if last is None:
            continue
        activation = host.find(oid)
        stash = host.stash.get(oid)
        if activation is not None:
            yield _stored((activation.kind.name, activation.machine.key)), last
        elif stash is not None:
            yield (stash.row.kind, stash.row.key), last
        elif (address := host.log.first_address(oid)) is not None:
            yield _stored(parse_address(address)), last


def _stored(name: tuple[str, str]) -> tuple[str, str]:
    """(class, key) with the oldest name of the class: rows have it, and lists go by it."""
    return first_name(name[0]), name[1]


def line(host: Host, name: tuple[str, str], seq: int, updated: int) -> dict[str, Any]:
    """An object in a list."""
    served = host.kinds.find(name[0])
    kind = served.name if served is not None else name[0]
    return {
        "address": format_address(kind, name[1]),
        "class": kind,
        "key": name[1],
        "status": _status(host, oid_of(*name)) if served is not None else "unserved",
        "seq": seq,
        "updated": iso(updated),
    }


def _status(host: Host, oid: int) -> str:
    if oid in host.quarantine.objects:
        return "quarantined"
    return "asleep" if host.find(oid) is None else "active"


# --- one object


async def show(host: Host, address: str) -> dict[str, Any]:
    """One object as it is now. Wakes it if it sleeps. Raises UnknownKind or UnknownObject."""
    kind, key = parse_address(address)
    if kind not in host.kinds:
        raise UnknownKind(f"no class {kind!r} is served here")
    oid = oid_of(kind, key)
    status = _status(host, oid)
    facts: dict[str, Any] = {
        "address": format_address(kind, key),
        "class": kind,
        "key": key,
        "status": status,
        "seq": 0,
        "version": host.version,
        "state": None,
        "timers": [],
        "waits": [],
        "connections": [],
        "steps": [],
        "failed_steps": [],
        "rebuild": None,
        "held": False,
    }
    if status == "quarantined":
        stored = await host.store.load(host.log.part, oid)
        last = host.log.last_entry(oid)
        facts["seq"] = (
            last.seq if last is not None else (stored.row.last if stored is not None else 0)
        )
        facts["rebuild"] = {"by": "nothing", "why": str(host.quarantine.refusal(oid))}
        return facts
    activation = await host.wake(oid)
    if activation is None or activation.machine.instance is None:
        raise UnknownObject(f"there is no object {format_address(kind, key)}")
    lsn = activation.last_lsn
    facts["version"] = activation.machine.kind.version or host.version
    if isinstance(activation, Apart):
        facts |= await _look_apart(activation)
    else:
        size, why = _size(activation.machine)
        facts["rebuild"] = _rebuild(activation, why)
        facts |= _look(activation, compare=0 < size <= _COMPARED_MAX)
    # Like a query's answer, it leaves when what it has seen is on disk.
    await host.log.durable(lsn)
    return facts


def _look(activation: Activation, *, compare: bool) -> dict[str, Any]:
    """What the object's memory holds. The reprs of its values are code of the app: they run as a
    query does, and one that changes something costs the object a reload."""
    machine, host = activation.machine, activation.host
    seen: dict[str, Any] = {}

    def look(instance: Object) -> None:
        seen.update(_seen(machine, instance))
        seen["steps"] = tell_steps(machine, host.effects)

    if host.slot is not None:
        host.slot.begin(machine.address, b"look")
    gc.disable()
    try:
        run_query(machine, look, ((), {}), host.clock.now_ns(), deep=compare)
    except ReadOnlyError as error:
        logger.warning("a repr changes the object", object=machine.address, why=str(error))
    finally:
        gc.enable()
        if host.slot is not None:
            host.slot.end()
    if machine.tainted:
        activation.reload()
    _add_lines(activation, seen)
    return seen


async def _look_apart(activation: Apart) -> dict[str, Any]:
    """The same, of an object in a process of its own."""
    host = activation.host
    now_ns = host.clock.now_ns()
    seen, why, tainted = await activation.look("perdure.sight.look:look_there", now_ns)
    if tainted:
        activation.reload()
    seen["rebuild"] = _rebuild(activation, why)
    seen["steps"] = tell_steps(activation.machine, host.effects)
    _add_lines(activation, seen)
    return seen  # type: ignore[no-any-return]


def look_there(there: Any, now_ns: int) -> tuple[dict[str, Any], str | None, bool]:
    """What is seen in the process of a single object: its memory, why it cannot be kept as bytes,
    and whether a repr has changed it."""
    machine: Machine = there.machine
    seen: dict[str, Any] = {}
    size, why = _size(machine)
    try:
        run_query(
            machine,
            lambda instance: seen.update(_seen(machine, instance)),
            ((), {}),
            now_ns,
            deep=0 < size <= _COMPARED_MAX,
        )
    except ReadOnlyError as error:
        logger.warning("a repr changes the object", object=machine.address, why=str(error))
    return seen, why, machine.tainted


def _seen(machine: Machine, instance: Object) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    seen["seq"] = machine.seq
    seen["held"] = machine.held is not None
    seen["state"] = {kept_text(name): plain(value) for name, value in instance.__dict__.items()}
    seen["timers"] = [
        *(_timer(one) for one in sorted(machine.timers or ()) if one.callback is not None),
        *(_scheduled(one) for one in (machine.schedules or {}).values() if not one.next),
    ]
    seen["waits"] = tell_waits(machine)
    seen["connections"] = [_connection(conn) for conn in (machine.connections or {}).values()]
    seen["failed_steps"] = tell_failed(machine)
    return seen


def _connection(conn: Connection) -> dict[str, Any]:
    return {
        "id": conn.id,
        "path": conn.path,
        "query": conn.query,
        "tags": sorted(conn.tags),
        "state": plain(conn.state),
        "since": iso(conn._since),
        "resumable": conn._resumable,
    }


def _add_lines(activation: Activation, seen: dict[str, Any]) -> None:
    """Whether there is a client at the other end of each connection."""
    lines = activation.host.lines.open.get(activation.machine.oid, {})
    for conn in seen.get("connections", ()):
        conn["line"] = "open" if conn["id"] in lines else "lost"


def _timer(timer: Any) -> dict[str, Any]:
    callback = timer.callback
    if getattr(callback, "__func__", None) is Machine.expire:
        return {"due": iso(timer.when_ns), "calls": f"the deadline of call {timer.args[0]}"}
    if callback is schedules.fire:
        return _scheduled(timer.args[1])
    if is_sleep(timer):
        return {"due": iso(timer.when_ns), "calls": "the end of a sleep"}
    name = callback.__qualname__ if isinstance(callback, _FUNCTIONS) else short(callback)
    return {"due": iso(timer.when_ns), "calls": name}


def _scheduled(schedule: Schedule) -> dict[str, Any]:
    """A schedule; `due` is null for one that runs for the last time, or has failed at that."""
    rhythm = schedule._rhythm
    return {
        "due": iso(schedule._due_ns) if schedule._due_ns else None,
        "calls": schedule.handler,
        "id": schedule.id,
        "rhythm": str(rhythm) if rhythm is not None else None,
        "missed": rhythm.missed if rhythm is not None else None,
        "error": schedule.error,
        "failures": schedule.failures,
    }


def _size(machine: Machine) -> tuple[int, str | None]:
    """The size of an object as a snapshot; or 0, and why there can be none."""
    try:
        return len(heap.dump_heap(machine)), None
    except NotSerializable as error:
        return 0, error.message


def _rebuild(activation: Activation, why: str | None) -> dict[str, Any]:
    """How the object would come back if the process ended now."""
    seq, newest = activation.machine.seq, activation.snapshot_seq
    entries = seq - newest
    return {
        "by": "replay" if not newest else "snapshot and replay" if entries else "snapshot",
        "entries": entries,
        "snapshot_seq": newest,
        "base_seq": activation.base_seq,
        "why": why,
    }


def plain(value: Any) -> Any:
    """A value as JSON can show it; what has no JSON is shown by its repr."""
    try:
        built = msgspec.to_builtins(value, enc_hook=_shown, str_keys=True)
    except Exception:
        return _shown(value)
    return for_json(built, _shown)


def _shown(value: Any) -> Any:
    return value.address if isinstance(value, Ref) else short(value, _TEXT_MAX)


# --- what happened


async def history(host: Host, address: str, after: int, limit: int) -> list[dict[str, Any]]:
    """Entries behind turn `after`, at most `limit`. Raises UnknownKind or UnknownObject."""
    kind, key = parse_address(address)
    if kind not in host.kinds:
        raise UnknownKind(f"no class {kind!r} is served here")
    oid = oid_of(kind, key)
    entries: list[Entry] = []
    seen = after
    while len(entries) < limit:
        segments = await host.store.history(host.log.part, oid, seen, 16)
        if not segments:
            break
        for segment in segments:
            place = (
                f"history of {format_address(kind, key)}, turns {segment.first} to {segment.last}"
            )
            for _, entry in codec.read_entries(segment.body, place):
                if entry.seq > seen:
                    entries.append(entry)
                    seen = entry.seq
    for body in host.log.entries_of(oid):
        entry = codec.decode_entry(body)
        if entry.seq > seen and len(entries) < limit:
            entries.append(entry)
            seen = entry.seq
    if (
        not entries
        and not after
        and host.find(oid) is None
        and await host.store.load(host.log.part, oid) is None
    ):
        raise UnknownObject(f"there is no object {format_address(kind, key)}")
    return [told(entry) for entry in entries[:limit]]


def told(entry: Entry) -> dict[str, Any]:
    """A turn as JSON."""
    kind, came_in = event_of(entry)
    output = "; ".join(tell_command(command) for command in entry.commands)
    return {
        "seq": entry.seq,
        "time": iso(entry.time),
        "kind": kind,
        "input": came_in,
        "output": output + (" (undone)" if entry.undone else ""),
        "duration_us": entry.duration_us,
        "version": entry.version,
    }


def event_of(entry: Entry) -> tuple[str, str]:
    """What came in: the kind of a turn, and in words what it was."""
    event = entry.event
    match event:
        case Call():
            by = f" from {event.caller}" if event.caller else ""
            kind = "call" if event.answer_to or not event.caller else "send"
            return kind, f"{event.handler}{by} {short_body(event.body, 400)}".rstrip()
        case Started():
            return "start", f"queued call {event.id}"
        case Reply():
            return "reply", short_body(event.body, 400)
        case Item():
            return "item", f"{event.index} {short_body(event.body, 400)}"
        case StepDone():
            return "step", (event.blob and "a large result") or short_body(event.body, 400)
        case StepItem():
            return "item", (event.blob and "a large item") or short_body(event.body, 400)
        case StepBegun():
            return "begin", "a step that is not repeated"
        case Fired():
            return "timer", ""
        case Refused():
            return "refuse", f"queued call {event.id}"
        case Ended():
            return "delete", f"from {event.caller}" if event.caller else ""
        case Resolved():
            by = f" from {event.caller}" if event.caller else ""
            kind = "resolve" if event.ok else "reject"
            return kind, f"a promise{by} {short_body(event.body, 400)}"
        case Timetable():
            return "timetable", ", ".join(tick.id for tick in event.ticks)
        case Cancel():
            return "cancel", f"call {event.id}" + (f" from {event.caller}" if event.caller else "")
        case Upgraded():
            return "upgrade", f"from version {event.before}"
        case Repaired():
            what = {"attribute": f"set {event.target} to {short_body(event.body, 200)}"}.get(
                event.what, f"{event.what} {event.target}"
            )
            return "repair", f"{what} (by {event.by}: {event.why})"
        case Skipped():
            return "skip", event.what
        case Connected():
            return "connect", event.path
        case Received():
            return "message", f"{event.conn} {short_body(event.body, 400)}"
        case Disconnected():
            return "disconnect", f"{event.conn} {event.code} {event.reason}".rstrip()
        case Piece():
            end = {"whole": ", the last", "": ""}.get(event.end, ", the client has gone")
            return "piece", f"{len(event.body)} bytes of the body of call {event.id}{end}"
        case Forked():
            return "fork", f"from {event.origin}"
        case Released():
            return "release", ""
