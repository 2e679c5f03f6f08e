"""What author code may ask of the turn it runs in.

The modules an author imports from (ref.py, steps.py, waiting.py) know this face alone; the machine
of host/machine.py stands behind it. It is found by asyncio's own question, which loop is running:
inside a turn that is the object's.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from perdure.connection import Connection
    from perdure.failure import Failure
    from perdure.promise import Promise
    from perdure.ref import Ref
    from perdure.schedule import Rhythm, Schedule


class Inside(Protocol):
    """The running turn of an object."""

    is_object_loop: bool

    def ask(
        self, kind: str, key: str, handler: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> asyncio.Future[Any]:
        """Call another object; the future gives the answer."""
        ...

    def tell(
        self, kind: str, key: str, handler: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str:
        """Send to another object without waiting for the answer; gives the call id."""
        ...

    def ask_stream(
        self, kind: str, key: str, handler: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncIterator[Any]:
        """Call a handler of another object that streams; its items as they come."""
        ...

    def end(self, kind: str, key: str) -> asyncio.Future[Any]:
        """Delete an object; the future is done when it is gone."""
        ...

    def cancel_call(self, call_id: str, *, again: bool) -> asyncio.Future[Any]:
        """Cancel a call; the future is done when its object has been told."""
        ...

    def request_step(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        step_id: str,
        attempt: int,
        timeout: float | None,
        once: bool = False,
        stream: Given | None = None,
    ) -> asyncio.Future[Any]:
        """Run one attempt of a step outside; the future gives what it returned or raised.

        `once`: it must not be begun a second time. `stream` takes what it gives on the way.
        """
        ...

    def open_stream(self) -> Given:
        """A place for the items of a streaming step."""
        ...

    def step_failed(
        self, name: str, step_id: str, attempt: int, error: Exception, again_in_s: float | None
    ) -> None:
        """Note that an attempt has failed, and when the next one comes, to be seen in `show`."""
        ...

    def step_over(self, step_id: str) -> None:
        """There will be no further attempt."""
        ...

    def next_step_id(self) -> str: ...

    oid: int

    def create_future(self) -> asyncio.Future[Any]: ...

    def begin_promise(self, promise: Promise[Any], timeout_ns: int | None) -> None:
        """A new promise of this object; its timeout counts from now."""
        ...

    def find_promise(self, token: str) -> Promise[Any] | None:
        """The open promise of this object that has the token."""
        ...

    def withdraw_promise(self, promise: Promise[Any]) -> None:
        """End an open promise of this object: nobody needs it any more."""
        ...

    def settle_promise(
        self, token: str, value: object, failure: Failure | None, error: BaseException | None
    ) -> asyncio.Future[Any]:
        """Resolve or reject a promise of any object; the future is done when it is certain."""
        ...

    def put_schedule(
        self,
        id_: str | None,
        handler: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        rhythm: Rhythm | None,
        when_ns: int | None,
    ) -> Schedule:
        """Have a method of this object called: at a time, or in a rhythm."""
        ...

    def cancel_schedule(self, schedule: Schedule) -> bool: ...

    now_ns: int

    def watch(self, predicate: Callable[[], Any]) -> asyncio.Future[Any]:
        """The future gives what the predicate gives, once that is true at the end of a turn."""
        ...

    @property
    def connections(self) -> Mapping[str, Connection] | None:
        """The open ones, by id."""
        ...

    def frame(self, conn: Connection, body: bytes, text: bool) -> None:
        """Send to a connection of this object."""
        ...

    def broadcast(
        self, body: bytes, text: bool, exclude: Iterable[Connection], tag: str | None
    ) -> None:
        """Send to many."""
        ...

    def close(self, conn: Connection, code: int, reason: str) -> None:
        """End a connection."""
        ...

    def draw(self) -> float:
        """A number in [0, 1) from the turn's own chance."""
        ...

    def current(self) -> Current: ...


class Given(Protocol):
    """What a streaming step has given, in the order of its giving."""

    def has_item(self) -> bool:
        """Whether there is one that was not taken."""
        ...

    def take(self) -> Any:
        """The next one."""
        ...

    def wait(self) -> asyncio.Future[None]:
        """Done when there is one, or the attempt has ended."""
        ...


class Current:
    """What `perdure.current()` gives: the running object, and on whose behalf it runs."""

    __slots__ = ("call_id", "caller", "deadline", "due", "principal", "ref")

    def __init__(
        self,
        ref: Ref,
        caller: Ref | None,
        principal: Any,
        call_id: str | None,
        deadline: datetime | None = None,
        due: datetime | None = None,
    ) -> None:
        self.ref = ref
        """The running object."""
        self.caller = caller
        """The object that called, or None if the call came from outside."""
        self.principal = principal
        """What the App's `authorize` returned for the call, or None."""
        self.due = due
        """When a schedule meant this call to be; None for a call that somebody made."""
        self.call_id = call_id
        """The id of the call; None in a task that no call started, such as after `on_create`."""
        self.deadline = deadline
        """By when calls made from here must have ended, as an aware datetime; None: no deadline."""

    def __repr__(self) -> str:
        return f"<{self.ref.address} call {self.call_id}>"


_wanted_by: contextvars.ContextVar[float] = contextvars.ContextVar("perdure_wanted_by")


def wanted_by() -> float:
    """Until when `perdure.deadline` gives the running code, as the loop's time; 0.0: no end."""
    return _wanted_by.get(0.0)


def want_by(when: float) -> float:
    """Set what `wanted_by` gives; gives what it was."""
    before = _wanted_by.get(0.0)
    _wanted_by.set(when)
    return before


def inside() -> Inside | None:
    """The turn this code runs in, or None outside of objects."""
    loop = asyncio._get_running_loop()
    if getattr(loop, "is_object_loop", False):
        return cast(Inside, loop)
    return None
