"""The memory of one object as bytes: attributes, futures, timers, queues, in one graph.

What two places of it share, they share after the load. Nothing of it is a promise about layout in
memory: classes are named, and an object's own class by the name it is served under, so that it
may move to another module.

    magic b"pH" | format u16 | flags u8 | crc32 u32 of what follows | pickle, compressed if flag 1

All numbers are little-endian. A checksum that fails raises JournalCorrupt.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copyreg
import io
import pickle
import struct
import types
import zlib
from collections.abc import Callable
from typing import Any

from perdure.errors import AuthorError, JournalCorrupt, NotSerializable, SchemaTooNew, UnknownKind
from perdure.suspend import blame, contexts, futures, loading, values
from perdure.suspend.same import equal, same
from perdure.suspend.values import PROTOCOL, TROUBLE, Reducer, Reducers, dumps, loads

__all__ = [
    "CodeChanged",
    "drop",
    "dump_heap",
    "dumps",
    "equal",
    "has_sets",
    "load_heap",
    "loads",
    "resolve_kind",
    "same",
]

FORMAT = 1

_HEADER = struct.Struct("<2sHBI")
_MAGIC = b"pH"
_COMPRESSED = 1
_SETS = 2

_COMPRESS_FROM = 1024

# Slots of a machine that are the object's memory. Those left out are given by the host (kind,
# key, oid, surroundings), last no longer than a turn (call, commands, undone, read_only, _chance),
# or are about this copy alone (problems, tainted).
STATE = (
    "asked",
    "cancelled_timers",
    "creating",
    "holder",
    "instance",
    "kept",
    "now_ns",
    "number",
    "queue",
    "running",
    "seq",
    "steps",
    "tasks",
    "timers",
)


class CodeChanged(AuthorError):
    """A snapshot needs code or a class that is no longer there, or is another now."""

    code = "code-changed"


def _no_kinds(name: str) -> type:
    raise UnknownKind(f"no class {name!r} is served here")


resolve_kind: Callable[[str], type] = _no_kinds
"""The class that is served under a name; the host puts its own in."""


# --- the object's own instance


def make_instance() -> Any:
    machine = loading.machine()
    return machine.kind.bare(machine.key)


def fill_instance(instance: Any, state: tuple[dict[str, Any], dict[str, Any] | None]) -> None:
    attributes, slots = state
    instance.__dict__.update(attributes)
    for name, value in (slots or {}).items():
        setattr(instance, name, value)


def reduce_instance(instance: Any) -> Any:
    if instance is not loading.machine().instance:
        return values.reduce_object(instance)
    names = copyreg._slotnames(type(instance))  # type: ignore[attr-defined]
    slots = {
        name: getattr(instance, name)
        for name in names
        if not name.startswith("_perdure_") and hasattr(instance, name)
    }
    return make_instance, (), (instance.__dict__, slots or None), None, None, fill_instance


# --- pickling


def _reducer_of(cls: type) -> Reducer | None:
    if getattr(cls, "__perdure_object__", False):
        return reduce_instance
    if getattr(cls, "is_object_loop", False):
        return loading.reduce_machine
    if issubclass(cls, asyncio.Future):
        return futures.reduce_future
    if cls is contextvars.Context:
        return contexts.reduce_context
    if cls is contextvars.ContextVar:
        return contexts.reduce_var
    if cls is types.CoroutineType:
        return _refuse_suspended
    return values.reducer_of(cls)


def _refuse_suspended(value: object) -> Any:
    raise pickle.PicklingError("code is suspended")


_reducers = Reducers(_reducer_of)


class HeapPickler(pickle.Pickler):
    """Pickles what an object consists of."""

    def reducer_override(self, value: Any) -> Any:
        reducer = _reducers[type(value)]
        return NotImplemented if reducer is None else reducer(value)


def dump_heap(machine: Any) -> bytes:
    """The whole memory of an object. Nothing of it is changed.

    Raises NotSerializable, naming the path to what cannot be kept.
    """
    state = {name: value for name in STATE if (value := getattr(machine, name))}
    with loading.of(machine):
        buffer = io.BytesIO()
        try:
            HeapPickler(buffer, PROTOCOL).dump(state)
        except TROUBLE as error:
            raise _refusal(machine, state, error) from error
    return _seal(buffer.getvalue())


def load_heap(machine: Any, data: bytes) -> None:
    """Give a fresh machine the memory that `dump_heap` made bytes of.

    Raises JournalCorrupt for damaged bytes, SchemaTooNew for those of a newer release, CodeChanged
    where a class is gone; then the machine is not to be used.
    """
    body = _open(machine, data)
    with loading.of(machine):
        try:
            state = pickle.loads(body)
        except (ImportError, AttributeError) as error:
            raise CodeChanged(
                f"the snapshot of {machine.address} holds a value whose class is gone: {error}",
                hint="Bring the class back under its old name, or start the old code once more.",
            ) from error
    for name, value in state.items():
        setattr(machine, name, value)
    if machine.instance is not None:
        machine.kind.complete(machine.instance)


def has_sets(data: bytes) -> bool:
    """Whether sets are in a heap: then their order after a load is another than before.

    A set is walked in an order that follows from how it grew, and a load grows it anew. So after
    a snapshot with sets the live object has to go on from what the bytes load to. It may say yes
    where there is none.
    """
    return bool(data[4] & _SETS)


def _seal(body: bytes) -> bytes:
    flags = 0
    if pickle.EMPTY_SET in body or pickle.FROZENSET in body:
        flags |= _SETS
    if len(body) > _COMPRESS_FROM:
        packed = zlib.compress(body, 1)
        if len(packed) < len(body) * 7 // 8:
            body = packed
            flags |= _COMPRESSED
    return _HEADER.pack(_MAGIC, FORMAT, flags, zlib.crc32(body)) + body


def _open(machine: Any, data: bytes) -> bytes | memoryview:
    if len(data) < _HEADER.size or data[:2] != _MAGIC:
        raise _corrupt(machine, "it is no snapshot of an object")
    _, version, flags, checksum = _HEADER.unpack_from(data)
    if version > FORMAT:
        raise SchemaTooNew(
            f"the snapshot of {machine.address} has format {version}; "
            f"this perdure reads up to {FORMAT}",
            hint="Install that version of perdure, or a later one.",
        )
    body = memoryview(data)[_HEADER.size :]
    if zlib.crc32(body) != checksum:
        raise _corrupt(machine, "its checksum does not match")
    return zlib.decompress(body) if flags & _COMPRESSED else body


def _corrupt(machine: Any, what: str) -> JournalCorrupt:
    return JournalCorrupt(
        f"the snapshot of {machine.address} is damaged: {what}",
        hint="Restore the data directory from a backup.",
    )


def _refusal(machine: Any, state: dict[str, Any], error: BaseException) -> NotSerializable:
    def works(part: object) -> bool:
        try:
            HeapPickler(io.BytesIO(), PROTOCOL).dump(part)
        except TROUBLE:
            return False
        return True

    if machine.tasks or machine.creating:
        return NotSerializable(f"{machine.address}: code is suspended")
    place, value = f"{machine.address}: self", state.get("instance")
    if value is None or all(works(part) for _, part in blame.parts(value, place)):
        place, value = machine.address, state
    return blame.refusal(blame.find(value, place, works), error)


# --- letting go


def drop(coroutine: Any) -> None:
    """Let a suspended coroutine go."""
    with contextlib.suppress(BaseException):
        coroutine.close()
