"""What leaves behind the entry of a turn: its commands as outputs at the gate (journal/log.py).

Answers and items go to whoever waits for them, steps begin or end, frames go to their lines. None
of it is done here: it is put in order, and done when the entry is on disk, or called off if it
never will be. Messages to other objects are handed back, since they are in the outbox as well.

A command whose body the entry need not have (it is with whoever gets the output) gives way to a
shorter one in the turn's list, from which the entry is made afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.host.following import ItemOutput
from perdure.host.incoming import IncomingCall, LateAnswer, answer_of
from perdure.host.lines import FOR_LINES, kept_of
from perdure.host.stepping import EVENTS as STEP_EVENTS
from perdure.journal.codec import Message
from perdure.journal.entry import (
    ARGUMENTS_KEPT_MAX,
    BODY_KEPT_MAX,
    Answered,
    Command,
    Event,
    MessageId,
    Promised,
    Received,
    Sent,
    Settled,
    StepAsked,
    StepDropped,
    Yielded,
    shortened,
    without_arguments,
)
from perdure.journal.log import Output

if TYPE_CHECKING:
    from perdure.host.activation import Activation


def gather_outputs(
    activation: Activation,
    event: Event,
    commands: list[Command],
    call: IncomingCall | None,
    outputs: list[Output],
) -> list[Message] | None:
    """Add to `outputs` what a turn asked for, in its order; gives the messages that it sends.

    `call` is the one from outside that the turn took in, if it did.
    """
    host = activation.host
    machine = activation.machine
    oid = machine.oid
    seq = machine.seq
    messages: list[Message] | None = None
    frames: list[tuple[int, Command]] | None = None
    for index, command in enumerate(commands):
        if type(command) is Answered:
            waiter = call
            if call is None or command.id != call.id:
                waiter = host.waiting.get(command.id)
            if waiter is not None:
                waiter.answer = answer_of(command)
                host.waiting.pop(command.id, None)
                if machine.traces is not None and waiter.answer.failure is not None:
                    waiter.answer.failure.traceback = machine.traces.get(command.id, "")
                outputs.append(waiter if waiter is call else LateAnswer(waiter, host))
            if host.watchers:
                host.answered(command, outputs)
            if len(command.body) > BODY_KEPT_MAX:
                commands[index] = shortened(command)
        elif type(command) is Yielded:
            waiter = call
            if call is None or command.id != call.id:
                waiter = host.waiting.get(command.id)
            if waiter is not None and waiter.on_item is not None:
                outputs.append(ItemOutput(waiter.on_item, command))
            for on_item in host.listeners.get(command.id, ()):
                outputs.append(ItemOutput(on_item, command))
        elif type(command) is Sent:
            if messages is None:
                messages = []
            messages.append(Message(MessageId(oid, seq, index), command))
        elif type(command) is StepAsked:
            outputs.append(host.effects.output(activation, command))
            if len(command.body) > ARGUMENTS_KEPT_MAX:
                commands[index] = without_arguments(command)
        elif type(command) is StepDropped:
            outputs.append(host.effects.dropping(oid, command))
        elif type(command) is Promised or type(command) is Settled:
            host.open_promises.note(oid, seq, machine.now_ns, command)
        elif type(command) in FOR_LINES:
            frames = frames or []
            frames.append((index, command))
            commands[index] = kept_of(machine, command)
    if call is None and type(event) in STEP_EVENTS:
        taken = host.effects.taken(oid, seq, event)  # type: ignore[arg-type]
        if taken is not None:
            outputs.append(taken)
    if frames is not None or type(event) is Received:
        outputs.append(host.lines.output(machine, event, frames))
    if host.uploads.open:
        host.uploads.turned(activation, outputs)
    return messages
