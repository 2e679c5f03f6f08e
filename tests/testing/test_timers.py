"""Ten thousand timers over three months of accidents: none early, none lost, none twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from perdure import Object, query
from perdure.testing import World

OBJECTS, TIMERS = 50, 200
DAYS = 90


class Alarms(Object):
    def __init__(self) -> None:
        self.rung: list[tuple[int, datetime, datetime]] = []

    async def set(self, delays: list[float]) -> None:
        now = datetime.now(UTC)
        for number, delay in enumerate(delays):
            asyncio.get_running_loop().call_later(
                delay, self._ring, number, now + timedelta(seconds=delay)
            )

    def _ring(self, number: int, due: datetime) -> None:
        self.rung.append((number, due, datetime.now(UTC)))

    @query
    async def read(self) -> list[tuple[int, datetime, datetime]]:
        return self.rung


@pytest.mark.slow
async def test_ten_thousand_timers(world: World) -> None:
    chance = world.choice
    objects = [world.at(Alarms, str(n)) for n in range(OBJECTS)]
    for one in objects:
        await one.set([chance.uniform(0, DAYS * 86_400) for _ in range(TIMERS)])
    end = world.now + timedelta(days=DAYS + 1)
    while world.now < end:
        await world.advance(timedelta(hours=chance.uniform(1, 72)))
        accident = chance.randrange(6)
        if accident == 0:
            await world.crash(down=timedelta(hours=chance.uniform(0, 10)))
        elif accident == 1:
            await world.crash_before("commit", chance.randint(1, 20))
        elif accident == 2:
            await world.crash_after("commit", chance.randint(1, 20))
        elif accident == 3:
            await world.hibernate()
        elif accident == 4:
            jump = timedelta(hours=chance.uniform(-5, 5))
            await world.jump(jump)
        else:
            await world.hibernate(chance.choice(objects))
    await world.advance(timedelta(days=2))
    for one in objects:
        rung = await one.read()
        assert Counter(number for number, _, _ in rung) == Counter(range(TIMERS))
        # A microsecond is what a datetime rounds by.
        assert all(at >= due - timedelta(microseconds=1) for _, due, at in rung)
        assert [at for _, _, at in rung] == sorted(at for _, _, at in rung)
    assert world.crashes > 5
