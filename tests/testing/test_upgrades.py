"""The upgrade matrix: each kind of object, each kind of change, killed at each point of the deploy.

Versions of a class stand side by side here; the World's `deploy` goes from one to the other. In
files, as a user has them, the same is in tests/host/test_versions.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

import perdure
from perdure import Object, query
from perdure.suspend import probe
from perdure.testing import World

pytestmark = pytest.mark.skipif(
    bool(probe.unfit()), reason=f"suspended code cannot be kept here: {probe.unfit()}"
)


class One(Object, name="Order"):
    """Before."""

    count: int = 0
    log: list[str] = []
    gone: str = "old"

    async def add(self) -> int:
        self.count += 1
        return self.count

    async def changed(self) -> None:
        self.log.append("begun by one")
        await asyncio.sleep(60)
        self.log.append("ended by one")

    async def unchanged(self) -> None:
        await asyncio.sleep(60)
        self.log.append(self._who())

    def _who(self) -> str:
        return "one"

    @query
    async def read(self) -> list[Any]:
        return [self.count, *self.log]


class Two(Object, name="Order"):
    """After: a field more, a field less, and an upgrade that tells of itself."""

    count: int = 0
    log: list[str] = []
    fresh: list[str] = []

    async def on_upgrade(self, old_version: str) -> None:
        self.count += 100
        self.fresh.append(self.gone)
        await perdure.send(Ledger.at("upgrades").note, self.key)

    async def add(self) -> int:
        self.count += 1
        return self.count

    async def changed(self) -> None:
        await asyncio.sleep(60)
        self.log.append("ended by two")

    async def unchanged(self) -> None:
        await asyncio.sleep(60)
        self.log.append(self._who())

    def _who(self) -> str:
        return "two"

    @query
    async def read(self) -> list[Any]:
        return [self.count, *self.log, *self.fresh]


class Later:
    """Out of the sight of the World, which serves the classes of a test module at its start."""

    class Renamed(Two, name="Purchase", aliases=["Order"]):
        """After, under another name."""


class Ledger(Object):
    notes: list[str] = []

    async def note(self, text: str) -> None:
        self.notes.append(text)

    @query
    async def read(self) -> list[str]:
        return sorted(self.notes)


Scenario = Callable[[World], Awaitable[Any]]


async def quiescent(world: World) -> Any:
    await world.deploy(perdure.App([One, Ledger]))
    order = world.at(One, "a")
    await order.add()
    await world.deploy(Two, Ledger)
    await world.at(Two, "a").add()
    await world.deploy(One, Ledger)
    await world.at(One, "a").add()
    await world.deploy(Two, Ledger)
    await world.at(Two, "a").add()
    await world.settle()
    return await world.at(Two, "a").read(), await world.at(Ledger, "upgrades").read()


async def suspended_in_changed_code(world: World) -> Any:
    await world.deploy(perdure.App([One, Ledger]))
    await world.at(One, "a").add()
    await perdure.send(world.at(One, "a").changed)
    await world.settle()
    await world.deploy(Two, Ledger)
    await world.at(Two, "a").add()
    await world.advance(timedelta(seconds=61))
    return await world.at(Two, "a").read()


async def suspended_in_unchanged_code(world: World) -> Any:
    await world.deploy(perdure.App([One, Ledger]))
    await world.at(One, "a").add()
    await perdure.send(world.at(One, "a").unchanged)
    await world.settle()
    await world.deploy(Two, Ledger)
    await world.advance(timedelta(seconds=61))
    return await world.at(Two, "a").read()


async def renamed(world: World) -> Any:
    await world.deploy(perdure.App([One, Ledger]))
    await world.at(One, "a").add()
    await perdure.send(world.at(One, "a").unchanged)
    await world.settle()
    await world.deploy(perdure.App([Later.Renamed, Ledger]))
    await world.at(Later.Renamed, "a").add()
    await world.advance(timedelta(seconds=61))
    return await world.at(Later.Renamed, "a").read(), await world.at(Ledger, "upgrades").read()


async def deleted(world: World) -> Any:
    await world.deploy(perdure.App([One, Ledger]))
    await world.at(One, "a").add()
    await perdure.send(world.at(One, "a").unchanged)
    await world.settle()
    await world.deploy(perdure.App([Ledger]))
    await world.at(Ledger, "upgrades").note("without")
    await world.advance(timedelta(seconds=61))
    await world.deploy(perdure.App([One, Ledger]))
    await world.advance(timedelta(seconds=1))
    return await world.at(One, "a").read(), await world.at(Ledger, "upgrades").read()


EXPECTED: dict[Scenario, Any] = {
    quiescent: ([204, "old", "old"], ["a", "a"]),
    suspended_in_changed_code: [102, "begun by one", "ended by one", "old"],
    suspended_in_unchanged_code: [101, "two", "old"],
    renamed: ([102, "two", "old"], ["a"]),
    deleted: ([1, "one"], ["without"]),
}


@pytest.mark.parametrize("scenario", EXPECTED, ids=lambda scenario: scenario.__name__)
async def test_a_deploy(world: World, scenario: Scenario) -> None:
    assert await scenario(world) == EXPECTED[scenario]


@pytest.mark.slow
@pytest.mark.parametrize("scenario", EXPECTED, ids=lambda scenario: scenario.__name__)
async def test_a_deploy_that_is_killed_at_each_operation(world: World, scenario: Scenario) -> None:
    sweep = await world.crash_everywhere(scenario)
    assert sweep.result == EXPECTED[scenario]
    assert {"claim", "put_version", "checkpoint"} <= set(sweep.operations)
