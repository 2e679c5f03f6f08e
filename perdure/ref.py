"""Addresses, and the refs through which objects are called.

A ref is a value: cheap, storable, comparable, and it activates nothing. `Room.at("lobby")` is
typed as `Room`, so a type checker knows its handlers; at run time it is a `Ref`, whose handlers
give coroutines that travel to the object.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, ParamSpec, Protocol
from urllib.parse import quote, unquote

from perdure.errors import InvalidKey
from perdure.failure import Failure
from perdure.inside import Current, inside

P = ParamSpec("P")

KEY_BYTES_MAX = 512


def check_key(key: str) -> str:
    """The key itself, if it may name an object: 1 to 512 bytes of UTF-8. Raises InvalidKey."""
    # isascii() is a flag look-up; only other keys pay for the encoding.
    if not isinstance(key, str):
        raise InvalidKey(f"a key is a str, not {type(key).__name__}")
    if key.isascii():
        size = len(key)
    else:
        try:
            size = len(key.encode())
        except UnicodeEncodeError:
            raise InvalidKey(f"the key {key!r} is not valid Unicode") from None
    if 0 < size <= KEY_BYTES_MAX:
        return key
    raise InvalidKey(f"a key has 1 to {KEY_BYTES_MAX} bytes of UTF-8; this one has {size}")


def format_address(kind: str, key: str) -> str:
    """`Room/lobby`; a slash or percent sign in the key is escaped as in a URL."""
    if "/" in key or "%" in key:
        key = key.replace("%", "%25").replace("/", "%2F")
    return f"{kind}/{key}"


def parse_address(address: str) -> tuple[str, str]:
    """(kind, key) of an address. Raises InvalidKey if it is none."""
    kind, slash, key = address.partition("/")
    if not slash or not kind or "/" in key:
        raise InvalidKey(
            f"{address!r} is no address",
            hint="An address is Class/key; a slash in the key is written %2F.",
        )
    return kind, check_key(unquote(key, errors="strict"))


def quote_address(kind: str, key: str) -> str:
    """The address as a URL path without its leading slash."""
    return f"{kind}/{quote(key, safe='')}"


class Ref:
    """A ref to an object. Made by `Room.at(key)`; equal refs name the same object."""

    __slots__ = ("_key", "_kind")
    _key: str
    _kind: str

    def __init__(self, kind: str, key: str) -> None:
        self._kind = kind
        self._key = check_key(key)

    @property
    def key(self) -> str:
        return self._key

    @property
    def address(self) -> str:
        return format_address(self._kind, self._key)

    def __getattr__(self, name: str) -> RefHandler:
        if name.startswith("_"):
            raise AttributeError(
                f"{self.address}: {name!r} cannot be reached through a ref, only handlers can"
            )
        return RefHandler(self, name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and other._key == self._key and other._kind == self._kind

    def __hash__(self) -> int:
        return hash((self._kind, self._key))

    def __repr__(self) -> str:
        return f"<ref {self.address}>"

    def __reduce__(self) -> tuple[type[Ref], tuple[str, str]]:
        return Ref, (self._kind, self._key)

    def __copy__(self) -> Ref:
        return self

    def __deepcopy__(self, memo: object) -> Ref:
        return self


streaming: dict[str, frozenset[str]] = {}
"""By class name, the handlers that stream, of the classes that this process knows."""


class RefHandler:
    """A handler of an object somewhere: calling it gives a coroutine that brings the answer."""

    __slots__ = ("name", "ref")

    def __init__(self, ref: Ref, name: str) -> None:
        self.ref = ref
        self.name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any] | AsyncIterator[Any]:
        """The answer, to be awaited; of a handler that streams its items, for an `async for`."""
        ref = self.ref
        if self.name in streaming.get(ref._kind, ()):
            turn = inside()
            if turn is not None:
                return turn.ask_stream(ref._kind, ref._key, self.name, args, kwargs)
            return outside().stream(ref._kind, ref._key, self.name, args, kwargs)
        return _call(ref, self.name, args, kwargs)

    def __repr__(self) -> str:
        return f"<handler {self.ref.address}.{self.name}>"

    def __reduce__(self) -> tuple[type[RefHandler], tuple[Ref, str]]:
        return RefHandler, (self.ref, self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RefHandler) and (other.ref, other.name) == (self.ref, self.name)

    def __hash__(self) -> int:
        return hash((self.ref, self.name))


class Outside(Protocol):
    """How code that is not inside an object reaches the objects of this process."""

    async def call(
        self, kind: str, key: str, handler: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any: ...

    def stream(
        self, kind: str, key: str, handler: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncIterator[Any]: ...

    async def send(
        self, kind: str, key: str, handler: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str: ...

    async def delete(self, kind: str, key: str) -> None: ...

    async def settle_promise(
        self, token: str, value: object, failure: Failure | None, error: BaseException | None
    ) -> None: ...

    async def cancel(self, call_id: str, *, again: bool) -> None: ...

    async def calls(self, wanted: dict[str, Any]) -> list[dict[str, Any]]: ...

    async def find(
        self, kind: str, where: dict[str, Any], limit: int, after: str | None
    ) -> list[str]: ...


_outside: list[Outside] = []


def open_outside(outside: Outside) -> None:
    """Let code outside of objects call them through refs, while a node runs in this process."""
    _outside.append(outside)


def close_outside(outside: Outside) -> None:
    _outside.remove(outside)


def outside() -> Outside:
    """The node that runs in this process. Raises RuntimeError if there is none."""
    if not _outside:
        raise RuntimeError(
            "no perdure App is running in this process, so there is nobody to call.\n"
            "  Start one (perdure dev, or the App's lifespan); from another program, use HTTP."
        )
    return _outside[-1]


async def _call(ref: Ref, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    turn = inside()
    if turn is not None:
        return await turn.ask(ref._kind, ref._key, name, args, kwargs)
    return await outside().call(ref._kind, ref._key, name, args, kwargs)


def _target(method: object) -> tuple[str, str, str]:
    """(kind, key, handler) of `ref.method`, or of `self.method` inside an object."""
    if isinstance(method, RefHandler):
        return method.ref._kind, method.ref._key, method.name
    owner = getattr(method, "__self__", None)
    name = getattr(method, "__name__", None)
    if getattr(type(owner), "__perdure_object__", False) and name is not None:
        kind, key = owner.__perdure_identity__()  # type: ignore[union-attr]
        return kind, key, name
    raise TypeError(
        f"{method!r} is no handler of an object; pass it uncalled: perdure.send(ref.handler, x)"
    )


async def send(method: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> str:
    """Tell an object something without waiting for the answer; gives the call id.

    Awaiting it waits for acceptance alone: inside an object it does not suspend at all (the
    message leaves with the turn), outside it returns when the message is on disk. It is delivered
    exactly once, and in order with other calls and sends of the same pair of objects. What the
    handler returns or raises is not reported back.
    """
    kind, key, name = _target(method)
    turn = inside()
    if turn is not None:
        return turn.tell(kind, key, name, args, kwargs)
    return await outside().send(kind, key, name, args, kwargs)


async def delete(ref: object) -> None:
    """End an object: its state, its timers, its waiting code. The next call begins a new one.

    Code suspended in the object is dropped where it waits; its `finally` blocks do not run. Its
    history stays. Calls that still waited for
    an answer of it fail with Conflict.
    """
    if not isinstance(ref, Ref):
        identity = getattr(ref, "__perdure_identity__", None)
        if identity is None or isinstance(ref, type):
            raise TypeError(f"perdure.delete takes a ref such as Room.at('lobby'), not {ref!r}")
        ref = Ref(*identity())
    turn = inside()
    if turn is not None:
        await turn.end(ref._kind, ref._key)
    else:
        await outside().delete(ref._kind, ref._key)


def current() -> Current:
    """The running object's ref, who called, and the call id.

    Raises RuntimeError outside of objects.
    """
    turn = inside()
    if turn is None:
        raise RuntimeError("perdure.current() has an answer only inside an object")
    return turn.current()
