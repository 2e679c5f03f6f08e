"""The errors of an object's past, each with its traceback and the locals of its frames.

The journal keeps what a caller was told and no more. So the turn is run again, on a copy, and
the exception is caught where it ends: with its frames, as they were.
"""

from __future__ import annotations

import os
import traceback
from typing import Any

from perdure.clock import iso
from perdure.errors import UnknownTurn
from perdure.failure import failure_of
from perdure.host.replay import run_again
from perdure.host.upgrades import having
from perdure.journal.entry import Call, Entry
from perdure.past.record import Record
from perdure.past.walk import walk
from perdure.sight.look import event_of
from perdure.sight.stacks import Frame, named, told

_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


async def errors_of(record: Record, seq: int) -> list[dict[str, Any]]:
    """What was raised in turn `seq` and ended a call, or a task that nobody awaited.

    Raises UnknownTurn, and DivergenceError where the turns before do not replay.
    """
    entry = await record.probe(seq)
    if entry is None or entry.seq != seq:
        raise UnknownTurn(f"{record.kind.name}/{record.key} has no turn {seq}")
    catcher = Catcher(entry)
    surroundings = record.machine().surroundings.copy()
    machine = await walk(record, seq - 1, surroundings)
    surroundings.on_error = catcher.call_failed
    try:
        # As the live turn ran, and not as a replay counts one that was undone.
        await having(machine, lambda: run_again(machine, entry))
        for problem in machine.problems or ():
            error = problem.get("exception")
            if isinstance(error, BaseException):
                catcher.caught(error, None, None)
    finally:
        machine.discard()
    return catcher.found


class Catcher:
    """Collects errors while a turn runs: later their frames hold something else."""

    def __init__(self, entry: Entry) -> None:
        self.found: list[dict[str, Any]] = []
        self._entry = entry
        self._seen: set[int] = set()
        self._kept: list[BaseException] = []

    def call_failed(self, call: Call, error: BaseException) -> None:
        self.caught(error, call.handler, call.id)

    def caught(self, error: BaseException, handler: str | None, call_id: str | None) -> None:
        if id(error) in self._seen:
            return
        self._seen.add(id(error))
        # So that no other gets its place in memory, and its number with it.
        self._kept.append(error)
        failure = failure_of(error)
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN):
            trace = trace.tb_next
        frames: list[dict[str, Any]] = []
        step = trace
        while step is not None:
            frame = step.tb_frame
            module = frame.f_globals.get("__name__", "")
            variables = named(frame.f_locals.items())
            shown = Frame(frame.f_code, step.tb_lineno, module, variables, [])
            frames.append(told(shown, with_locals=True))
            step = step.tb_next
        text = "".join(traceback.format_exception(type(error), error, trace))
        self.found.append(
            {
                "seq": self._entry.seq,
                "time": iso(self._entry.time),
                "kind": event_of(self._entry)[0],
                "handler": handler,
                "call_id": call_id,
                "error": failure.error,
                "message": failure.message,
                "traceback": text,
                "frames": frames,
            }
        )
