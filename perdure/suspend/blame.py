"""Which part of a value cannot be kept, as a path that its author recognises.

Runs only when pickling has failed: it goes down from the top, always into the first part that
fails by itself, and stops where every part alone would do.
"""

from __future__ import annotations

import collections
import copyreg
import functools
import io
import socket
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from perdure.errors import NotSerializable

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


def parts(value: object, path: str) -> Iterator[tuple[str, object]]:
    """What a value consists of, each part with its path."""
    if path == "arguments" and isinstance(value, tuple) and len(value) == 2:
        yield from ((f"argument[{i}]", part) for i, part in enumerate(value[0]))
        yield from ((f"argument {name}", part) for name, part in value[1].items())
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
    if isinstance(value, BaseException):
        yield from ((f"{path}.args[{i}]", part) for i, part in enumerate(value.args))
    if not isinstance(value, (type, types.ModuleType, types.FunctionType)):
        yield from attributes(value, path)


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
    (types.AsyncGeneratorType, "an async generator"),
    (types.CoroutineType, "a coroutine"),
    (types.GeneratorType, "a generator"),
    (types.TracebackType, "a traceback"),
    (types.FrameType, "a frame"),
    (types.FunctionType, "a function"),
    (memoryview, "a view into memory"),
]


def describe(value: object) -> str:
    """What a value is, for a person."""
    for cls, name in _NAMES:
        if isinstance(value, cls):
            called = getattr(value, "__qualname__", None)
            return f"{name} ({called or type(value).__qualname__})"
    if isinstance(value, type):
        return f"a class that cannot be found by its name ({value.__module__}.{value.__qualname__})"
    return f"a {type(value).__module__}.{type(value).__qualname__}"


def refusal(found: Found, error: BaseException) -> NotSerializable:
    """The error that names what cannot be kept, and why pickle says so."""
    why = str(error).splitlines()[0] if str(error) else type(error).__name__
    return NotSerializable(
        f"{found.path} is {describe(found.value)} and cannot be kept: {why}",
        hint="Keep what it is made from, and make it in a step or as a Transient attribute.",
    )
