"""What an author subclasses: Object, and the marks for its handlers.

What is found in a class when it is first served is a `Kind` (kind.py).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from types import FunctionType
from typing import (
    Any,
    ClassVar,
    Self,
    TypeVar,
    cast,
)

from perdure.connection import Connection, Connections, inside_object, message_bytes
from perdure.errors import InvalidClass
from perdure.inside import inside
from perdure.ref import Ref, format_address, streaming
from perdure.schedule import Missed, Rhythm, Schedule, moment
from perdure.serde import to_json

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
    async def find(cls, *, limit: int = 100, after: object = None, **where: Any) -> list[Self]:
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
