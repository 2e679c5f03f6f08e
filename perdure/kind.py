"""A class as it is served: its handlers, its options, and how to make a fresh object of it.

A class is looked at once, when it is first served (`kind_of`); what is found there is a `Kind`
with its `Handler`s, and nothing above or below asks the class again.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    get_args,
    get_origin,
    get_type_hints,
)

from perdure.errors import InvalidClass, ReadOnlyError
from perdure.hooks import hooks_of
from perdure.indexed import INDEXED, is_indexable
from perdure.isolation import isolation_of, refuse_ephemeral
from perdure.object import Object
from perdure.schedule import Rhythm
from perdure.serde import Signature
from perdure.settings import kept_ns
from perdure.transient import transient


class Handler:
    """One public method of a class, as the host and the gateway see it."""

    __slots__ = (
        "atomic",
        "awaits",
        "doc",
        "ephemeral",
        "function",
        "name",
        "query",
        "signature",
        "streams",
    )

    def __init__(
        self, name: str, function: Callable[..., Any], owner: type, *, atomic: bool
    ) -> None:
        self.name = name
        self.function = function
        self.ephemeral: bool = getattr(function, "__perdure_ephemeral__", False)
        self.query: bool = getattr(function, "__perdure_query__", False) or self.ephemeral
        self.atomic = atomic or getattr(function, "__perdure_atomic__", False)
        self.awaits = inspect.iscoroutinefunction(function)
        self.streams = inspect.isasyncgenfunction(function)
        """It is an async generator: its items are the answer, as they come."""
        self.signature = Signature(function, owner=owner)
        self.doc = inspect.getdoc(function) or ""


class Kind:
    """A class that is served: its name, its handlers, and how to make a fresh object of it."""

    def __init__(self, cls: type[Object]) -> None:
        options = cls.__perdure_options__
        self.cls = cls
        self.name: str = cls.__perdure_name__
        self.aliases: tuple[str, ...] = cls.__perdure_former__
        self.version = ""
        """Of the code that this class is of; empty where nothing keeps versions."""
        self.edition: Any = None
        """That code, as it is loaded (suspend/editions.py),"""
        self.past: Any = None
        """and again, where it is not the newest."""
        self.doc = inspect.cleandoc(cls.__doc__ or "")
        self.reentrant: bool = options.get("reentrant", True)
        self.hibernate_after: float | None = options.get("hibernate_after")
        self.history: str = options.get("history", "")
        """How much of the past is kept, where the class says so itself."""
        _check_history(cls, self.history)
        self.isolation = isolation_of(cls.__name__, options)
        """The bounds of the process that each object has of its own; None without one."""
        self.authorizes = getattr(cls, "authorize", None) is not None
        self.creates = cls.on_create is not Object.on_create
        self.on_request: Handler | None = _on_request(cls)
        """What answers raw HTTP below the object's path, if the class has it."""
        self.upgrade: Callable[..., Any] | None = getattr(cls, "on_upgrade", None)
        self.hooks = hooks_of(cls)
        """What it does with connections; None if it takes none."""
        if self.isolation is not None and self.hooks is not None:
            refuse_ephemeral(cls.__name__, self.hooks.ephemeral)
        self.atomic: bool = options.get("atomic", False)
        self.handlers = _handlers(cls, self.atomic)
        self._scheduled: dict[str, Handler | None] = {}
        self.declared = _declared(self)
        """(id, method, rhythm) of each `@every` and `@cron`."""
        self.read_only = _read_only_twin(cls)
        """The class an object has while a query runs in it; assignment raises there."""
        self._defaults = _defaults(cls)
        self.indexed = _indexed(cls)
        """The annotations of its Indexed attributes, by name."""

    def scheduled(self, name: str) -> Handler | None:
        """A method that a schedule calls, which may have a leading underscore."""
        if name in self.handlers:
            return self.handlers[name]
        if name not in self._scheduled:
            function = inspect.getattr_static(self.cls, name, None)
            made = isinstance(function, FunctionType)
            self._scheduled[name] = (
                Handler(name, function, self.cls, atomic=self.atomic) if made else None
            )
        return self._scheduled[name]

    def fresh(self, key: str) -> Object:
        """An object as it is before its first call: defaults copied, `__init__` run."""
        instance = self.bare(key)
        self.complete(instance)
        instance.__init__()  # type: ignore[misc]
        return instance

    def bare(self, key: str) -> Object:
        """An object with its identity and nothing else, for a snapshot to fill."""
        instance = self.cls.__new__(self.cls)
        instance._perdure_key = key
        return instance

    def complete(self, instance: Object) -> None:
        """Give it a copy of each default it has no value for (all, or those of newer code)."""
        values = instance.__dict__
        for name, default, shared in self._defaults:
            if name not in values:
                values[name] = default if shared else copy.deepcopy(default)


class Kinds(dict[str, Kind]):
    """The classes that are served, by name; a name that one had before leads to it as well."""

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        super().__init__(kinds)
        self.former = {
            alias: name
            for name, kind in kinds.items()
            for alias in kind.aliases
            if alias not in set(kinds)
        }

    def __missing__(self, name: str) -> Kind:
        return self[self.former[name]]

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self.former

    def find(self, name: str) -> Kind | None:
        """The class of that name, or of that former name."""
        return dict.get(self, self.former.get(name, name))

    def get(self, name: str, default: Any = None) -> Any:
        found = self.former.get(name, name)
        return dict.get(self, found, default)


_kinds: dict[type[Object], Kind] = {}


def kind_of(cls: type[Object]) -> Kind:
    """The Kind of a class, looked at once. Raises InvalidClass, naming what to change."""
    kind = _kinds.get(cls)
    if kind is None:
        kind = _kinds[cls] = Kind(cls)
    return kind


_NOT_HANDLERS = frozenset(name for name in dir(Object) if name != "find") | {"authorize"}
# A class may well have a handler that finds something; then it is not found by its attributes.
_IMMUTABLE = (int, float, complex, bool, str, bytes, type(None), frozenset, type, FunctionType)


def _check_history(cls: type[Object], history: str) -> None:
    try:
        kept_ns(history or "all")
    except ValueError:
        raise InvalidClass(
            f"{cls.__name__}: history is 'all', 'none' or an age such as '30d', not {history!r}"
        ) from None


def _on_request(cls: type[Object]) -> Handler | None:
    function = inspect.getattr_static(cls, "on_request", None)
    if not isinstance(function, FunctionType):
        return None
    if inspect.isasyncgenfunction(function):
        raise InvalidClass(
            f"{cls.__name__}.on_request is a generator; it returns a Response",
            hint="Return a starlette.responses.StreamingResponse around a generator.",
        )
    return Handler("on_request", function, cls, atomic=False)


def _handlers(cls: type[Object], all_atomic: bool) -> dict[str, Handler]:
    found: dict[str, Handler] = {}
    for name in dir(cls):
        if name.startswith(("_", "on_")) or name in _NOT_HANDLERS:
            continue
        function = inspect.getattr_static(cls, name)
        if not isinstance(function, FunctionType):
            continue
        if inspect.isgeneratorfunction(function):
            raise InvalidClass(
                f"{cls.__name__}.{name} is a plain generator; a handler that streams is an async "
                "generator",
                hint="Write `async def`; or give it a leading underscore if it is not meant to be "
                "called from outside.",
            )
        found[name] = Handler(name, function, cls, atomic=all_atomic)
    return found


def _declared(kind: Kind) -> list[tuple[str, str, Rhythm]]:
    found = []
    for name in dir(kind.cls):
        function = inspect.getattr_static(kind.cls, name)
        marks: list[Rhythm] = getattr(function, "__perdure_rhythms__", [])
        if not marks:
            continue
        handler = kind.scheduled(name)
        if handler is None or handler.query or handler.streams:
            raise InvalidClass(
                f"{kind.name}.{name} cannot be run by @every or @cron: it is no plain handler",
                hint="A query changes nothing, and nobody listens to a handler that streams.",
            )
        try:
            inspect.signature(function).bind(None)
        except TypeError as error:
            raise InvalidClass(
                f"{kind.name}.{name} is run by @every or @cron, which give no arguments: {error}",
                hint="Give its parameters defaults.",
            ) from None
        for number, rhythm in enumerate(marks, 1):
            # By its handler: with another rhythm, it is the same schedule with a change.
            id_ = f"@{name}" if number == 1 else f"@{name}.{number}"
            found.append((id_, name, rhythm))
    return found


def _defaults(cls: type[Object]) -> list[tuple[str, Any, bool]]:
    """(name, default, whether it may be shared) for each annotated class-level default."""
    defaults: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base is Object or not issubclass(base, Object):
            continue
        annotated = _annotations(base)
        for name, value in vars(base).items():
            if name in annotated:
                if get_origin(annotated[name]) is not ClassVar and annotated[name] is not ClassVar:
                    defaults[name] = value
            elif (
                isinstance(value, (list, dict, set))
                and not name.startswith("__")
                and not name.isupper()
            ):
                raise InvalidClass(
                    f"{base.__name__}.{name} = {value!r} would be shared by all its objects",
                    hint=f"Annotate it ({name}: {type(value).__name__} = …) and each object gets a "
                    "copy of its own, or mark it ClassVar.",
                )
    return [
        (name, value, isinstance(value, _IMMUTABLE))
        for name, value in defaults.items()
        if not isinstance(value, transient)
    ]


def _annotations(cls: type) -> dict[str, Any]:
    own = inspect.get_annotations(cls)
    try:
        hints = get_type_hints(cls, include_extras=True)
    except Exception:
        # A forward reference that cannot be resolved yet; whether it is a ClassVar can be read
        # off the text, and nothing more is needed here.
        return {
            name: ClassVar if isinstance(hint, str) and "ClassVar" in hint else hint
            for name, hint in own.items()
        }
    return {name: hints[name] for name in own}


def _indexed(cls: type[Object]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base is Object or not issubclass(base, Object):
            continue
        for name, annotation in _annotations(base).items():
            if isinstance(annotation, str):
                annotation = Annotated[Any, INDEXED] if "Indexed[" in annotation else Any
            if INDEXED in getattr(annotation, "__metadata__", ()):
                found[name] = get_args(annotation)[0]
            else:
                found.pop(name, None)
    for name, annotation in found.items():
        if not is_indexable(annotation):
            raise InvalidClass(
                f"{cls.__name__}.{name}: a {annotation!r} cannot be Indexed",
                hint="Texts, numbers, times, dates, UUIDs, enums and None can, and unions of them.",
            )
    return found


def _read_only_twin(cls: type[Object]) -> type[Object]:
    def refuse(self: Object, name: str, value: object = None) -> None:
        if isinstance(inspect.getattr_static(cls, name, None), transient):
            object.__setattr__(self, name, value)
            return
        raise ReadOnlyError(
            f"{self.address}: a query tried to change self.{name}",
            hint="Remove @query (or @ephemeral) from the handler, or leave the object as it is.",
        )

    # A subclass with the same layout: giving an object this class for the time of a query costs
    # a tenth of a microsecond, while a __setattr__ on every Object would make each assignment of
    # each turn several times slower.
    options = {
        "__slots__": (),
        "__setattr__": refuse,
        "__delattr__": refuse,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
    }
    twin = type.__new__(type(cls), cls.__name__, (cls,), options)
    twin.__perdure_name__ = cls.__perdure_name__
    return twin
