"""Whether two pickled values are the same, told by what they load to.

Bytes do not tell: two pickles of equal values share their equal parts differently. Types and
values are compared, and the order of dicts, which iteration shows; not the order of sets. NaN is
the same as NaN, -0.0 is not 0.0.
"""

from __future__ import annotations

import copyreg
import types
from collections.abc import Callable
from typing import Any

from perdure.suspend.values import loads

_ATOMS = (int, bool, str, bytes, type(None), type(Ellipsis), type(NotImplemented), range, complex)
_BUILTIN = {*_ATOMS, float, list, tuple, dict, set, frozenset, bytearray}
# A traceback becomes None in bytes.
_NOT_KEPT = (type(None), types.TracebackType)
_BY_IDENTITY = (type, types.FunctionType, types.ModuleType)
Pairs = list[tuple[Any, Any]]
AnySet = set[Any] | frozenset[Any]
Reduce = Callable[[Any], Any]
Ids = tuple[int, int]

_OTHERWISE: Pairs = []


def same(a: bytes, b: bytes) -> bool:
    """Whether two pickles hold the same value. Never raises; what cannot be loaded differs."""
    if a == b:
        return True
    try:
        return equal(loads(a), loads(b))
    except Exception:
        return False


def reduce(value: Any) -> Any:
    """A value taken apart; NotImplemented for what is the same only if it is one and the same."""
    if isinstance(value, _BY_IDENTITY):
        return NotImplemented
    # Classes that register how they are pickled, as compiled patterns do.
    registered = copyreg.dispatch_table.get(type(value))
    return registered(value) if registered is not None else value.__reduce_ex__(4)


def equal(a: object, b: object, reduce_a: Reduce = reduce, reduce_b: Reduce = reduce) -> bool:
    """Whether two values are the same in type, structure and parts; cycles may be in them.

    What is no plain builtin value is taken apart as pickle would: by `reduce_a` and `reduce_b`.
    """
    return _equal(a, b, reduce_a, reduce_b, frozenset())


def _equal(a: Any, b: Any, reduce_a: Reduce, reduce_b: Reduce, assumed: frozenset[Ids]) -> bool:
    # Two parts met a second time are the same if they are everywhere else.
    met = set(assumed)
    # Reduced parts are made for the comparison; kept, so that no id is given twice.
    kept: list[object] = []
    waiting: Pairs = [(a, b)]
    while waiting:
        x, y = waiting.pop()
        if x is y or (type(x) in _NOT_KEPT and type(y) in _NOT_KEPT):
            continue
        if type(x) is not type(y) and (type(x) in _BUILTIN or type(y) in _BUILTIN):
            return False
        if isinstance(x, _ATOMS):
            if type(x) is not type(y) or x != y or (type(x) is complex and repr(x) != repr(y)):
                return False
            continue
        if (id(x), id(y)) in met:
            continue
        met.add((id(x), id(y)))
        kept.append((x, y))
        if type(x) is set or type(x) is frozenset:
            so_far = frozenset(met)
            parts = _paired(x, y, lambda p, q: _equal(p, q, reduce_a, reduce_b, so_far))  # noqa: B023
        else:
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
    if cls is bytearray:
        return [] if x == y else None
    return _OTHERWISE


def _pairs(x: list[tuple[Any, Any]], y: list[tuple[Any, Any]]) -> Pairs | None:
    if len(x) != len(y):
        return None
    return [pair for one, other in zip(x, y, strict=True) for pair in zip(one, other, strict=True)]


def _paired(x: AnySet, y: AnySet, alike: Callable[[Any, Any], bool]) -> Pairs | None:
    """Each element of a set with the one that must be the same in the other; None if there is none.

    By hash, where that leaves no choice; else by looking for one that is alike.
    """
    if len(x) != len(y):
        return None
    rest: dict[int, list[Any]] = {}
    for other in y:
        rest.setdefault(hash(other), []).append(other)
    pairs: Pairs = []
    unpaired = []
    for one in x:
        same_hash = rest.get(hash(one), ())
        if len(same_hash) == 1:
            pairs.append((one, rest.pop(hash(one))[0]))
        else:
            unpaired.append(one)
    left = [other for others in rest.values() for other in others]
    for one in unpaired:
        found = next((i for i, other in enumerate(left) if alike(one, other)), None)
        if found is None:
            return None
        del left[found]
    return pairs


def _reduced(x: Any, y: Any, a: Any, b: Any) -> Pairs | None:
    """Compare two objects as pickle has taken them apart."""
    # Of two classes, these would differ; but for a stand-in, which says it is what it stands for.
    if not isinstance(a, tuple) or not isinstance(b, tuple):
        return None
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
