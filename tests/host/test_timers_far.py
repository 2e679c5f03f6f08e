"""Times that no clock reaches: they wait, and the journal and the store can say when."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta

import pytest

import perdure
from perdure import Object
from perdure.testing import World, run


class Far(Object):
    async def nap(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def nap_until(self, year: int) -> None:
        await perdure.sleep_until(datetime(year, 1, 1, tzinfo=UTC))

    async def wait_at_most(self, seconds: float) -> None:
        async with asyncio.timeout(seconds):
            await asyncio.Event().wait()

    async def wait_for_promise(self, seconds: float) -> None:
        await perdure.Promise(timeout=seconds)

    async def ask_by(self, seconds: float) -> None:
        async with perdure.deadline(seconds):
            await Far.at("other").nap(seconds)

    async def plan(self, when: timedelta | datetime) -> None:
        self.schedule(when, self.nap, 1.0)

    async def plan_again_and_again(self, days: int) -> None:
        self.schedule(perdure.every(timedelta(days=days)), self.nap, 1.0)


@pytest.mark.parametrize(
    ("handler", "argument"),
    [
        *[("nap", seconds) for seconds in (1e10, 1e300, math.inf)],
        *[("nap_until", year) for year in (2300, 9999)],
        *[("wait_at_most", seconds) for seconds in (1e12, math.inf)],
        *[("wait_for_promise", seconds) for seconds in (1e12, math.inf)],
        *[("ask_by", seconds) for seconds in (1e12, math.inf)],
    ],
)
def test_a_wait_that_ends_never_is_stored(handler: str, argument: float) -> None:
    async def scenario() -> None:
        async with World(Far) as world:
            waiting = asyncio.ensure_future(getattr(Far.at("f"), handler)(argument))
            await world.settle()
            await world.checkpoint()
            await world.hibernate()
            await world.crash()
            await world.advance(timedelta(days=365))
            assert not waiting.done()
            (call,) = (await world.show(Far.at("f")))["waits"]
            assert call["handler"] == handler
            waiting.cancel()

    run(scenario())


@pytest.mark.parametrize(
    ("handler", "argument"),
    [
        ("plan", timedelta(days=999_999_999)),
        ("plan", datetime(9999, 12, 31, tzinfo=UTC)),
        ("plan_again_and_again", 999_999_999),
    ],
)
def test_a_schedule_that_is_never_due_is_stored(
    handler: str, argument: timedelta | datetime | int
) -> None:
    async def scenario() -> None:
        async with World(Far) as world:
            await getattr(Far.at("f"), handler)(argument)
            await world.checkpoint()
            await world.hibernate()
            await world.crash()
            await world.advance(timedelta(days=365))
            (planned,) = (await world.show(Far.at("f")))["timers"]
            assert planned["due"] > "2100"

    run(scenario())


def test_a_time_that_is_no_number_is_refused() -> None:
    async def scenario() -> None:
        async with World(Far):
            with pytest.raises(ValueError, match="NaN"):
                await Far.at("f").nap(math.nan)

    run(scenario())
