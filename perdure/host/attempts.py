"""How the function of a step is run: on the event loop or in a thread, with its time-outs.

A thread cannot be ended from outside. When its attempt has timed out or nobody waits any more, its
result goes unheard; its place, in the pool and under a limit, is taken until it ends by itself.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import inspect
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from perdure.host.throttles import Throttle
from perdure.steps import Step
from perdure.suspend import heap

if TYPE_CHECKING:
    from perdure.host.effects import RunningAttempt


class Threads(ThreadPoolExecutor):
    """The threads of plain functions; a job is told when its thread has ended."""

    def __init__(self, count: int) -> None:
        super().__init__(count, "perdure-step")

    def submit(self, job: Job, /, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        future = super().submit(job.run)
        future.add_done_callback(job.ended)
        return future


class Job:
    """A function on its way through a thread, and the places it takes meanwhile."""

    def __init__(self, function: Callable[[], Any], throttles: list[Throttle]) -> None:
        self._function = function
        self._throttles = throttles
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._over = self._abandoned = False

    def run(self) -> Any:
        try:
            return self._function()
        except StopIteration as error:
            # No future takes one; in a coroutine it becomes this as well.
            raise RuntimeError("the step raised StopIteration") from error

    def ended(self, future: concurrent.futures.Future[Any]) -> None:
        """In the thread, or in the loop's if it never began."""
        with self._lock:
            self._over = True
            tell = self._abandoned
        if tell:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._leave)

    def abandon(self) -> list[Throttle]:
        """Nobody waits any more. Gives the places that are free now: all, or none yet."""
        with self._lock:
            self._abandoned = True
            if self._over:
                return self._throttles
        return []

    def _leave(self) -> None:
        for throttle in self._throttles:
            throttle.leave()


async def perform(
    attempt: RunningAttempt, step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Run the function of a step to its end."""
    if not attempt.asked.timeout_s and step.heartbeat_timeout is None:
        return await _call(attempt, step, args, kwargs)
    async with _in_time(attempt, step):
        return await _call(attempt, step, args, kwargs)


async def _call(
    attempt: RunningAttempt, step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    if step.awaits:
        return await step.function(*args, **kwargs)
    result = await _in_thread(attempt, lambda: step.function(*args, **kwargs))
    return await result if inspect.isawaitable(result) else result


async def stream(
    attempt: RunningAttempt, step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Run the generator of a step to its end, and give each item to the object."""
    async with _in_time(attempt, step):
        if not step.awaits:
            loop = asyncio.get_running_loop()

            def pump() -> None:
                # One thread for all of it: what a generator has open may belong to its thread.
                with contextlib.closing(step.function(*args, **kwargs)) as generator:
                    for item in generator:
                        body = heap.dumps(item, "item")
                        asyncio.run_coroutine_threadsafe(attempt.give(body), loop).result()

            await _in_thread(attempt, pump)
            return
        async with contextlib.aclosing(step.function(*args, **kwargs)) as generator:
            async for item in generator:
                await attempt.give(heap.dumps(item, "item"))


async def _in_thread(attempt: RunningAttempt, function: Callable[[], Any]) -> Any:
    # The thread gets a copy of the context, in which step_id() has its answer.
    context = contextvars.copy_context()
    throttles, attempt.throttles = attempt.throttles, []
    job = Job(lambda: context.run(function), throttles)
    try:
        return await asyncio.get_running_loop().run_in_executor(attempt.effects.threads, job)  # type: ignore[arg-type]
    finally:
        attempt.throttles = job.abandon()


@contextlib.asynccontextmanager
async def _in_time(attempt: RunningAttempt, step: Step) -> AsyncIterator[None]:
    """End what takes too long, or says nothing for too long, with TimeoutError."""
    if step.heartbeat_timeout is None:
        async with asyncio.timeout(attempt.asked.timeout_s or None):
            yield
        return
    silence_s = step.heartbeat_timeout
    loop = asyncio.get_running_loop()
    attempt.beat()
    try:
        async with asyncio.timeout(None) as quiet:
            timer: asyncio.TimerHandle | None = None

            def look() -> None:
                nonlocal timer
                if attempt.credit is not None:
                    # It waits for us: for the disk, or for the object to take its items.
                    attempt.beat()
                left_s = attempt.beat_s + silence_s - attempt.monotonic()
                if left_s > 0:
                    timer = loop.call_later(left_s, look)
                else:
                    quiet.reschedule(loop.time())

            look()
            try:
                async with asyncio.timeout(attempt.asked.timeout_s or None):
                    yield
            finally:
                if timer is not None:
                    timer.cancel()
    except TimeoutError:
        if quiet.expired():
            raise TimeoutError(
                f"no heartbeat of {step.name.rpartition(':')[2]} for {silence_s:g} s"
            ) from None
        raise
