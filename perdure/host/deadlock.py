"""Finds calls that wait for each other in a circle, at the moment the circle closes.

A call waits for the call that holds its `reentrant=False` object; a held object's handler waits
for the calls it made. Each such edge but the last one is there already when a call is put into a
queue, so looking then is enough: no timer, no scan of all objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from perdure.errors import DeadlockError
from perdure.host.machine import Machine


class _Waiting(NamedTuple):
    machine: Machine
    call_id: str


def find_deadlock(
    machine: Machine, call_id: str, machine_at: Callable[[str], Machine | None]
) -> DeadlockError | None:
    """What a call hears that was put into a queue and closes a circle; None where it can wait."""
    circle = _circle(machine, call_id, machine_at)
    if circle is None:
        return None
    return DeadlockError(
        "calls wait for each other in a circle: " + " -> ".join([*circle, circle[0]]),
        hint="Let one of the classes be reentrant, or tell with perdure.send.",
    )


def _circle(
    start: Machine, call_id: str, machine_at: Callable[[str], Machine | None]
) -> list[str] | None:
    """The calls of a circle that goes through the queued call, each as `Account/a.pay`; or None.

    Looks along every wait: with gather, one call that can never end is enough for all of it.
    """
    first = _Waiting(start, call_id)
    path: list[_Waiting] = []
    seen: set[tuple[int, str]] = set()

    def walk(node: _Waiting) -> bool:
        mark = (node.machine.oid, node.call_id)
        if mark in seen:
            # A circle that does not lead back to the queued call was there before, and found then.
            return bool(path) and node == first
        seen.add(mark)
        path.append(node)
        if any(walk(next_) for next_ in _waits(node, machine_at)):
            return True
        path.pop()
        return False

    if not walk(first):
        return None
    return [f"{node.machine.address}.{_handler(node)}" for node in path]


def _waits(node: _Waiting, machine_at: Callable[[str], Machine | None]) -> Iterator[_Waiting]:
    machine = node.machine
    if machine.holder is not None and any(call.id == node.call_id for call in machine.queue or ()):
        yield _Waiting(machine, machine.holder.id)
        return
    for asked in (machine.asked or {}).values():
        if asked.by == node.call_id and asked.call_id and not asked.future.done():
            there = machine_at(asked.to)
            if there is not None:
                yield _Waiting(there, asked.call_id)


def _handler(node: _Waiting) -> str:
    machine = node.machine
    running = (machine.running or {}).get(node.call_id)
    if running is not None:
        return running.event.handler
    return next(call.handler for call in machine.queue or () if call.id == node.call_id)
