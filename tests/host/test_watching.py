"""wait_until: code that goes on when the object's own state has become what it waits for."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from perdure import Object, ReadOnlyError, query, send, wait_until
from tests.host.stage import Stage


class Till(Object):
    """Somebody waits for money, others bring it."""

    def __init__(self) -> None:
        self.paid = 0
        self.free = 1
        self.order: list[str] = []

    async def pay(self, cents: int) -> None:
        self.paid += cents

    async def wait_for(self, cents: int) -> int:
        await wait_until(lambda: self.paid >= cents)
        return self.paid

    async def what_it_gave(self) -> list[str]:
        return await wait_until(lambda: self.order)

    async def patient(self, seconds: float) -> str:
        try:
            await wait_until(lambda: self.paid, timeout=timedelta(seconds=seconds))
        except TimeoutError:
            return "in vain"
        return "paid"

    async def alone(self, name: str) -> None:
        await wait_until(lambda: self.free > 0)
        assert self.free == 1
        self.free -= 1
        self.order.append(f"{name} in")
        await asyncio.sleep(1)
        self.order.append(f"{name} out")
        self.free += 1

    async def twice(self) -> int:
        await wait_until(lambda: self.paid >= 10)
        self.free = 5
        await wait_until(lambda: self.free == 6)
        return self.free

    async def more_room(self) -> None:
        await wait_until(lambda: self.free == 5)
        self.free = 6

    async def wrong(self) -> int:
        await wait_until(lambda: bool(self.paid and 1 // (self.paid - self.paid)))
        return 1

    async def meddles(self) -> None:
        def predicate() -> bool:
            if self.paid:
                self.free += 1
            return False

        await wait_until(predicate)

    async def is_async(self) -> None:
        async def predicate() -> bool:
            return True

        await wait_until(predicate)

    @query
    async def looks(self) -> None:
        await wait_until(lambda: self.paid > 1_000_000)

    @query
    async def log(self) -> list[str]:
        return self.order


async def test_it_wakes_on_any_change() -> None:
    async with Stage(Till) as stage:
        till = Till.at("1")
        waiting = asyncio.ensure_future(till.wait_for(10))
        await stage.settle()
        await till.pay(4)
        await stage.settle()
        assert not waiting.done()
        await till.pay(6)
        assert await waiting == 10
        assert await till.wait_for(10) == 10
        assert stage.host.at("Till", "1").machine.watches is None


async def test_it_survives_crashes_and_hibernation() -> None:
    async with Stage(Till) as stage:
        till = Till.at("1")
        call = await send(till.wait_for, 10)
        await stage.hibernate()
        assert stage.host.live_count == 0
        await stage.restart()
        await till.pay(4)
        await stage.hibernate()
        await till.pay(6)
        answer = await stage.host.find_call(call, 1.0)
        assert answer is not None
        assert answer.failure is None


async def test_what_was_true_is_true_for_each_who_wakes() -> None:
    async with Stage(Till):
        till = Till.at("1")
        await asyncio.gather(*(till.alone(name) for name in "abc"))
        log = await till.log()
        assert log == ["a in", "a out", "b in", "b out", "c in", "c out"]


async def test_one_who_wakes_can_wake_another() -> None:
    async with Stage(Till) as stage:
        till = Till.at("1")
        both = asyncio.gather(till.twice(), till.more_room())
        await stage.settle()
        await till.pay(10)
        assert await both == [6, None]


async def test_it_times_out_durably() -> None:
    async with Stage(Till) as stage:
        till = Till.at("1")
        assert await till.patient(3600) == "in vain"
        waiting = asyncio.ensure_future(till.patient(3600))
        await stage.settle()
        await till.pay(1)
        assert await waiting == "paid"
        assert stage.host.at("Till", "1").machine.watches is None


async def test_it_gives_what_the_predicate_gave() -> None:
    async with Stage(Till) as stage:
        till = Till.at("1")
        waiting = asyncio.ensure_future(till.what_it_gave())
        await stage.settle()
        await till.alone("a")
        assert await waiting == ["a in"] or await till.log()


async def test_what_the_predicate_raises_is_raised_at_the_await() -> None:
    async with Stage(Till) as stage:
        till = Till.at("1")
        for waits, expected in ((till.wrong, ZeroDivisionError), (till.meddles, ReadOnlyError)):
            waiting = asyncio.ensure_future(waits())
            await stage.settle()
            await till.pay(1)
            with pytest.raises(expected):
                await waiting
            await till.pay(-1)


async def test_what_cannot_be_waited_for_is_refused() -> None:
    async with Stage(Till):
        with pytest.raises(TypeError, match="plain function"):
            await Till.at("1").is_async()
        with pytest.raises(ReadOnlyError):
            await Till.at("1").looks()
    with pytest.raises(RuntimeError, match="inside"):
        await wait_until(lambda: True)
