"""What a handler can wait for, beside what asyncio has."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar, cast

from perdure.inside import inside

T = TypeVar("T")


async def sleep(duration: timedelta | float) -> None:
    """Wait durably for a timedelta or a number of seconds.

    `asyncio.sleep` does the same; this one takes a timedelta as well.
    """
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    await asyncio.sleep(seconds)


async def sleep_until(when: datetime) -> None:
    """Wait durably until an aware datetime; one that is past returns at once.

    Raises ValueError for a datetime without a time zone.
    """
    if when.tzinfo is None:
        raise ValueError(
            f"{when!r} has no time zone; say which one is meant: datetime(…, tzinfo=UTC)"
        )
    await asyncio.sleep((when - datetime.now(UTC)).total_seconds())


async def wait_until(predicate: Callable[[], T], *, timeout: timedelta | float | None = None) -> T:
    """Wait durably until `predicate()` is true of the object's own state, and give what it gave.

        await wait_until(lambda: self.paid, timeout=timedelta(days=3))

    It is asked at once, and then at the end of each turn of the object; when this returns, it is
    still true. It must look at the object's state alone: that an hour has passed, or that another
    object has changed, begins no turn here. What it raises is raised here. With `timeout` (a
    timedelta or seconds) raises TimeoutError. Cheap while it waits, and free for objects in which
    nobody does.
    """
    turn = inside()
    if turn is None:
        raise RuntimeError("wait_until waits for the state of an object, inside it")
    answer = predicate()
    if inspect.isawaitable(answer):
        if inspect.iscoroutine(answer):
            answer.close()
        raise TypeError("wait_until takes a plain function; this one has to be awaited")
    if answer:
        return answer
    if timeout is None:
        return cast(T, await turn.watch(predicate))
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    async with asyncio.timeout(seconds):
        return cast(T, await turn.watch(predicate))
