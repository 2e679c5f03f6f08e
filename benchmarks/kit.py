"""The testing kit: years of virtual time, and a crash at each operation of the store.

A daily round: it wakes, runs a step, and sleeps; the wall-clock time of a year of it. The same with
each object rebuilt before each turn; and the time of one run of a sweep.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import perdure
from benchmarks.child import in_child
from benchmarks.report import Figure, at_most, median, micro
from perdure import Object, step
from perdure.testing import World, run

DAYS = 365


@step
async def work(day: int) -> int:
    return day


class Daily(Object):
    done: int = 0

    async def live(self, days: int) -> int:
        for day in range(days):
            await asyncio.sleep(86_400)
            await work(day)
            self.done += 1
        return self.done


def figures(rounds: int, quick: bool) -> Iterator[Figure]:
    """A year, a year rebuilt, and a sweep."""
    found = [in_child("kit", "measure") for _ in range(rounds)]
    year = median(one["year"] for one in found)
    yield Figure(
        "the testing kit: a year of days, each with a step",
        micro(year * 1e6),
        None,
        [],
        [at_most(year, 1.0, "s")],
        f"each object rebuilt before each turn: {micro(median(o['rebuilt'] for o in found) * 1e6)}",
        {"year": [one["year"] for one in found]},
    )
    sweep = median(one["run"] for one in found)
    yield Figure(
        "the testing kit: one run of crash_everywhere, over ten days",
        micro(sweep * 1e6),
        None,
        [],
        [at_most(sweep * 1000, 50, "ms")],
        f"{found[0]['runs']:.0f} runs in {median(one['sweep'] for one in found):.2f} s",
        {"run": [one["run"] for one in found]},
    )


def measure() -> dict[str, float]:
    """In a process of its own."""
    run(_live(10, replay=False))
    year = _timed(_live(DAYS, replay=False))
    rebuilt = _timed(_live(DAYS, replay=True))
    began = time.perf_counter()
    runs = run(_sweep())
    sweep = time.perf_counter() - began
    return {"year": year, "rebuilt": rebuilt, "sweep": sweep, "runs": runs, "run": sweep / runs}


def _timed(main: Any) -> float:
    began = time.perf_counter()
    run(main)
    return time.perf_counter() - began


async def _live(days: int, *, replay: bool) -> None:
    async with World(Daily, replay=replay) as world:
        await perdure.send(world.at(Daily, "a").live, days)
        await world.advance(timedelta(days=days))


async def _sweep() -> int:
    async def scenario(world: World) -> int:
        return await world.at(Daily, "a").live(10)

    async with World(Daily) as world:
        return (await world.crash_everywhere(scenario)).runs
