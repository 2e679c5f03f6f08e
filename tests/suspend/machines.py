"""Drives a machine through events by hand: alone, or through bytes after each turn.

Steps are answered at once, timers fire when they are due, and what comes out is written down. Two
runs are the same if commands, wake times and the attributes at the end are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from perdure import Object
from perdure.host import async_generators, guard
from perdure.host.machine import Machine, Surroundings
from perdure.journal.entry import (
    JSON,
    Call,
    Command,
    Event,
    Fired,
    Reply,
    Sent,
    StepAsked,
    StepDone,
)
from perdure.journal.identity import oid_of
from perdure.kind import kind_of
from perdure.suspend import heap
from perdure.suspend.values import ValuePickler

guard.install()
async_generators.install()

START_NS = 1_700_000_000 * 10**9

Change = Callable[[Machine], Machine]


def fresh(cls: type[Object], key: str = "k") -> Machine:
    """A machine that has seen nothing."""
    kind = kind_of(cls)
    heap.resolve_kind = lambda name: cls
    return Machine(kind, key, oid_of(kind.name, key), Surroundings(b"s" * 16, None))


def reborn(machine: Machine) -> Machine:
    """The machine after a round trip through bytes; the old one is let go."""
    data = heap.dump_heap(machine)
    copy = Machine(machine.kind, machine.key, machine.oid, machine.surroundings)
    heap.load_heap(copy, data)
    heap.drop_all(machine)
    return copy


def alone(machine: Machine) -> Machine:
    return machine


class Turn(NamedTuple):
    event: Event
    time: int
    commands: list[Command]
    wake_at: int


class Run:
    """One machine and what happened to it."""

    def __init__(self, machine: Machine, change: Change = alone) -> None:
        self.machine = machine
        self.change = change
        self.turns: list[Turn] = []
        self.now = START_NS
        self.posted: deque[Event] = deque()

    def post(self, event: Event) -> None:
        self.posted.append(event)

    def call(self, handler: str, body: bytes = b"", *, id_: str = "") -> None:
        self.post(Call(id_ or f"c{len(self.turns)}-{len(self.posted)}", handler, JSON, body))

    def turn(self, event: Event) -> list[Command]:
        commands = self.machine.turn(event, self.now)
        self.turns.append(Turn(event, self.now, commands, self.machine.wake_at()))
        for command in commands:
            self._answer(command)
        self.machine = self.change(self.machine)
        return commands

    def _answer(self, command: Command) -> None:
        if isinstance(command, StepAsked):
            args, _ = heap.loads(command.body)
            self.post(StepDone(command.number, True, heap.dumps(["stepped", *args])))
        elif isinstance(command, Sent):
            call = command.event
            if isinstance(call, Call) and call.answer_to:
                args, _ = heap.loads(call.body)
                self.post(Reply(call.answer_to, True, heap.dumps([call.handler, *args])))

    def step(self) -> bool:
        """The next turn, if there is one to come."""
        if self.posted:
            self.turn(self.posted.popleft())
            return True
        started = self.machine.next_call()
        if started is not None:
            self.turn(started)
            return True
        due = self.machine.next_timer_ns()
        if due:
            self.now = max(self.now, due)
            self.turn(Fired())
            return True
        return False

    def finish(self, turns_max: int = 500) -> Run:
        while len(self.turns) < turns_max and self.step():
            pass
        return self

    def problems(self) -> list[str]:
        return [repr(problem.get("exception")) for problem in self.machine.problems or ()]


def replayed(run: Run, machine: Machine, upto: int | None = None) -> Machine:
    """A fresh machine after the same events; each turn must ask for the same."""
    for turn in run.turns[:upto]:
        commands = machine.turn(turn.event, turn.time)
        assert same_commands(commands, turn.commands), (turn.event, commands, turn.commands)
        assert machine.wake_at() == turn.wake_at, turn.event
    return machine


def same_commands(a: list[Command], b: list[Command]) -> bool:
    if a == b:
        return True
    return len(a) == len(b) and heap.same(bytes_of(a), bytes_of(b))


def bytes_of(value: Any) -> bytes:
    pickler = ValuePickler()
    pickler.dump(value)
    return pickler.buffer.getvalue()


def told(run: Run) -> str:
    """Everything a run did, as text to compare."""
    lines = [f"{turn.event} {turn.time} {turn.commands} {turn.wake_at}" for turn in run.turns]
    return "\n".join(lines)


def state_of(machine: Machine) -> dict[str, Any]:
    assert machine.instance is not None
    return machine.instance.__dict__


def differences(cls: type[Object], name: str, body: bytes = b"") -> str:
    """Run a handler alone, through bytes at each turn, and by replay; what differs, or nothing."""
    plain = Run(fresh(cls))
    plain.call(name, body)
    plain.finish()
    through = Run(fresh(cls), reborn)
    through.call(name, body)
    through.finish()
    if told(plain) != told(through):
        return f"through bytes:\n{told(through)}\ninstead of:\n{told(plain)}"
    if not heap.same_heap(plain.machine, through.machine):
        return f"state {state_of(through.machine)!r} instead of {state_of(plain.machine)!r}"
    again = replayed(plain, fresh(cls))
    if not heap.same_heap(plain.machine, again):
        return f"replayed state {state_of(again)!r} instead of {state_of(plain.machine)!r}"
    if plain.problems() != through.problems():
        return f"problems {through.problems()} instead of {plain.problems()}"
    return ""
