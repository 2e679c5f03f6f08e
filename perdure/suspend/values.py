"""Values as bytes: what travels between objects, what steps take and give, principals, exceptions.

It is pickle, protocol 5, of what the app itself made; nothing from the network is ever loaded
here. An object inside a value travels as its ref, since objects share no memory. An exception
keeps its type, arguments, attributes, cause and context, and is rebuilt without its `__init__`,
whose arguments need not be those in `args`. What cannot be kept is refused with the path to it.
"""

from __future__ import annotations

import copyreg
import dataclasses
import io
import pickle
from collections.abc import Callable
from typing import Any

import msgspec

from perdure.errors import NotSerializable, UnknownKind
from perdure.ref import Ref
from perdure.suspend import editions, loading

Reduced = Any
"""What a `__reduce__` gives: a name, or (function, arguments, state, items, pairs, set state)."""
Reducer = Callable[[Any], Reduced]

PROTOCOL = 5
_POOL_MAX_BYTES = 64 * 1024


# --- exceptions


def make_exception(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """An exception as its builtin base makes it, past an `__init__` of the app."""
    base = builtin_base(cls)
    error: BaseException = base.__new__(cls, *args)
    base.__init__(error, *args)
    return error


def complete_exception(error: BaseException, state: tuple[Any, ...]) -> None:
    own, slots, cause, context, suppressed = state
    if own is not None:
        error.__setstate__(own)
    for name, value in (slots or {}).items():
        setattr(error, name, value)
    error.__cause__ = cause
    error.__context__ = context
    error.__suppress_context__ = suppressed


def builtin_base(cls: type[BaseException]) -> type[BaseException]:
    """The first class written in C among its bases."""
    return next(base for base in cls.__mro__ if base.__module__ == "builtins")


def reduce_exception(error: BaseException) -> Reduced:
    cls = type(error)
    base = builtin_base(cls)
    reduced: Reduced = error.__reduce_ex__(PROTOCOL)
    if not isinstance(reduced, tuple):
        return reduced
    state = reduced[2] if len(reduced) > 2 else None
    if cls.__reduce__ is base.__reduce__ and cls.__reduce_ex__ is base.__reduce_ex__:
        function, args = make_exception, (cls, reduced[1])
        names = copyreg._slotnames(cls)  # type: ignore[attr-defined]
        slots = {name: getattr(error, name) for name in names if hasattr(error, name)} or None
        if isinstance(error, NameError | AttributeError) and error.name is not None:
            slots = {**(slots or {}), "name": error.name}
    else:
        function, args, slots = reduced[0], reduced[1], None
    cause, context, suppressed = error.__cause__, error.__context__, error.__suppress_context__
    if state is None and slots is None and cause is None and context is None and not suppressed:
        return function, args
    full = (state, slots, cause, context, suppressed)
    return function, args, full, None, None, complete_exception


def reduce_lone_exception(error: BaseException) -> Reduced:
    """As above without what it came from."""
    reduced = reduce_exception(error)
    if isinstance(reduced, tuple) and len(reduced) == 6:
        state, slots, *_ = reduced[2]
        return *reduced[:2], (state, slots, None, None, True), None, None, complete_exception
    return reduced


# --- objects


def kind_class(name: str) -> type:
    """The class that is served under a name; the module it is in may have changed."""
    home = loading.home()
    if home is not None:
        try:
            return home.kind(name).cls
        except UnknownKind:
            pass
    from perdure.suspend import heap

    return heap.resolve_kind(name)


def reduce_object(instance: Any) -> Reduced:
    try:
        return Ref, instance.__perdure_identity__()
    except AttributeError:
        raise pickle.PicklingError("made by calling its class, not by Class.at(key)") from None


def reduce_class(cls: type) -> Reduced:
    name = getattr(cls, "__perdure_name__", None)
    if name is not None:
        try:
            if kind_class(name) is cls:
                return kind_class, (name,)
        except UnknownKind:
            pass
    module = cls.__module__
    if type(module) is str and "@" in module:
        return find_class, (editions.written(module, loading.home()), cls.__qualname__)
    return NotImplemented


def find_class(module: str, path: str) -> Any:
    """A class of an older version, by the name it is written under."""
    return loading.resolve(module, path)


def refuse(value: object) -> Reduced:
    raise pickle.PicklingError(f"a {type(value).__qualname__} lives inside an object")


# --- values that pickle would write by position


def make_by_name(cls: type, values: dict[str, Any]) -> Any:
    """A value of a class whose fields may be others by now: what has no field any more is left
    out, and what came later gets its default."""
    known = cls.__struct_fields__  # type: ignore[attr-defined]
    return cls(**{name: value for name, value in values.items() if name in known})


def fill_by_name(value: Any, values: dict[str, Any]) -> None:
    """The same for a dataclass with slots, which may be frozen, and may be in a cycle."""
    for field in dataclasses.fields(value):
        if field.name in values:
            object.__setattr__(value, field.name, values[field.name])


def reduce_by_name(value: Any) -> Reduced:
    """As pickle does it; with names, since the code of a later version may have other fields."""
    cls = type(value)
    if isinstance(value, msgspec.Struct):
        return make_by_name, (cls, {name: getattr(value, name) for name in cls.__struct_fields__})
    names = [field.name for field in dataclasses.fields(value) if hasattr(value, field.name)]
    state = {name: getattr(value, name) for name in names}
    return object.__new__, (cls,), state, None, None, fill_by_name


def _by_position(cls: type) -> bool:
    """Whether a class is one of the app that pickle writes by position, with no say of its own."""
    if cls.__module__.partition(".")[0] in ("perdure", "msgspec"):
        return False
    if issubclass(cls, msgspec.Struct):
        return cls.__reduce__ is msgspec.Struct.__reduce__
    state = getattr(cls, "__getstate__", None)
    return state is not None and state is getattr(dataclasses, "_dataclass_getstate", None)


# --- picklers


def reducer_of(cls: type) -> Reducer | None:
    """How values of a class become bytes; None: as pickle does it."""
    if issubclass(cls, BaseException):
        return reduce_exception
    if issubclass(cls, type):
        return reduce_class
    if getattr(cls, "__perdure_object__", False):
        return reduce_object
    if getattr(cls, "is_object_loop", False):
        return refuse
    if _by_position(cls):
        return reduce_by_name
    return None


class Reducers(dict[type, Reducer | None]):
    """Looks at each class once; forgets all of them rather than keep dropped modules alive."""

    def __init__(self, choose: Callable[[type], Reducer | None]) -> None:
        self.choose = choose

    def __missing__(self, cls: type) -> Reducer | None:
        if len(self) > 10_000:
            self.clear()
        reducer = self[cls] = self.choose(cls)
        return reducer


_reducers = Reducers(reducer_of)


class ValuePickler(pickle.Pickler):
    """The C pickler, asked back only for what is no plain builtin value."""

    def __init__(self) -> None:
        self.buffer = io.BytesIO()
        super().__init__(self.buffer, PROTOCOL)

    def reducer_override(self, value: Any) -> Reduced:
        reducer = _reducers[type(value)]
        return NotImplemented if reducer is None else reducer(value)


class LonePickler(ValuePickler):
    """Leaves out what exceptions came from."""

    def reducer_override(self, value: Any) -> Reduced:
        if isinstance(value, BaseException):
            return reduce_lone_exception(value)
        return super().reducer_override(value)


# A pickler costs more to make than a small value to pickle. Popping is one step for all threads,
# and a pickler that failed or grew large does not come back.
_pool: list[ValuePickler] = []

# What pickling raises by itself, and what a __reduce__ or a property of the app may raise.
TROUBLE = (
    pickle.PicklingError,
    TypeError,
    AttributeError,
    ValueError,
    LookupError,
    RuntimeError,
    OSError,
)


def dumps(value: object, what: str = "value") -> bytes:
    """A value as bytes; `what` is what the text of a refusal calls it.

    Raises NotSerializable, naming the path to the part that cannot be kept.
    """
    try:
        pickler = _pool.pop()
    except IndexError:
        pickler = ValuePickler()
    try:
        pickler.dump(value)
    except TROUBLE as error:
        if isinstance(value, BaseException):
            # The exception itself matters more than the request object of the library below.
            lone = LonePickler()
            try:
                lone.dump(value)
                return lone.buffer.getvalue()
            except TROUBLE:
                pass
        raise _refusal(value, what, error) from error
    buffer = pickler.buffer
    data = buffer.getvalue()
    if len(data) < _POOL_MAX_BYTES:
        buffer.seek(0)
        buffer.truncate()
        pickler.clear_memo()
        _pool.append(pickler)
    return data


class HomeUnpickler(pickle.Unpickler):
    """Finds classes and functions by their names in the code that is loaded for; also those that
    were renamed or moved."""

    def find_class(self, module: str, name: str) -> Any:
        return loading.resolve(module, name)


def loads(data: bytes | memoryview) -> Any:
    """The value that `dumps` made bytes of. Raises what its classes raise, or AttributeError and
    ImportError where a class is gone."""
    if editions.active is None:
        try:
            return pickle.loads(data)
        except (AttributeError, ImportError) as error:
            # A class that was renamed or moved, or code of an older version; or the class itself.
            try:
                return HomeUnpickler(io.BytesIO(data)).load()
            except (AttributeError, ImportError):
                raise error from None
    return HomeUnpickler(io.BytesIO(data)).load()


def _refusal(value: object, what: str, error: BaseException) -> NotSerializable:
    from perdure.suspend import blame

    def works(part: object) -> bool:
        try:
            ValuePickler().dump(part)
        except TROUBLE:
            return False
        return True

    return blame.refusal(blame.find(value, what, works), error)
