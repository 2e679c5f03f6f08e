"""Repairs: what an operator does to an object by hand. Each is a turn of its journal.

So it is a record of who did what and why, it is there again at each replay, and it is undone by
nothing but another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, cast, get_type_hints

from perdure.errors import BadArguments, Conflict, Fatal, UnknownCall, UnknownObject
from perdure.failure import Failure
from perdure.host.apart import Apart
from perdure.host.failures import encode_failure
from perdure.host.following import entries
from perdure.host.incoming import Answer, IncomingCall
from perdure.host.machine import decode_arguments
from perdure.host.repairs import ATTRIBUTE, CALL, FAIL_STEP, STEP
from perdure.journal.entry import HTTP, Call, Repaired
from perdure.journal.identity import oid_of, oid_of_call
from perdure.ref import parse_address
from perdure.serde import from_json
from perdure.suspend import heap

if TYPE_CHECKING:
    from perdure.host.activation import Activation
    from perdure.host.host import Host


async def resolve_step(
    host: Host, address: str, step_id: str, value: Any, by: str, why: str
) -> None:
    """Give a step that is under way its result, instead of what its attempt would bring.

    Raises UnknownObject, and Conflict if no attempt of it is under way.
    """
    activation, number = await _step(host, address, step_id)
    await _repair(host, activation, Repaired(STEP, str(number), heap.dumps(value), by, why))


async def fail_step(host: Host, address: str, step_id: str, text: str, by: str, why: str) -> None:
    """Let a step that is under way fail for good: the handler catches `Fatal`.

    Raises UnknownObject, and Conflict if no attempt of it is under way.
    """
    activation, number = await _step(host, address, step_id)
    failure = encode_failure(Failure(Fatal.code, Fatal.__name__, text))
    await _repair(host, activation, Repaired(FAIL_STEP, str(number), failure, by, why))


async def set_attribute(
    host: Host, address: str, name: str, body: bytes, by: str, why: str
) -> None:
    """Set an attribute from JSON, read as its annotation says.

    Raises UnknownObject, and BadArguments for an attribute that the object has not.
    """
    activation = await _awake(host, address)
    machine = activation.machine
    known = await _attributes(activation)
    if name not in known:
        raise BadArguments(
            f"{address} has no attribute {name!r}", hint=f"There are: {', '.join(sorted(known))}"
        )
    value = from_json(body, get_type_hints(machine.kind.cls).get(name, Any))
    await _repair(host, activation, Repaired(ATTRIBUTE, name, heap.dumps(value), by, why))


async def _attributes(activation: Activation) -> Collection[str]:
    if isinstance(activation, Apart):
        return cast(Collection[str], await activation.look("perdure.host.repairing:names"))
    return vars(activation.machine.instance)


def names(there: Any) -> list[str]:
    """The attributes of an object, in its own process."""
    return list(vars(there.machine.instance))


async def drive_again(host: Host, call_id: str, by: str, why: str) -> Answer:
    """Begin a call anew that came before, with the same arguments; gives the new one's answer.

    Raises UnknownCall where the history does not have it.
    """
    activation = await host.wake(oid_of_call(call_id))
    if activation is None:
        raise UnknownCall(f"no call {call_id!r} is known")
    machine = activation.machine
    async for entry in entries(host, machine.oid, machine.address, 0):
        event = entry.event
        if isinstance(event, Call) and event.id == call_id:
            break
    else:
        raise UnknownCall(f"no call {call_id!r} is in the history of {machine.address}")
    handler = machine.kind.handlers.get(event.handler)
    if handler is None or event.format >= HTTP:
        why = "it is an HTTP request" if handler is not None else "its class has it no more"
        raise Conflict(
            f"{event.handler} of {machine.address} cannot be called again: {why}",
            hint="Call a handler with the arguments that perdure history shows.",
        )
    await _repair(host, activation, Repaired(CALL, call_id, b"", by, why))
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    args = decode_arguments(handler.signature, event)
    principal = heap.loads(event.principal) if event.principal else None
    host.call(
        IncomingCall(
            machine.kind,
            machine.key,
            handler,
            args,
            event.body,
            lambda answer: None if answered.done() else answered.set_result(answer),
            format=event.format,
            principal=principal,
        )
    )
    return await answered


async def _step(host: Host, address: str, step_id: str) -> tuple[Activation, int]:
    activation = await _awake(host, address)
    for number, waited in (activation.machine.steps or {}).items():
        if waited.asked.id == step_id:
            return activation, number
    raise Conflict(
        f"{address} has no step {step_id} under way",
        hint="`perdure show` lists those that are; one that waits for its next try is under way "
        "again when that begins.",
    )


async def _awake(host: Host, address: str) -> Activation:
    activation = await host.wake(oid_of(*parse_address(address)))
    if activation is None or activation.machine.instance is None:
        raise UnknownObject(f"there is no object {address}")
    return activation


async def _repair(host: Host, activation: Activation, event: Repaired) -> None:
    if host.draining or host.log.refusing:
        raise host.unavailable()
    activation.event(event)
    await activation.rest()
    await host.log.durable(activation.last_lsn)
