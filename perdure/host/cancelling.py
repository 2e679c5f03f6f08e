"""The end of a call before it has a result: somebody cancels it, or its deadline passes.

Both are turns of the object like any other. The code of the call meets CancelledError where it
waits; its `finally` and `except` run from there, durably, and may wait themselves. Its caller
gets CallCancelled, or DeadlineExceeded where it was the deadline, or the result if the code
swallowed the error and went on to one. A call that has not begun is taken out of the queue.

A call is told once. Told again, by a client that tries a second time, nothing happens: it would cut
off the compensation. Nor does the deadline do that of a call that was cancelled before.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING

from perdure.clock import NS
from perdure.errors import (
    CallCancelled,
    Conflict,
    DeadlineExceeded,
    PerdureError,
    Unavailable,
    UnknownCall,
)
from perdure.failure import Failure, failure_of
from perdure.host.failures import decode_failure, encode_failure
from perdure.host.records import Kept
from perdure.journal.entry import Call, Cancel, Reply, Sent
from perdure.journal.identity import oid_of_call
from perdure.suspend import heap

if TYPE_CHECKING:
    from perdure.host.host import Host
    from perdure.host.machine import Machine

CANCELLED = "cancelled"
DEADLINE = "deadline"

_ON_ITS_WAY_TRIES = 20


# --- in the machine


def in_time(machine: Machine, event: Call) -> bool:
    """Whether a call that comes in may still begin; then its deadline has a timer."""
    if event.deadline <= machine.now_ns:
        error = _too_late(event)
        machine.answer(event, None, failure_of(error), error)
        return False
    if machine.deadlines is None:
        machine.deadlines = {}
    # In a context of its own: the one that runs now is the host's, and no part of the object.
    machine.deadlines[event.id] = machine.set_timer(
        event.deadline, machine.expire, (event.id,), contextvars.Context()
    )
    return True


def cancel(machine: Machine, event: Cancel) -> None:
    """The turn of a Cancel."""
    error = _cancel(machine, event)
    if event.answer_to:
        ok = error is None
        body = heap.dumps(None) if error is None else encode_failure(failure_of(error))
        machine.commands.append(Sent(event.caller, Reply(event.answer_to, ok, body)))


def _cancel(machine: Machine, event: Cancel) -> PerdureError | None:
    running = machine.running.get(event.id) if machine.running is not None else None
    queued = _queued(machine, event.id)
    if running is None and queued is None:
        return ended_already(machine, event.id)
    if event.keep_ns:
        if machine.kept is None:
            machine.kept = {}
        if event.id not in machine.kept:
            machine.kept[event.id] = Kept(0, machine.now_ns + event.keep_ns, None)
    if queued is not None:
        _unqueue(machine, queued, CallCancelled(f"{queued.handler} was cancelled before it began"))
    elif event.again or machine.cancelled is None or event.id not in machine.cancelled:
        _tell(machine, event.id, CANCELLED)
    return None


def expire(machine: Machine, call_id: str) -> None:
    """The deadline of a call has passed."""
    if machine.deadlines is not None:
        machine.deadlines.pop(call_id, None)
        machine.deadlines = machine.deadlines or None
    queued = _queued(machine, call_id)
    if queued is not None:
        _unqueue(machine, queued, _too_late(queued))
    elif (
        machine.running is not None
        and call_id in machine.running
        and (machine.cancelled is None or call_id not in machine.cancelled)
    ):
        _tell(machine, call_id, DEADLINE)


def ended(
    machine: Machine, event: Call, failure: Failure | None, error: BaseException | None
) -> tuple[Failure | None, BaseException | None]:
    """What the caller is told of a call that ends, and may have been cancelled."""
    if machine.deadlines is not None:
        timer = machine.deadlines.pop(event.id, None)
        machine.deadlines = machine.deadlines or None
        if timer is not None:
            timer.cancel()
    if machine.cancelled is not None:
        why = machine.cancelled.pop(event.id, None)
        machine.cancelled = machine.cancelled or None
        if why == DEADLINE and isinstance(error, CallCancelled):
            error = _too_late(event)
            failure = failure_of(error)
    return failure, error


def ended_already(machine: Machine, call_id: str) -> PerdureError | None:
    """Why a call that neither runs nor waits cannot be cancelled; None if it was cancelled."""
    kept = (machine.kept or {}).get(call_id)
    if kept is None or kept.answer is None or kept.expires < machine.now_ns:
        return UnknownCall(
            f"no call {call_id!r} is under way",
            hint="It has ended, and nothing was kept of it; or there never was one.",
        )
    if not kept.answer.ok and decode_failure(kept.answer.body).code == CallCancelled.code:
        return None
    return Conflict(f"call {call_id} has ended already", hint="What it came to can be asked for.")


def _tell(machine: Machine, call_id: str, why: str) -> None:
    """Raise CancelledError where the code of a call waits."""
    assert machine.running is not None
    if machine.cancelled is None:
        machine.cancelled = {}
    machine.cancelled[call_id] = why
    machine.running[call_id].task.cancel(
        "the call was cancelled" if why == CANCELLED else "the call's deadline has passed"
    )


def _queued(machine: Machine, call_id: str) -> Call | None:
    return next((call for call in machine.queue or () if call.id == call_id), None)


def _unqueue(machine: Machine, call: Call, error: PerdureError) -> None:
    assert machine.queue is not None
    machine.queue.remove(call)
    machine.queue = machine.queue or None
    machine.answer(call, None, failure_of(error), error)


def _too_late(event: Call) -> DeadlineExceeded:
    return DeadlineExceeded(f"{event.handler} did not end before its deadline")


# --- from outside


async def cancel_call(host: Host, call_id: str, *, again: bool = False) -> None:
    """Cancel a call by its id; returns when that is on disk.

    Raises UnknownCall, Conflict for one that has ended with a result, ObjectQuarantined, and
    what keeps the host from writing.
    """
    oid = oid_of_call(call_id)
    for _ in range(_ON_ITS_WAY_TRIES):
        activation = await host.wake(oid)
        machine = activation.machine if activation is not None else None
        if activation is not None and machine is not None:
            if call_id in (machine.running or ()) or _queued(machine, call_id) is not None:
                if host.draining or host.log.refusing:
                    raise host.unavailable()
                activation.event(Cancel(call_id, int(host.settings.call_retention * NS), again))
                await activation.rest()
                await host.log.durable(activation.last_lsn)
                return
            why = ended_already(machine, call_id)
            if not isinstance(why, UnknownCall):
                await host.log.durable(activation.last_lsn)
                if why is not None:
                    raise why
                return
        if not _on_its_way(host, call_id):
            raise UnknownCall(
                f"no call {call_id!r} is under way",
                hint="It has ended, and nothing was kept of it; or there never was one.",
            )
        host.delivery.run()
        await asyncio.sleep(0)
    raise Unavailable(f"call {call_id} has not arrived at its object yet", hint="Try again later.")


def _on_its_way(host: Host, call_id: str) -> bool:
    return any(
        isinstance(message.sent.event, Call) and message.sent.event.id == call_id
        for _, message in host.log.outbox.values()
    )
