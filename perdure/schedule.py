"""Schedules: handlers that an object has called by time, and not by anybody.

    self.schedule(timedelta(days=14), self.remind)
    self.schedule("0 9 * * MON-FRI", self.report, tz="Europe/Lisbon", id="report")

    @every(timedelta(minutes=5))
    async def sweep(self) -> None: ...

When a tick falls due follows from what is written here and from nothing else: no clock is read. In
days on which clocks change, cron does what Debian's does: what falls into the hour that is left
out runs right behind it, and what falls into the hour that comes twice runs once, but for `*` at
the start of the minutes or hours: that goes by the clock on the wall, whatever it shows. Host
side: host/schedules.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal, TypeVar
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from perdure.clock import LAST_NS, NS
from perdure.inside import inside

F = TypeVar("F", bound=Callable[..., Any])

Missed = Literal["once", "skip", "all"]

_POLICIES = ("once", "skip", "all")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SKIP_WINDOW_NS = 60 * NS
_LONGEST_NS = 2**62


def to_ns(when: datetime) -> int:
    """Nanoseconds since 1970 of an aware datetime."""
    return (when - _EPOCH) // timedelta(microseconds=1) * 1000


def from_ns(when_ns: int) -> datetime:
    """A datetime in UTC, to the microsecond."""
    return _EPOCH + timedelta(microseconds=when_ns // 1000)


def span_ns(span: timedelta) -> int:
    """Nanoseconds of a timedelta."""
    return span // timedelta(microseconds=1) * 1000


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Ticks that come again and again: at a distance, or by cron."""

    every_ns: int = 0
    cron: str = ""
    tz: str = "UTC"
    missed: str = "once"
    window_ns: int = -1
    """How late a tick may be and still run; -1: not said."""

    def __call__(self, handler: F) -> F:
        """As a decorator."""
        marks = [*getattr(handler, "__perdure_rhythms__", ()), self]
        handler.__perdure_rhythms__ = marks  # type: ignore[attr-defined]
        return handler

    def next(self, tick_ns: int) -> int:
        """The first tick behind a moment; for `every`, behind a tick."""
        if self.every_ns:
            return tick_ns + self.every_ns
        return self._first_behind(tick_ns)

    def after(self, tick_ns: int, now_ns: int) -> int:
        """The first tick behind `now_ns`, where `tick_ns` is one."""
        if self.every_ns:
            return tick_ns + ((now_ns - tick_ns) // self.every_ns + 1) * self.every_ns
        return self._first_behind(now_ns)

    def latest(self, tick_ns: int, now_ns: int) -> int:
        """The last tick up to `now_ns`, where `tick_ns` is one before it."""
        if self.every_ns:
            return tick_ns + (now_ns - tick_ns) // self.every_ns * self.every_ns
        # Looked for from behind: after a year without a node there may be half a million. From a
        # little later, since in the hour that comes twice the clock on the wall runs backwards.
        for found in self._ticks(now_ns + 4 * 3600 * NS, reverse=True):
            if found <= now_ns:
                return max(tick_ns, found)
        return tick_ns

    def _first_behind(self, moment_ns: int) -> int:
        # In the hour that comes twice, CronSim goes by the first one, and so may answer with what
        # is past in the second.
        return next((found for found in self._ticks(moment_ns) if found > moment_ns), 0)

    def _ticks(self, from_ns_: int, *, reverse: bool = False) -> Iterator[int]:
        at = from_ns(from_ns_).replace(microsecond=0).astimezone(_zone(self.tz))
        for found in CronSim(self.cron, at, reverse):
            yield to_ns(found.astimezone(UTC))

    def told(self) -> tuple[int, str, str, str, int]:
        """Its fields."""
        return self.every_ns, self.cron, self.tz, self.missed, self.window_ns

    @property
    def lateness_ns(self) -> int:
        """How late a tick may be and still run."""
        if self.window_ns >= 0:
            return self.window_ns
        if self.missed != "skip":
            return _LONGEST_NS
        return min(_SKIP_WINDOW_NS, self.every_ns or _SKIP_WINDOW_NS)

    def __str__(self) -> str:
        if self.every_ns:
            return f"every {timedelta(microseconds=self.every_ns // 1000)}"
        return f"{self.cron} {self.tz}"


@lru_cache(64)
def _zone(name: str) -> Any:
    # CronSim knows UTC by this very object, and spares it the look at changes.
    return UTC if name == "UTC" else ZoneInfo(name)


def every(
    interval: timedelta, *, missed: Missed = "once", window: timedelta | None = None
) -> Rhythm:
    """Again and again, at a distance: `@every(timedelta(minutes=5))` on a handler, or
    `self.schedule(every(…), self.sweep)`. The first time is one interval from the start; ticks
    keep their distance whenever the handler ran.

    `missed` says what becomes of ticks that passed while no node ran, and `window` how late a
    tick may be and still run: see `Object.schedule`.
    """
    given: Any = interval
    if not isinstance(given, timedelta) or given < timedelta(milliseconds=1):
        raise ValueError(f"every() takes a timedelta of a millisecond or more, not {interval!r}")
    return _checked(Rhythm(every_ns=min(span_ns(interval), _LONGEST_NS)), missed, window)


def cron(
    expression: str,
    *,
    tz: str = "UTC",
    missed: Missed = "once",
    window: timedelta | None = None,
) -> Rhythm:
    """By cron: `@cron("0 9 * * *", tz="Europe/Lisbon")` on a handler, or with `self.schedule`.

    Five fields: minute, hour, day of the month, month, day of the week; numbers, names (MON, JAN),
    lists, ranges, steps, `L` for the last. `tz` is the IANA name of a time zone. Raises ValueError
    where one of them means nothing.
    """
    given: Any = expression
    if not isinstance(given, str) or len(given.split()) != 5:
        raise ValueError(
            f"{expression!r} is no cron expression: it has five fields, minute, hour, day of the "
            "month, month, day of the week, as in '0 9 * * MON-FRI'"
        )
    try:
        CronSim(expression, _EPOCH)
    except CronSimError as error:
        raise ValueError(f"{expression!r} is no cron expression: {error}") from None
    return _checked(Rhythm(cron=" ".join(expression.split()), tz=_checked_zone(tz)), missed, window)


def _checked_zone(name: str) -> str:
    try:
        _zone(name)
    except Exception:
        raise ValueError(
            f"there is no time zone {name!r}; a zone has an IANA name, such as 'Europe/Lisbon'"
        ) from None
    return name


def _checked(rhythm: Rhythm, missed: str, window: timedelta | None) -> Rhythm:
    return Rhythm(
        rhythm.every_ns, rhythm.cron, rhythm.tz, check_missed(missed), check_window(window)
    )


def check_missed(missed: str) -> str:
    """The policy itself. Raises ValueError for one that is none."""
    if missed not in _POLICIES:
        raise ValueError(f"missed is one of {', '.join(_POLICIES)}, not {missed!r}")
    return missed


def check_window(window: timedelta | None) -> int:
    """A window in nanoseconds, -1 for None. Raises ValueError for a negative one."""
    if window is None:
        return -1
    given: Any = window
    if not isinstance(given, timedelta) or given < timedelta():
        raise ValueError(f"window is a timedelta that is not negative, not {window!r}")
    return span_ns(window)


def moment(
    when: timedelta | datetime | str | Rhythm,
    tz: str,
    missed: Missed | None,
    window: timedelta | None,
    now_ns: int,
) -> tuple[Rhythm | None, int | None]:
    """(rhythm, None) or (None, moment) of what `self.schedule` was given."""
    if isinstance(when, str):
        return cron(when, tz=tz, missed=missed or "once", window=window), None
    if isinstance(when, Rhythm):
        policy = missed if missed is not None else when.missed
        late = check_window(window) if window is not None else when.window_ns
        return Rhythm(when.every_ns, when.cron, when.tz, check_missed(policy), late), None
    check_missed(missed or "once")
    if isinstance(when, timedelta):
        return None, min(max(now_ns, now_ns + span_ns(when)), LAST_NS)
    if isinstance(when, datetime):
        if when.tzinfo is None or when.utcoffset() is None:
            raise ValueError(
                f"{when!r} has no time zone; say which one is meant: datetime(…, tzinfo=UTC)"
            )
        return None, min(max(1, to_ns(when)), LAST_NS)
    raise TypeError(
        f"a schedule is due after a timedelta, at an aware datetime, by a cron string, or by "
        f"every(…) or cron(…); not {when!r}"
    )


class Schedule:
    """What `self.schedule(…)` gives. It may be kept, and sent to others, who can only read it."""

    __slots__ = (
        "__weakref__",
        "_body",
        "_call",
        "_declared",
        "_due_ns",
        "_number",
        "_rhythm",
        "_timer",
        "error",
        "failures",
        "handler",
        "id",
    )
    __perdure_schedule__ = True

    id: str
    """Setting the same id again replaces it."""
    handler: str
    """The name of the method."""
    error: str | None
    """What the last run raised; None if it did not."""
    failures: int
    """How many runs in a row have failed."""
    _body: bytes
    _call: str
    _declared: Any
    _due_ns: int
    _number: int
    _rhythm: Rhythm | None
    _timer: Any

    def __init__(self, id_: str, handler: str, body: bytes, rhythm: Rhythm | None) -> None:
        self.id = id_
        self.handler = handler
        self.error = None
        self.failures = 0
        self._body = body
        self._rhythm = rhythm
        self._due_ns = 0
        self._timer = None
        self._call = ""
        self._declared = None
        self._number = 0

    def kept(self) -> tuple[Any, ...]:
        """What a snapshot keeps of it (suspend/heap.py)."""
        rhythm = self._rhythm
        return (
            self.id,
            self.handler,
            self._body,
            rhythm.told() if rhythm is not None else None,
            self._due_ns,
            self._number,
            self._call,
            self.error,
            self.failures,
            self._declared,
        )

    @classmethod
    def restored(cls, state: tuple[Any, ...]) -> Schedule:
        """A schedule out of a snapshot; its timer is not armed yet."""
        id_, handler, body, rhythm, due, number, call, error, failures, declared = state
        schedule = cls(id_, handler, body, Rhythm(*rhythm) if rhythm is not None else None)
        schedule._due_ns, schedule._number, schedule._call = due, number, call
        schedule.error, schedule.failures, schedule._declared = error, failures, declared
        return schedule

    @property
    def next(self) -> datetime | None:
        """When it is due; None if it is not going to run (any more)."""
        return from_ns(self._due_ns) if self._due_ns else None

    def cancel(self) -> bool:
        """Take it back; a run that has begun goes on. False if there was nothing to take back.

        Only in the object that it belongs to; raises RuntimeError elsewhere.
        """
        turn = inside()
        if turn is None:
            raise RuntimeError("a Schedule is cancelled by the object that it belongs to")
        return turn.cancel_schedule(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _told, (self.id, self.handler, self._due_ns, self.error, self.failures)

    def __repr__(self) -> str:
        return f"<Schedule {self.id} of {self.handler}, next {self.next}>"


def _told(id_: str, handler: str, due_ns: int, error: str | None, failures: int) -> Schedule:
    """A schedule elsewhere: what it was when it was told of."""
    schedule = Schedule(id_, handler, b"", None)
    schedule._due_ns, schedule.error, schedule.failures = due_ns, error, failures
    return schedule
