"""The deterministic event loop of one object: no I/O, no clock of its own, no chance.

It is what `asyncio.get_running_loop()` gives inside a turn, and all of asyncio's primitives run on
it unchanged. Time stands still while a turn runs; ready callbacks run in the order in which they
became ready; timers of the same moment fire in the order in which they were set. Whatever would
reach the outside is missing here and says so.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, NoReturn

from perdure.clock import LAST_NS, NS, whole_ns
from perdure.errors import SideEffectError
from perdure.host.refusal import refusal
from perdure.host.task import Future, Task
from perdure.interrupt import is_interrupt


class Handle:
    """A callback that is going to run, unless it is cancelled."""

    __slots__ = ("args", "callback", "context")
    callback: Callable[..., object] | None

    def __init__(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context
    ) -> None:
        self.callback = callback
        self.args = args
        self.context = context

    def cancel(self) -> None:
        self.callback = None
        self.args = ()

    def cancelled(self) -> bool:
        return self.callback is None

    def run(self, loop: ObjectLoop) -> None:
        callback = self.callback
        if callback is None:
            return
        try:
            self.context.run(callback, *self.args)
        except BaseException as error:
            if is_interrupt(error):
                raise
            loop.call_exception_handler(
                {"message": f"a callback failed: {callback!r}", "exception": error}
            )


class TimerHandle(Handle):
    """A callback with a time; kept in the object, so that it outlives the process."""

    __slots__ = ("loop", "number", "when_ns")

    def __init__(
        self,
        when_ns: int,
        number: int,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context,
        loop: ObjectLoop,
    ) -> None:
        super().__init__(callback, args, context)
        self.when_ns = when_ns
        self.number = number
        self.loop = loop

    def when(self) -> float:
        return self.when_ns / NS

    def cancel(self) -> None:
        if self.callback is not None:
            super().cancel()
            self.loop.timer_cancelled()

    def __lt__(self, other: TimerHandle) -> bool:
        return (self.when_ns, self.number) < (other.when_ns, other.number)


class ObjectLoop:
    """What asyncio needs of a loop, and nothing that could touch the world."""

    __slots__ = (
        "call",
        "cancelled_timers",
        "now_ns",
        "number",
        "problems",
        "tasks",
        "timers",
    )

    # One turn runs at a time in a process, and a turn ends when nothing is ready: so all objects
    # share one queue, which is empty between turns.
    ready: ClassVar[deque[Handle]] = deque()

    def __init__(self) -> None:
        self.now_ns = 0
        self.number = 0
        """Counts up with each future, task and timer: the order of everything in the object."""
        self.timers: list[TimerHandle] | None = None
        self.cancelled_timers = 0
        self.tasks: dict[int, Task] | None = None
        """Tasks that are not done; strongly held, since nobody else may hold them."""
        self.problems: list[dict[str, Any]] | None = None
        self.call: Any = None
        """The call on whose behalf the running task works; tasks inherit it."""

    # --- scheduling

    def call_soon(
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Handle:
        handle = Handle(
            callback, args, context if context is not None else contextvars.copy_context()
        )
        self.ready.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> TimerHandle:
        return self.set_timer(self.now_ns + whole_ns(delay), callback, args, context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> TimerHandle:
        # A float of seconds since 1970 is good to a quarter of a microsecond.
        return self.set_timer(whole_ns(when), callback, args, context)

    def set_timer(
        self,
        when_ns: int,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
    ) -> TimerHandle:
        """Have `callback` called when the object's time has come to `when_ns`."""
        self.number += 1
        handle = TimerHandle(
            min(when_ns, LAST_NS),
            self.number,
            callback,
            args,
            context if context is not None else contextvars.copy_context(),
            self,
        )
        if self.timers is None:
            self.timers = []
        heapq.heappush(self.timers, handle)
        return handle

    def timer_cancelled(self) -> None:
        """Drop cancelled timers once they are the larger part, so that they cannot pile up."""
        timers = self.timers
        if not timers:
            return
        self.cancelled_timers += 1
        if self.cancelled_timers * 2 > len(timers):
            self.timers = [timer for timer in timers if timer.callback is not None] or None
            if self.timers is not None:
                heapq.heapify(self.timers)
            self.cancelled_timers = 0

    def next_timer_ns(self) -> int:
        """When the earliest timer is due; 0 if there is none."""
        timers = self.timers
        while timers:
            if timers[0].callback is not None:
                return timers[0].when_ns
            heapq.heappop(timers)
            self.cancelled_timers -= 1
        self.timers = None
        self.cancelled_timers = 0
        return 0

    def time(self) -> float:
        return self.now_ns / NS

    def create_future(self) -> Future:
        return Future(loop=self)

    def create_task(
        self,
        coro: Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
        **options: object,
    ) -> Task:
        if not asyncio.iscoroutine(coro):
            raise TypeError(f"a coroutine was expected, got {coro!r}")
        task = Task(
            coro, self, context if context is not None else contextvars.copy_context(), name
        )
        self.remember(task)
        self.call_soon(task.step, context=task.context)
        return task

    def remember(self, task: Task) -> None:
        if self.tasks is None:
            self.tasks = {}
        self.tasks[task.number] = task

    def forget(self, task: Task) -> None:
        if self.tasks is not None:
            self.tasks.pop(task.number, None)
            if not self.tasks:
                self.tasks = None

    # --- driving

    def fire_timers(self, limit: int = 0, now_ns: int = 0) -> None:
        """Make ready what is due now, in the order of (when, number); at most `limit`, if given.

        `now_ns` is the clock's time, where it may be behind the object's own.
        """
        timers = self.timers
        now_ns = now_ns or self.now_ns
        while timers and timers[0].when_ns <= now_ns:
            if limit and len(self.ready) >= limit:
                break
            timer = heapq.heappop(timers)
            if timer.callback is None:
                self.cancelled_timers -= 1
            else:
                self.ready.append(timer)
        if not timers:
            self.timers = None
            self.cancelled_timers = 0

    def drain(self) -> None:
        """Run until nothing is ready."""
        ready = self.ready
        while ready:
            ready.popleft().run(self)

    # --- what asyncio asks

    # Each new future asks it; `bool()` is False without a Python frame.
    get_debug: ClassVar[Callable[[], bool]] = staticmethod(bool)

    def is_running(self) -> bool:
        return asyncio._get_running_loop() is self  # type: ignore[comparison-overlap]

    def is_closed(self) -> bool:
        return False

    def get_task_factory(self) -> None:
        return None

    def get_exception_handler(self) -> None:
        return None

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self.problems is None:
            self.problems = []
        self.problems.append(context)

    def _timer_handle_cancelled(self, handle: object) -> None:
        """asyncio's own handles report here; ours do it in `timer_cancelled`."""

    async def shutdown_asyncgens(self) -> None:
        """Async generators of an object live as long as it does."""

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> NoReturn:
        raise SideEffectError(
            "a thread tried to reach into a durable object",
            hint="Run the work in a step, whose result is recorded, and await it.",
        )

    def run_in_executor(
        self, executor: object, func: Callable[..., object], *args: Any
    ) -> NoReturn:
        raise refusal(
            f"a turn cannot hand {getattr(func, '__qualname__', func)!r} to a thread: "
            "its result would not be recorded",
            hint="Make it a step: @step on a plain function runs it in a thread.",
        )

    def __getattr__(self, name: str) -> Any:
        if hasattr(asyncio.AbstractEventLoop, name):
            raise refusal(
                f"an object's event loop has no {name}(): it would reach the outside",
                hint="Do it in a step: an async function marked @step, awaited from the handler.",
            )
        raise AttributeError(name)
