"""The end of an object: it was deleted, or its `on_create` failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.errors import Conflict
from perdure.failure import failure_of
from perdure.host import promises, sessions
from perdure.journal.entry import Ended, Reply, Sent, StepDropped
from perdure.suspend import heap

if TYPE_CHECKING:
    from perdure.host.machine import Machine


def ended(machine: Machine, event: Ended) -> None:
    """Whoever waits for it hears so, and nothing of it is left but the numbers it has given."""
    if machine.instance is not None:
        sessions.end_all(machine)
        error = Conflict(f"{machine.address} was deleted while the call was under way")
        failure = failure_of(error)
        running = [call.event for call in (machine.running or {}).values()]
        for call in [*running, *(machine.queue or ())]:
            machine.answer(call, None, failure, error)
        steps, machine.steps = machine.steps, None
        for number in steps or ():
            machine.commands.append(StepDropped(number))
        forget_everything(machine)
    if event.answer_to:
        reply = Reply(event.answer_to, True, heap.dumps(None))
        machine.commands.append(Sent(event.caller, reply))


def forget_everything(machine: Machine) -> None:
    """Be as before the first call. The numbers go on, so that no id is ever given again."""
    machine.drop_tasks()
    promises.forget_all(machine)
    machine.watches = machine.schedules = machine.parked = machine.timetable = None
    machine.instance = None
    machine.timers = None
    machine.cancelled_timers = 0
    machine.tasks = None
    machine.running = machine.asked = machine.steps = machine.step_notes = machine.kept = None
    machine.streamed = machine.cancelled = machine.deadlines = machine.uploads = None
    machine.holder = machine.queue = None
    machine.connections = machine.leaving = None
    machine.creating = False
