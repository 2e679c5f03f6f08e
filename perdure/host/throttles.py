"""Limits of steps as they are kept: places, and a pace, for each Limit and key on this node.

Who comes first is served first: nobody is let in past others who wait. A place that was given to
somebody who has gone away meanwhile goes to the next one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from typing import Any

from perdure.limits import Limit
from perdure.steps import Step

# Times are floats of seconds. A place may be given this much early: a timer that comes at its very
# time must not find that it is a rounding error too soon, and come again at once, for ever.
_EPSILON_S = 1e-9
_SWEEP_FROM = 256


class Throttle:
    """So many inside at once, and so many a second; the rest waits in a line."""

    __slots__ = (
        "_ahead_s",
        "_concurrency",
        "_due_s",
        "_interval_s",
        "_loop",
        "_timer",
        "inside",
        "line",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        concurrency: int | None,
        per_second: float | None = None,
        burst: int = 1,
    ) -> None:
        self._loop = loop
        self._concurrency = concurrency
        self._interval_s = 1 / per_second if per_second is not None else 0.0
        self._ahead_s = (burst - 1) * self._interval_s
        self._due_s = 0.0
        """When the next one is due at an even pace; a burst lets it run ahead of the time."""
        self._timer: asyncio.TimerHandle | None = None
        self.inside = 0
        self.line: deque[asyncio.Future[None]] = deque()

    def try_enter(self) -> bool:
        """A place at once, if there is one and nobody waits for it."""
        if self.line or not self._has_place():
            return False
        self._take()
        return True

    async def enter(self) -> None:
        """Wait for a place. Cancelled, it leaves the line."""
        if self.try_enter():
            return
        place: asyncio.Future[None] = self._loop.create_future()
        self.line.append(place)
        self._admit()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                # It was given just now, and is not used: the pace is given back with it.
                self._due_s -= self._interval_s
                self.leave()
            elif place in self.line:
                self.line.remove(place)
            raise

    def leave(self) -> None:
        """Give a place back."""
        self.inside -= 1
        self._admit()

    def idle(self) -> bool:
        """Whether it might as well not be there."""
        return not self.inside and not self.line and self._due_s <= self._loop.time() + _EPSILON_S

    def close(self) -> None:
        """Nobody is let in any more."""
        if self._timer is not None:
            self._timer.cancel()
        self.line.clear()

    def _has_place(self) -> bool:
        if self._concurrency is not None and self.inside >= self._concurrency:
            return False
        return not self._interval_s or self._due_s - self._loop.time() <= self._ahead_s + _EPSILON_S

    def _take(self) -> None:
        self.inside += 1
        if self._interval_s:
            self._due_s = max(self._due_s, self._loop.time()) + self._interval_s

    def _admit(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self.line and self._has_place():
            place = self.line.popleft()
            if not place.done():
                self._take()
                place.set_result(None)
        full = self._concurrency is not None and self.inside >= self._concurrency
        if self.line and not full:
            self._timer = self._loop.call_at(self._due_s - self._ahead_s, self._admit)


class Throttles:
    """The throttles of this node: one for its threads, and one for each limit and key in use."""

    def __init__(self, loop: asyncio.AbstractEventLoop, threads: int) -> None:
        self._loop = loop
        self.threads = Throttle(loop, threads)
        self._throttles: dict[tuple[Limit, Hashable], Throttle] = {}
        self._sweep_at = _SWEEP_FROM

    def of(self, step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Throttle]:
        """What an attempt has to pass, in this order. Raises what the limit's key raises."""
        throttles = []
        limit = step.limit
        if limit is not None:
            place = (limit, _key(limit, step, args, kwargs))
            throttle = self._throttles.get(place)
            if throttle is None:
                self._sweep()
                throttle = Throttle(self._loop, limit.concurrency, limit.per_second, limit.burst)
                self._throttles[place] = throttle
            throttles.append(throttle)
        if not step.awaits:
            # Last: who has a thread does not hold it while it waits for anything else.
            throttles.append(self.threads)
        return throttles

    def _sweep(self) -> None:
        """Keys may be many; those that nobody asks for any more are dropped now and then."""
        if len(self._throttles) < self._sweep_at:
            return
        self._throttles = {
            place: throttle for place, throttle in self._throttles.items() if not throttle.idle()
        }
        self._sweep_at = max(_SWEEP_FROM, 2 * len(self._throttles))

    def close(self) -> None:
        for throttle in (self.threads, *self._throttles.values()):
            throttle.close()


def _key(limit: Limit, step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
    if limit.key is None:
        return None
    assert step.signature is not None
    bound = step.signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return limit.key(**{name: bound.arguments[name] for name in step.key_names})
