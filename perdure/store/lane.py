"""The lane: writes of an embedded store run one after the other, and never two at once.

While the disk is fast a write runs in the calling thread, because handing it to another one costs
more (the GIL) than the fsync it would hide. On a slow disk it is the other way round: the loop
goes on while a thread waits. `Pace` decides, `Lane` runs.

What rests on it: the connection that writes has a single user at each moment, so that no
checkpoint slice can slip into the middle of a commit's transaction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

# The weight of the newest measurement in the average.
_WEIGHT = 1 / 16
# A single hiccup of the disk counts as at most so many times the limit: it takes several slow
# commits in a row to move to the thread.
_WORST = 4.0
# In the thread: how often a commit runs inline to see whether the disk has become fast again, and
# how many of these in a row have to be fast. What the thread measures itself is no use for that,
# since it contains the wait for the GIL.
_PROBE_EVERY_S = 1.0
_PROBES = 4


class Pace:
    """Where commits run, by the time they take.

    They move to the thread when they take longer than `limit_s` on average, and come back when
    some probes in a row took less than half of it.
    """

    __slots__ = ("_average_s", "_good", "_limit_s", "_next_probe", "inline")

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._average_s = 0.0
        self._good = 0
        self._next_probe = 0.0
        self.inline = limit_s > 0
        """Whether commits run in the calling thread at the moment."""

    def here(self, now_s: float) -> bool:
        """Whether the next commit runs in the calling thread, be it as a probe."""
        return self.inline or (self._limit_s > 0 and now_s >= self._next_probe)

    def took(self, seconds: float, now_s: float) -> None:
        """Learn from a commit that ran in the calling thread."""
        if self.inline:
            self._average_s += (min(seconds, _WORST * self._limit_s) - self._average_s) * _WEIGHT
            if self._average_s > self._limit_s:
                self.inline = False
                self._good = 0
                self._next_probe = now_s + _PROBE_EVERY_S
        elif seconds < self._limit_s / 2:
            # The next commit is a probe as well, until there are enough of them.
            self._good += 1
            if self._good >= _PROBES:
                self.inline = True
                self._average_s = seconds
        else:
            self._good = 0
            self._next_probe = now_s + _PROBE_EVERY_S


class Lane:
    """A thread that does one thing after another, and a count of what it has not finished.

    All methods belong to the thread of the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._jobs: SimpleQueue[Any] = SimpleQueue()
        self._left = 0
        self._emptied: asyncio.Future[None] | None = None
        # A daemon: a process that is killed or forgets to close loses nothing acknowledged.
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def empty(self) -> bool:
        """Nothing is waiting or running, so the caller may do the work itself."""
        return self._left == 0

    def submit(self, work: Callable[[T], R], argument: T) -> asyncio.Future[R]:
        """Run `work(argument)` in the thread, behind what was submitted before."""
        future: asyncio.Future[R] = self._loop.create_future()
        self._left += 1
        self._jobs.put((future, work, argument))
        return future

    async def close(self) -> None:
        """Wait for what was submitted and end the thread."""
        if self._left:
            self._emptied = self._loop.create_future()
            await self._emptied
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, work, argument = job
            result: object = None
            failure: BaseException | None = None
            try:
                result = work(argument)
            except BaseException as error:
                failure = error
            try:
                self._loop.call_soon_threadsafe(self._finished, future, result, failure)
            except RuntimeError:
                return  # the loop is closed: nobody is left to hear of it
            # Else this frame would keep the last chunk alive until the next job.
            del job, future, work, argument, result, failure

    def _finished(
        self, future: asyncio.Future[object], result: object, failure: BaseException | None
    ) -> None:
        self._left -= 1
        if not future.done():  # the caller may have cancelled its wait
            if failure is None:
                future.set_result(result)
            else:
                future.set_exception(failure)
        if self._left == 0 and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)
