"""Virtual time: an event loop that never waits, and the clock that goes with it.

When nothing is ready the loop jumps to its next timer, so a test over a year takes as long as its
turns. Real I/O and threads still work: while a thread runs, the loop waits for it in real time.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from perdure.clock import NS, Timer

T = TypeVar("T")

START_NS = 1_700_000_000 * NS
"""2023-11-14T22:13:20Z, when every virtual world begins."""


class _JumpingSelector(selectors.DefaultSelector):
    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if events or timeout == 0:
            return events
        if timeout is None or self.loop.threads:
            # Only something real can end this wait.
            return super().select(timeout if timeout is None else min(timeout, 0.05))
        self.loop.offset_s += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop whose time jumps over every wait."""

    def __init__(self) -> None:
        self.offset_s = 0.0
        self.threads = 0
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.offset_s

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        self.threads += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._thread_done)
        return future

    def _thread_done(self, future: object) -> None:
        self.threads -= 1


class VirtualClock:
    """The Clock of a virtual loop. Its wall time can be made to jump; its chance is seeded."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seed: int = 0) -> None:
        self._loop = loop
        self._random = random.Random(seed)
        self.jump_ns = 0
        """Added to the wall time: what an administrator who sets the clock does."""

    def now_ns(self) -> int:
        return START_NS + round(self._loop.time() * NS) + self.jump_ns

    def monotonic(self) -> float:
        return self._loop.time()

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> Timer:
        # A nanosecond more than the rounding of the float could take away.
        delay = max(0.0, (when_ns - self.now_ns()) / NS) + 1e-6
        return self._loop.call_later(delay, self._wake, when_ns, callback)

    def _wake(self, when_ns: int, callback: Callable[[], None]) -> None:
        if self.now_ns() >= when_ns:
            callback()
        else:
            self.call_at(when_ns, callback)

    def random_bytes(self, n: int) -> bytes:
        return self._random.randbytes(n)


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a virtual loop, as asyncio.run does in a real one."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
