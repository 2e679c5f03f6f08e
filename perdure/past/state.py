"""The state of an object as data for people: JSON, and what differs between two of them, by path.

Own classes are shown by their attributes, so that a difference inside one has a path. What has no
JSON is shown by its repr, without addresses in memory: two states that are equal look equal.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from typing import Any

import msgspec

from perdure.clock import iso
from perdure.errors import ReadOnlyError
from perdure.failure import kept_text
from perdure.host.machine import Machine
from perdure.host.querying import run_query
from perdure.object import Object
from perdure.ref import Ref
from perdure.sight.carried import for_json, for_msgpack
from perdure.sight.stacks import short
from perdure.suspend import codes

_TEXT_MAX = 2000
_FACE = re.compile(r" at 0x[0-9a-f]+")


def state_of(machine: Machine) -> dict[str, Any] | None:
    """The attributes of a copy; None before the first call and after a delete.

    Reprs are code of the app: they run as a query does.
    """
    if machine.instance is None:
        return None
    seen: dict[str, Any] = {}

    def look(instance: Object) -> None:
        for name, value in instance.__dict__.items():
            if not name.startswith("_perdure_"):
                seen[kept_text(name)] = plain(value)

    try:
        run_query(machine, look, ((), {}), machine.now_ns, deep=False)
    except ReadOnlyError:
        pass  # A repr that changes the object: this is a copy, and what was seen is there.
    return seen


def told(machine: Machine, address: str) -> dict[str, Any]:
    """A copy as JSON: `address, seq, time, state`."""
    return {
        "address": address,
        "seq": machine.seq,
        "time": iso(machine.now_ns) if machine.seq else None,
        "state": state_of(machine),
    }


def plain(value: Any) -> Any:
    """A value as JSON can show it."""
    return for_json(_plain(value), _text)


def _plain(value: Any) -> Any:
    try:
        return msgspec.to_builtins(value, enc_hook=_shown, str_keys=True, order="deterministic")
    except TypeError:
        pass  # Its keys, or what is in a set, cannot be put in order.
    except Exception:
        return _text(value)
    try:
        return msgspec.to_builtins(value, enc_hook=_shown, str_keys=True)
    except Exception:
        return _text(value)


def _shown(value: Any) -> Any:
    if isinstance(value, Ref):
        return value.address
    cls = type(value)
    if (
        "__dict__" in dir(value)
        and not codes.is_library(cls.__module__)
        and not isinstance(value, (type, types.FunctionType, types.ModuleType))
        and getattr(cls, "__repr__", None) is object.__repr__
    ):
        return dict(vars(value))
    return _text(value)


def carried_by_msgpack(state: dict[str, Any] | None) -> dict[str, Any] | None:
    """A state for a file of exports."""
    fit: dict[str, Any] | None = for_msgpack(state, _text)
    return fit


def _text(value: Any) -> str:
    return _FACE.sub("", short(value, _TEXT_MAX))


# --- what differs


class Change(msgspec.Struct, frozen=True):
    """One place where two states differ."""

    path: str
    what: str
    """`changed`, `added` or `removed`."""
    before: Any = None
    after: Any = None

    def __str__(self) -> str:
        match self.what:
            case "added":
                return f"{self.path}: + {_json(self.after)}"
            case "removed":
                return f"{self.path}: - {_json(self.before)}"
            case _:
                return f"{self.path}: {_json(self.before)} -> {_json(self.after)}"


def changes(before: Any, after: Any) -> list[Change]:
    """What differs between two states, in the order of the later one."""
    if (before is None) != (after is None):
        # It came into being in between, or was deleted.
        return list(_changes("", before or {}, after or {}))
    return list(_changes("", before, after))


def _changes(path: str, before: Any, after: Any) -> Iterator[Change]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*(name for name in before if name not in after), *after]:
            inner = _inside(path, name)
            if name not in after:
                yield Change(inner, "removed", before=before[name])
            elif name not in before:
                yield Change(inner, "added", after=after[name])
            else:
                yield from _changes(inner, before[name], after[name])
    elif isinstance(before, list) and isinstance(after, list):
        yield from _lists(path, before, after)
    elif type(before) is not type(after) or (before != after and not _both_nan(before, after)):
        yield Change(path, "changed", before, after)


def _both_nan(before: Any, after: Any) -> bool:
    # NaN is unequal to itself: a state that holds one would differ from the same state.
    return isinstance(before, float) and before != before and after != after


def _lists(path: str, before: list[Any], after: list[Any]) -> Iterator[Change]:
    """Where one item came in or went, those behind it have only moved: they are no changes."""
    head = 0
    while head < min(len(before), len(after)) and _same(before[head], after[head]):
        head += 1
    end = 0
    while end < min(len(before), len(after)) - head and _same(before[-1 - end], after[-1 - end]):
        end += 1
    old, new = before[head : len(before) - end], after[head : len(after) - end]
    for i, (one, other) in enumerate(zip(old, new, strict=False), head):
        yield from _changes(f"{path}[{i}]", one, other)
    for i, one in enumerate(old[len(new) :], head + len(new)):
        yield Change(f"{path}[{i}]", "removed", before=one)
    for i, one in enumerate(new[len(old) :], head + len(old)):
        yield Change(f"{path}[{i}]", "added", after=one)


def _same(one: Any, other: Any) -> bool:
    return next(_changes("", one, other), None) is None


def _inside(path: str, name: str) -> str:
    if name.isidentifier():
        return f"{path}.{name}" if path else name
    return f"{path}[{_json(name)}]"


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
