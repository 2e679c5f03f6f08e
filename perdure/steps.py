"""Steps: the outside world, as functions whose results are remembered.

A step is an ordinary function. Called inside an object it is asked for by the turn, started once
that is on disk, run on the real event loop (a plain function: in a thread), and what it returned
or raised comes back as an event. The retries are code of the object like any other: the delays
between them are durable timers, and a crash between two attempts changes nothing.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from perdure.errors import Fatal, InvalidClass
from perdure.inside import Inside, inside
from perdure.limits import Limit, whole
from perdure.versioned import mark_of, plain

P = ParamSpec("P")
R = TypeVar("R")
Seconds = float | timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often a step is tried, and how long it waits in between.

    The n-th delay is `initial * factor ** (n - 1)` seconds, at most `max_delay`; up to `jitter`
    of it, as a share, is taken off by chance so that many retries do not come together. An
    exception with an attribute `retry_after` (seconds) is waited for at least so long.
    """

    attempts: int = 5
    """All tries, the first one included."""
    initial: float = 0.5
    factor: float = 2.0
    max_delay: float = 60.0
    jitter: float = 0.1
    on: tuple[type[Exception], ...] | type[Exception] = (Exception,)
    """Which exceptions are tried again; others end the step at once, and so does Fatal."""

    def __post_init__(self) -> None:
        if whole(self.attempts, "attempts") < 1:
            raise ValueError(f"attempts must be at least 1, not {self.attempts}")
        for name in ("initial", "factor", "max_delay", "jitter"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} must be a number, not {value!r}")
        if not (
            self.initial >= 0
            and self.factor >= 1
            and 0 <= self.max_delay < math.inf
            and 0 <= self.jitter <= 1
        ):
            raise ValueError(
                f"{self}: needs initial >= 0, factor >= 1, max_delay >= 0 and 0 <= jitter <= 1"
            )
        kinds: tuple[Any, ...] = self.on if isinstance(self.on, tuple) else (self.on,)
        if not kinds or not all(isinstance(k, type) and issubclass(k, Exception) for k in kinds):
            raise TypeError(f"on must be exception classes, not {self.on!r}")

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
    heartbeat_timeout: float | None = None
    repeat: bool = True
    limit: Limit | None = None
    signature: inspect.Signature | None = None
    key_names: tuple[str, ...] = ()
    """Which arguments the limit's key is made of."""
    streams: bool = field(init=False)
    """It is a generator, and gives items."""
    awaits: bool = field(init=False)
    """It is a coroutine function or an async generator; others run in a thread."""

    def __post_init__(self) -> None:
        function = self.function
        items = inspect.isasyncgenfunction(function)
        object.__setattr__(self, "streams", items or inspect.isgeneratorfunction(function))
        object.__setattr__(self, "awaits", items or inspect.iscoroutinefunction(function))

    def __reduce__(self) -> tuple[Any, ...]:
        # By name: waiting code that is loaded goes on under the policy as it stands now.
        known = _steps.get(self.name)
        if known is self:
            return _known, (self.name,)
        return _varied, (self.name, self.retry, self.total_timeout)

    def with_policy(self, retry: Retry | None, total_timeout: Seconds | None) -> Step:
        """The same step under another policy, for one call."""
        if retry is None and total_timeout is None:
            return self
        return replace(
            self,
            retry=retry or self.retry,
            total_timeout=_seconds(total_timeout, "total_timeout") or self.total_timeout,
        )


_steps: dict[str, Step] = {}
_stand_ins: list[Callable[[Step], Step]] = []

_ONCE = Retry(attempts=1)


def find_step(name: str, version: str = "") -> Step | None:
    """The step of that name, if the app still has it; or had it in an older version."""
    made = _steps.get(f"{name}@{version}@" if version and "@" not in name else name)
    return _stand_ins[-1](made) if made is not None and _stand_ins else made


def stand_in(given: Callable[[Step], Step]) -> Callable[[], None]:
    """Have the newest `given` say what runs in the place of each step; gives how to take it out."""
    _stand_ins.append(given)
    return lambda: _stand_ins.remove(given)


name_at_load: Callable[[str], str] = str
"""Under which name a step of waiting code that is loaded is known, in the version of the code that
it goes on in (suspend/moving.py)."""


def _known(name: str) -> Step:
    return _steps[name_at_load(name)]


def _varied(name: str, retry: Retry, total_timeout: float | None) -> Step:
    return replace(_known(name), retry=retry, total_timeout=total_timeout)


class _Marking(Protocol):
    """What `@step(…)` is: it takes the function."""

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Callable[P, Coroutine[Any, Any, R]]: ...

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, AsyncIterator[R]], /
    ) -> Callable[P, AsyncGenerator[R, None]]: ...

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Iterator[R]], /
    ) -> Callable[P, AsyncGenerator[R, None]]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, Coroutine[Any, Any, R]]: ...


# A plain function is typed as it is inside objects, where steps are mostly called: to be awaited,
# and a generator to be gone through with `async for`.
@overload
def step(
    function: Callable[P, Coroutine[Any, Any, R]], /
) -> Callable[P, Coroutine[Any, Any, R]]: ...


@overload
def step(  # type: ignore[overload-overlap]
    function: Callable[P, AsyncIterator[R]], /
) -> Callable[P, AsyncGenerator[R, None]]: ...


@overload
def step(  # type: ignore[overload-overlap]
    function: Callable[P, Iterator[R]], /
) -> Callable[P, AsyncGenerator[R, None]]: ...


@overload
def step(function: Callable[P, R], /) -> Callable[P, Coroutine[Any, Any, R]]: ...


@overload
def step(
    *,
    retry: Retry | None = None,
    timeout: Seconds | None = None,
    total_timeout: Seconds | None = None,
    heartbeat_timeout: Seconds | None = None,
    repeat: bool = True,
    limit: Limit | None = None,
) -> _Marking: ...


def step(
    function: Callable[..., Any] | None = None,
    /,
    *,
    retry: Retry | None = None,
    timeout: Seconds | None = None,
    total_timeout: Seconds | None = None,
    heartbeat_timeout: Seconds | None = None,
    repeat: bool = True,
    limit: Limit | None = None,
) -> Any:
    """Make a function a step: `@step`, or `@step(retry=Retry(attempts=5), timeout=30)`.

    Called outside an object it simply runs. Called inside, it runs outside the turn, at least
    once, and its result or exception is recorded once; a plain function runs in a thread, and
    its call is awaited all the same: `await charge(card)`. A generator streams: each item is
    recorded and given to `async for item in tokens(prompt)` as it comes.

    `timeout` is for one attempt and `total_timeout` for all with the waits in between, both in
    seconds (or a timedelta) and ending in TimeoutError; an attempt without a `heartbeat()` for
    `heartbeat_timeout` has failed in the same way. Without `retry` there is one attempt.
    `raise Fatal(…)` ends the retries. With `repeat=False` it is never begun a second time: after
    a crash in its middle the handler gets OutcomeUnknown. `limit` bounds how many run at once or
    begin in a second. Bad values raise TypeError or ValueError here.

    Arguments and results are pickled: they must be values, not sockets or files.
    """
    if retry is not None and not isinstance(retry, Retry):
        raise TypeError(f"retry must be a Retry, not {retry!r}")
    if limit is not None and not isinstance(limit, Limit):
        raise TypeError(f"limit must be a Limit, not {limit!r}")
    if not isinstance(repeat, bool):
        raise TypeError(f"repeat must be True or False, not {repeat!r}")
    if not repeat and retry is not None and retry.attempts > 1:
        raise ValueError(
            "a step with repeat=False is begun once and cannot have a retry as well; "
            "catch what it raises, and decide in the handler"
        )
    options = {
        "retry": retry or _ONCE,
        "timeout": _seconds(timeout, "timeout"),
        "total_timeout": _seconds(total_timeout, "total_timeout"),
        "heartbeat_timeout": _seconds(heartbeat_timeout, "heartbeat_timeout"),
        "repeat": repeat,
        "limit": limit,
    }
    if function is None:
        return functools.partial(_make_step, options=options)
    return _make_step(function, options)


def _seconds(value: Seconds | None, name: str) -> float | None:
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"{name} must be seconds or a timedelta, not {value!r}")
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError(f"{name} must be more than 0 seconds, not {value!r}")
    return float(seconds)


def _make_step(function: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    if not inspect.isfunction(function):
        raise InvalidClass(f"a step must be a function, not {function!r}")
    name = f"{plain(function.__module__)}:{function.__qualname__}"
    version, _, over = mark_of(function.__module__).partition("+")
    known = f"{name}@{version}@" if version else name
    if over:
        # Code of an older version that goes on in a later one goes on with its own steps.
        name = known = f"{name}@{version}"
    if "<" in function.__qualname__:
        raise InvalidClass(
            f"the step {function.__qualname__} is made inside a function, "
            "where it cannot be found after a restart",
            hint="Define steps at the top of a module, or in a class.",
        )
    signature = inspect.signature(function)
    made = Step(
        name,
        function,
        **options,
        signature=signature,
        key_names=_key_names(options["limit"], signature, name),
    )
    _steps[known] = made
    run = _items if made.streams else _attempts

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if inside() is None:
            return function(*args, **kwargs)
        # Bad arguments are the handler's mistake: raised where they are given, not in the step.
        signature.bind(*args, **kwargs)
        return run(made, args, kwargs)

    call.perdure_step = made  # type: ignore[attr-defined]
    return call


def _key_names(limit: Limit | None, signature: inspect.Signature, name: str) -> tuple[str, ...]:
    """The arguments of the step that the key of its limit takes. Raises ValueError."""
    if limit is None or limit.key is None:
        return ()
    names = []
    for parameter in inspect.signature(limit.key).parameters.values():
        if parameter.name in signature.parameters:
            names.append(parameter.name)
        elif parameter.default is parameter.empty:
            raise ValueError(
                f"the key of the limit of {name} takes {parameter.name!r}, "
                "which is no argument of the step"
            )
    return tuple(names)


_at_drain: list[Callable[[], Coroutine[Any, Any, None]]] = []


def at_drain(close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Have something closed when a node drains and no step runs any more."""
    _at_drain.append(close)


async def close_at_drain() -> None:
    """What steps have left open for the next ones (host/effects.py)."""
    for close in _at_drain:
        await close()


# --- inside an object


def run_with(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    retry: Retry | None,
    total_timeout: Seconds | None,
) -> Any:
    """Call a step under another policy than its own (perdure.http)."""
    made: Step = function.perdure_step.with_policy(retry, total_timeout)  # type: ignore[attr-defined]
    return (_items if made.streams else _attempts)(made, args, kwargs)


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
    try:
        while True:
            try:
                return await turn.request_step(
                    made.name, args, kwargs, id_, attempt, made.timeout, not made.repeat
                )
            except Exception as error:
                if not _again(turn, made, id_, attempt, error):
                    raise
                delay_s = _delay_s(turn, made, id_, attempt, error)
            await asyncio.sleep(delay_s)
            attempt += 1
    finally:
        if attempt > 1 or made.retry.attempts > 1:
            turn.step_over(id_)


async def _items(
    made: Step, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> AsyncGenerator[Any, None]:
    """The same for a step that streams. Whoever stops taking items ends the attempt."""
    turn = inside()
    assert turn is not None
    until = None
    if made.total_timeout is not None:
        until = asyncio.get_running_loop().time() + made.total_timeout
    id_ = turn.next_step_id()
    stream = turn.open_stream()
    attempt = 1
    ended = None
    try:
        while True:
            ended = turn.request_step(
                made.name, args, kwargs, id_, attempt, made.timeout, not made.repeat, stream
            )
            while stream.has_item() or not ended.done():
                if not stream.has_item():
                    # Not around the yield: the time-out would strike in the consumer's own waits.
                    async with asyncio.timeout_at(until):
                        await stream.wait()
                else:
                    yield stream.take()
            error = ended.exception()
            if error is None:
                return
            if not isinstance(error, Exception) or not _again(turn, made, id_, attempt, error):
                raise error
            async with asyncio.timeout_at(until):
                await asyncio.sleep(_delay_s(turn, made, id_, attempt, error))
            attempt += 1
    finally:
        if ended is not None:
            ended.cancel()
        turn.step_over(id_)


def _again(turn: Inside, made: Step, id_: str, attempt: int, error: Exception) -> bool:
    """Whether a step that failed is tried again; if not, that is noted."""
    retry = made.retry
    if attempt < retry.attempts and not isinstance(error, Fatal) and isinstance(error, retry.on):
        return True
    turn.step_failed(made.name, id_, attempt, error, None)
    return False


def _delay_s(turn: Inside, made: Step, id_: str, attempt: int, error: Exception) -> float:
    """How long to wait for the next attempt; noted, so that it can be seen."""
    delay_s = made.retry.delay_s(attempt, turn.draw())
    after = getattr(error, "retry_after", None)
    if isinstance(after, int | float) and after > delay_s and math.isfinite(after):
        delay_s = after
    turn.step_failed(made.name, id_, attempt, error, delay_s)
    return delay_s
