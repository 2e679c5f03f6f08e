"""What a repair changes in the object: the half that is in the machine (repairing.py asks for it).

Apart from the other half, since whatever replays a journal needs it, also where no host is.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from perdure.failure import failure_of
from perdure.host import schedules
from perdure.host.failures import encode_failure, skipped_error
from perdure.host.stepping import done
from perdure.journal.entry import Repaired, Reply, Sent, Skipped, StepDone, StepDropped
from perdure.suspend import heap

if TYPE_CHECKING:
    from perdure.host.machine import Machine

STEP, FAIL_STEP, ATTRIBUTE, CALL = "step", "fail-step", "attribute", "call"


def repaired(machine: Machine, event: Repaired) -> None:
    """Change what an operator wants changed."""
    if event.what == ATTRIBUTE and machine.instance is not None:
        setattr(machine.instance, event.target, heap.loads(event.body))
        machine.drain()
    elif event.what in (STEP, FAIL_STEP):
        number = int(event.target)
        if machine.steps and number in machine.steps:
            # Whatever its attempt brings is no longer waited for.
            machine.commands.append(StepDropped(number))
            done(machine, StepDone(number, event.what == STEP, event.body))


def skipped(machine: Machine, event: Skipped) -> None:
    """The event counts as handled and nothing of it runs; a caller gets a failure."""
    if event.what == "timer":
        while machine.timers and machine.timers[0].when_ns <= machine.now_ns:
            heapq.heappop(machine.timers)
        machine.timers = machine.timers or None
        schedules.skipped(machine)
    if event.answer_to:
        failure = encode_failure(failure_of(skipped_error(machine.address)))
        machine.commands.append(Sent(event.caller, Reply(event.answer_to, False, failure)))
