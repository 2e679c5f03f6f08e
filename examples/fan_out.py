"""A report over a hundred weather stations: ask all of them at once, and put the answers together.

    perdure dev examples/fan_out.py

    curl -d '{"stations": 100}' http://127.0.0.1:7373/Report/today/run
    curl http://127.0.0.1:7373/Report/today/progress

Each station is an object of its own. A crash in the middle asks none of them twice; if one cannot
answer, `asyncio.TaskGroup` calls the others off, here as everywhere.
"""

import asyncio
from dataclasses import dataclass

from perdure import Object, Retry, query, step


@step(retry=Retry(attempts=5, initial=0.1))
async def measure(station: str) -> float:
    """The temperature there."""
    return 20.0 + len(station) % 7  # the station's own interface here


class Station(Object):
    """One weather station."""

    readings: int = 0

    async def read(self) -> float:
        self.readings += 1
        return await measure(self.key)

    @query
    async def count(self) -> int:
        return self.readings


@dataclass(frozen=True)
class Summary:
    """What came of it."""

    stations: int
    lowest: float
    mean: float
    highest: float


class Report(Object):
    """A summary over all stations."""

    done: int = 0

    async def run(self, stations: int = 100) -> Summary:
        self.done = 0
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._read(f"station-{number}")) for number in range(stations)
            ]
        found = [task.result() for task in tasks]
        return Summary(len(found), min(found), sum(found) / len(found), max(found))

    async def _read(self, name: str) -> float:
        value = await Station.at(name).read()
        self.done += 1
        return value

    @query
    async def progress(self) -> int:
        """How many have answered so far."""
        return self.done
