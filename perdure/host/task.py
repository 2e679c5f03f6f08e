"""The one task class: every coroutine of an object runs in it.

It behaves as asyncio.Task does (the standard library's own tests of behaviour are the model), but
in Python: its first step can be taken inline, it can be looked into, and it can be kept in a
snapshot. Futures and tasks hash by a number that counts up in their object, so that a set of them,
as asyncio.wait gives, is walked in the same order at each replay; by address it would not be.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from perdure.interrupt import is_interrupt

if TYPE_CHECKING:
    from perdure.host.loop import ObjectLoop

_enter_task: Callable[[Any, Any], None] = asyncio.tasks._enter_task
_leave_task: Callable[[Any, Any], None] = asyncio.tasks._leave_task
# Bound once: what the C future does, without a look-up through the classes at each end of a task.
_init: Callable[..., None] = asyncio.Future.__init__
_set_result: Callable[..., None] = asyncio.Future.set_result
_set_exception: Callable[..., None] = asyncio.Future.set_exception
_cancel: Callable[..., bool] = asyncio.Future.cancel


class Future(asyncio.Future[Any]):
    """asyncio.Future with a place in its object's order."""

    __slots__ = ("number",)
    number: int

    def __init__(self, *, loop: ObjectLoop) -> None:
        super().__init__(loop=loop)  # type: ignore[arg-type]
        loop.number += 1
        self.number = loop.number

    def __hash__(self) -> int:
        return self.number


class AnswerFuture(Future):
    """What a call to another object is awaited by. Cancelled, it takes the call back there."""

    __slots__ = ()

    def cancel(self, msg: Any = None) -> bool:
        if not _cancel(self, msg=msg):
            return False
        self.get_loop().answer_unwanted(self.number)  # type: ignore[attr-defined]
        return True


class Task(Future):
    """A coroutine on its way, stepped by its object's loop."""

    __slots__ = (
        "call",
        "cancel_requests",
        "context",
        "coroutine",
        "loop",
        "must_cancel",
        "name",
        "since_ns",
        "waiting_on",
    )

    since_ns: int
    """When the wait began that it is in; not set before the first."""

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any],
        loop: ObjectLoop,
        context: contextvars.Context,
        name: str | None = None,
    ) -> None:
        # Future.__init__ in place: one call less for each turn.
        _init(self, loop=loop)
        loop.number += 1
        self.number = loop.number
        self.loop = loop
        self.coroutine = coroutine
        self.context = context
        self.name = name
        self.call = loop.call
        self.waiting_on: asyncio.Future[Any] | None = None
        self.must_cancel = False
        self.cancel_requests = 0

    # --- what asyncio asks of a task

    @property
    def __class__(self) -> Any:
        """What `isinstance(task, asyncio.Task)` asks: libraries tell tasks from other things so."""
        return asyncio.Task

    @__class__.setter
    def __class__(self, cls: type) -> None:
        raise TypeError("a task stays a task")

    def get_coro(self) -> Coroutine[Any, Any, Any]:
        return self.coroutine

    def get_context(self) -> contextvars.Context:
        return self.context

    def get_name(self) -> str:
        return self.name or f"Task-{self.number}"

    def set_name(self, value: object) -> None:
        self.name = str(value)

    def set_result(self, result: Any) -> None:
        raise RuntimeError("Task does not support set_result operation")

    def set_exception(self, exception: Any) -> None:
        raise RuntimeError("Task does not support set_exception operation")

    def get_stack(self, *, limit: int | None = None) -> list[Any]:
        return asyncio.base_tasks._task_get_stack(self, limit)  # type: ignore[attr-defined, no-any-return]

    @property
    def _coro(self) -> Coroutine[Any, Any, Any]:
        return self.coroutine

    @property
    def _fut_waiter(self) -> asyncio.Future[Any] | None:
        return self.waiting_on

    @property
    def _must_cancel(self) -> bool:
        return self.must_cancel

    def cancel(self, msg: Any = None) -> bool:
        if self.done():
            return False
        self.cancel_requests += 1
        if self.waiting_on is not None and self.waiting_on.cancel(msg=msg):
            return True
        self.must_cancel = True
        self._cancel_message = msg
        return True

    def cancelling(self) -> int:
        return self.cancel_requests

    def uncancel(self) -> int:
        if self.cancel_requests > 0:
            self.cancel_requests -= 1
            if self.cancel_requests == 0:
                self.must_cancel = False
        return self.cancel_requests

    # --- steps

    def begin(self) -> bool:
        """Take the first step inline; whether it was the last as well.

        What `step` does, for a task that nobody can have cancelled yet: this is the path of every
        handler that does not wait.
        """
        loop = self.loop
        _enter_task(loop, self)
        try:
            waited = self.context.run(self.coroutine.send, None)
        except StopIteration as stop:
            if self.must_cancel:
                self.must_cancel = False
                _cancel(self, msg=self._cancel_message)
            else:
                _set_result(self, stop.value)
            return True
        except asyncio.CancelledError:
            _cancel(self)
            return True
        except BaseException as raised:
            if is_interrupt(raised):
                raise
            _set_exception(self, raised)
            return True
        finally:
            _leave_task(loop, self)
        self._wait_for(waited)
        return False

    def step(self, error: BaseException | None = None) -> None:
        """Run the coroutine to its next wait, inside its context."""
        loop = self.loop
        if self.must_cancel:
            if not isinstance(error, asyncio.CancelledError):
                error = self._make_cancelled_error()  # type: ignore[attr-defined]
            self.must_cancel = False
        self.waiting_on = None
        loop.call = self.call
        _enter_task(loop, self)
        try:
            if error is None:
                waited = self.coroutine.send(None)
            else:
                waited = self.coroutine.throw(error)
        except StopIteration as stop:
            if self.must_cancel:
                # Cancelled by itself in its last step, as asyncio.Task has it.
                self.must_cancel = False
                _cancel(self, msg=self._cancel_message)
            else:
                _set_result(self, stop.value)
            loop.forget(self)
        except asyncio.CancelledError:
            _cancel(self)
            loop.forget(self)
        except BaseException as raised:
            if is_interrupt(raised):
                raise
            # SystemExit too: an object that calls sys.exit() fails its call and not the node.
            _set_exception(self, raised)
            loop.forget(self)
        else:
            self._wait_for(waited)
        finally:
            _leave_task(loop, self)
            # A frame that holds its own exception is a cycle; collected late, it would keep the
            # arguments of each failed call alive.
            error = None

    def _wait_for(self, waited: Any) -> None:
        loop = self.loop
        blocking = getattr(waited, "_asyncio_future_blocking", None)
        if blocking is None:
            if waited is None:
                # A bare yield, as in asyncio.sleep(0): let the others run.
                loop.call_soon(self.step, context=self.context)
                return
            problem = f"{self.get_name()} awaited {waited!r}, which is no asyncio future"
        elif waited.get_loop() is not loop:
            problem = (
                f"{self.get_name()} awaited {waited!r}, which belongs to another event loop; "
                "only a step can wait for the outside"
            )
        elif waited is self:
            problem = f"{self.get_name()} cannot await on itself"
        elif not blocking:
            problem = f"{self.get_name()} yielded {waited!r} without `await`"
        else:
            waited._asyncio_future_blocking = False
            waited.add_done_callback(self.wake, context=self.context)
            self.waiting_on = waited
            self.since_ns = loop.now_ns
            if self.must_cancel and waited.cancel(msg=self._cancel_message):
                self.must_cancel = False
            return
        loop.call_soon(self.step, RuntimeError(problem), context=self.context)

    def wake(self, future: asyncio.Future[Any]) -> None:
        """The future it waited for is done."""
        try:
            future.result()
        except BaseException as error:
            self.step(error)
        else:
            self.step()

    def __repr__(self) -> str:
        code = getattr(self.coroutine, "__qualname__", self.coroutine)
        return f"<Task {self.get_name()} {self._state.lower()} {code}>"
