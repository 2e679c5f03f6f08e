"""What runs in the place of each step while a world lasts: it counts, fails and replaces.

Plain functions run in the test's own thread, one at a time, so that a test does the same each time
it runs.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from perdure import steps
from perdure.attempt import step_id
from perdure.steps import Step

# So that an attempt that was cut off by a crash is told from one that runs.
_UNDER_WAY = "running"


@dataclass
class StepCall:
    """One attempt of a step: what it was given, and what came of it."""

    step: str
    """The step's name, `module:function`."""
    object: str
    """The address of the object that asked."""
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    id: str
    """`step_id()`: the same for each attempt of one call of a step."""
    attempt: int
    """How often that id has run, this time included; also after crashes."""
    at: datetime
    outcome: str = _UNDER_WAY
    """`running`, `done`, `failed`, or `cut off` by a crash or a cancellation."""
    result: Any = None
    error: BaseException | None = None
    items: list[Any] = field(default_factory=list)
    """What a streaming step has given so far."""


class Tape(Protocol):
    """Where outcomes of steps are recorded, or come from (cassette.py)."""

    def find(self, call: StepCall) -> StepCall | None: ...

    def keep(self, call: StepCall) -> None: ...


@dataclass
class _Failure:
    error: BaseException
    after: bool


@dataclass
class _Crash:
    left: int
    after: bool


class Attempts:
    """Stands in for the steps of a world."""

    def __init__(self, address: Callable[[str], str], now: Callable[[], datetime]) -> None:
        """`address` gives the object of a step id."""
        self.calls: list[StepCall] = []
        self.replaced: dict[str, Callable[..., Any]] = {}
        self.tape: Tape | None = None
        self.running = 0
        self.crash: Callable[[], None] = lambda: None
        self._failures: dict[str, deque[_Failure]] = {}
        self._crashes: dict[str, list[_Crash]] = {}
        self._tries: dict[str, int] = {}
        self._address = address
        self._now = now

    # --- orders

    def fail(self, name: str, times: int, error: BaseException, *, after: bool) -> None:
        """Let the next attempts of a step fail."""
        waiting = self._failures.setdefault(name, deque())
        waiting.extend(_Failure(error, after) for _ in range(times))

    def crash_at(self, name: str, nth: int, *, after: bool) -> None:
        """Let the process end at the nth attempt of a step from now on."""
        self._crashes.setdefault(name, []).append(_Crash(nth, after))

    # --- standing in

    def stand_in(self, made: Step) -> Step:
        """The step as it runs in this world."""
        function = self.replaced.get(made.name, made.function)
        if inspect.isasyncgenfunction(made.function):
            return dataclasses.replace(made, function=self._streaming(made.name, function))
        return dataclasses.replace(made, function=self._plain(made.name, function))

    def _plain(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        async def attempt(*args: Any, **kwargs: Any) -> Any:
            call = self._begin(name, args, kwargs)
            await self._crash_here(name, after=False)
            try:
                call.result = await self._result(call, function)
                call.outcome = "done"
            except BaseException as error:
                self._failed(call, error)
                raise
            finally:
                self._ended(call)
                await self._crash_here(name, after=True)
            return call.result

        return attempt

    async def _result(self, call: StepCall, function: Callable[..., Any]) -> Any:
        order = self._order(call.step)
        if order is not None and not order.after:
            raise order.error
        known = self.tape.find(call) if self.tape is not None else None
        if known is not None:
            if known.error is not None:
                raise known.error
            result = known.result
        else:
            result = function(*call.args, **call.kwargs)
            if inspect.isawaitable(result):
                result = await result
        if order is not None:
            raise order.error
        return result

    def _streaming(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        async def attempt(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            call = self._begin(name, args, kwargs)
            await self._crash_here(name, after=False)
            try:
                async for item in self._items(call, function):
                    call.items.append(item)
                    yield item
                call.outcome = "done"
            except BaseException as error:
                self._failed(call, error)
                raise
            finally:
                self._ended(call)
                await self._crash_here(name, after=True)

        return attempt

    async def _items(self, call: StepCall, function: Callable[..., Any]) -> AsyncIterator[Any]:
        order = self._order(call.step)
        if order is not None and not order.after:
            raise order.error
        known = self.tape.find(call) if self.tape is not None else None
        if known is not None:
            for item in known.items:
                yield item
            if known.error is not None:
                raise known.error
        else:
            async for item in function(*call.args, **call.kwargs):
                yield item
        if order is not None:
            raise order.error

    # --- the life of an attempt

    def _begin(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StepCall:
        id_ = step_id()
        self._tries[id_] = self._tries.get(id_, 0) + 1
        # One that had not ended when its id runs again was cut off.
        for earlier in self.calls:
            if earlier.id == id_ and earlier.outcome == _UNDER_WAY:
                earlier.outcome = "cut off"
        call = StepCall(name, self._address(id_), args, kwargs, id_, self._tries[id_], self._now())
        self.calls.append(call)
        self.running += 1
        return call

    def _order(self, name: str) -> _Failure | None:
        waiting = self._failures.get(name)
        return waiting.popleft() if waiting else None

    def _failed(self, call: StepCall, error: BaseException) -> None:
        call.outcome = "failed" if isinstance(error, Exception) else "cut off"
        call.error = error

    def _ended(self, call: StepCall) -> None:
        self.running -= 1
        if self.tape is not None and call.outcome != "cut off":
            self.tape.keep(call)

    async def _crash_here(self, name: str, *, after: bool) -> None:
        for crash in [one for one in self._crashes.get(name, ()) if one.after == after]:
            crash.left -= 1
            if not crash.left:
                self._crashes[name].remove(crash)
                self.crash()
                # Its process is gone, and this never goes on.
                await asyncio.get_running_loop().create_future()

    def process_ended(self) -> None:
        """What ran is gone with its process."""
        self.running = 0
        for call in self.calls:
            if call.outcome == _UNDER_WAY:
                call.outcome = "cut off"


def name_of(step: Callable[..., Any] | str) -> str:
    """The name of a step, given as the function or by name. Raises ValueError if it is none."""
    name = step if isinstance(step, str) else _function_name(step)
    if steps.find_step(name) is not None:
        return name
    raise ValueError(
        f"{step!r} is no step; give the function that is marked with @step, "
        "or its name as module:function"
    )


def _function_name(step: Callable[..., Any]) -> str:
    return f"{getattr(step, '__module__', '')}:{getattr(step, '__qualname__', '')}"
