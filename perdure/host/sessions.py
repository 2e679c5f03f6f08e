"""The object's side of its connections: hooks run as calls do, and each connection ends once.

A hook is a call of its own kind: it has an id, can wait, and holds an object that is not
reentrant. What differs is where it comes from (an event of the connection) and what becomes of
its end: no answer, but the upgrade, the next message, or the close.

What belongs to one connection happens in order and never twice at a time: `on_connect`, then each
message, the next when the one before has ended, then `on_disconnect`. Hooks of different
connections interleave where they wait, as calls do.

A connection is over for the object at the moment it closes it, or learns that the client has gone:
from then on it is not in `connections`, and `on_disconnect` follows behind the hook that runs.
"""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from perdure.connection import Connection
from perdure.errors import BadArguments, BadJson, Reject
from perdure.failure import Failure, failure_of
from perdure.host.failures import encode_failure
from perdure.host.task import Task
from perdure.interrupt import is_interrupt
from perdure.journal.entry import (
    BINARY,
    TEXT,
    Answered,
    Call,
    Closed,
    Connected,
    Disconnected,
    Received,
)
from perdure.suspend import heap

if TYPE_CHECKING:
    from perdure.hooks import Hook
    from perdure.host.machine import Machine

LOST = 1006
INVALID = 1007
FAILED = 1011
NO_MESSAGES = 1003
ENDED = 1000

_CONNECT = "on_connect"
_MESSAGE = "on_message"
_DISCONNECT = "on_disconnect"


# --- events


def connected(machine: Machine, event: Connected) -> None:
    """A client wants in: it is there while `on_connect` runs, and may be sent away by it."""
    call = Call(event.id, _CONNECT, TEXT, b"", "", event.principal)
    if machine.instance is None and not machine.create(call):
        return
    principal = heap.loads(event.principal) if event.principal else None
    conn = Connection(
        f"c{machine.seq}",
        event.path,
        event.query,
        event.headers,
        principal=principal,
        subprotocols=event.subprotocols,
    )
    conn._resumable = event.resumable
    conn._principal = event.principal
    conn._since = machine.now_ns
    if machine.connections is None:
        machine.connections = {}
    machine.connections[conn.id] = conn
    offer(machine, conn, call)


def received(machine: Machine, event: Received) -> None:
    """A message. One that comes behind the end of its connection is nobody's."""
    conn = machine.connections.get(event.conn) if machine.connections is not None else None
    if conn is None:
        return
    if event.number:
        # One that leaves a gap: what is missing was lost with a commit, and so was the line. The
        # client sends both again.
        if event.number != conn._received + 1:
            return
        conn._received = event.number
    id_ = f"{machine.oid:016x}-{conn.id}.{machine.seq:x}"
    format_ = TEXT if event.text else BINARY
    offer(machine, conn, Call(id_, _MESSAGE, format_, event.body, "", conn._principal))


def disconnected(machine: Machine, event: Disconnected) -> None:
    """The client has gone, or did not come back. Told twice, it counts once."""
    conn = machine.connections.get(event.conn) if machine.connections is not None else None
    if conn is None:
        return
    if event.silent:
        _close(machine, conn, event.code, event.reason)
    else:
        end(machine, conn, event.code, event.reason)


EVENTS: dict[type, Callable[[Machine, Any], None]] = {
    Connected: connected,
    Received: received,
    Disconnected: disconnected,
}


# --- the end of a connection


def end(machine: Machine, conn: Connection, code: int, reason: str) -> None:
    """A connection is over; `on_disconnect` follows. Messages that waited are dropped."""
    _close(machine, conn, code, reason)
    if machine.leaving is None:
        machine.leaving = {}
    machine.leaving[conn.id] = conn
    id_ = f"{machine.oid:016x}-{conn.id}.e{machine.seq:x}"
    call = Call(id_, _DISCONNECT, TEXT, b"", "", conn._principal)
    if conn._busy:
        # The hook that runs may be the one that closes; it comes to its end first. One that has
        # not begun (the object is not free) will find that it is too late.
        conn._waiting = deque((call,))
    else:
        # Not here and now: this may be called in the middle of another handler.
        machine.call_soon(_offer_end, machine, conn, call, context=contextvars.Context())


def _close(machine: Machine, conn: Connection, code: int, reason: str) -> None:
    assert machine.connections is not None
    del machine.connections[conn.id]
    machine.connections = machine.connections or None
    conn._open = False
    conn.close_code = code
    conn.close_reason = reason


def _offer_end(machine: Machine, conn: Connection, call: Call) -> None:
    # A hook of it may have begun since: then it has to wait for that.
    offer(machine, conn, call)


def end_all(machine: Machine) -> None:
    """The object is deleted: its sockets are closed, and nobody is left to hear of it."""
    for conn in list((machine.connections or {}).values()):
        machine.commands.append(Closed(conn.id, ENDED, "deleted"))
        _close(machine, conn, ENDED, "deleted")


# --- hooks, one at a time for each connection


def offer(machine: Machine, conn: Connection, call: Call) -> None:
    """Run a hook, behind those before it and behind the call that holds the object."""
    if conn._busy:
        if conn._waiting is None:
            conn._waiting = deque()
        conn._waiting.append(call)
        return
    conn._busy = True
    if machine.must_queue():
        machine.enqueue(call)
    else:
        _run(machine, conn, call)


def begin(machine: Machine, call: Call) -> None:
    """The turn of a hook that waited in the object's queue."""
    conn = _conn_of(machine, call)
    if conn is not None:
        _run(machine, conn, call)


def answered(
    machine: Machine, call: Call, failure: Failure | None, error: BaseException | None
) -> None:
    """A hook has ended in a later turn than it began, or will not run at all."""
    conn = _conn_of(machine, call)
    if conn is None:
        # It never came to be, or the object is being deleted.
        if call.handler == _CONNECT:
            _refuse(machine, call, failure, error)
        return
    _ended(machine, conn, call, failure, error)
    following = _next(machine, conn)
    if following is not None:
        _run(machine, conn, following)


def _run(machine: Machine, conn: Connection, call: Call) -> None:
    """Run a hook, and those that wait behind it, until one has to wait."""
    following: Call | None = call
    while following is not None:
        call = following
        machine.call = call
        error: BaseException | None = None
        try:
            if not _hook(machine, conn, call):
                return
        except BaseException as raised:
            if is_interrupt(raised):
                raise
            error = raised
        _ended(machine, conn, call, failure_of(error) if error is not None else None, error)
        following = _next(machine, conn)


def _next(machine: Machine, conn: Connection) -> Call | None:
    """The next hook to run here and now."""
    if not conn._waiting:
        conn._busy = False
        conn._waiting = None
        return None
    call: Call = conn._waiting.popleft()
    if machine.must_queue():
        machine.enqueue(call)
        return None
    return call


def _hook(machine: Machine, conn: Connection, call: Call) -> bool:
    """Call the hook; whether it has ended. Raises what it raises."""
    hooks = machine.kind.hooks
    assert hooks is not None
    instance = machine.instance
    name = call.handler
    if name == _MESSAGE:
        if not conn._open:
            return True
        hook = hooks.message
        if hook is None:
            machine.close(conn, NO_MESSAGES, "no messages are taken here")
            return True
        try:
            message = hook.read(call.body, call.format == TEXT)
        except (BadArguments, BadJson) as error:
            return _invalid(machine, conn, call, hooks.invalid, error)
        return _start(machine, call, hook, (instance, conn, message))
    if name == _CONNECT and not conn._open:
        raise Reject("the client has gone")
    hook = hooks.connect if name == _CONNECT else hooks.disconnect
    if hook is None:
        return True
    return _start(machine, call, hook, (instance, conn))


def _invalid(
    machine: Machine, conn: Connection, call: Call, hook: Hook | None, error: Exception
) -> bool:
    if hook is None:
        reason = str(error).encode(errors="replace")[:120].decode(errors="ignore")
        machine.close(conn, INVALID, reason)
        return True
    return _start(machine, call, hook, (machine.instance, conn, error))


def _start(machine: Machine, call: Call, hook: Hook, args: tuple[Any, ...]) -> bool:
    context = contextvars.Context()
    if not hook.awaits:
        context.run(hook.function, *args)
        return True
    task = Task(hook.function(*args), machine, context)
    if task.begin():
        task.result()
        return True
    machine.goes_on(call, task)
    return False


def _ended(
    machine: Machine,
    conn: Connection,
    call: Call,
    failure: Failure | None,
    error: BaseException | None,
) -> None:
    """What follows from the end of a hook."""
    name = call.handler
    if name == _CONNECT:
        if failure is None:
            chosen = conn.subprotocol
            if chosen is None or chosen in conn.subprotocols:
                machine.commands.append(Answered(call.id, True, (chosen or "").encode()))
                return
            # A client breaks off on a protocol that it did not offer, and nobody would know why.
            error = ValueError(
                f"conn.subprotocol is {chosen!r}, which is none of those that the client offers "
                f"({', '.join(conn.subprotocols) or 'it offers none'}); set it to one of "
                "conn.subprotocols, or leave it None"
            )
            failure = failure_of(error)
            machine.call_exception_handler(
                {"message": f"{name} of connection {conn.id} failed", "exception": error}
            )
        _refuse(machine, call, failure, error)
        # It was never connected: nothing follows, also not for a client that has gone meanwhile.
        conn._waiting = None
        if conn._open:
            _close(machine, conn, LOST, "")
        _forget(machine, conn)
        return
    if name == _DISCONNECT:
        _forget(machine, conn)
    if failure is None:
        return
    machine.call_exception_handler(
        {"message": f"{name} of connection {conn.id} failed", "exception": error}
    )
    if name == _MESSAGE and conn._open:
        machine.close(conn, FAILED, failure.error[:120])


def _refuse(
    machine: Machine, call: Call, failure: Failure | None, error: BaseException | None
) -> None:
    assert failure is not None
    machine.commands.append(Answered(call.id, False, encode_failure(failure)))
    if machine.surroundings.debug and error is not None:
        trace = failure_of(error, debug=True).traceback
        machine.traces = (machine.traces or {}) | {call.id: trace}


def _forget(machine: Machine, conn: Connection) -> None:
    if machine.leaving is not None:
        machine.leaving.pop(conn.id, None)
        machine.leaving = machine.leaving or None


def _conn_of(machine: Machine, call: Call) -> Connection | None:
    """The connection that a hook's call is about; its id stands in the call's."""
    id_ = call.id[17:].partition(".")[0]
    for conns in (machine.connections, machine.leaving):
        if conns is not None and id_ in conns:
            return conns[id_]
    return None
