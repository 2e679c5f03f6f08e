"""Copies of objects: turns that one has from another, and what it keeps back until it is released.

A copy (a fork, or what was imported) has the turns of its origin as its own past. Those ran under
the origin's number, from which ids are made, and perhaps under another secret, from which chance
is: so a replay of them takes the number from the first entry, and chance and tokens from the
entries themselves. At `Forked` the copy becomes itself.

From there on it is **held**: its code runs, calls are answered, but no step starts, no message to
another object leaves and no timer fires, so that code that waited in the origin neither charges a
card nor sends a mail a second time. Steps stay asked for; messages are kept in the order in which
they were sent. `Released` lets all of it go, in one turn. It is all in the machine, so a replay
does the same.

Calls that the origin was in the middle of run on in the copy, under ids of its own, and answer
nobody: whoever waits, waits for the origin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from perdure.host.promises import token_of
from perdure.host.raw_requests import cut_bodies
from perdure.host.records import Held
from perdure.journal.entry import (
    Call,
    Command,
    Entry,
    Forked,
    Item,
    Promised,
    Released,
    Reply,
    Sent,
    StepAsked,
)
from perdure.journal.identity import call_id, oid_of, oid_of_target
from perdure.ref import parse_address

if TYPE_CHECKING:
    from perdure.host.machine import Machine

T = TypeVar("T")


def borrow(machine: Machine, entry: Entry) -> None:
    """Be ready to replay a turn that another object, or one in another store, has run."""
    machine.borrowed = entry
    if entry.address:
        kind, key = parse_address(entry.address)
        _become(machine, oid_of(kind, key), key)


def _become(machine: Machine, oid: int, key: str) -> None:
    machine.oid, machine.key = oid, key
    if machine.instance is not None:
        machine.instance._perdure_key = key


# --- the copy becomes itself


def forked(machine: Machine, event: Forked) -> None:
    """The turn of a Forked."""
    kind, key = parse_address(event.address)
    _become(machine, oid_of(kind, key), key)
    machine.borrowed = None
    _rename_calls(machine)
    # Results that clients of the origin may ask for, and listeners of its streams.
    machine.kept = None
    machine.streamed = None
    for number, promise in (machine.promises or {}).items():
        # Its own token: the one that the origin gave out goes on resolving the origin's.
        promise._oid = machine.oid
        promise._token = token_of(machine.surroundings.secret, machine.oid, number)
        machine.commands.append(
            Promised(promise._token, _type_of(promise), promise._until_ns, machine.address)
        )
    machine.held = Held(event.asked)


def _type_of(promise: object) -> str:
    from perdure.promise import type_name

    return type_name(promise._of)  # type: ignore[attr-defined]


def _rename_calls(machine: Machine) -> None:
    """Calls under way get ids of this object, and answer nobody."""
    names: dict[str, str] = {}

    def name(id_: str) -> str:
        if id_ not in names:
            names[id_] = call_id(machine.oid, id_.partition("-")[2])
        return names[id_]

    def orphan(call: Call) -> Call:
        return msgspec.structs.replace(call, id=name(call.id), answer_to=0, keep_ns=0, source=None)

    calls: dict[str, Call] = {}
    running, machine.running = machine.running, None
    if running is not None:
        for id_, one in running.items():
            calls[id_] = one.event = orphan(one.event)
        machine.running = {one.event.id: one for one in running.values()}
    if machine.queue is not None:
        for call in list(machine.queue):
            calls[call.id] = orphan(call)
            machine.queue.append(calls[call.id])
            machine.queue.popleft()
    if machine.holder is not None:
        machine.holder = calls.get(machine.holder.id, machine.holder)
    for task in (machine.tasks or {}).values():
        if task.call is not None:
            task.call = calls.get(task.call.id) or orphan(task.call)
    for asked in (machine.asked or {}).values():
        asked.by = name(asked.by) if asked.by else ""
    if machine.cancelled is not None:
        machine.cancelled = _renamed(machine.cancelled, names)
    if machine.deadlines is not None:
        for timer in machine.deadlines.values():
            timer.args = tuple(names.get(arg, arg) for arg in timer.args)
        machine.deadlines = _renamed(machine.deadlines, names)
    if machine.uploads is not None:
        machine.uploads = _renamed(machine.uploads, names)


def _renamed(known: dict[str, T], names: dict[str, str]) -> dict[str, T]:
    return {names.get(id_, id_): value for id_, value in known.items()}


# --- held, and released


def hold(machine: Machine) -> None:
    """Take out of a turn's commands what may not leave."""
    held = machine.held
    assert held is not None
    leaving: list[Command] = []
    for command in machine.commands:
        if type(command) is Sent and not isinstance(command.event, Reply | Item):
            held.sent.append(command)
        elif type(command) is not StepAsked:
            leaving.append(command)
    # A step that was asked for is in `machine.steps` until somebody gives it up.
    machine.commands[:] = leaving


def released(machine: Machine, event: Released) -> None:
    """The turn of a Released: what was kept back is asked for, in its order."""
    held, machine.held = machine.held, None
    if held is None:
        return
    for sent in held.asked:
        asked = (machine.asked or {}).get(getattr(sent.event, "answer_to", 0))
        if asked is None:
            continue  # Whoever waited for it has given it up.
        again = msgspec.structs.replace(sent.event, caller=machine.address)
        if isinstance(again, Call):
            there = oid_of_target(sent.to)
            unique = f"{machine.oid:x}.{machine.seq}.{len(machine.commands)}"
            again = msgspec.structs.replace(again, id=call_id(there, unique))
            asked.call_id = again.id
        machine.commands.append(Sent(sent.to, again))
    machine.commands += held.sent
    machine.commands += [waited.asked for waited in (machine.steps or {}).values()]
    # Clients that still sent something to the origin do not send it to the copy.
    cut_bodies(machine)
