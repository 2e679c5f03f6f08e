"""A point in the past as people write it: a turn, a time, or an age."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from perdure.ages import age_s
from perdure.clock import NS
from perdure.errors import BadArguments


class Moment(NamedTuple):
    """A turn, or a time; one of them is None."""

    seq: int | None
    time_ns: int | None


def read_moment(text: str, now_ns: int) -> Moment:
    """`17` is a turn; `2026-05-01T12:00Z` (local time without a zone) and `10m` are times.

    Raises BadArguments.
    """
    if text.isascii() and text.isdecimal() and len(text) < 19:
        return Moment(int(text), None)
    return Moment(None, read_time(text, now_ns, end=True))


def read_time(text: str, now_ns: int, *, end: bool = False) -> int:
    """Nanoseconds since 1970 of an ISO 8601 time or of an age. Raises BadArguments.

    Times are shown to the microsecond, of which this is the first nanosecond. With `end` it is the
    last: who gives the time that a turn is shown with, as that up to which, means it included.
    """
    age = age_s(text)
    if age is not None:
        return now_ns - int(age * NS)
    try:
        when = datetime.fromisoformat(text)
        if when.tzinfo is None:
            when = when.astimezone()
        seconds = int(when.replace(microsecond=0).timestamp())
    except (ValueError, OverflowError, OSError):
        raise BadArguments(
            f"{text[:60]!r} is neither a turn nor a time",
            hint="A turn is a number; a time is ISO 8601, as 2026-05-01T12:00:00Z, or an age: "
            "30s, 10m, 2h, 7d.",
        ) from None
    return seconds * NS + when.microsecond * 1000 + (999 if end else 0)
