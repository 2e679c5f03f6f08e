"""A hundred objects asked at once: each once, wherever it crashes."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from examples.fan_out import Report, Station, measure
from perdure.testing import World
from tests.examples.ledger import Ledger

STATIONS = 100


async def test_a_hundred_stations(world: World) -> None:
    summary = await world.at(Report, "today").run(STATIONS)
    assert (summary.stations, summary.lowest, summary.highest) == (100, 22.0, 23.0)
    assert await Report.at("today").progress() == STATIONS


async def test_if_one_fails_the_others_are_called_off(world: World) -> None:
    async def uneven(station: str) -> float:
        if station == "station-7":
            raise ConnectionError("no answer")
        await asyncio.sleep(3600)
        return 1.0

    await world.replace(measure, uneven)
    with pytest.raises(ExceptionGroup, match="unhandled errors in a TaskGroup"):
        await world.at(Report, "today").run(STATIONS)
    await world.settle()
    outcomes = {call.outcome for call in world.step_calls(measure)}
    assert outcomes == {"failed", "cut off"}
    assert len(world.step_calls(measure)) == STATIONS + 4


def readings(ledger: Ledger) -> Any:
    def read(station: str) -> float:
        ledger.note("measure", station)
        return float(station.removeprefix("station-"))

    return read


@pytest.mark.parametrize(
    ("stations", "only"), [(10, ()), (STATIONS, ("commit", "checkpoint"))], ids=["few", "all"]
)
async def test_a_crash_anywhere_changes_nothing(stations: int, only: Any, world: World) -> None:
    async def scenario(world: World) -> Any:
        ledger = Ledger()
        await world.replace(measure, readings(ledger))
        summary = await world.at(Report, "today").run(stations)
        await world.hibernate()
        counts = [await Station.at(f"station-{n}").count() for n in range(stations)]
        return summary, sorted(ledger.done()), counts

    sweep = await world.crash_everywhere(scenario, only=only)
    summary, done, counts = sweep.result
    assert (summary.stations, summary.mean) == (stations, (stations - 1) / 2)
    assert len(done) == stations
    assert counts == [1] * stations
    assert sweep.runs >= 10


async def test_a_crash_in_the_middle_asks_none_twice(world: World) -> None:
    async def slow(station: str) -> float:
        await asyncio.sleep(int(station.removeprefix("station-")) + 1)
        return 1.0

    await world.replace(measure, slow)
    running = asyncio.create_task(world.at(Report, "today").run(STATIONS))
    for _ in range(4):
        await world.crash_after("commit", 20)
        await world.advance(timedelta(seconds=20))
    summary = await running
    assert summary.stations == STATIONS
    done = [call for call in world.step_calls(measure) if call.outcome == "done"]
    assert len({call.id for call in done}) == STATIONS
    assert [await Station.at(f"station-{n}").count() for n in range(STATIONS)] == [1] * STATIONS
    assert world.crashes == 4
