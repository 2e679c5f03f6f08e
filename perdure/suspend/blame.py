"""Which part of a value cannot be kept, as a path that its author recognises.

Runs only when pickling has failed: it goes down from the top, always into the first part that
fails by itself, and stops where every part alone would do.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import copyreg
import functools
import io
import socket
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from perdure.errors import NotSerializable
from perdure.suspend import layout, probe

_DEPTH_MAX = 100


class Found(NamedTuple):
    """A path, and what stands at its end."""

    path: str
    value: object


def find(value: object, path: str, works: Callable[[object], bool]) -> Found:
    """The innermost part of a value for which `works` says no."""
    seen: set[int] = set()
    for _ in range(_DEPTH_MAX):
        seen.add(id(value))
        for name, part in parts(value, path):
            if id(part) not in seen and not works(part):
                path, value = name, part
                break
        else:
            break
    return Found(path, value)


def roots(address: str, state: dict[str, Any]) -> Iterator[tuple[str, object]]:
    """Where to begin in the memory of an object: attributes, then tasks, then the rest."""
    instance = state.get("instance")
    if instance is not None:
        yield from attributes(instance, f"{address}: self")
    for task in (state.get("tasks") or {}).values():
        where = f"{address}: {_where(task.coroutine)}"
        for var, part in task.context.items():
            yield f"{where}: context variable {var.name!r}", part
        yield where, task.coroutine
    for name, part in state.items():
        yield f"{address}: its {name}", part


def parts(value: object, path: str) -> Iterator[tuple[str, object]]:
    """What a value consists of, each part with its path."""
    if path == "arguments" and isinstance(value, tuple) and len(value) == 2:
        yield from ((f"argument[{i}]", part) for i, part in enumerate(value[0]))
        yield from ((f"argument {name}", part) for name, part in value[1].items())
        return
    if isinstance(value, layout.TYPES):
        yield from _parts_of_frame(value, path)
        return
    if any(isinstance(value, cls) for cls, _ in _NAMES[:_WHOLE]):
        return
    if isinstance(value, dict):
        yield from ((f"key {_short(key)} of {path}", key) for key in value)
        yield from ((f"{path}[{_short(key)}]", part) for key, part in value.items())
    elif isinstance(value, (list, tuple, collections.deque)):
        yield from ((f"{path}[{i}]", part) for i, part in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        yield from ((f"{_short(part)} in {path}", part) for part in value)
    elif isinstance(value, types.MethodType):
        yield f"{path}.__self__", value.__self__
    elif isinstance(value, functools.partial):
        yield f"{path}.func", value.func
        yield from ((f"{path}.args[{i}]", part) for i, part in enumerate(value.args))
        yield from ((f"{path}.keywords[{key!r}]", part) for key, part in value.keywords.items())
    elif isinstance(value, types.FunctionType):
        yield from _parts_of_function(value, path)
    elif isinstance(value, contextvars.Context):
        yield from ((f"{path}[{var.name!r}]", part) for var, part in value.items())
    elif isinstance(value, BaseException):
        yield from ((f"{path}.args[{i}]", part) for i, part in enumerate(value.args))
        yield from ((f"{path}.{name}", getattr(value, name)) for name in _CHAIN)
    elif isinstance(value, asyncio.Future):
        yield from _parts_of_future(value, path)
    if not isinstance(value, (type, types.ModuleType, types.FunctionType)):
        yield from attributes(value, path)


_CHAIN = ("__cause__", "__context__")


def _where(frame: Any) -> str:
    """`run() line 31`."""
    name = getattr(frame, "__name__", type(frame).__name__)
    if not isinstance(frame, layout.TYPES) or probe.unfit() or layout.ended(frame):
        return f"{name}()"
    return f"{name}() line {layout.line_of(frame)}"


def _parts_of_frame(frame: Any, path: str) -> Iterator[tuple[str, object]]:
    if probe.unfit() or layout.ended(frame):
        return
    address = path.partition(": ")[0]
    here = f"{address}: {_where(frame)}"
    code = layout.code_of(frame)
    names = [*code.co_varnames, *(n for n in code.co_cellvars if n not in code.co_varnames)]
    names += code.co_freevars
    state = layout.read(frame)
    count = len(state.values) + state.nulls.bit_count()
    places = [i for i in range(count) if not state.nulls >> i & 1]
    found = list(zip(places, state.values, strict=True))
    # A variable of the function itself before the inner functions that see it as well.
    found.sort(key=lambda pair: not isinstance(pair[1], types.CellType))
    for i, value in found:
        if i == 0:
            yield f"{here}: the exception it handles", value
        elif i <= len(names):
            yield f"{here}: local {names[i - 1]!r}", _contents(value)
        elif isinstance(value, layout.TYPES):
            yield f"{address}: {_where(value)}", value
        else:
            yield f"{here}: a value it works with", value


def _contents(value: object) -> object:
    if isinstance(value, types.CellType):
        try:
            contents: object = value.cell_contents
        except ValueError:
            return None
        return contents
    return value


def _parts_of_function(function: types.FunctionType, path: str) -> Iterator[tuple[str, object]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield f"{path}: {name!r} of the function around it", _contents(cell)
    for i, value in enumerate(function.__defaults__ or ()):
        yield f"{path}: its default {i}", value


def _parts_of_future(future: Any, path: str) -> Iterator[tuple[str, object]]:
    yield f"{path}: its result", future._result
    yield f"{path}: its exception", future._exception
    for callback, context in future._callbacks or ():
        yield f"{path}: who waits for it", callback
        yield f"{path}: the context of who waits for it", context


def attributes(value: object, path: str) -> Iterator[tuple[str, object]]:
    """The attributes in which a value keeps its state."""
    own = getattr(value, "__dict__", None)
    if isinstance(own, dict):
        yield from ((f"{path}.{name}", part) for name, part in list(own.items()))
    names: Any = copyreg._slotnames(type(value))  # type: ignore[attr-defined]
    for name in names or getattr(type(value), "__struct_fields__", ()):
        try:
            yield f"{path}.{name}", getattr(value, name)
        except AttributeError:
            continue


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"a {type(value).__name__}"
    return text if len(text) <= 40 else f"{text[:39]}…"


_NAMES: list[tuple[type | tuple[type, ...], str]] = [
    (io.IOBase, "an open file"),
    (socket.socket, "a socket"),
    (threading.Thread, "a thread"),
    ((type(threading.Lock()), type(threading.RLock())), "a lock of threads"),
    ((threading.Condition, threading.Event, threading.Semaphore), "a lock of threads"),
    (types.ModuleType, "a module"),
    (types.TracebackType, "a traceback"),
    (types.FrameType, "a frame"),
    (memoryview, "a view into memory"),
    (types.AsyncGeneratorType, "an async generator"),
    (types.CoroutineType, "a coroutine"),
    (types.GeneratorType, "a generator"),
    (types.FunctionType, "a function"),
]
_WHOLE = 9
"""So many of these are what they are; to name a part of them would help nobody."""


def describe(value: object) -> str:
    """What a value is, for a person."""
    if type(value) in weakref.ProxyTypes:
        # It says that it is what it stands for.
        return "a weakref.proxy"
    for cls, name in _NAMES:
        if isinstance(value, cls):
            called = getattr(value, "__qualname__", None)
            return f"{name} ({called or type(value).__qualname__})"
    if isinstance(value, type):
        return f"a class that cannot be found by its name ({value.__module__}.{value.__qualname__})"
    module = type(value).__module__.lstrip("_")
    name = type(value).__qualname__
    return f"a {name}" if module == "builtins" else f"a {module}.{name}"


def refusal(found: Found, error: BaseException) -> NotSerializable:
    """The error that names what cannot be kept, and why pickle says so."""
    why = str(error).splitlines()[0] if str(error) else type(error).__name__
    return NotSerializable(
        f"{found.path} is {describe(found.value)} and cannot be kept: {why}",
        hint="Keep what it is made from, and make it in a step or as a Transient attribute.",
    )
