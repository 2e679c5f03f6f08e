"""`Past`: the past of an object, for programs and tests in the process that serves it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import msgspec

from perdure import ref as refs
from perdure.errors import SideEffectError
from perdure.inside import inside
from perdure.past import history as histories
from perdure.past import looking, planting
from perdure.past.extract import export
from perdure.past.history import Filter
from perdure.past.moment import Moment, read_moment, read_time
from perdure.past.record import HostRecord, record_of
from perdure.past.what_if import what_if
from perdure.ref import Ref, parse_address

if TYPE_CHECKING:
    from perdure.host.host import Host

When = int | str | datetime | timedelta
"""A turn, a time, or an age; or one of them as the command line takes it."""

_FOLLOW_WAIT_S = 60.0


class Past:
    """The past of one object: `Past(Order.at("42"))`, in the process that serves it.

    Everything happens on copies; a look wakes nobody, journals nothing, and what the copied code
    would do to the outside is left undone. What is shown is on disk.
    """

    def __init__(self, ref: object) -> None:
        if not isinstance(ref, Ref):
            raise TypeError(f"Past takes a ref such as Order.at('42'), not {ref!r}")
        self.address = ref.address
        """`Class/key` of the object."""

    async def history(
        self,
        *,
        after: int = 0,
        limit: int = 100,
        kind: str | Iterable[str] | None = None,
        handler: str | Iterable[str] | None = None,
        since: When | None = None,
        until: When | None = None,
        failed: bool = False,
    ) -> list[dict[str, Any]]:
        """Turns behind turn `after`, at most `limit`, as `perdure history --json` has them."""
        wanted = self._filter(kind, handler, since, until, failed)
        return await histories.page(await self._record(), after, limit, wanted)

    async def follow(self, *, after: int = 0) -> AsyncIterator[dict[str, Any]]:
        """Turns behind turn `after`, and then each new one as it comes."""
        host = _host()
        while True:
            for turn in await histories.follow(
                host, self.address, after, 1000, histories.EVERYTHING, _FOLLOW_WAIT_S
            ):
                after = turn["seq"]
                yield turn

    async def calls(
        self, *, after: int = 0, limit: int = 100, handler: str | Iterable[str] | None = None
    ) -> list[dict[str, Any]]:
        """Calls that came in behind turn `after`, each with its end."""
        wanted = self._filter(None, handler, None, None, False)
        return await histories.calls(await self._record(), after, limit, wanted)

    async def state(self, at: When | None = None) -> dict[str, Any]:
        """The state at a moment (None: now): `address, seq, time, state`.

        Raises UnknownTurn for a turn that is not there, DivergenceError where the code does not
        do any more what the journal says.
        """
        return await looking.state_at(await self._record(), self._moment(at))

    async def diff(self, a: When, b: When) -> dict[str, Any]:
        """What differs between two moments: `address, from, to, changes`."""
        first, second = self._moment(a), self._moment(b)
        assert first is not None
        assert second is not None
        return await looking.diff(await self._record(), first, second)

    async def errors(
        self, at: int | None = None, *, after: int = 0, limit: int = 100
    ) -> list[dict[str, Any]]:
        """What was raised in turn `at`, or in each turn behind `after` in which a call failed,
        with traceback and the locals of each frame."""
        return await looking.errors(await self._record(), at, after, limit)

    async def what_if(
        self, at: int, arguments: dict[str, Any] | list[Any] | None, handler: str | None = None
    ) -> dict[str, Any]:
        """What would have come of it if the call of turn `at` had come with other arguments, or to
        another handler, or (with neither) not at all.

        The rest of the past is given to a copy as far as it still fits. Tells `changed` (turns
        that ask for something else), `left_out` (turns that do not fit), `waiting` (what has no
        answer in the past), `state` and `changes`, which are what differs from what is.
        """
        body = msgspec.json.encode(arguments) if arguments is not None else None
        return await what_if(await self._record(), at, body, handler)

    async def fork(self, key: str, at: When | None = None, *, live: bool = False) -> Ref:
        """A new object of the same class, with this past up to a moment (None: now).

        It is held back from the outside until `release`, unless it is `live`: its code runs and
        calls are answered, but no step starts, no message leaves and no timer fires. Raises
        Conflict if there is an object of that key.
        """
        made = await planting.fork(_host(), self.address, key, self._moment(at), live=live)
        return Ref(*parse_address(made["address"]))

    async def release(self) -> None:
        """Let a fork, or what was imported, reach the outside. Raises Conflict if it may."""
        await planting.release(_host(), self.address)

    async def export(self) -> bytes:
        """The object as a file: its turns, its memory, its code (docs/data.md)."""
        return b"".join([section async for section in export(_host(), [self.address])])

    async def _record(self) -> HostRecord:
        return await record_of(_host(), self.address)

    def _moment(self, when: When | None) -> Moment | None:
        if when is None:
            return None
        if isinstance(when, int):
            return Moment(when, None)
        return read_moment(_written(when), _now_ns())

    def _filter(
        self,
        kind: str | Iterable[str] | None,
        handler: str | Iterable[str] | None,
        since: When | None,
        until: When | None,
        failed: bool,
    ) -> Filter:
        span = _time(since, end=False), _time(until, end=True)
        return Filter(_names(kind), _names(handler), *span, failed)


def _time(when: When | None, *, end: bool) -> int | None:
    if when is None or isinstance(when, int):
        return None
    return read_time(_written(when), _now_ns(), end=end)


def _written(when: str | datetime | timedelta) -> str:
    if isinstance(when, timedelta):
        return f"{when.total_seconds():f}s"
    return when if isinstance(when, str) else when.isoformat()


def _names(given: str | Iterable[str] | None) -> frozenset[str] | None:
    if given is None:
        return None
    return frozenset((given,) if isinstance(given, str) else given)


def _now_ns() -> int:
    return _host().clock.now_ns()


def _host() -> Host:
    if inside() is not None:
        raise SideEffectError(
            "a turn looks at the past of objects: what it finds would not be recorded",
            hint="Put it into a function marked @step and await that.",
        )
    return cast("Host", cast(Any, refs.outside()).host)
