"""The memory of one object as bytes: attributes, futures, timers, queues, in one graph.

What two places of it share, they share after the load. Nothing of it is a promise about layout in
memory: classes are named, and an object's own class by the name it is served under, so that it
may move to another module.

    magic b"pH" | format u16 | flags u8 | crc32 u32 of flags and body | body
    body: where flag 8 says so, the version of the code that it was made under, and behind a space
    each one whose suspended code is in it (length u8, then ASCII); the rest: the bytecode's magic
    number u32 where flag 4 says that code is suspended, then the pickle; the rest is compressed by
    zlib if flag 1; flag 2 says that sets may be in it

All numbers are little-endian. A checksum that fails raises JournalCorrupt.
"""

from __future__ import annotations

import asyncio
import contextvars
import copyreg
import importlib.util
import io
import os
import pickle
import struct
import sys
import types
import zlib
from collections.abc import Callable
from typing import Any

from perdure.errors import (
    JournalCorrupt,
    NotSerializable,
    PerdureError,
    SchemaTooNew,
    UnknownKind,
)
from perdure.suspend import (
    blame,
    codes,
    contexts,
    frames,
    futures,
    iterators,
    landmarks,
    letting_go,
    loading,
    opaque,
    probe,
    raised,
    values,
)
from perdure.suspend.codes import CodeChanged
from perdure.suspend.letting_go import drop, drop_all
from perdure.suspend.moving import Chains, Move, Stayed, chains_of, complete_values, wear_twin
from perdure.suspend.same import equal, reduce, same
from perdure.suspend.values import (
    PROTOCOL,
    TROUBLE,
    HomeUnpickler,
    Reducer,
    Reducers,
    dumps,
    loads,
)

__all__ = [
    "CodeChanged",
    "differs",
    "drop",
    "drop_all",
    "dump_heap",
    "dumps",
    "equal",
    "has_sets",
    "is_suspended",
    "load_heap",
    "loads",
    "resolve_kind",
    "same",
    "same_heap",
    "version_of",
    "versions_of",
]

FORMAT = 2

_HEADER = struct.Struct("<2sHBI")
_MAGIC = b"pH"
_COMPRESSED = 1
_SETS = 2
_SUSPENDED = 4
_VERSIONED = 8

# A handler that waits in two frames stays as it is: unpacking costs as much as a tenth of its load.
_COMPRESS_FROM = 2048
_CHAINS = ""
"""Where chains of awaits are written, in front of the slots."""

# Slots of a machine that are the object's memory. Those left out are given by the host (kind,
# key, oid, surroundings), last no longer than a turn (call, commands, undone, read_only, _chance),
# or are about this copy alone (reloaded, problems, tainted).
STATE = (
    "asked",
    "buried",
    "cancelled",
    "cancelled_timers",
    "connections",
    "creating",
    "deadlines",
    "held",
    "holder",
    "instance",
    "kept",
    "leaving",
    "now_ns",
    "number",
    "parked",
    "promises",
    "queue",
    "running",
    "schedules",
    "seq",
    "step_notes",
    "steps",
    "streamed",
    "tasks",
    "timers",
    "timetable",
    "uploads",
    "watches",
)


if sys.version_info >= (3, 13):
    # Queues have had it since then; one from a snapshot of an older Python was made without.
    asyncio.Queue._is_shutdown = False  # type: ignore[attr-defined]


def _no_kinds(name: str) -> type:
    raise UnknownKind(f"no class {name!r} is served here")


resolve_kind: Callable[[str], type] = _no_kinds
"""The class that is served under a name; the host puts its own in."""


# --- the object's own instance


def make_instance() -> Any:
    machine = loading.machine()
    return machine.kind.bare(machine.key)


def fill_instance(instance: Any, state: tuple[Any, ...]) -> None:
    attributes, slots, *shared = state
    if shared:
        instance.__dict__ = attributes
    else:
        instance.__dict__.update(attributes)
    for name, value in (slots or {}).items():
        setattr(instance, name, value)


# Of the dict of an instance, when nobody but the instance has it.
_REFERENCES = 3


def reduce_instance(instance: Any) -> Any:
    if instance is not loading.machine().instance:
        return values.reduce_object(instance)
    names = copyreg._slotnames(type(instance))  # type: ignore[attr-defined]
    slots = {
        name: getattr(instance, name)
        for name in names
        if not name.startswith("_perdure_") and hasattr(instance, name)
    }
    attributes = instance.__dict__
    state: tuple[Any, ...] = (attributes, slots or None)
    if sys.getrefcount(attributes) > _REFERENCES:
        # Somebody holds `vars(self)`, perhaps in the middle of a loop over it.
        state = (*state, True)
    return make_instance, (), state, None, None, fill_instance


# --- promises and schedules of the object: as they are, and not what a message carries of them


def make_inner(cls: Any) -> Any:
    return cls.__new__(cls)


def fill_inner(inner: Any, state: dict[str, Any]) -> None:
    for name, value in state.items():
        setattr(inner, name, value)


def reduce_inner(inner: Any) -> Any:
    names = copyreg._slotnames(type(inner))  # type: ignore[attr-defined]
    state = {name: getattr(inner, name) for name in names if hasattr(inner, name)}
    # A dict or set with it as a key asks for its hash before it has its state.
    return make_inner, (type(inner),), state, None, None, fill_inner


def make_schedule(cls: Any, *state: Any) -> Any:
    return cls.restored(state)


def reduce_schedule(schedule: Any) -> Any:
    # Its timer finds it again by itself (host/schedules.py). An object may have very many.
    return make_schedule, (type(schedule), *schedule.kept())


# --- pickling


_TABLE: dict[type, Reducer] = {
    **frames.REDUCERS,
    **iterators.REDUCERS,
    **opaque.REDUCERS,
    contextvars.Context: contexts.reduce_context,
    contextvars.ContextVar: contexts.reduce_var,
    object: landmarks.reduce_mark,
    types.ModuleType: landmarks.reduce_module,
    landmarks.Named: landmarks.reduce_named,
    type(os.environ): landmarks.reduce_environment,
    types.TracebackType: raised.reduce_traceback,
}


def _reducer_of(cls: type) -> Reducer | None:
    reducer = _TABLE.get(cls)
    if reducer is not None:
        return reducer
    if getattr(cls, "__perdure_object__", False):
        return reduce_instance
    if getattr(cls, "is_object_loop", False):
        return loading.reduce_machine
    if getattr(cls, "__perdure_promise__", False):
        return reduce_inner
    if getattr(cls, "__perdure_schedule__", False):
        return reduce_schedule
    if issubclass(cls, asyncio.Future):
        return futures.reduce_future
    if issubclass(cls, type):
        return landmarks.reduce_class
    if issubclass(cls, (set, frozenset)):
        return _reduce_set
    reducer = _common_reducer_of(cls)
    if _pickles_itself(cls) or issubclass(cls, _STRICT):
        reducer = _reduce_doubtful
    singles = landmarks.singles(cls)
    return landmarks.reducer_among(singles, reducer) if singles else reducer


def _common_reducer_of(cls: type) -> Reducer | None:
    return raised.reduce_raised if issubclass(cls, BaseException) else values.reducer_of(cls)


def _reduce_set(value: Any) -> Any:
    loading.session().sets = True
    return NotImplemented


def _reduce_doubtful(value: Any) -> Any:
    loading.session().doubtful = True
    reducer = _common_reducer_of(type(value))
    return NotImplemented if reducer is None else reducer(value)


def _pickles_itself(cls: type) -> bool:
    """Whether the app has a say in how values of a class become bytes, and so may be wrong."""
    if codes.is_library(cls.__module__):
        return False
    return any(
        vars(base).get(name) is not None
        for base in cls.__mro__
        if not codes.is_library(base.__module__)
        for name in _PICKLING
    )


_PICKLING = (
    "__getnewargs__",
    "__getnewargs_ex__",
    "__getstate__",
    "__hash__",
    "__new__",
    "__reduce__",
    "__reduce_ex__",
    "__setattr__",
    "__setstate__",
)

# Exceptions that cannot be made of any arguments, while their `args` can be set to any.
_STRICT = (UnicodeError, SyntaxError, BaseExceptionGroup)

_reducers = Reducers(_reducer_of)


class HeapPickler(pickle.Pickler):
    """Pickles what an object consists of, and notes which classes that needs."""

    def __init__(self, buffer: io.BytesIO) -> None:
        super().__init__(buffer, PROTOCOL)
        self.classes: set[type] = set()

    def reducer_override(self, value: Any) -> Any:
        cls = type(value)
        self.classes.add(cls)
        reducer = _reducers[cls]
        return NotImplemented if reducer is None else reducer(value)


def _state_of(machine: Any) -> dict[str, Any]:
    return {name: value for name in STATE if (value := getattr(machine, name))}


def dump_heap(machine: Any, *, try_out: bool = True) -> bytes:
    """The whole memory of an object, suspended code included. Nothing of it is changed.

    Unless `try_out` is False it is loaded once to see, where it may not load: for what classes of
    the app have a say in each time, for any other class and for each place in which code waits
    until one with it was loaded in this process. Raises NotSerializable, naming the path to what
    cannot be kept.
    """
    state = _state_of(machine)
    buffer = io.BytesIO()
    pickler = HeapPickler(buffer)
    with loading.of(machine) as session:
        if machine.tasks and not probe.unfit():
            chains, session.chains = chains_of(machine)
            if chains:
                state = {_CHAINS: Chains(chains), **state}
        try:
            pickler.dump(state)
        except TROUBLE as error:
            raise _refusal(machine, state, error) from error
    pickled = buffer.getvalue()
    if try_out:
        met = pickler.classes | session.places
        if session.doubtful or not met <= _tried:
            _try_out(machine, pickled)
            if len(_tried) > _TRIED_MAX:
                # Rather than keep dropped modules alive.
                _tried.clear()
            _tried.update(met)
    version = machine.kind.version
    if session.stayed and version:
        version = " ".join([version, *sorted(session.stayed)])
    return _seal(pickled, session, version)


_tried: set[Any] = set()
"""Classes, and places in code, of snapshots that were loaded to see in this process."""
_TRIED_MAX = 10_000


def _try_out(machine: Any, pickled: bytes) -> None:
    """A snapshot that cannot be loaded must not be written: classes may pickle and not unpickle."""
    another = type(machine)(machine.kind, machine.key, machine.oid, machine.surroundings)
    try:
        with loading.of(another) as session:
            try:
                _unpickle(pickled, session)
            finally:
                letting_go.forget(session.frames)
    except Exception as error:
        raise NotSerializable(
            f"{machine.address}: its state becomes bytes, but not a state again: "
            f"{type(error).__name__}: {error}",
            hint="Look at __reduce__, __getstate__, __setstate__ and __hash__ of its classes.",
        ) from error


def _unpickle(pickled: bytes | memoryview, session: loading.Session) -> dict[str, Any]:
    home = session.machine.kind
    state: dict[str, Any]
    if session.move is None and home.past is None:
        state = pickle.loads(pickled)
    else:
        state = HomeUnpickler(io.BytesIO(pickled)).load()
    state.pop(_CHAINS, None)
    for finish in session.later:
        finish()
    return state


def load_heap(machine: Any, data: bytes, version: str = "") -> list[Stayed]:
    """Give a fresh machine the memory that `dump_heap` made bytes of.

    Bytes that were made under another version of the code than the machine's are brought over:
    data becomes that of the classes of now, and what is returned is suspended code which has
    changed and goes on in its own version (moving.py). `version` is that of bytes which do not
    say it themselves.

    Raises JournalCorrupt for damaged bytes, SchemaTooNew for those of a newer release, CodeChanged
    where a class or suspended code is gone or changed, VersionUnusable where old code is needed
    and cannot be imported; then the machine is not to be used.
    """
    body, made_under = _open(machine, data)
    version = made_under or version
    move = None
    if version and machine.kind.version and version != machine.kind.version:
        move = Move(version, machine.kind.edition)
    with loading.of(machine) as session:
        session.move = move
        try:
            state = _unpickle(body, session)
        except Exception as error:
            letting_go.forget(session.frames)
            if isinstance(error, PerdureError):
                raise
            raise CodeChanged(
                f"the snapshot of {machine.address} does not fit the code as it is now: "
                f"{type(error).__name__}: {error}",
                hint="If a class or function was moved or renamed, bring its old name back.",
            ) from error
    for name, value in state.items():
        setattr(machine, name, value)
    machine.reloaded = has_sets(data)
    if machine.instance is not None:
        machine.kind.complete(machine.instance)
        if move is not None:
            complete_values(machine, state)
        if session.stayed:
            wear_twin(machine, frozenset(session.stayed))
    return move.stayed if move is not None else []


def version_of(data: bytes) -> str:
    """The version of the code that a heap was made under; empty if it does not say."""
    return next(iter(versions_of(data)), "")


def versions_of(data: bytes) -> list[str]:
    """The version that a heap was made under, and those whose suspended code is in it."""
    return _header_text(data).split()


def _header_text(data: bytes) -> str:
    if len(data) < _HEADER.size + 1 or not data[4] & _VERSIONED:
        return ""
    start = _HEADER.size + 1
    return data[start : start + data[start - 1]].decode("ascii", "replace")


def same_heap(a: Any, b: Any) -> bool:
    """Whether two machines hold the same, suspended code included."""

    def reduce_in(machine: Any, value: Any) -> Any:
        with loading.of(machine):
            reducer = _reducers[type(value)]
            reduced = NotImplemented if reducer is None else reducer(value)
        return reduce(value) if reduced is NotImplemented else reduced

    return equal(
        _state_of(a),
        _state_of(b),
        lambda value: reduce_in(a, value),
        lambda value: reduce_in(b, value),
    )


def differs(machine: Any, before: bytes) -> bool:
    """Whether a machine holds something else than when `dump_heap` gave these bytes."""
    if dump_heap(machine, try_out=False) == before:
        return False
    another = type(machine)(machine.kind, machine.key, machine.oid, machine.surroundings)
    load_heap(another, before)
    try:
        return not same_heap(machine, another)
    finally:
        drop_all(another)


def is_suspended(data: bytes) -> bool:
    """Whether code is in a heap, and not data alone: what waits, or a function made in a function.

    Such a heap can be loaded only while that code is as it is, under the same minor version of
    Python.
    """
    return bool(data[4] & _SUSPENDED)


def has_sets(data: bytes) -> bool:
    """Whether sets are in a heap: then their order after a load is another than before.

    A set is walked in an order that follows from how it grew, and a load grows it anew. So after
    a snapshot with sets the live object has to go on from what the bytes load to. It may say yes
    where there is none.
    """
    return bool(data[4] & _SETS)


# A set that is not empty, and a frozenset; by chance, the last bytes of a text.
_SET_MARK = pickle.EMPTY_SET + pickle.MEMOIZE + pickle.MARK
_FROZENSET_MARK = pickle.FROZENSET + pickle.MEMOIZE


def _seal(body: bytes, session: loading.Session, version: str) -> bytes:
    flags = 0
    if session.sets or _SET_MARK in body or _FROZENSET_MARK in body:
        flags |= _SETS
    if session.suspended:
        flags |= _SUSPENDED
        body = importlib.util.MAGIC_NUMBER + body
    if len(body) > _COMPRESS_FROM:
        packed = zlib.compress(body, 1)
        if len(packed) < len(body) * 7 // 8:
            body = packed
            flags |= _COMPRESSED
    if version:
        flags |= _VERSIONED
        # However many they are, the first is the one that counts.
        text = version.encode("ascii")[:255]
        body = bytes((len(text),)) + text + body
    return _HEADER.pack(_MAGIC, FORMAT, flags, _checksum(flags, body)) + body


def _checksum(flags: int, body: bytes | memoryview) -> int:
    # With the flags: one that is lost would change what the body means.
    return zlib.crc32(body, zlib.crc32(bytes((flags,))))


def _open(machine: Any, data: bytes) -> tuple[bytes | memoryview, str]:
    if len(data) < _HEADER.size or data[:2] != _MAGIC:
        raise _corrupt(machine, "it is no snapshot of an object")
    _, version, flags, checksum = _HEADER.unpack_from(data)
    if version > FORMAT:
        raise SchemaTooNew(
            f"the snapshot of {machine.address} has format {version}; "
            f"this perdure reads up to {FORMAT}",
            hint="Install that version of perdure, or a later one.",
        )
    if version < 1:
        raise _corrupt(machine, f"its format is {version}, which no perdure ever wrote")
    body = memoryview(data)[_HEADER.size :]
    if _checksum(flags, body) != checksum:
        raise _corrupt(machine, "its checksum does not match")
    version = version_of(data)
    if flags & _VERSIONED:
        body = body[1 + data[_HEADER.size] :]
    if flags & _COMPRESSED:
        body = memoryview(zlib.decompress(body))
    if flags & _SUSPENDED:
        if body[:4] != importlib.util.MAGIC_NUMBER:
            raise CodeChanged(
                f"the snapshot of {machine.address} holds code suspended under another Python",
                hint="The object is rebuilt from its journal instead.",
            )
        body = body[4:]
    return body, version


def _corrupt(machine: Any, what: str) -> JournalCorrupt:
    return JournalCorrupt(
        f"the snapshot of {machine.address} is damaged: {what}",
        hint="Restore the data directory from a backup.",
    )


def _refusal(machine: Any, state: dict[str, Any], error: BaseException) -> NotSerializable:
    def works(part: object) -> bool:
        try:
            HeapPickler(io.BytesIO()).dump(part)
        except TROUBLE:
            return False
        return True

    for path, part in blame.roots(machine.address, state):
        if not works(part):
            return blame.refusal(blame.find(part, path, works), error)
    return blame.refusal(blame.Found(machine.address, state), error)
