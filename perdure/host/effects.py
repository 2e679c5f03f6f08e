"""Runs steps: attempts that turns asked for, once the asking is on disk.

An attempt ends as an event for its object. One that is cut off by a crash leaves no event; then
the object's memory, rebuilt, still waits for it, and it is started again with the same step id.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import structlog

from perdure.errors import AuthorError, PerdureError
from perdure.failure import failure_of
from perdure.host.failures import pickled_failure
from perdure.journal.entry import StepAsked, StepDone
from perdure.steps import Step, find_step, running_step
from perdure.suspend import heap

if TYPE_CHECKING:
    from perdure.host.activation import Activation
    from perdure.host.host import Host

logger = structlog.get_logger("perdure")


class Effects:
    """The attempts that run at the moment, by (object, number)."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._running: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._threads: ThreadPoolExecutor | None = None
        self._closed = False

    @property
    def running(self) -> int:
        return len(self._running)

    def output(self, activation: Activation, asked: StepAsked) -> _Start:
        """The attempt as an output: it starts when the asking is durable."""
        return _Start(self, activation, asked)

    def start(self, activation: Activation, asked: StepAsked) -> None:
        """Start an attempt, unless it runs already."""
        mark = (activation.machine.oid, asked.number)
        if mark in self._running or self._closed:
            return
        task = asyncio.get_running_loop().create_task(self._run(activation, asked))
        self._running[mark] = task
        task.add_done_callback(lambda _: self._running.pop(mark, None))

    def drop(self, oid: int, number: int) -> None:
        """Nobody waits for it any more. A plain function in a thread runs to its end unheard."""
        task = self._running.get((oid, number))
        if task is not None:
            task.cancel()

    async def _run(self, activation: Activation, asked: StepAsked) -> None:
        try:
            result = await self._attempt(asked)
            done = StepDone(asked.number, True, heap.dumps(result))
        except asyncio.CancelledError:
            if self._closed or asyncio.current_task().cancelling():  # type: ignore[union-attr]
                return
            done = _failed(asked, asyncio.CancelledError("the step was cancelled from inside"))
        except Exception as error:
            done = _failed(asked, error)
        self._host.delivery.event(activation.machine.oid, done)

    async def _attempt(self, asked: StepAsked) -> Any:
        step = find_step(asked.name)
        if step is None:
            raise AuthorError(
                f"the step {asked.name} is not there any more",
                hint="Bring it back, under that name and module.",
            )
        args, kwargs = heap.loads(asked.body)
        if not asked.timeout_s:
            return await self._call(step, asked.id, args, kwargs)
        async with asyncio.timeout(asked.timeout_s):
            return await self._call(step, asked.id, args, kwargs)

    async def _call(
        self, step: Step, id_: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        running_step(id_)
        if inspect.iscoroutinefunction(step.function):
            return await step.function(*args, **kwargs)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._host.settings.step_threads, "perdure-step")
        # The thread gets a copy of the context, in which step_id() has its answer.
        call = functools.partial(contextvars.copy_context().run, step.function, *args, **kwargs)
        result = await asyncio.get_running_loop().run_in_executor(self._threads, call)
        return await result if inspect.isawaitable(result) else result

    async def close(self) -> None:
        """End what runs; after the restart it is started again with the same step ids."""
        self._closed = True
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


class _Start:
    __slots__ = ("activation", "asked", "effects")

    def __init__(self, effects: Effects, activation: Activation, asked: StepAsked) -> None:
        self.effects = effects
        self.activation = activation
        self.asked = asked

    def release(self, error: PerdureError | None) -> None:
        if error is not None:
            return
        # It may have been dropped in a later turn of the same commit; then nobody waits for it.
        steps = self.activation.machine.steps
        if steps and self.asked.number in steps:
            self.effects.start(self.activation, self.asked)


def _failed(asked: StepAsked, error: BaseException) -> StepDone:
    return StepDone(asked.number, False, pickled_failure(failure_of(error), error))
