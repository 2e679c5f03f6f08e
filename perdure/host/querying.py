"""Queries: code of the app that looks at an object between two turns, and changes nothing."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from types import AsyncGeneratorType, CoroutineType
from typing import Any

from perdure.errors import NotSerializable, ReadOnlyError
from perdure.host.machine import Machine
from perdure.serde import Arguments
from perdure.suspend import heap

_set_running_loop = asyncio._set_running_loop


def run_query(
    machine: Machine,
    function: Callable[..., Any],
    arguments: Arguments,
    now_ns: int,
    *,
    deep: bool,
) -> Any:
    """Run a query on the memory as it is; it must leave no trace.

    `deep` also compares the whole state before and after. Raises what the query raises, or
    ReadOnlyError; then `tainted` says whether the memory was changed all the same.
    """
    if machine.instance is None:
        # In a memory of its own: `__init__` may count up numbers, set timers and start tasks,
        # which would be there twice when the object comes into being.
        return run_query(_never_was(machine, now_ns), function, arguments, now_ns, deep=deep)
    instance = machine.instance
    before = _impression(machine) if deep else b""
    number, now, tasks = machine.number, machine.now_ns, machine.tasks and len(machine.tasks)
    machine.now_ns = max(now, now_ns)
    machine._chance = None
    machine.read_only = True
    machine.call = None
    _set_running_loop(machine)  # type: ignore[arg-type]
    own_class = type(instance)
    instance.__class__ = machine.kind.read_only
    try:
        args, kwargs = arguments
        result = function(instance, *args, **kwargs)
        if type(result) is CoroutineType:
            result = _without_waiting(machine, result)
        elif type(result) is AsyncGeneratorType:
            result = _without_waiting(machine, _all_of(result))
    finally:
        object.__setattr__(instance, "__class__", own_class)
        machine.read_only = False
        machine._chance = None
        # Nothing of callbacks, futures or tasks that it made may stay.
        if machine.ready:
            machine.ready.clear()
        if machine.number != number:
            machine.tainted = (machine.tasks and len(machine.tasks)) != tasks
            machine.number = number
        machine.now_ns = now
        _set_running_loop(machine.surroundings.outer)
    if machine.tainted:
        raise ReadOnlyError(
            f"{machine.address}: a query left a task behind",
            hint="Await in the query what it begins, or remove @query from the handler.",
        )
    if before and heap.differs(machine, before):
        machine.tainted = True
        raise ReadOnlyError(
            f"{machine.address}: a query changed something inside an attribute",
            hint="Remove @query from the handler, or work on a copy.",
        )
    return result


async def _all_of(generator: AsyncGeneratorType[Any, None]) -> list[Any]:
    return [item async for item in generator]


def _impression(machine: Machine) -> bytes:
    """The memory as bytes, to compare; empty where it holds what cannot be compared so."""
    try:
        return heap.dump_heap(machine, try_out=False)
    except NotSerializable:
        return b""


def _without_waiting(machine: Machine, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns that never waits: no task is needed for it."""
    try:
        contextvars.Context().run(coroutine.send, None)
    except StopIteration as stop:
        return stop.value
    heap.drop(coroutine)
    raise ReadOnlyError(
        f"{machine.address}: a query waited for something that is not there yet",
        hint="Only a handler without @query can wait.",
    )


def _never_was(machine: Machine, now_ns: int) -> Machine:
    """A fresh object that never was, for one query."""
    fresh = Machine(machine.kind, machine.key, machine.oid, machine.surroundings)
    fresh.now_ns = max(machine.now_ns, now_ns)
    # What its `__init__` asks for, such as promises, is asked of nobody.
    fresh.commands = []
    _set_running_loop(fresh)  # type: ignore[arg-type]
    try:
        fresh.instance = machine.kind.fresh(machine.key)
    finally:
        fresh.ready.clear()
        fresh.discard()
        _set_running_loop(machine.surroundings.outer)
    return fresh
