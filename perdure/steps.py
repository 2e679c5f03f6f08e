"""Steps: the outside world, as functions whose results are remembered.

A step is an ordinary function. Called inside an object it is asked for by the turn, started once
that is on disk, run on the real event loop (a plain function: in a thread), and what it returned
or raised comes back as an event. The retries are code of the object like any other: the delays
between them are durable timers, and a crash between two attempts changes nothing.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from perdure.errors import Fatal, InvalidClass
from perdure.inside import inside

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often a step is tried, and how long it waits in between.

    The n-th delay is `initial * factor ** (n - 1)` seconds, at most `max_delay`; up to `jitter`
    of it, as a share, is taken off by chance so that many retries do not come together.
    """

    attempts: int = 5
    """All tries, the first one included."""
    initial: float = 0.5
    factor: float = 2.0
    max_delay: float = 60.0
    jitter: float = 0.1
    on: tuple[type[Exception], ...] = (Exception,)
    """Which exceptions are tried again; others end the step at once."""

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, not {self.attempts}")
        if self.initial < 0 or self.factor < 1 or self.max_delay < 0 or not 0 <= self.jitter <= 1:
            raise ValueError(
                f"{self}: needs initial >= 0, factor >= 1, max_delay >= 0 and 0 <= jitter <= 1"
            )

    def delay_s(self, failed: int, chance: float) -> float:
        """Seconds to wait after the `failed`-th failure; `chance` is in [0, 1)."""
        # The exponent is bounded: 2.0 ** 2000 would be an OverflowError in the middle of a wait.
        full = min(self.max_delay, self.initial * self.factor ** min(failed - 1, 64))
        return full * (1 - self.jitter * chance)


@dataclass(frozen=True, slots=True)
class Step:
    """What a decorated function is known as: by name, so that it is found again after a restart."""

    name: str
    """`module:qualname`."""
    function: Callable[..., Any]
    retry: Retry
    timeout: float | None
    total_timeout: float | None


_steps: dict[str, Step] = {}
_stand_ins: list[Callable[[Step], Step]] = []
_step_id: contextvars.ContextVar[str] = contextvars.ContextVar("perdure_step_id")

_ONCE = Retry(attempts=1)


def find_step(name: str) -> Step | None:
    """The step of that name, if the app still has it."""
    made = _steps.get(name)
    return _stand_ins[-1](made) if made is not None and _stand_ins else made


def stand_in(given: Callable[[Step], Step]) -> Callable[[], None]:
    """Have the newest `given` say what runs in the place of each step; gives how to take it out."""
    _stand_ins.append(given)
    return lambda: _stand_ins.remove(given)


def step_id() -> str:
    """Inside a running step: an id that is the same for each attempt, also after a crash.

    Hand it to the outside as idempotency key. Raises RuntimeError elsewhere.
    """
    try:
        return _step_id.get()
    except LookupError:
        raise RuntimeError("step_id() has an answer only while a step runs for an object") from None


def running_step(id_: str) -> contextvars.Token[str]:
    """Say in this context that the step of that id runs (host/effects.py)."""
    return _step_id.set(id_)


class _Marking(Protocol):
    """What `@step(…)` is: it takes the function."""

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Callable[P, Coroutine[Any, Any, R]]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, Coroutine[Any, Any, R]]: ...


# A plain function is typed as it is inside objects, where steps are mostly called: to be awaited.
@overload
def step(
    function: Callable[P, Coroutine[Any, Any, R]], /
) -> Callable[P, Coroutine[Any, Any, R]]: ...


@overload
def step(function: Callable[P, R], /) -> Callable[P, Coroutine[Any, Any, R]]: ...


@overload
def step(
    *, retry: Retry | None = None, timeout: float | None = None, total_timeout: float | None = None
) -> _Marking: ...


def step(
    function: Callable[..., Any] | None = None,
    /,
    *,
    retry: Retry | None = None,
    timeout: float | None = None,
    total_timeout: float | None = None,
) -> Any:
    """Make a function a step: `@step`, or `@step(retry=Retry(attempts=5), timeout=30)`.

    Called outside an object it simply runs. Called inside, it runs outside the turn, at least
    once, and its result or exception is recorded once; a plain function runs in a thread, and
    its call is awaited all the same: `await charge(card)`. `timeout` is for one attempt and
    `total_timeout` for all with the waits in between, both in seconds and ending in
    TimeoutError. Without `retry` there is one attempt. `raise Fatal(…)` ends the retries.

    Arguments and results are pickled: they must be values, not sockets or files.
    """
    if function is None:
        return functools.partial(
            _make_step, retry=retry, timeout=timeout, total_timeout=total_timeout
        )
    return _make_step(function, retry=retry, timeout=timeout, total_timeout=total_timeout)


def _make_step(
    function: Callable[..., Any],
    *,
    retry: Retry | None,
    timeout: float | None,
    total_timeout: float | None,
) -> Callable[..., Any]:
    name = f"{function.__module__}:{function.__qualname__}"
    if "<" in function.__qualname__:
        raise InvalidClass(
            f"the step {function.__qualname__} is made inside a function, "
            "where it cannot be found after a restart",
            hint="Define steps at the top of a module, or in a class.",
        )
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise InvalidClass(f"the step {name} is a generator; a step returns its result")
    made = Step(name, function, retry or _ONCE, timeout, total_timeout)
    _steps[name] = made

    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if inside() is None:
            return function(*args, **kwargs)
        # Bad arguments are the handler's mistake: raised where they are given, not in the step.
        signature.bind(*args, **kwargs)
        return _attempts(made, args, kwargs)

    return call


async def _attempts(made: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The life of a step inside an object: ask, and ask again; durable like other code there."""
    if made.total_timeout is None:
        return await _tries(made, args, kwargs)
    async with asyncio.timeout(made.total_timeout):
        return await _tries(made, args, kwargs)


async def _tries(made: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    turn = inside()
    assert turn is not None
    id_ = turn.next_step_id()
    attempt = 1
    while True:
        try:
            return await turn.request_step(made.name, args, kwargs, id_, attempt, made.timeout)
        except Fatal:
            raise
        except Exception as error:
            if attempt >= made.retry.attempts or not isinstance(error, made.retry.on):
                raise
        await asyncio.sleep(made.retry.delay_s(attempt, turn.draw()))
        attempt += 1
