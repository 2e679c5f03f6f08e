"""When ticks by cron fall due, above all on the days on which clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from perdure import cron, every
from perdure.schedule import Rhythm, from_ns, to_ns


def local(rhythm: Rhythm, start: str, count: int) -> list[str]:
    """The first ticks behind a moment in UTC, by the clock on the wall."""
    tick = to_ns(datetime.fromisoformat(start).replace(tzinfo=UTC))
    found = []
    for _ in range(count):
        tick = rhythm.next(tick)
        there = from_ns(tick).astimezone(ZoneInfo(rhythm.tz))
        found.append(there.strftime("%d %H:%M%z")[:-2])
    return found


@pytest.mark.parametrize(
    ("expression", "tz", "start", "expected"),
    [
        # In Berlin, 2026-03-29 has no hour from 02:00 to 03:00.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28", ["28 02:30+01", "29 03:00+02"]),
        ("0 2 * * *", "Europe/Berlin", "2026-03-28T12", ["29 03:00+02", "30 02:00+02"]),
        ("0 2,3 * * *", "Europe/Berlin", "2026-03-28T12", ["29 03:00+02", "30 02:00+02"]),
        ("30 1 * * *", "Europe/Berlin", "2026-03-28T12", ["29 01:30+01", "30 01:30+02"]),
        ("*/30 * * * *", "Europe/Berlin", "2026-03-29", ["29 01:30+01", "29 03:00+02"]),
        ("0 * * * *", "Europe/Berlin", "2026-03-28T23:30", ["29 01:00+01", "29 03:00+02"]),
        ("*/20 2 * * *", "Europe/Berlin", "2026-03-28T12", ["30 02:00+02", "30 02:20+02"]),
        # And 2026-10-25 has the hour from 02:00 to 03:00 twice.
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12", ["25 02:30+02", "26 02:30+01"]),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:45", ["26 02:30+01"]),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T01:10", ["26 02:30+01"]),
        ("0 * * * *", "Europe/Berlin", "2026-10-24T23:30", ["25 02:00+02", "25 02:00+01"]),
        ("*/30 * * * *", "Europe/Berlin", "2026-10-25", ["25 02:30+02", "25 02:00+01"]),
        (
            "*/30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T12",
            ["25 02:00+02", "25 02:30+02", "25 02:00+01", "25 02:30+01"],
        ),
        # Midnight itself is left out.
        ("0 0 * * *", "America/Santiago", "2026-09-05T12", ["06 01:00-03", "07 00:00-03"]),
        # Half an hour of change.
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12", ["04 02:30+11", "05 02:15+11"]),
        ("0 9 * * MON-FRI", "UTC", "2026-01-02T10", ["05 09:00+00", "06 09:00+00"]),
        ("0 0 L 2 *", "UTC", "2027-01-01", ["28 00:00+00", "29 00:00+00"]),
    ],
)
def test_ticks_where_clocks_change(
    expression: str, tz: str, start: str, expected: list[str]
) -> None:
    assert local(cron(expression, tz=tz), start, len(expected)) == expected


@pytest.mark.parametrize(
    "expression", ["30 2 * * *", "0 * * * *", "*/7 1-3 * * *", "15,45 0-5 * * *", "0 3 * * SUN"]
)
@pytest.mark.parametrize("day", ["2026-03-28T20", "2026-10-24T20"])
def test_the_next_is_always_later_and_the_latest_is_what_was_next(
    expression: str, day: str
) -> None:
    rhythm = cron(expression, tz="Europe/Berlin")
    start = to_ns(datetime.fromisoformat(day).replace(tzinfo=UTC))
    ticks = [rhythm.next(start)]
    while ticks[-1] < start + 14 * 3600 * 10**9:
        ticks.append(rhythm.next(ticks[-1]))
    assert ticks == sorted(set(ticks))
    for minute in range(0, 12 * 60, 7):
        moment = start + minute * 60 * 10**9
        assert rhythm.after(0, moment) == next(tick for tick in ticks if tick > moment)
        before = [tick for tick in ticks if tick <= moment]
        if before:
            assert rhythm.latest(ticks[0], moment) == before[-1]


def test_an_interval_keeps_to_its_grid() -> None:
    rhythm = every(timedelta(seconds=10))
    assert rhythm.next(100) == 100 + 10**10
    assert rhythm.after(5, 5 + 35 * 10**9) == 5 + 40 * 10**9
    assert rhythm.after(5, 5 + 40 * 10**9) == 5 + 50 * 10**9
    assert rhythm.latest(5, 5 + 39 * 10**9) == 5 + 30 * 10**9
