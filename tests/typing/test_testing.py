"""Read by mypy and pyright alone: the testing kit in a user's project."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import assert_type

import perdure
from perdure import App, Object, query, step
from perdure.testing import StepCall, Sweep, World, run


@step
async def charge(cents: int) -> str:
    return str(cents)


async def free(cents: int) -> str:
    return "free"


class Order(Object):
    async def run(self, cents: int) -> str:
        return await charge(cents)

    @query
    async def messages(self) -> list[str]:
        return []


async def use(world: World) -> None:
    order = world.at(Order, "42")
    assert_type(order, Order)
    await perdure.send(order.run, 3)
    await world.advance(timedelta(days=30))
    await world.crash(down=timedelta(hours=1))
    await world.crash_before("commit")
    await world.crash_after(charge, 2)
    await world.hibernate(order)
    await world.hibernate()
    await world.fail(charge, 2, error=TimeoutError)
    await world.replace(charge, free)
    await world.deploy(Order)
    await world.deploy(App([Order]))
    assert_type(world.now, datetime)
    assert_type(world.step_calls(charge), list[StepCall])
    assert_type(await order.messages(), list[str])


async def scenario(world: World) -> list[str]:
    return await world.at(Order, "1").messages()


async def everywhere(world: World) -> None:
    sweep = await world.crash_everywhere(scenario, only={"commit"})
    assert_type(sweep, Sweep[list[str]])
    assert_type(sweep.result, list[str])


async def alone() -> int:
    async with World(Order, seed=3, mailbox_limit=5) as world:
        await use(world)
    return 1


def outside() -> None:
    assert_type(run(alone()), int)
