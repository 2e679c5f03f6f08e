"""Letting suspended code go without running it to its end.

An activation that leaves memory does not end its handlers: they go on elsewhere. But when Python
frees a suspended coroutine it raises GeneratorExit in it, and `finally` blocks run. So the frame
is marked as ended first, with all frames it waits for or holds. Where the layout of frames is not
known, the code is closed, and what it does then happens to nobody.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import gc
import types
from collections.abc import Callable, Collection, Iterable
from typing import Any

from perdure.suspend import frames, layout, probe

_CONTAINERS = (list, tuple, dict, set, frozenset, collections.deque)
_HOLDERS = (
    contextlib._GeneratorContextManagerBase,
    contextlib._BaseExitStack,
    contextlib.aclosing,
    contextlib.closing,
)
_OPAQUE = (
    enumerate,
    filter,
    map,
    zip,
    types.MethodType,
    types.CellType,
    functools.partial,
    frames.CoroutineWrapper,
    frames.AsyncSend,
    frames.AsyncThrow,
)
_LENGTH_MAX = 1_000
_VALUES_MAX = 20_000


def drop(coroutine: Any) -> None:
    """Let suspended code go, and what it waits for, without its `finally` blocks."""
    _drop([coroutine])


def drop_all(machine: Any) -> None:
    """Let everything go that is suspended in an object's tasks and attributes."""
    roots = [task.coroutine for task in (machine.tasks or {}).values()]
    if machine.instance is not None:
        roots.extend(machine.instance.__dict__.values())
    _drop(roots)


def _drop(roots: list[Any]) -> None:
    found = list(_suspended(roots))
    if not probe.unfit():
        forget(found)
        return
    for frame in found:
        # Closing may raise anything the code raises; nobody is there to hear it.
        with contextlib.suppress(BaseException):
            frame.close()


def forget(found: Iterable[Any]) -> None:
    """Mark frames as ended. Only where the layout is known."""
    for frame in found:
        layout.forget(frame)


def _suspended(roots: list[Any]) -> Iterable[Any]:
    """The frames within reach that belong to this code and nobody else.

    It looks into frames and plain containers. An object of the app may lead to anything in the
    process, also to code that others wait for; and a long list holds data, not code.
    """
    seen: dict[int, Any] = {}
    frames_met: list[Any] = []
    others: list[Any] = []
    parts: Collection[Any] = roots
    left = _VALUES_MAX
    while True:
        for part in parts:
            way = _ways.get(type(part)) or _way_into(type(part))
            if way is _into_frame:
                frames_met.append(part)
            elif way is not _nothing:
                others.append(part)
        if frames_met:
            value = frames_met.pop()
        elif others and left > 0:
            value = others.pop()
        else:
            return
        key = id(value)
        parts = ()
        if key not in seen:
            seen[key] = value
            way = _ways.get(type(value)) or _way_into(type(value))
            if way is _into_frame:
                yield value
            parts = way(value)
            left -= len(parts)


Way = Callable[[Any], Collection[Any]]

_ways: dict[type, Way] = {}


def _way_into(cls: type) -> Way:
    """Where values of a class lead to. Found out once for each: contextlib's are slow to ask."""
    way: Way = _nothing
    if cls in layout.TYPES:
        way = _into_frame
    elif issubclass(cls, _OPAQUE):
        way = gc.get_referents
    elif issubclass(cls, _CONTAINERS):
        way = _into_container
    elif cls is types.FunctionType:
        way = _into_function
    elif issubclass(cls, _HOLDERS):
        way = _into_attributes
    if len(_ways) > 10_000:
        # Rather than keep dropped modules alive.
        _ways.clear()
    _ways[cls] = way
    return way


def _into_frame(value: Any) -> Collection[Any]:
    return gc.get_referents(value)


def _into_container(value: Any) -> Collection[Any]:
    return gc.get_referents(value) if len(value) <= _LENGTH_MAX else ()


def _into_function(value: Any) -> Collection[Any]:
    return value.__closure__ or ()


def _into_attributes(value: Any) -> Collection[Any]:
    return list(vars(value).values())


def _nothing(value: Any) -> Collection[Any]:
    return ()
