"""What an author subclasses: Object, and the marks for its handlers and attributes.

A class is looked at once, when it is first served (`kind_of`); what is found there is a `Kind`
with its `Handler`s, and nothing above or below asks the class again.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import FunctionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Self,
    TypeVar,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from perdure.connection import Connection, Connections, inside_object, message_bytes
from perdure.errors import InvalidClass, ReadOnlyError
from perdure.hooks import hooks_of
from perdure.indexed import INDEXED, is_indexable
from perdure.inside import inside
from perdure.isolation import isolation_of, refuse_ephemeral
from perdure.ref import Ref, format_address, streaming
from perdure.schedule import Missed, Rhythm, Schedule, moment
from perdure.serde import Signature, to_json
from perdure.settings import kept_ns
from perdure.transient import transient

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Object:
    """A durable object: subclass it, give it attributes and handlers, and serve it.

    Its attributes are kept for ever, at any depth, with no save call. Its public methods are
    handlers; one turn runs at a time, and handlers interleave only at an `await`.

    Options of the class line: `reentrant=False` (one handler finishes before the next begins;
    queries still run), `atomic=True` (each handler as with `@atomic`), `hibernate_after=30.0`
    (idle seconds before it leaves memory), `history="30d"` (how much of its past is kept, as the
    setting of that name), `name="Room"` (the name in addresses, where it is not the class's own),
    `aliases=["Chat"]` (names it had before, the oldest last: its objects of then are found under
    both), `isolation="process"` (each object in a process of its own, with `memory_limit=` bytes
    that it may take and `cpu_limit=` seconds of processor for each turn).

    `def on_upgrade(self, old_version)`, where a class has it, runs once for each object in its
    first turn under other code, to bring its state to what the code of now expects.
    """

    __slots__ = ("__dict__", "__weakref__", "_perdure_key", "_perdure_transients")
    __perdure_object__: ClassVar[bool] = True
    __perdure_options__: ClassVar[dict[str, Any]] = {}
    _perdure_key: str
    _perdure_transients: dict[str, Any]

    def __init_subclass__(
        cls,
        *,
        reentrant: bool | None = None,
        atomic: bool | None = None,
        hibernate_after: float | None = None,
        history: str | None = None,
        isolation: str | None = None,
        memory_limit: int | None = None,
        cpu_limit: float | None = None,
        name: str | None = None,
        aliases: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init_subclass__(**kwargs)
        _check_names(cls)
        given = {
            "reentrant": reentrant,
            "atomic": atomic,
            "hibernate_after": hibernate_after,
            "history": history,
            "isolation": isolation,
            "memory_limit": memory_limit,
            "cpu_limit": cpu_limit,
        }
        # The name is this class's alone; the other options are inherited like any attribute.
        cls.__perdure_options__ = cls.__perdure_options__ | {
            option: value for option, value in given.items() if value is not None
        }
        cls.__perdure_name__ = name or cls.__name__
        cls.__perdure_former__ = (aliases,) if isinstance(aliases, str) else tuple(aliases)
        if "@" not in cls.__module__:
            streaming[cls.__perdure_name__] = frozenset(
                name for name in dir(cls) if inspect.isasyncgenfunction(getattr(cls, name, None))
            )

    __perdure_name__: ClassVar[str] = "Object"
    __perdure_former__: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def at(cls, key: str) -> Self:
        """A ref to the object of that name. Activates nothing; raises InvalidKey for a bad key."""
        return cast(Self, Ref(cls.__perdure_name__, key))

    @classmethod
    def new(cls) -> Self:
        """A ref with a fresh, unguessable key of 32 hexadecimal digits."""
        # Bound late: inside a turn `secrets` is the turn's own chance (host/guard.py).
        import secrets

        return cast(Self, Ref(cls.__perdure_name__, secrets.token_hex(16)))

    @classmethod
    async def find(
        cls, *, limit: int = 100, after: object = None, **where: Any
    ) -> list[Self]:
        """Refs of the objects whose Indexed attributes are so, in the order of their keys.

        `await Order.find(status="open")`; several conditions hold together. `total__ge=100`
        compares: `lt`, `le`, `gt`, `ge`, `prefix` (of texts) and `in` (any of several values). At
        most `limit`; `after` is a key or ref to go on behind. What a turn changed is found once
        it is on disk; inside an object the answer is recorded, like that of a step.

        Raises BadArguments for an attribute that is not Indexed.
        """
        from perdure.finding import find

        return cast(list[Self], await find(cls.__perdure_name__, where, limit, after))

    @property
    def key(self) -> str:
        """The object's own name."""
        return self._perdure_key

    @property
    def address(self) -> str:
        """Class and key, as in `Room/lobby`."""
        return format_address(*self.__perdure_identity__())

    def __perdure_identity__(self) -> tuple[str, str]:
        return self.__perdure_name__, self._perdure_key

    def schedule(
        self,
        when: timedelta | datetime | str | Rhythm,
        method: Callable[..., object],
        *args: Any,
        id: str | None = None,
        tz: str = "UTC",
        missed: Missed | None = None,
        window: timedelta | None = None,
        **kwargs: Any,
    ) -> Schedule:
        """Have a method of this object called by time: `self.schedule(when, self.remind, 3)`.

        `when` is a timedelta from now, an aware datetime, a cron string of five fields in the
        time zone `tz`, or what `every(…)` and `cron(…)` give. Once, or again and again, it begins
        a call of its own, with these arguments as they are now. Methods with a leading underscore
        can be scheduled too. The same `id` again replaces what has it.

        A tick is never early, and runs once, across crashes and sleep. What was missed while no
        node ran is late: a single one runs at once. Of repeated ones, `missed` says: "once" (the
        default) runs one of them, "all" each, one after the other, "skip" none; no tick runs that
        is later than `window`, which for "skip" is a minute unless said.

        What the method raises is logged and kept with the schedule, which goes on. Raises
        ValueError for a `when` that means nothing, TypeError for what is no method of this object
        or arguments that do not fit it.
        """
        turn = inside()
        if turn is None:
            raise RuntimeError("self.schedule() is for code inside the object")
        name = _own_method(self, method, args, kwargs)
        rhythm, when_ns = moment(when, tz, missed, window, turn.now_ns)
        return turn.put_schedule(id, name, args, kwargs, rhythm, when_ns)

    async def on_create(self) -> None:
        """Runs once in the life of an object, before its first call. Override it."""

    @property
    def connections(self) -> Connections:
        """The connections that are open: iterate, `len`, `.tagged("admin")`."""
        return Connections(inside_object("connections").connections or {})

    def broadcast(
        self,
        data: str | bytes,
        *,
        exclude: Connection | Iterable[Connection] = (),
        tag: str | None = None,
    ) -> None:
        """Send a message to all connections, or to those with a tag, without those excluded.

        It is encoded once. It leaves when this turn is on disk, in order with what else is sent.
        """
        body, text = message_bytes(data)
        without = (exclude,) if isinstance(exclude, Connection) else exclude
        inside_object("broadcast").broadcast(body, text, without, tag)

    def broadcast_json(
        self,
        value: Any,
        *,
        exclude: Connection | Iterable[Connection] = (),
        tag: str | None = None,
    ) -> None:
        """`broadcast`, of a value as JSON text."""
        self.broadcast(to_json(value).decode(), exclude=exclude, tag=tag)

    def __repr__(self) -> str:
        try:
            return f"<{self.address}>"
        except AttributeError:
            return object.__repr__(self)


def query(handler: F) -> F:
    """Mark a handler that changes nothing. It is not journaled: it costs less, and leaves no trace.

    Assigning to `self` in it, or asking for anything (a send, a step, a timer), raises
    ReadOnlyError. In `dev` and under test a change deeper inside is found and raised as well.
    """
    handler.__perdure_query__ = True  # type: ignore[attr-defined]
    return handler


def atomic(handler: F) -> F:
    """Mark a handler that is undone if it raises before its first await: state, timers and sends.

    Behind the first await that suspends, what was done stays done. Awaiting `perdure.send` does
    not suspend.
    """
    handler.__perdure_atomic__ = True  # type: ignore[attr-defined]
    return handler


def ephemeral(handler: F) -> F:
    """Mark a handler, or `on_ephemeral`, that skips the journal: cursors, typing signs.

    It may read the object, and send and broadcast to its connections. Changing state, or asking
    for anything else, raises ReadOnlyError. What it sends is gone with a lost line: it is not
    repeated when the client resumes.
    """
    handler.__perdure_ephemeral__ = True  # type: ignore[attr-defined]
    return handler


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


# What an object or a class is asked by; a handler or an attribute of that name would hide it.
_ITS_OWN = frozenset(
    ("address", "at", "broadcast", "broadcast_json", "connections", "key", "new", "schedule")
)


def _check_names(cls: type[Object]) -> None:
    taken = _ITS_OWN & (vars(cls).keys() | inspect.get_annotations(cls).keys())
    if taken:
        names = ", ".join(sorted(taken))
        raise InvalidClass(
            f"{cls.__name__} defines {names}, which every Object has already",
            hint="Give it another name.",
        )


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


def _own_method(
    instance: Object, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str:
    """The name of a method of this object, if it can be called with these arguments."""
    cls = type(instance)
    name = getattr(method, "__name__", "")
    function = getattr(method, "__func__", None)
    if (
        getattr(method, "__self__", None) is not instance
        or not isinstance(function, FunctionType)
        or inspect.getattr_static(cls, name, None) is not function
    ):
        raise TypeError(
            f"a schedule calls a method of the object itself, self.remind, not {method!r}\n"
            "  For what another object should do, schedule a method here that calls it."
        )
    if getattr(function, "__perdure_query__", False) or (
        inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function)
    ):
        raise TypeError(f"{name} is a query or streams its items, so that to run it has no effect")
    # A mistake in the arguments shows here, and not in a year.
    _signature(function).bind(instance, *args, **kwargs)
    return name


_signature = functools.lru_cache(512)(inspect.signature)


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
