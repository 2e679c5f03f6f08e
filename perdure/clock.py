"""The only place where real time and real chance are read.

Everything above takes a `Clock`, so that a simulation can put its own in. Inside a turn neither
is asked: there the time is the entry's and chance is derived (host/chance.py).
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

NS = 1_000_000_000

LAST_NS = 2**63 - 1
"""The last moment that journal and store have a number for, in April 2262. What is due later, or
never, is due then."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def whole_ns(seconds: float) -> int:
    """Nanoseconds, rounded up, so that no timer is early; LAST_NS at most, also for infinity.

    Raises ValueError for a NaN.
    """
    return LAST_NS if seconds * NS >= LAST_NS else math.ceil(seconds * NS)


def iso(ns: int) -> str:
    """Nanoseconds since 1970 as RFC 3339 in UTC, to the microsecond."""
    when = _EPOCH + timedelta(microseconds=ns // 1000)
    return when.isoformat(timespec="microseconds").replace("+00:00", "Z")


class Timer(Protocol):
    """What `call_at` gives."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Wall-clock time in nanoseconds since 1970, and a way to be called back."""

    def now_ns(self) -> int: ...

    def monotonic(self) -> float:
        """Seconds that never run backwards, for measuring; not comparable between processes."""
        ...

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> Timer:
        """Call back when the clock has reached `when_ns`; perhaps later, never earlier."""
        ...

    def random_bytes(self, n: int) -> bytes: ...


# Bound at import, before the guard patches the module: what runs here is never inside a turn.
_time_ns = time.time_ns
perf_ns = time.perf_counter_ns
"""For measuring how long something took."""
_monotonic = time.monotonic
_urandom = os.urandom

# A wall clock can jump while a long timer sleeps, so no wait is longer than this; after it the
# clock is asked again.
_LONGEST_WAIT_S = 30.0


class RealClock:
    """The clock of the machine, on the running asyncio loop."""

    now_ns = staticmethod(_time_ns)
    monotonic = staticmethod(_monotonic)
    random_bytes = staticmethod(_urandom)

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> Timer:
        return _RealTimer(when_ns, callback)


class _RealTimer:
    __slots__ = ("_callback", "_handle", "_when_ns")

    def __init__(self, when_ns: int, callback: Callable[[], None]) -> None:
        self._when_ns = when_ns
        self._callback = callback
        self._arm()

    def _arm(self) -> None:
        delay = max(0.0, (self._when_ns - _time_ns()) / NS)
        loop = asyncio.get_running_loop()
        self._handle = loop.call_later(min(delay, _LONGEST_WAIT_S), self._wake)

    def _wake(self) -> None:
        if _time_ns() >= self._when_ns:
            self._callback()
        else:
            self._arm()

    def cancel(self) -> None:
        self._handle.cancel()
