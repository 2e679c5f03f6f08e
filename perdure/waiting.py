"""What a handler can wait for, beside what asyncio has."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta


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
