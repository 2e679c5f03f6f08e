"""What would have become of an object if one of its calls had been another.

The past up to there is as it was. Then the call comes with other arguments, or does not come at
all, and what followed is given to the object again, as far as it still fits: a call fits always;
a reply or the end of a step fits if the same was asked for; a timer fires when one is due. What is
asked for now and was not then has no answer in the past, and stays open. All of it happens on a
copy.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from perdure.clock import NS
from perdure.errors import BadArguments, NotSerializable, UnknownHandler
from perdure.host.machine import Machine
from perdure.host.replay import run_again, skip_again, tell_command
from perdure.host.upgrades import having
from perdure.journal.entry import (
    JSON,
    PICKLE,
    Call,
    Command,
    Entry,
    Event,
    Fired,
    Item,
    Piece,
    Promised,
    Refused,
    Reply,
    Resolved,
    Sent,
    Started,
    StepAsked,
    StepBegun,
    StepDone,
    StepItem,
)
from perdure.past.record import Record
from perdure.past.state import changes, state_of
from perdure.past.walk import walk
from perdure.ref import format_address
from perdure.sight.look import event_of
from perdure.suspend import heap

# The past has timers that fired a little late; only one that is later than this was not set then.
_LATE_NS = NS

_SHOWN_MAX = 200


async def what_if(
    record: Record, at: int, arguments: bytes | None, handler: str | None = None
) -> dict[str, Any]:
    """Turn `at` with other arguments (JSON), or without its call where they are None.

    Raises UnknownTurn, BadArguments where the turn is no call or the arguments do not fit, and
    DivergenceError where the past before does not replay.
    """
    entry = await record.probe(at)
    if entry is None or entry.seq != at or type(entry.event) is not Call:
        raise BadArguments(
            f"turn {at} of {record.kind.name}/{record.key} is no call",
            hint="Only a call can be replaced: `perdure history ADDRESS --kind call` lists them.",
        )
    other = _other(record, entry.event, arguments, handler)
    actual = await walk(record, record.last)
    try:
        before = state_of(actual)
    finally:
        actual.discard()
    story = _Story(record, at - 1)
    try:
        await story.begin()
        if other is not None:
            await story.tell(entry, other)
        else:
            story.left_out.append(_told(entry, "it was left out"))
        async for page in record.pages(at, record.last):
            for following in page:
                await story.tell(following, following.event)
            await asyncio.sleep(0)
        waiting = story.waiting()
        after = state_of(story.machine)
    finally:
        story.discard()
    return {
        "address": format_address(record.kind.name, record.key),
        "at": at,
        "call": event_of(msgspec.structs.replace(entry, event=other))[1] if other else None,
        "turns": record.last - at + 1,
        "changed": story.changed[:_SHOWN_MAX],
        "changed_count": len(story.changed),
        "left_out": story.left_out[:_SHOWN_MAX],
        "left_out_count": len(story.left_out),
        "waiting": waiting,
        "state": after,
        "changes": [
            msgspec.structs.asdict(change) | {"text": str(change)}
            for change in changes(before, after)
        ],
    }


def _other(record: Record, call: Call, arguments: bytes | None, handler: str | None) -> Call | None:
    if arguments is None and handler is None:
        return None
    name = handler or call.handler
    known = record.kind.handlers.get(name)
    if known is None:
        raise UnknownHandler(f"{record.kind.name} has no handler {name!r}")
    if arguments is None:
        return msgspec.structs.replace(call, handler=name)
    given = known.signature.decode_json(arguments)
    if call.format == PICKLE:
        # The answer comes in the form of the call, and is compared with the one of then.
        return msgspec.structs.replace(call, handler=name, body=heap.dumps(given, "arguments"))
    return msgspec.structs.replace(call, handler=name, format=JSON, body=arguments)


class _Story:
    """A copy to which the rest of its past is told."""

    def __init__(self, record: Record, after: int) -> None:
        self.machine: Machine
        self._record = record
        self._after = after
        self._lived: list[Entry] = []
        """What it was told since then, and what came of it."""
        self.changed: list[dict[str, Any]] = []
        """Turns that ask for something else than they did."""
        self.left_out: list[dict[str, Any]] = []
        """Turns that do not fit any more."""
        self._numbers: dict[int, int] = {}
        """What was asked for then, by its number: the number of the same now."""
        self._tokens: dict[str, str] = {}

    async def begin(self) -> None:
        """Be as the object was then. Raises DivergenceError."""
        surroundings = self._record.machine().surroundings.copy()
        self.machine = machine = await walk(self._record, self._after, surroundings)
        # What was asked for before is the same then and now.
        self._numbers = {n: n for n in (*(machine.steps or ()), *(machine.asked or ()))}
        self._tokens = {one._token: one._token for one in (machine.promises or {}).values()}

    def discard(self) -> None:
        if hasattr(self, "machine"):
            self.machine.discard()

    async def tell(self, entry: Entry, event: Event) -> None:
        """Give one turn to the copy, if it fits."""
        machine = self.machine
        if type(event) is not Fired:
            await self._fire_before(entry)
        fitting = self._fit(event, entry.time)
        if isinstance(fitting, str):
            self.left_out.append(_told(entry, fitting))
            return
        # The chance of a turn follows from its number: that of then, whatever came between.
        machine.seq = entry.seq - 1
        commands = await self._run(msgspec.structs.replace(entry, event=fitting))
        self._match(entry.commands, commands)
        found, expected = _texts(commands), _texts(entry.commands)
        if found != expected:
            self.changed.append(
                _told(entry, "") | {"expected": "; ".join(expected), "found": "; ".join(found)}
            )
            self.changed[-1].pop("why")
        await self._begin_queued(entry)

    def _fit(self, event: Event, time_ns: int) -> Event | str:
        """The event as it is now, or why it does not fit."""
        machine = self.machine
        match event:
            case Reply() | Item():
                number = self._numbers.get(event.number, 0)
                if number not in (machine.asked or {}):
                    return "what it answers was not asked"
                return msgspec.structs.replace(event, number=number)
            case StepDone() | StepBegun() | StepItem():
                number = self._numbers.get(event.number, 0)
                if number not in (machine.steps or {}):
                    return "its step was not asked for"
                return msgspec.structs.replace(event, number=number)
            case Resolved():
                token = self._tokens.get(event.token)
                open_ = [one._token for one in (machine.promises or {}).values()]
                if token is None or token not in open_:
                    return "its promise was not made"
                return msgspec.structs.replace(event, token=token)
            case Piece():
                known = event.id in (machine.uploads or {})
                return event if known else "its request is not read"
            case Fired():
                due = machine.next_timer_ns()
                return event if due and due <= time_ns else "no timer is due"
            case Started():
                return "queued calls begin when they may"
            case Refused():
                queued = {call.id for call in machine.queue or ()}
                return event if event.id in queued else "its call is not in the queue"
            case _:
                return event

    async def _fire_before(self, entry: Entry) -> None:
        """Timers that were not set then fire when they are due."""
        for _ in range(10_000):
            due = self.machine.next_timer_ns()
            if not due or due > entry.time - _LATE_NS:
                return
            fired = msgspec.structs.replace(
                entry, time=due, event=Fired(), commands=[], undone=False, reloaded=False
            )
            self.machine.seq = entry.seq - 1
            commands = await self._run(fired)
            self._note(fired, commands)

    async def _begin_queued(self, entry: Entry) -> None:
        while (started := self.machine.next_call()) is not None:
            begun = msgspec.structs.replace(
                entry, event=started, commands=[], undone=False, reloaded=False
            )
            commands = await self._run(begun)
            self._note(begun, commands)

    def _note(self, entry: Entry, commands: list[Command]) -> None:
        if commands:
            found = "; ".join(_texts(commands))
            self.changed.append(_told(entry, "") | {"expected": "", "found": found})
            self.changed[-1].pop("why")

    async def _run(self, entry: Entry) -> list[Command]:
        machine, event = self.machine, entry.event
        handler = machine.kind.handlers.get(event.handler) if type(event) is Call else None
        # One that is undone takes its memory back, as a live object does by a reload.
        body = None
        if handler is not None and handler.atomic:
            try:
                body = heap.dump_heap(machine)
            except NotSerializable:
                body = None
        commands = await having(machine, lambda: run_again(machine, entry))
        lived = msgspec.structs.replace(entry, commands=commands, undone=machine.undone)
        if lived.undone:
            await self._take_back(body)
            await self._again(lived)
        self._lived.append(lived)
        return commands

    async def _again(self, lived: Entry) -> None:
        machine = self.machine
        machine.seq = lived.seq - 1
        again = skip_again if lived.undone else run_again
        await having(machine, lambda: again(machine, lived))

    async def _take_back(self, body: bytes | None) -> None:
        """Be as before the turn that just ran."""
        machine = self.machine
        if body is not None and not heap.has_sets(body):
            machine.discard()
            self.machine = Machine(machine.kind, machine.key, machine.home, machine.surroundings)
            heap.load_heap(self.machine, body)
            return
        # From bytes its sets would be walked in another order than the object walked them in.
        surroundings = machine.surroundings.copy()
        machine.discard()
        self.machine = await walk(self._record, self._after, surroundings)
        for n, lived in enumerate(self._lived):
            await self._again(lived)
            if n % 256 == 0:
                await asyncio.sleep(0)

    def _match(self, then: list[Command], now: list[Command]) -> None:
        """Pair what was asked for then with the same that is asked for now."""
        left = list(now)
        for old in then:
            for new in left:
                if _same_asked(old, new):
                    left.remove(new)
                    self._pair(old, new)
                    break

    def _pair(self, old: Command, new: Command) -> None:
        if isinstance(old, StepAsked) and isinstance(new, StepAsked):
            self._numbers[old.number] = new.number
        elif isinstance(old, Sent) and isinstance(new, Sent):
            number = getattr(old.event, "answer_to", 0)
            if number:
                self._numbers[number] = getattr(new.event, "answer_to", 0)
        elif isinstance(old, Promised) and isinstance(new, Promised):
            self._tokens[old.token] = new.token

    def waiting(self) -> list[str]:
        """What it has asked for and the past has no answer to."""
        steps = [f"step {one.asked.name}" for one in (self.machine.steps or {}).values()]
        asked = [f"{one.to}.{one.handler}" for one in (self.machine.asked or {}).values()]
        return steps + asked


def _same_asked(old: Command, new: Command) -> bool:
    if isinstance(old, StepAsked) and isinstance(new, StepAsked):
        # Long arguments stand in the journal by their length alone.
        same = heap.same(old.body, new.body) if old.body else old.size == len(new.body)
        return old.name == new.name and old.attempt == new.attempt and same
    if isinstance(old, Sent) and isinstance(new, Sent):
        a, b = old.event, new.event
        if old.to != new.to or type(a) is not type(b):
            return False
        if isinstance(a, Call) and isinstance(b, Call):
            return a.handler == b.handler and heap.same(a.body, b.body)
        return True
    if isinstance(old, Promised) and isinstance(new, Promised):
        return old.of == new.of
    return False


def _texts(commands: list[Command]) -> list[str]:
    return [tell_command(command) for command in commands]


def _told(entry: Entry, why: str) -> dict[str, Any]:
    kind, what = event_of(entry)
    return {"seq": entry.seq, "kind": kind, "input": what, "why": why}
