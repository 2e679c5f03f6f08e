"""What a suspended frame looks like in the memory of CPython 3.11, 3.12 and 3.13.

A coroutine, a generator and an async generator each end in an interpreter frame: its code, the
place in the code, and `localsplus`: locals, cells and the evaluation stack in one array, where an
empty place is a null pointer. `read` takes that apart, `write` puts it into a fresh frame of the
same code, `forget` lets a frame go without running what it would still do.

Nothing here may be used before `suspend/probe.py` has run `suspend/trial.py` on this very
interpreter, in a process of its own: a wrong offset is a crash, not an exception. This file
imports the standard library alone, so that the trial runs without the package around it.

Names and order of the fields are those of CPython's pycore_frame.h and genobject.h.
"""

from __future__ import annotations

import ctypes
import struct
import sys
import sysconfig
import types
from ctypes import Structure, c_byte, c_int, c_int8, c_ssize_t, c_uint16, c_void_p, py_object
from typing import Any, ClassVar, NamedTuple

TYPES = (types.CoroutineType, types.GeneratorType, types.AsyncGeneratorType)

MINOR = sys.version_info[:2]
KNOWN = ((3, 11), (3, 12), (3, 13))


class _Object(Structure):
    _fields_: ClassVar[Any] = [("refcount", c_ssize_t), ("type", c_void_p)]


if MINOR == (3, 11):
    _frame_fields: list[tuple[str, Any]] = [
        ("function", c_void_p),
        ("globals", c_void_p),
        ("builtins", c_void_p),
        ("locals", c_void_p),
        ("code", c_void_p),
        ("frame_object", c_void_p),
        ("previous", c_void_p),
        ("instruction", c_void_p),
        ("stacktop", c_int),
        ("is_entry", c_byte),
        ("owner", c_byte),
    ]
    _code_field: list[tuple[str, Any]] = [("own_code", c_void_p)]
else:
    _frame_fields = [
        ("code", c_void_p),
        ("previous", c_void_p),
        ("function", c_void_p),
        ("globals", c_void_p),
        ("builtins", c_void_p),
        ("locals", c_void_p),
        ("frame_object", c_void_p),
        ("instruction", c_void_p),
        ("stacktop", c_int),
        ("return_offset", c_uint16),
        ("owner", c_byte),
    ]
    _code_field = []


class _Generator(Structure):
    """A frame and what stands before it; the fields of both in one, which ctypes reads faster."""

    _fields_: ClassVar[Any] = [
        ("head", _Object),
        *_code_field,
        ("weakrefs", c_void_p),
        ("name", c_void_p),
        ("qualname", c_void_p),
        ("exception", c_void_p),
        ("previous_exception", c_void_p),
        ("origin_or_finalizer", c_void_p),
        ("hooks_inited", c_byte),
        ("closed", c_byte),
        ("running_async", c_byte),
        ("state", c_int8),
        *_frame_fields,
    ]


class _AsyncStep(Structure):
    """What `agen.__anext__()`, `asend(value)`, `athrow(error)` and `aclose()` give."""

    _fields_: ClassVar[Any] = [
        ("head", _Object),
        ("generator", c_void_p),
        ("argument", c_void_p),
        ("state", c_int),
    ]


class _DictIterator(Structure):
    _fields_: ClassVar[Any] = [
        ("head", _Object),
        ("dict", c_void_p),
        ("used", c_ssize_t),
        ("position", c_ssize_t),
        ("result", c_void_p),
        ("left", c_ssize_t),
    ]


CREATED = -3 if MINOR == (3, 13) else -2
SUSPENDED = (-2, -1) if MINOR == (3, 13) else (-1,)
_EXECUTING = 0
_COMPLETED = 1

_WORD = struct.calcsize("P")
_HAS_RETURN_OFFSET = MINOR != (3, 11)
_CODE_START = types.CodeType.__basicsize__
_LOCALS = ctypes.sizeof(_Generator)

_incref = ctypes.pythonapi.Py_IncRef
_incref.argtypes = [py_object]
_incref.restype = None
_decref = ctypes.pythonapi.Py_DecRef
_decref.argtypes = [c_void_p]
_decref.restype = None


def unfit() -> str:
    """Why this interpreter is none of those described here; empty if it seems to be one."""
    if sys.implementation.name != "cpython":
        return f"{sys.implementation.name} keeps its frames in another way"
    if MINOR not in KNOWN:
        return f"CPython {MINOR[0]}.{MINOR[1]} is not known here yet"
    if hasattr(sys, "gettotalrefcount") or sysconfig.get_config_var("Py_DEBUG"):
        return "a debug build lays its objects out in another way"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "a free-threaded build lays its objects out in another way"
    if _WORD != 8:
        return "only 64-bit builds are known here"
    if {cls.__basicsize__ for cls in TYPES} != {_LOCALS}:
        return f"its coroutines have {types.CoroutineType.__basicsize__} bytes and not {_LOCALS}"
    return ""


class Broken(Exception):
    """A frame that is not as this file describes it; nothing was changed."""


class State(NamedTuple):
    """Everything that a frame was in the middle of."""

    state: int
    at: int
    """Bytes from the start of the code to where it goes on."""
    return_offset: int
    flags: int
    """Of an async generator: 1 its hooks were called, 2 it is closed, 4 somebody awaits it."""
    nulls: int
    """A bit for each of `values` that is a null pointer, and left out there."""
    values: list[Any]
    """The exception that is being handled; then locals, cells and stack."""


class _Limits(NamedTuple):
    code: types.CodeType
    start: int
    size: int
    locals: int
    slots: int


_limits: dict[int, _Limits] = {}


def _limits_of(code: types.CodeType) -> _Limits:
    found = _limits.get(id(code))
    if found is None or found.code is not code:
        if len(_limits) > 10_000:
            _limits.clear()
        cells = set(code.co_cellvars) - set(code.co_varnames)
        count = len(code.co_varnames) + len(cells) + len(code.co_freevars)
        start = id(code) + _CODE_START
        found = _Limits(code, start, len(code.co_code), count, count + code.co_stacksize)
        _limits[id(code)] = found
    return found


def code_of(frame: Any) -> types.CodeType:
    """The code of a coroutine, generator or async generator."""
    if type(frame) is types.CoroutineType:
        return frame.cr_code
    code: types.CodeType
    code = frame.gi_code if type(frame) is types.GeneratorType else frame.ag_code
    return code


def globals_of(frame: Any) -> dict[str, Any]:
    """The global variables that a live frame sees."""
    found: dict[str, Any] = _object(_Generator.from_address(id(frame)).globals)
    return found


def running(frame: Any) -> bool:
    """Whether it runs at this moment."""
    return bool(_Generator.from_address(id(frame)).state == _EXECUTING)


def blank(code: types.CodeType, variables: dict[str, Any]) -> Any:
    """A frame of some code that has not begun, with None for each argument."""
    cells = tuple([types.CellType() for _ in code.co_freevars]) if code.co_freevars else None
    function = types.FunctionType(code, variables, code.co_name, None, cells)
    plain, named = code.co_argcount, code.co_kwonlyargcount
    if not named:
        return function(*(None,) * plain)
    return function(*(None,) * plain, **dict.fromkeys(code.co_varnames[plain : plain + named]))


def ended(frame: Any) -> bool:
    """Whether it has come to its end, so that nothing is left of its frame."""
    return bool(_Generator.from_address(id(frame)).state >= _COMPLETED)


def line_of(frame: Any) -> int:
    """The line it goes on from."""
    code = code_of(frame)
    limits = _limits_of(code)
    at = _Generator.from_address(id(frame)).instruction - limits.start
    for start, end, line in code.co_lines():
        if start <= at < end and line is not None:
            return line
    return code.co_firstlineno


def _object(address: int) -> Any:
    return ctypes.cast(address, py_object).value


def read(frame: Any) -> State:
    """What a suspended or not yet begun frame holds. Raises Broken if it does not look like one."""
    raw = _Generator.from_address(id(frame))
    limits = _limits_of(code_of(frame))
    state, top = raw.state, raw.stacktop
    if state not in SUSPENDED and state != CREATED:
        raise Broken(f"the frame of {frame!r} is in state {state}")
    at = raw.instruction - limits.start
    # 3.11 points to the word before a frame's first instruction; never before the code itself.
    if not -2 <= at < limits.size:
        raise Broken(f"the frame of {frame!r} goes on at byte {at} of {limits.size}")
    if not limits.locals <= top <= limits.slots:
        raise Broken(f"the frame of {frame!r} has {top} values, and place for {limits.slots}")
    places = id(frame) + _LOCALS
    addresses = [raw.exception, *(c_void_p * top).from_address(places)]
    objects = (py_object * top).from_address(places)
    if addresses[0] == id(None):
        # What a call that has handled an exception leaves behind; the same to the interpreter.
        addresses[0] = None
    nulls = 0
    values: list[Any] = []
    for i, address in enumerate(addresses):
        if address is None:
            nulls |= 1 << i
        else:
            values.append(objects[i - 1] if i else _object(address))
    flags = 0
    if type(frame) is types.AsyncGeneratorType:
        flags = raw.hooks_inited | raw.closed << 1 | raw.running_async << 2
    # `return_offset` says where a call goes on that returns into this frame. A suspended frame is
    # in no call, and each call writes it anew: what is left in it has no meaning.
    return State(state, at, 0, flags, nulls, values)


def write(frame: Any, state: State, finalizer: Any = None) -> None:
    """Give a fresh frame that has not begun what `read` took from another of the same code.

    `finalizer` is called with an async generator that is let go before its end. Raises Broken
    before anything is changed.
    """
    raw = _Generator.from_address(id(frame))
    limits = _limits_of(code_of(frame))
    goes_on, at, return_offset, flags, nulls, values = state
    if raw.state != CREATED or raw.stacktop != limits.locals:
        raise Broken(f"{frame!r} is no fresh frame")
    if goes_on not in SUSPENDED and goes_on != CREATED:
        raise Broken(f"{goes_on} is no state of a suspended frame")
    if not -2 <= at < limits.size:
        raise Broken(f"{frame!r} cannot go on at byte {at} of {limits.size}")
    count = len(values) + nulls.bit_count() - 1
    if not limits.locals <= count <= limits.slots:
        raise Broken(f"{frame!r} has place for {limits.slots} values, and gets {count}")
    # The references of a tuple become those of the frame: it is emptied, and freed without them.
    # First of all, so that an interruption in between costs memory and nothing else.
    held = tuple(values)
    items: Any = (c_void_p * len(held)).from_address(id(held) + tuple.__basicsize__)
    addresses: list[int | None] = items[:]
    ctypes.memset(items, 0, len(held) * _WORD)
    while nulls:
        low = nulls & -nulls
        addresses.insert(low.bit_length() - 1, None)
        nulls ^= low
    places: Any = (c_void_p * count).from_address(id(frame) + _LOCALS)
    before = [raw.exception, *places[: limits.locals]]
    raw.exception = addresses[0]
    places[:] = addresses[1:]
    raw.stacktop = count
    raw.instruction = limits.start + at
    if _HAS_RETURN_OFFSET:
        raw.return_offset = return_offset
    if flags and type(frame) is types.AsyncGeneratorType:
        _write_flags(raw, flags, finalizer)
    raw.state = goes_on
    for address in before:
        if address is not None:
            _decref(address)


def _write_flags(raw: Any, flags: int, finalizer: Any) -> None:
    raw.hooks_inited = flags & 1
    raw.closed = flags >> 1 & 1
    raw.running_async = flags >> 2 & 1
    if flags & 1 and finalizer is not None:
        _incref(finalizer)
        raw.origin_or_finalizer = id(finalizer)


def forget(frame: Any) -> None:
    """Count a suspended frame as ended: when it is freed, none of its code runs any more."""
    raw = _Generator.from_address(id(frame))
    if raw.state in SUSPENDED or raw.state == CREATED:
        raw.state = _COMPLETED


# --- what else hides its state


def async_step(step: Any) -> tuple[int, Any]:
    """Of a step of an async generator: 0 not begun, 1 under way, 2 ended; and its argument.

    The argument is what is sent or thrown; None if nothing is, as in `aclose()`.
    """
    raw = _AsyncStep.from_address(id(step))
    return int(raw.state), None if raw.argument is None else _object(raw.argument)


def resume_async_step(step: Any) -> None:
    """Make a fresh one go on where the generator awaits."""
    _AsyncStep.from_address(id(step)).state = 1


def skip_hooks(generator: Any) -> None:
    """Let a fresh async generator pass for one that the event loop has been told of."""
    _Generator.from_address(id(generator)).hooks_inited = 1


class DictPosition(NamedTuple):
    """How far an iterator over a dict has come."""

    used: int
    """How long the dict has to be still, else the next step raises."""
    left: int
    """How many steps it expects to have left."""
    passed: int
    """How many of the items that are there now are behind it."""


def dict_position(iterator: Any, fresh: Any, *, down: bool) -> DictPosition:
    """How far it has come; `fresh` is another iterator over the same dict that has not begun."""
    raw = _DictIterator.from_address(id(iterator))
    other = _DictIterator.from_address(id(fresh))
    # Places of items that were removed count in `position`; so the ones before it are walked.
    passed = 0
    for _ in fresh:
        if other.position < raw.position if down else other.position > raw.position:
            break
        passed += 1
    return DictPosition(raw.used, raw.left, passed)


def set_dict_position(iterator: Any, length: int, position: DictPosition, *, down: bool) -> None:
    """Put a fresh iterator of a dict without gaps where another was. Raises Broken."""
    raw = _DictIterator.from_address(id(iterator))
    if not 0 <= position.passed <= length:
        raise Broken(f"{position.passed} of {length} items cannot be behind an iterator")
    raw.used = position.used
    raw.left = position.left
    raw.position = length - 1 - position.passed if down else position.passed
