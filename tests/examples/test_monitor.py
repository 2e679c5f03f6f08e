"""A loop without end: one alert for each outage, wherever it crashes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx

from examples.monitor import Monitor, tell
from perdure.testing import World
from tests.examples.ledger import Ledger

URL = "http://home.example"


def page(world: World, bad_from: float, bad_until: float) -> Any:
    """A page that is down between two hours."""
    began = world.now

    def answer(request: httpx.Request) -> httpx.Response:
        hour = (world.now - began) / timedelta(hours=1)
        if bad_from <= hour < bad_until:
            raise httpx.ConnectError("refused", request=request)
        return httpx.Response(200, text="here I am")

    return answer


async def test_a_year_of_looks(world: World) -> None:
    ledger = Ledger()
    await world.http(page(world, 1000, 1100))
    await world.replace(tell, ledger.noting("tell"))
    monitor = world.at(Monitor, "home")
    await monitor.watch(URL, 86_400)
    await world.advance(timedelta(days=365))
    report = await monitor.report()
    assert (report.looks, report.outages, report.up) == (366, 1, True)
    assert ledger.done() == [("tell", f"{URL} is down"), ("tell", f"{URL} is back")]


async def test_two_bad_looks_are_no_outage(world: World) -> None:
    monitor = world.at(Monitor, "home")
    await world.http(page(world, 1.5, 3.5))
    await monitor.watch(URL, 3600)
    await world.advance(timedelta(hours=10))
    report = await monitor.report()
    assert (report.looks, report.outages) == (11, 0)
    await monitor.stop()
    await world.advance(timedelta(hours=10))
    assert (await monitor.report()).looks == 11


async def scenario(world: World) -> Any:
    ledger = Ledger()
    await world.http(page(world, 2, 7))
    await world.replace(tell, ledger.noting("tell"))
    monitor = world.at(Monitor, "home")
    await monitor.watch(URL, 3600)
    await world.advance(timedelta(hours=5))
    await world.hibernate()
    await world.advance(timedelta(hours=5))
    await monitor.stop()
    return await monitor.report(), ledger.done()


async def test_a_crash_anywhere_changes_nothing(world: World) -> None:
    sweep = await world.crash_everywhere(scenario)
    assert sweep.result[0].looks == 11
    assert len(sweep.result[1]) == 2
