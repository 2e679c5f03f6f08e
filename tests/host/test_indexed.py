"""Indexed attributes: found by what they are, in the turn that made them so, without waking any."""

from __future__ import annotations

import asyncio
import enum
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import BadArguments, Indexed, InvalidClass, Object, atomic, delete, query
from perdure.indexed import index_key, ranges, read_condition
from perdure.kind import kind_of
from perdure.store.memory import MemoryStore
from perdure.testing.faults import FaultyStore
from tests.host.stage import Stage


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Order(Object):
    status: Indexed[str] = "open"
    total: Indexed[int | float | Decimal] = 0
    due: Indexed[datetime | None] = None
    colour: Indexed[Colour | None] = None
    note: str = ""

    async def set(self, name: str, value: Any) -> None:
        setattr(self, name, value)

    async def set_through_dict(self, name: str, value: Any) -> None:
        vars(self)[name] = value

    async def set_slowly(self, status: str) -> None:
        await asyncio.sleep(10)
        self.status = status

    async def put(self, status: str, total: int = 0) -> None:
        self.status, self.total = status, total

    async def forget(self, name: str) -> None:
        delattr(self, name)

    @atomic
    async def fail(self, status: str) -> None:
        self.status = status
        raise ValueError("no")

    @query
    async def read(self) -> str:
        return self.status


class Desk(Object):
    found: list[str] = []

    async def look(self, status: str) -> list[str]:
        orders = await Order.find(status=status)
        self.found = [order.key for order in orders]
        await asyncio.sleep(5)
        return [await order.read() for order in orders]

    @query
    async def read(self) -> list[str]:
        return self.found


async def keys(**where: Any) -> list[str]:
    return [order.key for order in await Order.find(**where)]


async def everywhere(stage: Stage, check: Callable[[], Any]) -> None:
    """The same from the tail, after a crash, after a checkpoint and after a start from it."""
    await check()
    await stage.restart()
    await check()
    await stage.host.checkpointer.run()
    assert not stage.host.index._tail
    await check()
    await stage.hibernate()
    await stage.restart()
    await check()
    assert stage.host.find(stage.host.store) is None


async def test_an_object_is_found_by_what_its_attribute_is() -> None:
    async with Stage(Order, Desk) as stage:
        for n in range(6):
            await Order.at(f"o{n}").put("open" if n % 2 else "paid", n * 10)

        async def check() -> None:
            assert await keys(status="open") == ["o1", "o3", "o5"]
            assert await keys(status="paid") == ["o0", "o2", "o4"]
            assert await keys(status="lost") == []
            assert await keys(status="open", total=30) == ["o3"]
            assert await keys(total__ge=20, total__lt=40) == ["o2", "o3"]
            assert await keys(total__gt=20, status__prefix="o") == ["o3", "o5"]
            assert await keys(total__le=Decimal("10.0")) == ["o0", "o1"]
            assert await keys(total__in=[0, 50, 7]) == ["o0", "o5"]
            assert await keys(due=None, total=50.0) == ["o5"]

        await everywhere(stage, check)
        await Order.at("o1").set("status", "paid")
        await Order.at("o0").set_through_dict("status", "open")

        async def check_again() -> None:
            assert await keys(status="open") == ["o0", "o3", "o5"]
            assert await keys(status="paid") == ["o1", "o2", "o4"]

        await everywhere(stage, check_again)


async def test_nobody_is_woken() -> None:
    async with Stage(Order) as stage:
        for n in range(5):
            await Order.at(f"o{n}").put("open", n)
        await stage.hibernate()
        assert await keys(status="open", limit=10) == [f"o{n}" for n in range(5)]
        await stage.host.checkpointer.run()
        assert len(await Order.find(status="open")) == 5
        assert stage.host.live_count == 0


async def test_pages() -> None:
    async with Stage(Order) as stage:
        for n in range(25):
            await Order.at(f"{n:02}").put("open", n)
            if n == 12:
                await stage.host.checkpointer.run()
        found: list[Any] = []
        while page := await Order.find(status="open", limit=7, after=found[-1] if found else None):
            found += page
        assert [order.key for order in found] == [f"{n:02}" for n in range(25)]
        assert await keys(status="open", limit=3, after="10") == ["11", "12", "13"]


async def test_a_deleted_object_and_a_deleted_attribute_are_not_found() -> None:
    async with Stage(Order) as stage:
        for key in "abc":
            await Order.at(key).put("open")
        await stage.host.checkpointer.run()
        await delete(Order.at("a"))
        await Order.at("b").forget("status")

        async def check() -> None:
            assert await keys(status="open") == ["c"]
            assert await keys(total=0) == ["b", "c"]

        await everywhere(stage, check)
        # A new life begins with the default.
        await Order.at("a").set("note", "again")
        assert await keys(status="open") == ["a", "c"]


async def test_what_is_undone_is_not_found() -> None:
    async with Stage(Order) as stage:
        await Order.at("a").put("open")
        for key in "ab":
            with pytest.raises(ValueError, match="no"):
                await Order.at(key).fail("broken")

        async def check() -> None:
            assert await keys(status="broken") == []
            assert await keys(status="open") == ["a"]

        await everywhere(stage, check)
        await Order.at("a").set("status", "broken")
        assert await keys(status="broken") == ["a"]


async def test_a_change_behind_a_wait_is_found() -> None:
    async with Stage(Order) as stage:
        slowly = asyncio.create_task(Order.at("a").set_slowly("late"))
        await asyncio.sleep(1)
        assert await keys(status="open") == ["a"]
        await stage.hibernate()
        await asyncio.sleep(10)
        assert await keys(status="late") == ["a"]
        await slowly


async def test_inside_an_object_what_was_found_is_recorded() -> None:
    async with Stage(Order, Desk) as stage:
        for key in "abc":
            await Order.at(key).put("open")
        looking = asyncio.create_task(Desk.at("d").look("open"))
        await asyncio.sleep(1)
        await Order.at("b").put("paid")
        await stage.hibernate()
        await asyncio.sleep(5)
        assert await looking == ["open", "paid", "open"]
        await stage.restart()
        assert await Desk.at("d").read() == ["a", "b", "c"]


async def test_wrong_conditions() -> None:
    async with Stage(Order):
        for where in (
            {"note": "x"},
            {"nothing": 1},
            {"status__almost": "x"},
            {"status": [1]},
            {"status__in": "open"},
            {"status__prefix": 3},
            {},
        ):
            with pytest.raises(BadArguments):
                await Order.find(**where)
        for limit in (0, -1, 100_000):
            with pytest.raises(BadArguments):
                await Order.find(status="open", limit=limit)


async def test_a_value_that_fits_no_index_is_not_found_and_does_no_harm() -> None:
    async with Stage(Order) as stage:
        await Order.at("a").set("status", ["open"])
        await Order.at("a").set("total", float("nan"))
        assert await keys(colour=None) == ["a"]
        assert await keys(status__prefix="") == []
        for odd in (timedelta.max, Decimal("1E+99999999999"), Crooked("x")):
            await Order.at("a").set("status", odd)
            assert await keys(status__prefix="") == []
        await Order.at("a").set("status", "open")
        assert await keys(status="open") == ["a"]
        await stage.restart()
        assert await keys(status="open") == ["a"]


async def test_a_class_that_becomes_indexed_later_is_gone_through_once() -> None:
    class Plain(Object, name="Thing"):
        status: str = "new"

        async def put(self, status: str) -> None:
            self.status = status

    class Found(Object, name="Thing"):
        status: Indexed[str] = "new"
        size: Indexed[int] = 3

        async def put(self, status: str) -> None:
            self.status = status

    async with Stage(Plain) as stage:
        for n in range(450):
            await Plain.at(f"{n:03}").put("old" if n % 2 else "new")
        await stage.host.checkpointer.run()
        await stage.hibernate()
        await Plain.at("tail").put("old")
        stage.classes = (Found,)
        await stage.restart()
        assert len(await Found.find(status="old", limit=1000)) == 226
        assert len(await Found.find(size=3, limit=1000)) == 451
        assert stage.host.live_count <= 1
        await Found.at("001").put("new")
        await stage.restart()
        # It is not gone through a second time.
        assert not stage.host.index._building
        assert len(await Found.find(status="old", limit=1000)) == 225
        stage.classes = (Plain,)
        await stage.restart()
        await Plain.at("003").put("new")
        stage.classes = (Found,)
        await stage.restart()
        assert len(await Found.find(status="old", limit=1000)) in (224, 225)


async def test_a_crash_at_each_operation_leaves_the_index_as_the_objects_are() -> None:
    async def play(accident: Callable[[FaultyStore], None]) -> int:
        down = asyncio.Event()
        store = FaultyStore(MemoryStore(), on_crash=down.set)
        accident(store)
        stage = Stage(Order, store=store)
        for _ in range(4):
            down.clear()
            scenario = asyncio.create_task(scene(stage))
            falling = asyncio.create_task(down.wait())
            await asyncio.wait({scenario, falling}, return_when=asyncio.FIRST_COMPLETED)
            falling.cancel()
            over = scenario.done()
            scenario.cancel()
            await asyncio.gather(scenario, return_exceptions=True)
            if over:
                scenario.result()
                break
            if hasattr(stage, "node") and stage.node.ready:
                await stage.crash()
        return len(store.operations)

    async def scene(stage: Stage) -> None:
        await stage.start()
        for n in range(3):
            await Order.at(f"{n}").put("open", n)
        await stage.host.checkpointer.run()
        await Order.at("1").put("paid", 1)
        await delete(Order.at("2"))
        await stage.hibernate()
        await stage.host.checkpointer.run()
        await Order.at("0").put("paid", 0)
        assert await keys(status="open") == []
        assert await keys(status="paid") == ["0", "1"]
        await stage.crash()

    operations = await play(lambda store: None)
    for number in range(1, operations + 1):
        for after in (False, True):
            print(number, after)
            await play(lambda store, n=number, a=after: store.crash(n, after=a))


# --- values as bytes

numbers = st.integers() | st.floats(allow_nan=False) | st.decimals(allow_nan=False) | st.booleans()
moments = st.datetimes(timezones=st.just(UTC) | st.just(timezone(timedelta(hours=-3))))
texts = st.text(max_size=20)


@given(numbers, numbers)
def test_numbers_are_in_order(one: Any, other: Any) -> None:
    a, b = index_key(one), index_key(other)
    assert (a < b, a == b) == (one < other, one == other)


@given(texts, texts)
def test_texts_are_in_order(one: str, other: str) -> None:
    a, b = index_key(one), index_key(other)
    assert (a < b, a == b) == (one < other, one == other)


@given(moments, moments)
def test_times_are_in_order(one: datetime, other: datetime) -> None:
    a, b = index_key(one), index_key(other)
    assert (a < b, a == b) == (one < other, one == other)


@given(st.dates(), st.dates())
def test_dates_are_in_order(one: date, other: date) -> None:
    assert (index_key(one) < index_key(other)) == (one < other)


def test_other_values() -> None:
    some = uuid.uuid4()
    assert index_key(some) == index_key(uuid.UUID(str(some)))
    assert index_key(Colour.RED) == index_key("red") != index_key(Colour.BLUE)
    assert index_key("x" * 10_000) != index_key("x" * 10_001)
    assert len(index_key("x" * 10_000)) == len(index_key(7**5000)) == 512
    for wrong in ([], {}, object(), float("nan"), Decimal("sNaN"), timedelta.max, timedelta.min):
        with pytest.raises(TypeError):
            index_key(wrong)
    with pytest.raises(TypeError):
        index_key(Decimal("1E+99999999999"))


def test_a_prefix_of_bytes_takes_whatever_follows() -> None:
    for begin in b"a", b"a\xff", b"\xff", b"":
        [(low, high)] = ranges("prefix", begin)
        for rest in b"", b"\x00", b"\xff" * 20, b"zz":
            assert low <= index_key(begin + rest) < high
        assert not low <= index_key(b"b") < high or not begin
    [(low, high)] = ranges("prefix", "x" * 400)
    assert low <= index_key("x" * 10_000) < high
    with pytest.raises(BadArguments, match="at most"):
        ranges("prefix", "x" * 1000)


class Crooked(str):
    __slots__ = ()

    def encode(self, *args: Any, **kwargs: Any) -> bytes:
        raise ZeroDivisionError


def test_conditions_as_text() -> None:
    known = kind_of(Order).indexed
    wanted: dict[str, tuple[str, Any]] = {
        "status=open": ("status", "open"),
        "status=a=b": ("status", "a=b"),
        "status^=op": ("status__prefix", "op"),
        "total>=100": ("total__ge", 100),
        "total < 1": ("total__lt", 1),
        "colour=red": ("colour", Colour.RED),
        "due<=2026-01-02T03:04:05Z": ("due__le", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
    }
    for text, expected in wanted.items():
        assert read_condition(text, known) == expected
    for wrong in ("status", "=x", "note=x", "colour=green", "total=many"):
        with pytest.raises(BadArguments):
            read_condition(wrong, known)


def test_what_cannot_be_indexed_is_told_at_the_class() -> None:
    class Wrong(Object):
        tags: Indexed[list[str]] = []

    with pytest.raises(InvalidClass, match="cannot be Indexed"):
        kind_of(Wrong)
