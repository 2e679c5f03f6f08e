"""Schedules of an object: each is a timer in its memory, and a tick is a call like any other.

A tick is decided in the turn of Fired: the schedule's next moment is set in the same turn in which
its handler begins, so that no crash lies between, and a tick is neither lost nor run twice. Its
handler begins there as well; where it cannot (the object is not reentrant and busy, or the call
is atomic and may be undone by itself), it waits in the object's queue like other calls.

When a tick by cron is due depends on the rules of a time zone, and these change with laws. So it
stands in the journal (Planned), and a replay takes it from there.
"""

from __future__ import annotations

import contextvars
import heapq
from collections import deque
from typing import TYPE_CHECKING, Any

from perdure.failure import Failure
from perdure.host.failures import decode_failure
from perdure.host.loop import ObjectLoop, TimerHandle
from perdure.journal.entry import JSON, PICKLE, Answered, Call, Planned, Tick, Timetable
from perdure.schedule import Rhythm, Schedule, check_missed
from perdure.suspend import heap, loading

if TYPE_CHECKING:
    from perdure.host.asking import Asking
    from perdure.host.machine import Machine

FIRED_MAX = 1000
"""So many timers fire in one turn; more that are due have the next. A turn stays short."""

CREATION = "@"
"""What stands for the schedule where an object comes into being for its timetable."""

_PARKED_MAX = 100
"""So many one-time schedules that failed are remembered of an object."""


# --- what code of the object does with them


def put(
    machine: Asking,
    id_: str | None,
    handler: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    rhythm: Rhythm | None,
    when_ns: int | None,
) -> Schedule:
    """Schedule a method; in the place of what has the same id. `when_ns` is None for a rhythm."""
    machine.refuse_in_query(f"schedule {handler}")
    machine.number += 1
    name = id_ if id_ is not None else f"{handler}-{machine.number}"
    body = heap.dumps((args, kwargs), "arguments") if args or kwargs else b""
    schedule = Schedule(name, handler, body, rhythm)
    _replace(machine, schedule)
    if rhythm is not None:
        when_ns = machine.now_ns + rhythm.every_ns if rhythm.every_ns else None
    _plan(machine, schedule, when_ns)
    return schedule


def _replace(machine: Asking, schedule: Schedule) -> None:
    if machine.schedules is None:
        machine.schedules = {}
    before = machine.schedules.pop(schedule.id, None)
    if before is not None:
        _disarm(before)
    machine.schedules[schedule.id] = schedule


def cancel(machine: Asking, schedule: Schedule) -> bool:
    """Take a schedule back, if it is the one of its id."""
    if machine.schedules is None or machine.schedules.get(schedule.id) is not schedule:
        return False
    machine.refuse_in_query("cancel a schedule")
    waits = schedule._due_ns != 0
    _drop(machine, schedule)
    return waits


def _drop(machine: Asking, schedule: Schedule) -> None:
    assert machine.schedules is not None
    _disarm(schedule)
    del machine.schedules[schedule.id]
    machine.schedules = machine.schedules or None


def _disarm(schedule: Schedule) -> None:
    timer, schedule._timer = schedule._timer, None
    schedule._due_ns = 0
    if timer is not None:
        timer.cancel()


def _plan(machine: Asking, schedule: Schedule, when_ns: int | None, runs_ns: int = 0) -> int:
    """Set the next tick; None: the first one by cron from now on.

    `runs_ns` is the tick that runs in this turn; gives it, or what the journal says it was.
    """
    rhythm = schedule._rhythm
    if rhythm is not None and rhythm.cron:
        at = len(machine.commands)
        known = machine.past[at] if machine.past is not None and at < len(machine.past) else None
        if type(known) is Planned and known.id == schedule.id:
            when_ns, runs_ns = known.next_ns, known.runs_ns
        elif when_ns is None:
            when_ns = rhythm.next(machine.now_ns)
        machine.commands.append(Planned(schedule.id, when_ns or 0, runs_ns))
    schedule._due_ns = when_ns or 0
    schedule._timer = None
    if when_ns:
        machine.number += 1
        schedule._number = machine.number
        schedule._timer = _Ticking(schedule, machine)
        if machine.timers is None:
            machine.timers = []
        heapq.heappush(machine.timers, schedule._timer)
    return runs_ns


class _Ticking(TimerHandle):
    """The timer of a schedule. In a snapshot it is nothing beside its schedule, since there may
    be very many."""

    __slots__ = ()

    def __init__(self, schedule: Schedule, machine: Any) -> None:
        self.callback = fire
        self.args = (machine, schedule)
        self.context = _NOTHING
        self.when_ns = schedule._due_ns
        self.number = schedule._number
        self.loop = machine

    def run(self, loop: ObjectLoop) -> None:
        if self.callback is not None:
            fire(*self.args)

    def __reduce__(self) -> Any:
        if self.callback is None:
            # Cancelled, and still in the heap: the schedule may have another by now.
            return _spent, (self.when_ns, self.number)
        return _armed, (self.args[1],)


_NOTHING = contextvars.Context()


def _armed(schedule: Schedule) -> _Ticking:
    schedule._timer = _Ticking(schedule, loading.machine())
    return schedule._timer  # type: ignore[no-any-return]


def _spent(when_ns: int, number: int) -> _Ticking:
    timer = _Ticking.__new__(_Ticking)
    timer.callback, timer.args, timer.context = None, (), _NOTHING
    timer.when_ns, timer.number, timer.loop = when_ns, number, loading.machine()
    return timer


# --- ticks


def fire(machine: Machine, schedule: Schedule) -> None:
    """A schedule's moment has come (host/loop.py)."""
    due = schedule._due_ns
    schedule._timer = None
    rhythm = schedule._rhythm
    if rhythm is None:
        schedule._due_ns = 0
        _call(machine, schedule, due)
        return
    runs, next_ = _ticks(rhythm, due, machine.now_ns)
    runs = _plan(machine, schedule, next_, runs)
    if runs:
        _call(machine, schedule, runs)


def _ticks(rhythm: Rhythm, due: int, now: int) -> tuple[int, int]:
    """(the tick that runs now or 0, the next one), where `due` is one that has come."""
    oldest = now - rhythm.lateness_ns
    if rhythm.missed == "all":
        if due < oldest:
            # Too late to be made up for: on to the first one that is not.
            return 0, rhythm.after(due, oldest - 1)
        # One by one, each in a turn of its own: the next may be due already.
        return due, rhythm.next(due)
    latest = rhythm.latest(due, now)
    return latest if latest >= oldest else 0, rhythm.after(due, now)


def _call(machine: Machine, schedule: Schedule, due_ns: int) -> None:
    machine.number += 1
    id_ = f"{machine.oid:016x}-t{machine.seq:x}.{machine.number:x}"
    body = schedule._body
    # Nothing is the same in both, and read without a pickle.
    format_ = PICKLE if body else JSON
    event = Call(id_, schedule.handler, format_, body, schedule=schedule.id, due_ns=due_ns)
    schedule._call = id_
    handler = machine.kind.scheduled(schedule.handler)
    queued = machine.queue is not None and not machine.kind.reentrant
    if (
        machine.creating
        or machine.holder is not None
        or queued
        or (handler is not None and handler.atomic)
    ):
        if machine.queue is None:
            machine.queue = deque()
        machine.queue.append(event)
        return
    machine.begin(event, None)
    # What fires next in this turn works for nobody.
    machine.call = None


def ended(machine: Machine, event: Call, failure: Failure | None) -> None:
    """A run is over: what it raised is kept with the schedule until a run succeeds."""
    schedule = (machine.schedules or {}).get(event.schedule)
    if schedule is None:
        return
    one_time = schedule._rhythm is None
    if one_time and schedule._call != event.id:
        return  # another one that has taken its id
    if failure is None:
        schedule.error, schedule.failures = None, 0
        if one_time:
            _drop(machine, schedule)
        return
    schedule.error = f"{failure.error}: {failure.message}" if failure.message else failure.error
    schedule.failures += 1
    if one_time:
        _park(machine, schedule)


def _park(machine: Machine, schedule: Schedule) -> None:
    """A one-time schedule that failed stays to be seen, as long as there are not too many."""
    if machine.parked is None:
        machine.parked = deque()
    machine.parked.append(schedule)
    if len(machine.parked) > _PARKED_MAX:
        oldest = machine.parked.popleft()
        if machine.schedules and machine.schedules.get(oldest.id) is oldest:
            _drop(machine, oldest)


def report(machine: Machine, event: Call, failure: Failure | None, error: Any) -> None:
    """The answer of a call that nobody made: to the log, and to its schedule."""
    ended(machine, event, failure)
    if failure is not None:
        message = f"{event.handler}, run by the schedule {event.schedule}, failed"
        if event.schedule == CREATION:
            message = f"{machine.address} could not be created, so @every and @cron run nothing"
        machine.call_exception_handler({"message": message, "exception": error})


def skip(machine: Machine, event: Call, answered: Answered) -> None:
    """A run that was undone: of it, its schedule keeps the error alone."""
    if not answered.ok:
        ended(machine, event, decode_failure(answered.body))


def skipped(machine: Machine) -> None:
    """An operator has left out what was due: each schedule goes on with its next tick."""
    for schedule in list((machine.schedules or {}).values()):
        if schedule._timer is None or schedule._timer.when_ns > machine.now_ns:
            continue
        rhythm, due = schedule._rhythm, schedule._due_ns
        schedule._timer = None
        if rhythm is None:
            schedule._due_ns = 0
            schedule.error = "skipped by an operator"
            _park(machine, schedule)
        else:
            _plan(machine, schedule, rhythm.after(due, machine.now_ns))


# --- what a class declares by @every and @cron


def timetable(machine: Machine, event: Timetable) -> None:
    """From now on these are the declared schedules; those that stay the same go on undisturbed."""
    if machine.instance is None:
        if not event.ticks:
            return
        machine.number += 1
        id_ = f"{machine.oid:016x}-t{machine.seq:x}.{machine.number:x}"
        if not machine.create(Call(id_, "on_create", PICKLE, b"", schedule=CREATION)):
            return
    wanted = {tick.id: tick for tick in event.ticks}
    for schedule in list((machine.schedules or {}).values()):
        if schedule._declared is not None and schedule.id not in wanted:
            _drop(machine, schedule)
    for tick in event.ticks:
        known = (machine.schedules or {}).get(tick.id)
        if known is None or known._declared != tick:
            rhythm = Rhythm(
                tick.every_ns, tick.cron, tick.tz, check_missed(tick.missed), tick.window_ns
            )
            put(machine, tick.id, tick.handler, (), {}, rhythm, None)._declared = tick
    machine.timetable = event.ticks or None


def declared(machine: Machine) -> list[Tick]:
    """What the object has of its class's timetable."""
    return machine.timetable or []
