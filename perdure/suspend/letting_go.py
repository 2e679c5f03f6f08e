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
from collections.abc import Iterable
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
    for root in roots:
        (frames_met if isinstance(root, layout.TYPES) else others).append(root)
    left = _VALUES_MAX
    while frames_met or (others and left):
        if frames_met:
            value = frames_met.pop()
        else:
            left -= 1
            value = others.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        if isinstance(value, layout.TYPES):
            yield value
        for part in _held(value):
            (frames_met if isinstance(part, layout.TYPES) else others).append(part)


def _held(value: Any) -> Iterable[Any]:
    if isinstance(value, (*layout.TYPES, *_OPAQUE)):
        return gc.get_referents(value)
    if isinstance(value, _CONTAINERS):
        return gc.get_referents(value) if len(value) <= _LENGTH_MAX else ()
    if isinstance(value, types.FunctionType):
        return value.__closure__ or ()
    if isinstance(value, _HOLDERS):
        return vars(value).values()
    return ()
