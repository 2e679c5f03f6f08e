"""Promises of an object: open ones by number, and what resolves them.

A token is `{object's id}-p{number}.{mac}`. The mac, keyed by the store's secret, makes it
unguessable, and tells a token that was once given out from one that never was: so nothing has to
be remembered of a promise that is over, and its token still answers Conflict instead of
UnknownPromise.

A resolution is an event. Whether it counts is decided in its turn, by what the memory holds then,
and so exactly once; the journal has it before anybody is told.
"""

from __future__ import annotations

import asyncio
import contextvars
import hmac
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from perdure.clock import LAST_NS
from perdure.errors import Conflict, PerdureError, UnknownPromise
from perdure.failure import Failure, failure_of
from perdure.host.failures import decode_failure, encode_failure, pickled_failure, raised_by
from perdure.host.records import Asked
from perdure.host.task import Future
from perdure.journal.entry import PICKLE, Promised, Reply, Resolved, Sent, Settled
from perdure.journal.identity import to_oid
from perdure.promise import BROKEN, KEPT, OPEN, Promise, type_name
from perdure.serde import check, from_json
from perdure.suspend import heap

if TYPE_CHECKING:
    from perdure.host.asking import Asking
    from perdure.host.machine import Machine

_MAC_BYTES = 16

RESOLVE = "a promise"
"""What stands for the handler where an object waits for a promise elsewhere to be resolved."""


# --- tokens


def token_of(secret: bytes, oid: int, number: int) -> str:
    """The token of an object's promise."""
    return f"{oid:016x}-p{number:x}.{_mac(secret, oid, number)}"


def _mac(secret: bytes, oid: int, number: int) -> str:
    named = b"promise" + oid.to_bytes(8, "big") + number.to_bytes(8, "big")
    return blake2b(named, key=secret, digest_size=_MAC_BYTES).hexdigest()


def place_of(secret: bytes, token: str) -> tuple[int, int]:
    """(object, number) that a token names. Raises UnknownPromise for one never given out."""
    head, _, rest = token.partition("-p")
    number, _, _ = rest.partition(".")
    try:
        place = int(head, 16), int(number, 16)
        if hmac.compare_digest(token_of(secret, *place).encode(), token.encode()):
            return place
    except (ValueError, OverflowError):
        pass
    raise unknown()


def unknown() -> UnknownPromise:
    """What a token that names nothing is answered with."""
    return UnknownPromise(
        "no promise of that token is known", hint="Its object may have been deleted."
    )


# --- what code of the object does with them


def begin(machine: Asking, promise: Promise[Any], timeout_ns: int | None) -> None:
    """A new promise is open from this turn on."""
    machine.refuse_in_query("make a promise")
    machine.number += 1
    number = promise._number = machine.number
    promise._oid = machine.oid
    promise._token = _new_token(machine, number)
    promise._state = OPEN
    promise._since_ns = machine.now_ns
    promise._until_ns = 0
    if timeout_ns is not None:
        promise._until_ns = min(machine.now_ns + timeout_ns, LAST_NS)
        promise._timer = machine.set_timer(
            promise._until_ns, _time_out, (machine, promise), contextvars.Context()
        )
    if machine.promises is None:
        machine.promises = {}
    machine.promises[number] = promise
    machine.commands.append(
        Promised(promise._token, type_name(promise._of), promise._until_ns, machine.address)
    )


def _new_token(machine: Asking, number: int) -> str:
    if machine.borrowed is not None:
        # In turns that ran under another secret, the token is the one that was given out.
        head = f"{machine.oid:016x}-p{number:x}."
        for command in machine.past or ():
            if type(command) is Promised and command.token.startswith(head):
                return command.token
    return token_of(machine.surroundings.secret, machine.oid, number)


def _time_out(machine: Asking, promise: Promise[Any]) -> None:
    if promise._state == OPEN:
        promise._timer = None
        settle(machine, promise, None, TimeoutError("nobody resolved the promise in time"))


def withdraw(machine: Asking, promise: Promise[Any]) -> None:
    """Its own object gives it up."""
    machine.refuse_in_query("cancel a promise")
    settle(machine, promise, None, asyncio.CancelledError("the promise was cancelled"))


def settle(
    machine: Asking, promise: Promise[Any], value: object, error: BaseException | None
) -> None:
    """Let whoever waits go on."""
    promise._value, promise._error = value, error
    promise._state = KEPT if error is None else BROKEN
    timer, promise._timer = promise._timer, None
    if timer is not None:
        timer.cancel()
    _close(machine, promise)
    waiters, promise._waiters = promise._waiters, []
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)


def _close(machine: Asking, promise: Promise[Any]) -> None:
    assert machine.promises is not None
    del machine.promises[promise._number]
    machine.promises = machine.promises or None
    machine.commands.append(Settled(promise._token))


def forget_all(machine: Machine) -> None:
    """The object ends, and its promises with it; their tokens mean nothing from now on."""
    for promise in list((machine.promises or {}).values()):
        _close(machine, promise)
    machine.buried = machine.number


def find(machine: Asking, token: str) -> Promise[Any] | None:
    """An open promise of this object."""
    for promise in (machine.promises or {}).values():
        if promise._token == token:
            return promise
    return None


def send(
    machine: Asking,
    token: str,
    value: object,
    failure: Failure | None,
    error: BaseException | None,
) -> Future:
    """Resolve a promise of some object, perhaps this one."""
    machine.refuse_in_query("resolve a promise")
    oid, _ = place_of(machine.surroundings.secret, token)
    body = heap.dumps(value) if failure is None else pickled_failure(failure, error)
    future = Future(loop=machine)
    event = Resolved(token, failure is None, PICKLE, body, machine.address, future.number)
    to = to_oid(oid)
    machine.commands.append(Sent(to, event))
    if machine.asked is None:
        machine.asked = {}
    here = machine.call.id if machine.call is not None else ""
    machine.asked[future.number] = Asked(future, to, RESOLVE, machine.now_ns, "", here)
    return future


# --- in the turn of a resolution


def verdict(machine: Asking, token: str) -> Promise[Any]:
    """The open promise of a token. Raises UnknownPromise, or Conflict if it is over."""
    oid, number = place_of(machine.surroundings.secret, token)
    if oid != machine.oid or number > machine.number or number <= machine.buried:
        raise unknown()
    promise = (machine.promises or {}).get(number)
    if promise is None:
        raise Conflict("the promise is resolved already, or ended otherwise; nothing was changed")
    return promise


def read(promise: Promise[Any], event: Resolved) -> tuple[object, BaseException | None]:
    """(value, error) of a resolution. Raises BadJson or BadArguments if the value does not fit."""
    if not event.ok:
        return None, raised_by(decode_failure(event.body))
    if event.format != PICKLE:
        return from_json(event.body, promise._of), None
    value = heap.loads(event.body)
    check(value, promise._of)
    return value, None


def resolved(machine: Machine, event: Resolved) -> None:
    """The event itself: it counts, or its sender hears why not."""
    failure: PerdureError | None = None
    try:
        if machine.instance is None:
            raise unknown()
        promise = verdict(machine, event.token)
        value, error = read(promise, event)
    except PerdureError as refused:
        failure = refused
    else:
        settle(machine, promise, value, error)
    if event.answer_to:
        ok = failure is None
        body = heap.dumps(None) if ok else encode_failure(failure_of(failure))  # type: ignore[arg-type]
        machine.commands.append(Sent(event.caller, Reply(event.answer_to, ok, body)))
