"""Virtual time: an event loop that never waits, and the clock that goes with it.

When nothing is ready the loop jumps to what comes next, so a test over a year takes as long as its
turns. It goes there exactly, to the nanosecond: a chain of 365 days ends after 365 days. Real I/O
and threads still work: while one is under way, the loop waits for it in real time.

Everything that a simulated process has scheduled belongs to its `Life`. When the life ends, nothing
of it runs any more, not even a `finally`: that is what `kill -9` means.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import math
import random
import selectors
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from perdure.clock import NS, Timer
from perdure.suspend import heap

T = TypeVar("T")

START_NS = 1_700_000_000 * NS
"""2023-11-14T22:13:20Z, when every virtual world begins."""

END_NS = 200 * 365 * 86_400 * NS
"""Where a test that waits for ever, beside a timer that fires for ever, is told to stop."""

_PATIENCE_S = 0.25
"""Seconds of silence after which real I/O, or a thread, holds virtual time no longer."""

_LAST_PATIENCE_S = 10.0
"""The same where nothing else is left that could happen."""

_life: contextvars.ContextVar[Life] = contextvars.ContextVar("perdure_life")


class Life:
    """What one simulated process has under way. Once ended, nothing of it runs again."""

    def __init__(self) -> None:
        self.alive = True
        self.tasks: set[asyncio.Task[Any]] = set()

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function as part of this life: what it schedules ends with it."""
        return self._context().run(function, *args)

    def task(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine as part of this life. Its task is never done if the life ends first."""
        return asyncio.get_running_loop().create_task(coroutine, context=self._context())

    def _context(self) -> contextvars.Context:
        # Of whoever asks: a deadline around a call counts for it.
        context = contextvars.copy_context()
        context.run(_life.set, self)
        return context

    def end(self) -> None:
        """Let all of it go where it stands."""
        self.alive = False

    def bury(self) -> None:
        """Let go of suspended code, without running it; not from within the life itself."""
        tasks, self.tasks = self.tasks, set()
        for task in tasks:
            if not task.done():
                # It is pending for ever: nobody has to wait for it, or to be told.
                asyncio._unregister_task(task)
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                heap.drop(task.get_coro())


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop whose time jumps over every wait."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.threads = 0
        self.working: Callable[[], bool] = lambda: False
        """Whether something may be under way that answers by real I/O."""
        self.bystanders: frozenset[threading.Thread] = frozenset()
        """Threads that were there before: whoever waits does not wait for them."""
        self.at_work: Callable[[], bool] = lambda: False
        """Whether a thread that nobody counts here is at work, and answers for certain."""
        self.on_stuck: Callable[[str], None] | None = None
        """Called with the reason when nothing can ever happen again."""
        self._alarms: list[_Alarm] = []
        self._order = 0
        self._settlers: list[asyncio.Future[None]] = []
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)
        # A float of seconds is good to a tenth of this after ten years.
        self._clock_resolution = 1e-6
        self.set_task_factory(_make_task)

    def time(self) -> float:
        return self.now_ns / NS

    # --- what ends with a life

    def call_soon(  # type: ignore[override]
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        life = _life_of(context)
        if life is None:
            return super().call_soon(callback, *args, context=context)
        return super().call_soon(_if_alive, life, callback, args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        life = _life_of(context)
        if life is None:
            return super().call_at(when, callback, *args, context=context)
        return super().call_at(when, _if_alive, life, callback, args, context=context)

    # --- time

    def alarm(self, when_ns: int, callback: Callable[[], None]) -> _Alarm:
        """Call back when this loop's time is exactly `when_ns`, or at once."""
        self._order += 1
        alarm = _Alarm(max(when_ns, self.now_ns), self._order, callback)
        heapq.heappush(self._alarms, alarm)
        return alarm

    def next_ns(self) -> int | None:
        """When the next alarm rings."""
        while self._alarms and not self._alarms[0].rings():
            heapq.heappop(self._alarms)
        return self._alarms[0].when_ns if self._alarms else None

    async def settle(self) -> None:
        """Wait until nothing can move unless time passes."""
        future: asyncio.Future[None] = self.create_future()
        self._settlers.append(future)
        await future

    def idle(self, timeout: float | None) -> bool:
        """Nothing is ready, and nothing real under way: let time pass. Whether anything came."""
        alarm_ns = self.next_ns()
        if self._settlers and (alarm_ns is None or alarm_ns > self.now_ns):
            settlers, self._settlers = self._settlers, []
            for future in settlers:
                if not future.done():
                    future.set_result(None)
            return True
        timer_ns = self.now_ns + max(1, math.ceil(timeout * NS)) if timeout is not None else None
        if alarm_ns is None and timer_ns is None:
            return self._stuck("nothing is left that could happen")
        if timer_ns is None or (alarm_ns is not None and alarm_ns <= timer_ns):
            assert alarm_ns is not None
            self._jump(alarm_ns)
            while self.next_ns() == alarm_ns:
                alarm = heapq.heappop(self._alarms)
                self.call_soon(alarm.callback, context=alarm.context)
        else:
            self._jump(timer_ns)
        return True

    def _jump(self, when_ns: int) -> None:
        self.now_ns = when_ns
        if when_ns > END_NS:
            self._stuck("timers go on and on: 200 years have passed")

    def _stuck(self, why: str) -> bool:
        on_stuck, self.on_stuck = self.on_stuck, None
        if on_stuck is not None:
            self.call_soon(on_stuck, why)
        return on_stuck is not None

    # --- threads

    def has_threads(self) -> bool:
        """Whether there are threads that may be at work for what waits here.

        Not those of a program around it, as a server in a fixture or a pool that is never closed:
        they stay, and each jump of time would be held up for them.
        """
        if threading.active_count() <= 1:
            return False
        own = self.bystanders | {threading.current_thread()}
        return any(thread not in own for thread in threading.enumerate())

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        self.threads += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._thread_done)
        return future

    def _thread_done(self, future: object) -> None:
        self.threads -= 1


class _JumpingSelector(selectors.DefaultSelector):
    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> Any:
        events = super().select(0)
        if events or timeout == 0:
            return events
        if self.loop.threads or self.loop.at_work():
            return super().select(0.05)
        # The loop's own pipe is always there, and so is this thread.
        if self.loop.working() and (len(self.get_map()) > 1 or self.loop.has_threads()):
            last_chance = timeout is None and self.loop.next_ns() is None
            events = super().select(_LAST_PATIENCE_S if last_chance else _PATIENCE_S)
            if events:
                return events
        if self.loop.idle(timeout):
            return []
        # Only something real can end this wait: a socket, or a signal.
        return super().select(None)


class _Alarm:
    __slots__ = ("_cancelled", "_life", "callback", "context", "order", "when_ns")

    def __init__(self, when_ns: int, order: int, callback: Callable[[], None]) -> None:
        self.when_ns = when_ns
        self.order = order
        self.callback = callback
        self.context = contextvars.copy_context()
        self._life = self.context.get(_life)
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True

    def rings(self) -> bool:
        return not self._cancelled and (self._life is None or self._life.alive)

    def __lt__(self, other: _Alarm) -> bool:
        return (self.when_ns, self.order) < (other.when_ns, other.order)


def _life_of(context: contextvars.Context | None) -> Life | None:
    return context.get(_life) if context is not None else _life.get(None)


def _if_alive(life: Life, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
    if life.alive:
        callback(*args)


def _make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
    task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
    life = _life_of(options.get("context"))
    if life is not None:
        # Held here: one that nobody holds and nothing wakes would be closed, and run to its end.
        life.tasks.add(task)
        task.add_done_callback(life.tasks.discard)
    return task


class VirtualClock:
    """The Clock of a virtual loop. Its wall time can be made to jump; its chance is seeded.

    On another loop it begins at START_NS just so, and goes on as time does there.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seed: int = 0, *, begins: int = 0) -> None:
        """`begins`: when on the loop's own time it is START_NS."""
        self._loop = loop
        self._random = random.Random(seed)
        self._begins = begins
        self._waiting: set[_Waiting] = set()
        self._jump_ns = 0

    @property
    def jump_ns(self) -> int:
        """Added to the wall time: what an administrator who sets the clock does."""
        return self._jump_ns

    @jump_ns.setter
    def jump_ns(self, value: int) -> None:
        self._jump_ns = value
        for waiting in list(self._waiting):
            waiting.arm()

    def now_ns(self) -> int:
        loop = self._loop
        passed = loop.now_ns if isinstance(loop, VirtualLoop) else round(loop.time() * NS)
        return START_NS + passed - self._begins + self._jump_ns

    def monotonic(self) -> float:
        return self._loop.time()

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> Timer:
        waiting = _Waiting(self, when_ns, callback)
        self._waiting.add(waiting)
        return waiting

    def alarm(self, when_ns: int, callback: Callable[[], None]) -> Timer:
        """The loop's own callback for a time of this clock as it is set now."""
        delay = when_ns - self.now_ns()
        if isinstance(self._loop, VirtualLoop):
            return self._loop.alarm(self._loop.now_ns + delay, callback)
        return self._loop.call_later(max(0, delay) / NS, callback)

    def forget(self, waiting: _Waiting) -> None:
        self._waiting.discard(waiting)

    def random_bytes(self, n: int) -> bytes:
        return self._random.randbytes(n)


class _Waiting:
    """A time on a clock that may be set: its alarm is set anew with it."""

    __slots__ = ("_alarm", "_callback", "_clock", "_context", "_when_ns")

    def __init__(self, clock: VirtualClock, when_ns: int, callback: Callable[[], None]) -> None:
        self._when_ns = when_ns
        self._clock = clock
        self._callback = callback
        self._context = contextvars.copy_context()
        self._alarm: Timer | None = None
        self.arm()

    def arm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        # In the context it was asked in, and so in the life: the clock is set from elsewhere.
        self._alarm = self._context.copy().run(self._clock.alarm, self._when_ns, self._ring)

    def _ring(self) -> None:
        if self._clock.now_ns() < self._when_ns:
            self.arm()
            return
        self._clock.forget(self)
        self._callback()

    def cancel(self) -> None:
        self._clock.forget(self)
        if self._alarm is not None:
            self._alarm.cancel()


def run_apart(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a virtual loop of its own, while the running one stands still."""
    outer, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    asyncio._leave_task(outer, task)
    asyncio._set_running_loop(None)
    try:
        return run_virtual(main)
    finally:
        asyncio._set_running_loop(outer)
        asyncio._enter_task(outer, task)


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a virtual loop, as asyncio.run does in a real one."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
