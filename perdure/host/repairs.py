"""What a repair changes in the object: the half that is in the machine (repairing.py asks for it).

Apart from the other half, since whatever replays a journal needs it, also where no host is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.host.stepping import done
from perdure.journal.entry import Repaired, StepDone, StepDropped
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
