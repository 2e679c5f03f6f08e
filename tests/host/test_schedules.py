"""Schedules: methods that an object has called by time; never early, each tick once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from perdure import (
    Object,
    ReadOnlyError,
    Schedule,
    atomic,
    cron,
    current,
    delete,
    every,
    query,
)
from perdure.clock import NS
from perdure.testing.virtual import START_NS
from tests.host.stage import Stage, eventually

HOUR = 3600.0


class Diary(Object):
    """Writes down when it was called, and with what."""

    def __init__(self) -> None:
        self.lines: list[Any] = []
        self.handles: dict[str, Schedule] = {}
        self.fails = 0

    async def plan(self, when: Any, text: str, **options: Any) -> Schedule:
        handle = self.schedule(when, self.write, text, **options)
        self.handles[handle.id] = handle
        return handle

    async def write(self, text: str) -> None:
        due = current().due
        assert due is not None
        now = datetime.now(UTC)
        assert now >= due
        self.lines.append((text, (now - due).total_seconds()))
        if self.fails:
            self.fails -= 1
            raise ValueError(f"no ink for {text}")

    async def plan_private(self, when: Any) -> None:
        self.schedule(when, self._secretly, 3, word="psst")

    async def _secretly(self, times: int, word: str) -> None:
        await asyncio.sleep(1)
        self.lines.append(word * times)

    async def plan_atomic(self, when: Any, times: int) -> None:
        for number in range(times):
            self.schedule(when, self.all_or_nothing, number)

    @atomic
    async def all_or_nothing(self, number: int) -> None:
        self.lines.append(number)
        if number % 2:
            raise ValueError("odd")

    async def plan_many(self, when: timedelta, count: int) -> None:
        for number in range(count):
            self.schedule(when, self.write, f"{number}")

    async def cancel(self, id_: str) -> bool:
        return self.handles[id_].cancel()

    async def fail(self, times: int) -> None:
        self.fails = times

    async def wrong(self, what: str) -> None:
        match what:
            case "lambda":
                self.schedule(timedelta(1), lambda: None)
            case "other":
                self.schedule(timedelta(1), Diary.at("other").write, "x")
            case "query":
                self.schedule(timedelta(1), self.read)
            case "arguments":
                self.schedule(timedelta(1), self.write)
            case "naive":
                self.schedule(datetime(2030, 1, 1), self.write, "x")
            case "cron":
                self.schedule("61 * * * *", self.write, "x")
            case "fields":
                self.schedule("* * * *", self.write, "x")
            case "zone":
                self.schedule("0 9 * * *", self.write, "x", tz="Mars/Olympus")
            case "missed":
                self.schedule("0 9 * * *", self.write, "x", missed="twice")  # type: ignore[arg-type]
            case "number":
                self.schedule(5, self.write, "x")  # type: ignore[arg-type]

    @query
    async def plan_in_query(self) -> None:
        self.schedule(timedelta(1), self.write, "x")

    @query
    async def read(self) -> list[Any]:
        return self.lines

    @query
    async def next(self, id_: str) -> datetime | None:
        return self.handles[id_].next

    @query
    async def state(self, id_: str) -> tuple[str | None, int]:
        return self.handles[id_].error, self.handles[id_].failures


class Slow(Object, reentrant=False):
    """One run at a time."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    async def start(self) -> None:
        self.schedule(every(timedelta(seconds=10)), self.work, id="work")

    async def work(self) -> None:
        self.lines.append("in")
        await asyncio.sleep(15)
        self.lines.append("out")

    @query
    async def read(self) -> list[str]:
        return self.lines


async def texts(diary: Diary) -> list[str]:
    return [text for text, _ in await diary.read()]


async def test_one_time_schedules_run_once() -> None:
    async with Stage(Diary) as stage:
        diary = Diary.at("1")
        at = datetime.fromtimestamp(START_NS // NS, UTC) + timedelta(hours=2)
        await diary.plan(timedelta(hours=1), "span")
        await diary.plan(at.astimezone(ZoneInfo("Asia/Tokyo")), "moment")
        await diary.plan(timedelta(hours=-5), "past")
        await asyncio.sleep(1)
        assert await texts(diary) == ["past"]
        await asyncio.sleep(HOUR)
        assert await texts(diary) == ["past", "span"]
        await asyncio.sleep(HOUR)
        assert await texts(diary) == ["past", "span", "moment"]
        assert all(late < 0.01 for _, late in await diary.read())
        machine = stage.host.at("Diary", "1").machine
        assert machine.schedules is None
        assert machine.timers is None


async def test_repeated_ones_keep_their_distance() -> None:
    async with Stage(Diary):
        diary = Diary.at("1")
        await diary.plan(every(timedelta(minutes=20)), "tick", id="t")
        await diary.plan("30 * * * *", "half past", id="c")
        await asyncio.sleep(2 * HOUR - 1)
        assert (await texts(diary)).count("tick") == 5
        # It is 22:13 when the world begins.
        assert (await texts(diary)).count("half past") == 2
        assert await diary.next("c") == datetime(2023, 11, 15, 0, 30, tzinfo=UTC)


async def test_the_same_id_replaces_and_cancel_takes_back() -> None:
    async with Stage(Diary):
        diary = Diary.at("1")
        await diary.plan(timedelta(minutes=1), "old", id="x")
        await diary.plan(timedelta(minutes=2), "new", id="x")
        await diary.plan(timedelta(minutes=3), "never", id="y")
        assert await diary.cancel("y")
        assert not await diary.cancel("y")
        await asyncio.sleep(HOUR)
        assert await texts(diary) == ["new"]
        assert not await diary.cancel("x")


async def test_handles_are_kept_and_told() -> None:
    async with Stage(Diary) as stage:
        diary = Diary.at("1")
        handle = await diary.plan(timedelta(hours=1), "later", id="x")
        assert (handle.id, handle.handler) == ("x", "write")
        assert handle.next is not None
        with pytest.raises(RuntimeError, match="belongs to"):
            handle.cancel()
        await stage.hibernate()
        await stage.restart()
        assert await diary.next("x") == handle.next
        assert await diary.cancel("x")
        assert await diary.next("x") is None


async def test_arguments_and_private_methods() -> None:
    async with Stage(Diary):
        diary = Diary.at("1")
        await diary.plan_private(timedelta(seconds=5))
        await asyncio.sleep(10)
        assert await diary.read() == ["psst" * 3]


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("lambda", TypeError),
        ("other", TypeError),
        ("query", TypeError),
        ("arguments", TypeError),
        ("number", TypeError),
        ("naive", ValueError),
        ("cron", ValueError),
        ("fields", ValueError),
        ("zone", ValueError),
        ("missed", ValueError),
    ],
)
async def test_what_cannot_be_scheduled_is_refused(what: str, error: type[Exception]) -> None:
    async with Stage(Diary) as stage:
        with pytest.raises(error):
            await Diary.at("1").wrong(what)
        with pytest.raises(ReadOnlyError):
            await Diary.at("1").plan_in_query()
        assert stage.host.at("Diary", "1").machine.schedules is None


async def test_a_failing_one_lives_on_and_its_error_is_seen() -> None:
    async with Stage(Diary):
        diary = Diary.at("1")
        await diary.plan(every(timedelta(minutes=1)), "tick", id="t")
        await diary.fail(2)
        await asyncio.sleep(121)
        assert await diary.state("t") == ("ValueError: no ink for tick", 2)
        await asyncio.sleep(60)
        assert await diary.state("t") == (None, 0)
        assert len(await diary.read()) == 3
        await diary.fail(1)
        await diary.plan(timedelta(seconds=1), "once", id="o")
        await asyncio.sleep(2)
        assert await diary.state("o") == ("ValueError: no ink for once", 1)
        assert await diary.next("o") is None


async def test_an_atomic_one_is_undone_by_itself() -> None:
    async with Stage(Diary) as stage:
        diary = Diary.at("1")
        await diary.plan_atomic(timedelta(seconds=1), 4)
        await asyncio.sleep(2)
        assert await diary.read() == [0, 2]
        schedules = stage.host.at("Diary", "1").machine.schedules
        assert [one.error for one in schedules.values()] == ["ValueError: odd"] * 2
        await stage.restart()
        assert await diary.read() == [0, 2]
        schedules = stage.host.at("Diary", "1").machine.schedules
        assert [one.error for one in schedules.values()] == ["ValueError: odd"] * 2


async def test_in_an_object_that_is_not_reentrant_they_queue() -> None:
    async with Stage(Slow):
        slow = Slow.at("1")
        await slow.start()
        await asyncio.sleep(60)
        lines = await slow.read()
        assert lines[:6] == ["in", "out"] * 3
        assert "in in" not in " ".join(lines)


async def test_many_that_are_due_at_once_take_several_turns() -> None:
    async with Stage(Diary) as stage:
        diary = Diary.at("1")
        await diary.plan_many(timedelta(seconds=1), 2500)
        seq = stage.host.at("Diary", "1").machine.seq
        await asyncio.sleep(2)
        assert await texts(diary) == [f"{number}" for number in range(2500)]
        assert stage.host.at("Diary", "1").machine.seq == seq + 3


@pytest.mark.parametrize(("missed", "count"), [("once", 1), ("all", 5), ("skip", 0)])
async def test_what_becomes_of_missed_ticks(missed: str, count: int) -> None:
    async with Stage(Diary) as stage:
        diary = Diary.at("1")
        for id_, rhythm in (("e", every(timedelta(hours=1))), ("c", cron("13 * * * *"))):
            await diary.plan(rhythm, id_, id=id_, missed=missed)
        await stage.crash()
        await asyncio.sleep(5.5 * HOUR)
        await stage.start()
        await asyncio.sleep(1)
        for id_ in ("e", "c"):
            assert (await texts(diary)).count(id_) == count
        await asyncio.sleep(HOUR)
        for id_ in ("e", "c"):
            assert (await texts(diary)).count(id_) == count + 1
        if missed == "all":
            late = [round(late) for text, late in await diary.read() if text == "e"]
            assert late[:5] == [16200, 12600, 9000, 5400, 1800]


async def test_a_window_bounds_what_is_made_up_for() -> None:
    async with Stage(Diary) as stage:
        diary = Diary.at("1")
        two_hours = timedelta(hours=2)
        await diary.plan(every(timedelta(hours=1)), "all", missed="all", window=two_hours)
        await diary.plan(
            every(timedelta(hours=1)), "skip", missed="skip", window=timedelta(hours=1)
        )
        await diary.plan(every(timedelta(hours=6)), "once", window=two_hours)
        await stage.crash()
        await asyncio.sleep(9.5 * HOUR)
        await stage.start()
        await asyncio.sleep(1)
        assert sorted(await texts(diary)) == ["all", "all", "skip"]


async def test_schedules_end_with_their_object() -> None:
    async with Stage(Diary):
        diary = Diary.at("1")
        await diary.plan(every(timedelta(minutes=1)), "tick")
        await delete(diary)
        await asyncio.sleep(HOUR)
        assert await diary.read() == []


async def test_a_clock_that_jumps_neither_doubles_nor_loses() -> None:
    async with Stage(Diary) as stage:
        diary = Diary.at("1")
        await diary.plan(every(timedelta(hours=1)), "tick", missed="all")
        await diary.plan(timedelta(hours=5), "once")
        stage.clock.jump_ns += int(3.5 * HOUR) * NS
        await asyncio.sleep(60)
        assert (await texts(diary)).count("tick") == 3
        stage.clock.jump_ns -= int(3.5 * HOUR) * NS
        await asyncio.sleep(3 * HOUR)
        assert (await texts(diary)).count("tick") == 3
        await asyncio.sleep(3 * HOUR)
        assert (await texts(diary)).count("tick") == 6
        assert (await texts(diary)).count("once") == 1
        await stage.restart()
        assert (await texts(diary)).count("tick") == 6


# --- @every and @cron


class Janitor(Object):
    """Works without being called."""

    def __init__(self) -> None:
        self.swept = 0
        self.reports: list[str] = []

    @every(timedelta(minutes=10))
    async def sweep(self) -> None:
        self.swept += 1

    @cron("0 9 * * *", tz="Europe/Lisbon", missed="all")
    async def _report(self) -> None:
        due = current().due
        assert due is not None
        self.reports.append(due.isoformat())

    @query
    async def count(self) -> int:
        return self.swept

    @query
    async def reported(self) -> list[str]:
        return self.reports


async def test_named_objects_run_without_any_caller() -> None:
    async with Stage(Janitor, objects=[Janitor.at("main")]) as stage:
        await asyncio.sleep(HOUR + 1)
        assert await Janitor.at("main").count() == 6
        assert await Janitor.at("other").count() == 0
        await stage.hibernate()
        await asyncio.sleep(24 * HOUR)
        assert await Janitor.at("main").reported() == ["2023-11-15T09:00:00+00:00"]
        assert await Janitor.at("main").count() == 25 * 6
        seq = stage.host.at("Janitor", "main").machine.seq
        await stage.restart()
        await stage.settle()
        assert stage.host.at("Janitor", "main").machine.seq == seq


async def test_changed_and_removed_decorators_change_the_schedule() -> None:
    class Changed(Object, name="Janitor"):
        def __init__(self) -> None:
            self.swept = 0
            self.reports: list[str] = []

        @every(timedelta(minutes=30))
        async def sweep(self) -> None:
            self.swept += 1

        @query
        async def count(self) -> int:
            return self.swept

    async with Stage(Janitor, objects=[Janitor.at("main")]) as stage:
        await asyncio.sleep(HOUR + 1)
        await stage.crash()
        stage.classes = (Changed,)
        await stage.start()
        await asyncio.sleep(HOUR + 1)
        assert await Janitor.at("main").count() == 6 + 2
        assert list(stage.host.at("Janitor", "main").machine.schedules) == ["@sweep"]
        await stage.crash()
        stage.objects = ()
        await stage.start()
        await asyncio.sleep(5 * HOUR)
        assert await Janitor.at("main").count() == 6 + 2
        assert stage.host.at("Janitor", "main").machine.timetable is None


async def test_a_deleted_one_comes_back_with_the_next_start() -> None:
    async with Stage(Janitor, objects=[Janitor.at("main")]) as stage:
        await asyncio.sleep(HOUR + 1)
        await delete(Janitor.at("main"))
        await asyncio.sleep(HOUR)
        assert await Janitor.at("main").count() == 0
        await stage.host.checkpointer.run()
        await stage.restart()
        await asyncio.sleep(HOUR + 1)
        assert await Janitor.at("main").count() == 6


async def test_one_whose_creation_fails_does_not_come_into_being() -> None:
    class Broken(Object):
        async def on_create(self) -> None:
            raise ValueError("not today")

        @every(timedelta(minutes=1))
        async def sweep(self) -> None: ...

    async with Stage(Broken, objects=[Broken.at("main")]) as stage:
        await asyncio.sleep(HOUR)
        there = stage.host.at("Broken", "main")
        assert there is None or there.machine.instance is None
        await stage.restart()
        await eventually(lambda: stage.host.at("Broken", "main") is not None)


async def test_what_cannot_run_by_itself_is_refused_with_its_class() -> None:
    from perdure import InvalidClass
    from perdure.kind import kind_of

    class Needs(Object):
        @every(timedelta(minutes=1))
        async def sweep(self, room: str) -> None: ...

    class Asks(Object):
        @cron("* * * * *")
        @query
        async def look(self) -> int:
            return 1

    for cls in (Needs, Asks):
        with pytest.raises(InvalidClass, match="@every or @cron"):
            kind_of(cls)
    with pytest.raises(ValueError, match="timedelta"):
        every(timedelta())
    with pytest.raises(ValueError, match="cron expression"):
        cron("every day")
