"""Why an object does not go on: the chain of waits from it, across objects, to its end.

A task waits for another task, for a lock that another one holds, or for a call to another object;
that call runs in a task there, or stands in its queue behind the call that holds the object. The
chain ends at a timer, a step or a future; at an object that cannot be looked into; or where it
comes round to itself. Each object is looked at once, between two of its turns; one that sleeps
is woken for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from perdure.clock import iso
from perdure.errors import CallError, ObjectQuarantined, UnknownKind, UnknownObject
from perdure.host.apart import Apart
from perdure.host.machine import Machine
from perdure.host.records import Asked
from perdure.journal.identity import oid_of
from perdure.ref import format_address, parse_address
from perdure.sight.stacks import told
from perdure.sight.waits import Wait, Waits, queued_behind, since, until_ns

if TYPE_CHECKING:
    from perdure.host.host import Host

LINES_MAX = 500
DEPTH_MAX = 100


async def why(host: Host, address: str) -> list[dict[str, Any]]:
    """What the object waits for, and what that waits for: a tree, as lines with their depth.

    Empty if nothing waits. Raises UnknownKind or UnknownObject.
    """
    chain = _Chain(host)
    await chain.begin(format_address(*parse_address(address)))
    # Like a query's answer, it leaves when what it has seen is on disk.
    await host.log.durable(chain.lsn)
    return chain.lines


class _Place(NamedTuple):
    """A task of an object by its number, or a call in its queue by its id."""

    address: str
    what: int | str


class _Call(NamedTuple):
    """A call to another object, wherever it stands there."""

    address: str
    id: str


class _Line(NamedTuple):
    facts: dict[str, Any]
    next: list[_Place | _Call]


class _Look:
    """The waits of one object at one moment."""

    def __init__(self, machine: Machine) -> None:
        self.address = machine.address
        self.lines: dict[int | str, _Line] = {}
        self.calls: dict[str, int | str] = {
            id_: running.task.number for id_, running in (machine.running or {}).items()
        }
        """Where each call stands: its task's number, or its own id if it is in the queue."""
        for wait in Waits(machine).all():
            self._add_task(machine, wait)
        first = self._first_of(machine)
        for call in machine.queue or ():
            self.calls[call.id] = call.id
            name = f"{call.handler} (call {call.id})"
            facts = _facts(self.address, name, queued_behind(machine))
            self.lines[call.id] = _Line(facts, first)

    def _add_task(self, machine: Machine, wait: Wait) -> None:
        task = wait.task
        facts = _facts(self.address, task.get_name(), wait.on, wait.end)
        facts["since"] = since(task)
        until = until_ns(machine, wait)
        facts["until"] = iso(until) if until else None
        facts["stack"] = [told(frame, with_locals=False) for frame in wait.frames]
        self.lines[task.number] = _Line(
            facts,
            [
                _Call(one.to, one.call_id)
                if isinstance(one, Asked)
                else _Place(self.address, one.number)
                for one in wait.next
            ],
        )

    def _first_of(self, machine: Machine) -> list[_Place | _Call]:
        """What the calls in the queue wait for."""
        if machine.holder is not None and machine.holder.id in self.calls:
            return [_Place(self.address, self.calls[machine.holder.id])]
        return [
            _Place(self.address, task.number)
            for task in (machine.tasks or {}).values()
            if machine.creating and task.get_name() == "on_create"
        ]

    def places(self) -> list[_Place]:
        """All that waits here; what nothing else here waits for comes first."""
        inner = {place for line in self.lines.values() for place in line.next}
        places = [_Place(self.address, what) for what in self.lines]
        return sorted(places, key=lambda place: place in inner)


class _Chain:
    """The lines, as they are found."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.lines: list[dict[str, Any]] = []
        self.lsn = 0
        """The newest chunk that what was seen rests on."""
        self._looks: dict[str, _Look] = {}
        self._path: list[_Place] = []
        self._seen: set[_Place] = set()

    async def begin(self, address: str) -> None:
        try:
            look = await self._look_at(address)
        except ObjectQuarantined as error:
            self._end(_facts(address, None, ""), "quarantined", error.message)
            return
        for place in look.places():
            if place not in self._seen:
                await self._follow(place)

    async def _follow(self, place: _Place) -> None:
        facts, next_ = self._looks[place.address].lines[place.what]
        if place in self._path:
            self._end(facts, "circle", "this comes round: it stands above, and waits for itself")
        elif place in self._seen:
            self._end(facts, "above", "as above")
        elif len(self.lines) >= LINES_MAX or len(self._path) >= DEPTH_MAX:
            self._end(facts, "cut", "the chain is longer than is shown")
        else:
            self._seen.add(place)
            self.lines.append(facts | {"depth": len(self._path)})
            self._path.append(place)
            for one in next_:
                there = one if isinstance(one, _Place) else await self._arrive(one)
                if there is not None:
                    await self._follow(there)
            self._path.pop()

    async def _arrive(self, call: _Call) -> _Place | None:
        """Where a call stands in the object it went to; None, and a line, if it is not there."""
        facts = _facts(call.address, None, "")
        try:
            look = await self._look_at(call.address)
        except UnknownKind as error:
            self._end(facts, "not served", error.message)
        except ObjectQuarantined as error:
            self._end(facts, "quarantined", error.message)
        except CallError:
            self._end(facts, "under way", "the call is on its way there")
        else:
            if call.id in look.calls:
                return _Place(call.address, look.calls[call.id])
            self._end(facts, "under way", "the call, or its answer, is on its way")
        return None

    def _end(self, facts: dict[str, Any], end: str, text: str) -> None:
        if len(self.lines) <= LINES_MAX:
            ended = {"waiting_on": text, "end": end, "stack": [], "depth": len(self._path)}
            self.lines.append(facts | ended)

    async def _look_at(self, address: str) -> _Look:
        look = self._looks.get(address)
        if look is None:
            host = self._host
            kind, key = parse_address(address)
            if kind not in host.kinds:
                raise UnknownKind(f"no class {kind!r} is served here")
            oid = oid_of(kind, key)
            activation = await host.wake(oid)
            if activation is None:
                raise host.quarantine.refusal(oid) or UnknownObject(f"there is no object {address}")
            self.lsn = max(self.lsn, activation.last_lsn)
            if isinstance(activation, Apart):
                look = await activation.look("perdure.sight.why:waits_there")
            else:
                look = _Look(activation.machine)
            self._looks[address] = look
        return look


def waits_there(there: Any) -> _Look:
    """The waits of an object, in its own process."""
    return _Look(there.machine)


def _facts(address: str, task: str | None, on: str, end: str = "") -> dict[str, Any]:
    return {
        "address": address,
        "task": task,
        "waiting_on": on,
        "since": None,
        "until": None,
        "stack": [],
        "depth": 0,
        "end": end or None,
    }
