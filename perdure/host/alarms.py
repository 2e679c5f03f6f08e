"""Which object has to be woken when. Times of objects that sleep far ahead stay in the store.

Only hints are kept: an alarm that no longer fits is found out when it rings, by asking what the
object itself (or its row) says, so setting one costs a push and taking one back costs nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from perdure.clock import NS, Clock, Timer

HORIZON_NS = 600 * NS

FOREVER_NS = 200 * 365 * 86_400 * NS
"""As long as it may be for a time in nanoseconds still to fit into 64 bits."""


class Alarms:
    """A heap of (time, object), with one timer of the clock for the earliest."""

    def __init__(self, clock: Clock, ring: Callable[[int, int], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._heap: list[tuple[int, int]] = []
        self._timer: Timer | None = None
        self._timer_ns = 0
        self._closed = False

    def __len__(self) -> int:
        return len(self._heap)

    def set(self, oid: int, when_ns: int) -> None:
        """Ring for the object at that time, and not before."""
        heapq.heappush(self._heap, (when_ns, oid))
        if self._timer is None or when_ns < self._timer_ns:
            self._arm()

    def _arm(self) -> None:
        if self._closed or not self._heap:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ns = self._heap[0][0]
        self._timer = self._clock.call_at(self._timer_ns, self._due)

    def _due(self) -> None:
        self._timer = None
        now = self._clock.now_ns()
        # A bounded number in one pass, so that a million timers of one moment do not hold up the
        # requests in between.
        for _ in range(1000):
            if not self._heap or self._heap[0][0] > now:
                break
            when, oid = heapq.heappop(self._heap)
            self._ring(oid, when)
        self._arm()

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
