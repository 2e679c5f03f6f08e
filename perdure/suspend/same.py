"""Whether two pickled values are the same, told by what they load to.

Bytes do not tell: two pickles of equal values share their equal parts differently. Types and
values are compared, and the order of dicts, which iteration shows; not the order of sets. NaN is
the same as NaN, -0.0 is not 0.0.
"""

from __future__ import annotations

import pickle
import types
from collections.abc import Callable
from typing import Any

_ATOMS = (int, bool, str, bytes, type(None), type(Ellipsis), type(NotImplemented), range, complex)
_BY_IDENTITY = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)
_PLAIN = (int, str, bytes)
"""Types of which no two values are equal across types."""

Pairs = list[tuple[Any, Any]]
Reduce = Callable[[Any], Any]

_OTHERWISE: Pairs = []


def same(a: bytes, b: bytes) -> bool:
    """Whether two pickles hold the same value. Never raises; what cannot be loaded differs."""
    if a == b:
        return True
    try:
        return equal(pickle.loads(a), pickle.loads(b))
    except Exception:
        return False


def _reduce(value: Any) -> Any:
    return value.__reduce_ex__(4)


def equal(a: object, b: object, reduce_a: Reduce = _reduce, reduce_b: Reduce = _reduce) -> bool:
    """Whether two values are the same in type, structure and parts; cycles may be in them.

    What is no plain builtin value is taken apart as pickle would: by `reduce_a` and `reduce_b`.
    """
    # Two parts met a second time are the same if they are everywhere else.
    met: set[tuple[int, int]] = set()
    # Reduced parts are made for the comparison; kept, so that no id is given twice.
    kept: list[object] = []
    waiting: Pairs = [(a, b)]
    while waiting:
        x, y = waiting.pop()
        if x is y:
            continue
        if type(x) is not type(y):
            return False
        if isinstance(x, _ATOMS):
            if x != y or (type(x) is complex and repr(x) != repr(y)):
                return False
            continue
        if isinstance(x, _BY_IDENTITY):
            return False
        if (id(x), id(y)) in met:
            continue
        met.add((id(x), id(y)))
        kept.append((x, y))
        parts = _parts(x, y)
        if parts is _OTHERWISE:
            parts = _reduced(x, y, reduce_a(x), reduce_b(y))
        if parts is None:
            return False
        waiting.extend(parts)
    return True


def _parts(x: Any, y: Any) -> Pairs | None:
    """The parts that have to be the same; None if these two differ in themselves."""
    cls = type(x)
    if cls is float:
        return [] if repr(x) == repr(y) else None
    if cls is list or cls is tuple:
        return list(zip(x, y, strict=True)) if len(x) == len(y) else None
    if cls is dict:
        return _pairs(list(x.items()), list(y.items()))
    if cls is set or cls is frozenset:
        return [] if _same_set(x, y) else None
    if cls is bytearray:
        return [] if x == y else None
    return _OTHERWISE


def _pairs(x: list[tuple[Any, Any]], y: list[tuple[Any, Any]]) -> Pairs | None:
    if len(x) != len(y):
        return None
    return [pair for one, other in zip(x, y, strict=True) for pair in zip(one, other, strict=True)]


def _same_set(x: set[Any] | frozenset[Any], y: set[Any] | frozenset[Any]) -> bool:
    if len(x) != len(y):
        return False
    if all(type(one) in _PLAIN for one in x) and all(type(other) in _PLAIN for other in y):
        return x == y
    rest = list(y)
    for one in x:
        for i, other in enumerate(rest):
            if equal(one, other):
                del rest[i]
                break
        else:
            return False
    return True


def _reduced(x: Any, y: Any, a: Any, b: Any) -> Pairs | None:
    """Compare two objects as pickle has taken them apart."""
    if isinstance(a, str) or isinstance(b, str):
        return [] if a == b and x is y else None
    parts: Pairs = [(a[0], b[0]), (a[1], b[1])]
    for i in (2, 3, 4):
        one = a[i] if len(a) > i else None
        other = b[i] if len(b) > i else None
        if i > 2 and one is not None and other is not None:
            one, other = list(one), list(other)
        parts.append((one, other))
    if isinstance(x, BaseException):
        parts += [(x.__cause__, y.__cause__), (x.__context__, y.__context__)]
    return parts
