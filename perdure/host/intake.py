"""A call from outside, at its object and before its turn: may it come in, did it come before, is it
a query? What is left becomes the event of a turn.
"""

from __future__ import annotations

import gc
import zlib
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from perdure.access import Action, ActionKind
from perdure.clock import NS
from perdure.errors import IdempotencyMismatch, Overloaded
from perdure.failure import failure_of
from perdure.host import ephemeral
from perdure.host.following import take_up
from perdure.host.incoming import Acceptance, Answer, IncomingCall, answer_of, pickled_principal
from perdure.host.querying import run_query
from perdure.journal.entry import HTTP, PICKLE, Call
from perdure.journal.identity import call_id
from perdure.ref import Ref
from perdure.serde import to_json
from perdure.suspend import heap

if TYPE_CHECKING:
    from perdure.host.activation import Activation


def admit(activation: Activation, call: IncomingCall) -> Call | None:
    """The event for a call's turn; None if the call needs none, or was refused."""
    machine = activation.machine
    host = activation.host
    activation.used_ns = now = host.now_ns()
    handler = call.handler
    if machine.kind.authorizes:
        kind: ActionKind = "query" if handler.query else "call"
        if call.format >= HTTP:
            kind = "request"
        if not is_authorized(activation, call, kind, handler.name, now):
            return None
    if handler.query:
        _query(activation, call, now)
        return None
    keep_ns = digest = 0
    if call.idempotency_key is None:
        host.calls += 1
        call.id = f"{machine.oid:016x}-{host.boot}.{host.calls:x}"
    else:
        call.id, digest = _idempotent(activation, call)
        keep_ns = int(host.settings.idempotency_ttl * NS)
        if _under_way(activation, call, digest) or (
            machine.kept is not None and _remembered(activation, call, digest, now)
        ):
            return None
    if call.keep or handler.streams:
        keep_ns = max(keep_ns, int(host.settings.call_retention * NS))
    if machine.running is not None or machine.queue is not None:
        busy = len(machine.running or ()) + len(machine.queue or ())
        if busy >= host.settings.mailbox_limit:
            call.refuse(overloaded(activation))
            return None
    if host.draining or host.log.refusing:
        call.refuse(host.unavailable())
        return None
    # Asked here as well: most calls have none, and this is the path of each.
    principal = pickled_principal(call.principal) if call.principal is not None else b""
    return Call(
        call.id,
        handler.name,
        call.format,
        call.body,
        "",
        principal,
        keep_ns,
        digest,
        deadline=call.deadline_ns,
    )


def overloaded(activation: Activation) -> Overloaded:
    """The refusal of a call over the bound."""
    limit = activation.host.settings.mailbox_limit
    return Overloaded(
        f"{activation.address} has {limit} calls waiting or running", hint="Try again later."
    )


# --- the same call again


def _idempotent(activation: Activation, call: IncomingCall) -> tuple[str, int]:
    """The id of a call is its key: (principal, object, handler, key); and its arguments' digest."""
    who = pickled_principal(call.principal)
    name = b"\0".join([who, call.handler.name.encode(), (call.idempotency_key or "").encode()])
    return (
        call_id(activation.machine.oid, blake2b(name, digest_size=12).hexdigest()),
        zlib.crc32(call.body if call.format == PICKLE else to_json(call.args)),
    )


def _under_way(activation: Activation, call: IncomingCall, digest: int) -> bool:
    """Whether the call came before and still runs, for longer perhaps than a key is remembered."""
    machine, host = activation.machine, activation.host
    running = machine.running.get(call.id) if machine.running is not None else None
    known = running.event if running is not None else None
    if known is None and machine.queue is not None:
        known = next((queued for queued in machine.queue if queued.id == call.id), None)
    if known is None or call.handler.streams:
        return False
    if known.digest != digest:
        call.refuse(_mismatch())
        return True
    host.watch(call.id, call.on_answer)
    if call.on_accepted is not None:
        host.log.after(activation.last_lsn, Acceptance(call))
    return True


def _mismatch() -> IdempotencyMismatch:
    return IdempotencyMismatch("the same Idempotency-Key came with other arguments before")


def _remembered(activation: Activation, call: IncomingCall, digest: int, now: int) -> bool:
    """Whether the call came before; then it is answered (or waits) as the first one."""
    machine, host = activation.machine, activation.host
    assert machine.kept is not None
    kept = machine.kept.get(call.id)
    if kept is None or kept.expires < now:
        return False
    if kept.digest != digest:
        call.refuse(_mismatch())
        return True
    if call.handler.streams:
        host.keep(take_up(host, call))
        if call.on_accepted is not None:
            host.log.after(activation.last_lsn, Acceptance(call))
        return True
    if kept.answer is None:
        host.watch(call.id, call.on_answer)
        if call.on_accepted is not None:
            host.log.after(activation.last_lsn, Acceptance(call))
        return True
    call.answer = answer_of(kept.answer, replayed=True)
    if call.on_accepted is not None:
        host.log.after(activation.last_lsn, Acceptance(call))
    else:
        host.log.after(activation.last_lsn, call)
    return True


# --- what leaves no entry


def is_authorized(
    activation: Activation, call: IncomingCall, kind: ActionKind, handler: str | None, now: int
) -> bool:
    """Ask the object's own `authorize`, on its memory as it is; what it refuses is refused."""
    if activation.apart:
        return True  # Its process was asked before (apart.py).
    machine = activation.machine
    action = Action(kind, Ref(machine.kind.name, machine.key), handler)
    try:
        authorize = machine.kind.cls.authorize  # type: ignore[attr-defined]
        run_query(machine, authorize, ((call.principal, action), {}), now, deep=False)
    except Exception as error:
        call.refuse(error)
        return False
    finally:
        if machine.tainted:
            activation.reload()
    return True


def _query(activation: Activation, call: IncomingCall, now: int) -> None:
    """Answer from the memory as it is; the answer waits for what it could have seen."""
    machine, host = activation.machine, activation.host
    host.queries += 1
    handler = call.handler
    slot = host.slot
    if slot is not None:
        told = b"query %b %b" % (handler.name.encode(), call.body)
        if host.quarantine.watched and host.quarantine.kills(activation, told):
            call.refuse(activation.refusal or overloaded(activation))
            return
        slot.begin(machine.address, told)
    if handler.ephemeral:
        machine.passing = []
    gc.disable()
    try:
        result = run_query(machine, handler.function, call.args, now, deep=host.settings.debug)
        if handler.streams:
            call.items = [_body(call, item) for item in result]
            body = heap.dumps(None) if call.format == PICKLE else b"null"
        else:
            body = _body(call, result)
        call.answer = Answer("", body, None)
    except Exception as error:
        call.answer = Answer("", b"", failure_of(error, debug=host.settings.debug))
    finally:
        gc.enable()
        passing, machine.passing = machine.passing, None
        if slot is not None:
            slot.end()
    if passing and call.answer.failure is None:
        ephemeral.send(activation, passing)
    if activation.last_lsn > host.log.tail:
        host.log.after(activation.last_lsn, call)
    else:
        call.release(None)
    if machine.tainted:
        activation.reload()


def _body(call: IncomingCall, result: Any) -> bytes:
    signature = call.handler.signature
    if call.format == PICKLE:
        return heap.dumps(signature.check_result(result))
    return signature.encode_result(result)
