"""Promise[T]: a value that somebody will give later, from anywhere.

    promise = Promise[Approval](timeout=timedelta(days=3))
    await mail(f"please decide: {promise.token}")
    approval = await promise

It belongs to the object that made it, and to nobody else's memory: another object that is handed
one gets its token. Whoever has the token may resolve it, once; that it happened once holds across
crashes, since a resolution is a turn of the object like any other. Host side: host/promises.py.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from perdure.clock import NS, whole_ns
from perdure.errors import PromiseRejected
from perdure.failure import Failure, failure_of
from perdure.inside import inside
from perdure.ref import outside

T = TypeVar("T")

OPEN, KEPT, BROKEN, AWAY = "open", "resolved", "failed", "away"


class _Typed(types.GenericAlias):
    """`Promise[T]`: to be called, and to annotate with."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        (of,) = self.__args__
        if isinstance(of, str):
            raise TypeError(f"Promise[{of!r}]: write the type itself, not its name in quotes")
        promise = object.__new__(Promise)
        promise._of = of
        promise.__init__(*args, **kwargs)  # type: ignore[misc]
        return promise


class Promise(Generic[T]):
    """A value that is not there yet: `promise = Promise[Approval]()`, then `await promise`.

    It may be awaited many times and by many, also when it is resolved already; it may be kept in
    attributes and variables, and survives whatever the object survives. `timeout` (a timedelta or
    seconds) ends it: then awaiting it raises TimeoutError. Without `[T]` any value will do.

    Made inside an object only; raises RuntimeError elsewhere.
    """

    __slots__ = (
        "__weakref__",
        "_error",
        "_number",
        "_of",
        "_oid",
        "_since_ns",
        "_state",
        "_timer",
        "_token",
        "_until_ns",
        "_value",
        "_waiters",
    )
    __perdure_promise__ = True

    _of: Any
    _number: int
    _oid: int
    _state: str
    _token: str
    _since_ns: int
    _until_ns: int
    _waiters: list[asyncio.Future[Any]]
    _value: Any
    _error: BaseException | None
    _timer: Any

    if not TYPE_CHECKING:

        def __class_getitem__(cls, item: Any) -> Any:
            return _Typed(cls, (item,))

    def __init__(self, *, timeout: timedelta | float | None = None) -> None:
        turn = inside()
        if turn is None:
            raise RuntimeError(
                "a Promise is made inside an object, by the code that will await it\n"
                "  Outside of objects, use asyncio's own Future."
            )
        if not hasattr(self, "_of"):
            self._of = Any
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        if seconds is not None and seconds < 0:
            raise ValueError(f"the timeout of a Promise cannot be negative: {timeout!r}")
        self._waiters = []
        self._value = self._error = self._timer = None
        turn.begin_promise(self, None if seconds is None else whole_ns(seconds))

    @property
    def token(self) -> str:
        """What names it to the outside; whoever has it may resolve the promise. Not guessable."""
        return self._token

    @property
    def until(self) -> datetime | None:
        """When it ends by itself."""
        if not self._until_ns:
            return None
        return datetime.fromtimestamp(self._until_ns // NS, UTC)

    def done(self) -> bool:
        """Whether it is resolved, rejected, timed out or cancelled.

        Raises RuntimeError where only the token is known, in an object that was handed it.
        """
        self._check_home()
        return self._state != OPEN

    def cancel(self) -> bool:
        """Withdraw it: it leaves the list, awaiting it raises asyncio.CancelledError, and its
        token answers like that of one that is resolved. False if it was not open any more."""
        self._check_home()
        turn = inside()
        if turn is None or self._state != OPEN:
            return False
        turn.withdraw_promise(self)
        return True

    def __await__(self) -> Generator[Any, None, T]:
        self._check_home()
        if self._state == OPEN:
            turn = inside()
            if turn is None or turn.oid != self._oid:
                raise RuntimeError("a Promise is awaited by the object that made it")
            # A future for each who waits: cancelling one of them must not cancel the others.
            waiter = turn.create_future()
            self._waiters.append(waiter)
            try:
                yield from waiter
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        if self._error is not None:
            raise self._error
        return cast(T, self._value)

    def _check_home(self) -> None:
        if self._state == AWAY:
            raise RuntimeError(
                "this Promise belongs to another object, or was over when it came back: here it "
                "can be resolved, by Promise.resolve(promise.token, value), and not awaited"
            )

    @staticmethod
    async def resolve(token: str, value: object) -> None:
        """Give a promise its value, from anywhere in the app; returns when that is certain.

        Inside an object the resolution leaves with the turn and is delivered exactly once. Raises
        UnknownPromise, Conflict if the promise is over already, and BadArguments if the value
        does not fit its type: then it stays open.
        """
        await _settle(token, value, None)

    @staticmethod
    async def reject(token: str, error: str | BaseException) -> None:
        """Let whoever awaits a promise get an exception: this one, or PromiseRejected(text).

        Otherwise as `resolve`.
        """
        rejected = PromiseRejected(error) if isinstance(error, str) else error
        await _settle(token, None, rejected)

    def __reduce__(self) -> tuple[Any, ...]:
        # On its way to somewhere else: what arrives there is its token.
        return arrived, (self._token, self._of)

    def __copy__(self) -> Promise[T]:
        return self

    def __deepcopy__(self, memo: object) -> Promise[T]:
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Promise) and other._token == self._token

    def __hash__(self) -> int:
        return hash(self._token)

    def __repr__(self) -> str:
        # Without the token: it opens the promise to whoever reads a log.
        return f"<Promise[{type_name(self._of)}] {self._state}>"


def arrived(token: str, of: Any) -> Promise[Any]:
    """A promise that came in a message: itself where it came home and is open, else its token."""
    turn = inside()
    if turn is not None:
        own = turn.find_promise(token)
        if own is not None:
            return own
    promise: Promise[Any] = object.__new__(Promise)
    promise._token = token
    promise._of = of
    promise._state = AWAY
    promise._oid = promise._number = promise._since_ns = promise._until_ns = 0
    promise._waiters = []
    promise._value = promise._error = promise._timer = None
    return promise


async def _settle(token: str, value: object, error: BaseException | None) -> None:
    if not isinstance(token, str):
        raise TypeError(f"a promise is named by its token, a str: promise.token, not {token!r}")
    failure: Failure | None = failure_of(error) if error is not None else None
    turn = inside()
    if turn is not None:
        await turn.settle_promise(token, value, failure, error)
    else:
        await outside().settle_promise(token, value, failure, error)


def type_name(of: Any) -> str:
    """How a promise's type is called in lists: `Approval`, `list[str]`."""
    if isinstance(of, type) and not isinstance(of, types.GenericAlias):
        return of.__name__
    return str(of).removeprefix("typing.")
