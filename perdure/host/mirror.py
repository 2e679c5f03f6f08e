"""What the node knows of an object whose memory is in another process: plain facts, no author code.

After each turn the process tells them, and the node keeps them in a Machine that runs nothing:
whatever asks an object in the node's own memory (alarms, steps, sessions, the register of calls)
asks a Mirror in the same words.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from typing import Any

from perdure.connection import Connection
from perdure.host.asking import Surroundings
from perdure.host.machine import Machine
from perdure.host.raw_requests import OpenBody
from perdure.host.records import Asked, Running, Waited
from perdure.host.stepping import Stream
from perdure.kind import Kind
from perdure.promise import Promise

_AS_IT_IS = (
    *("seq", "now_ns", "number", "buried", "creating", "holder", "queue", "kept", "streamed"),
    *("step_notes", "cancelled", "timetable", "held"),
    *("failed", "undone", "tainted", "reloaded", "traces"),
)
"""Slots that hold plain data."""

_OF_CONNECTION = [
    name for name in Connection.__slots__ if name not in ("state", "principal", "_waiting")
]
_OF_PROMISE = ("_number", "_of", "_oid", "_since_ns", "_token", "_until_ns")

Facts = dict[str, Any]


def facts_of(machine: Machine) -> Facts:
    """What is to be known of an object outside of its process."""
    facts: Facts = {name: getattr(machine, name) for name in _AS_IT_IS}
    facts["version"] = machine.kind.version
    facts["at_rest"] = machine.quiescent()
    facts["timer_ns"] = machine.next_timer_ns() if machine.timers is not None else 0
    facts["indexed"] = None
    if machine.instance is not None:
        values = machine.instance.__dict__
        facts["indexed"] = {name: values[name] for name in machine.kind.indexed if name in values}
    if machine.running is not None:
        facts["running"] = [(one.event, one.since) for one in machine.running.values()]
    if machine.steps is not None:
        facts["steps"] = [
            (number, one.asked, one.since, one.begun, _stream(one.stream))
            for number, one in machine.steps.items()
        ]
    if machine.asked is not None:
        facts["asked"] = [
            (number, one.to, one.handler, one.since, one.call_id, one.by)
            for number, one in machine.asked.items()
            if not one.future.done()
        ]
    if machine.promises is not None:
        facts["promises"] = [
            (number, {name: getattr(one, name) for name in _OF_PROMISE})
            for number, one in machine.promises.items()
        ]
    if machine.uploads is not None:
        facts["uploads"] = {
            id_: (body.end, body.received, body.unread) for id_, body in machine.uploads.items()
        }
    if machine.connections is not None:
        facts["connections"] = [
            ({name: getattr(one, name) for name in _OF_CONNECTION}, len(one._waiting or ()))
            for one in machine.connections.values()
        ]
    return facts


def _stream(stream: Any) -> tuple[list[Any], int] | None:
    return (stream.items, stream.taken) if stream is not None else None


class _Pending:
    """In the place of a future that is not done."""

    def done(self) -> bool:
        return False


_PENDING: Any = _Pending()


class Mirror(Machine):
    """An object as its process told it last."""

    __slots__ = ("at_rest", "timer_ns")

    def __init__(self, kind: Kind, key: str, oid: int, surroundings: Surroundings) -> None:
        super().__init__(kind, key, oid, surroundings)
        self.at_rest = True
        self.timer_ns = 0

    def show(self, facts: Facts) -> None:
        """Be what the process tells."""
        for name in _AS_IT_IS:
            setattr(self, name, facts[name])
        self.at_rest = facts["at_rest"]
        self.timer_ns = facts["timer_ns"]
        self.timers = [] if self.timer_ns else None
        if facts["indexed"] is None:
            self.instance = None
        else:
            if self.instance is None:
                self.instance = self.kind.bare(self.key)
            before = self.instance.__dict__
            for name in before.keys() - facts["indexed"].keys():
                del before[name]
            for name, value in facts["indexed"].items():
                # One that is equal stays the same, so that nothing is taken to have changed.
                if name not in before or before[name] != value:
                    before[name] = value
        self.running = dict(self._running(facts)) if "running" in facts else None
        self.steps = dict(self._steps(facts)) if "steps" in facts else None
        self.asked = dict(_asked(facts)) if facts.get("asked") else None
        self.promises = dict(_promises(facts)) if "promises" in facts else None
        self.connections = dict(_connections(facts)) if "connections" in facts else None
        self.uploads = dict(self._uploads(facts)) if "uploads" in facts else None

    def _running(self, facts: Facts) -> Iterator[tuple[str, Running]]:
        for event, since in facts["running"]:
            yield event.id, Running(event, since, _PENDING)

    def _steps(self, facts: Facts) -> Iterator[tuple[int, Waited]]:
        for number, asked, since, begun, told in facts["steps"]:
            stream = None
            if told is not None:
                stream = Stream(self)
                stream.items, stream.taken = told
            waited = Waited(_PENDING, asked, since, stream)
            waited.begun = begun
            yield number, waited

    def _uploads(self, facts: Facts) -> Iterator[tuple[str, OpenBody]]:
        for id_, (end, received, unread) in facts["uploads"].items():
            body = OpenBody(self, b"")
            body.end, body.received, body.unread = end, received, unread
            yield id_, body

    def of_version(self, kind: Kind, version: str) -> None:
        """Be of the code that runs in the process."""
        if kind.version != version:
            kind = copy.copy(kind)
            kind.version = version
        self.kind = kind

    def next_timer_ns(self) -> int:
        """As in ObjectLoop."""
        return self.timer_ns

    def quiescent(self) -> bool:
        """As in Machine."""
        return self.at_rest

    def discard(self) -> None:
        """There is no code here to let go of."""


def _asked(facts: Facts) -> Iterator[tuple[int, Asked]]:
    for number, *rest in facts["asked"]:
        yield number, Asked(_PENDING, *rest)


def _promises(facts: Facts) -> Iterator[tuple[int, Promise[Any]]]:
    for number, told in facts["promises"]:
        promise: Promise[Any] = Promise.__new__(Promise)
        for name, value in told.items():
            setattr(promise, name, value)
        yield number, promise


def _connections(facts: Facts) -> Iterator[tuple[str, Connection]]:
    for told, waiting in facts["connections"]:
        conn = Connection.__new__(Connection)
        for name, value in told.items():
            setattr(conn, name, value)
        conn.state, conn.principal = {}, None
        # How many there are is all that is asked for here.
        conn._waiting = deque([None] * waiting) if waiting else None
        yield conn.id, conn
