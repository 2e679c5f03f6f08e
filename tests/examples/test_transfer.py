"""Transfers: money is neither made nor lost, wherever it crashes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

import perdure
from examples.transfer import Account, Transfer
from perdure.testing import World


async def balances() -> tuple[int, int]:
    return await Account.at("ada").balance(), await Account.at("grace").balance()


async def test_a_transfer_happens_once(world: World) -> None:
    await Account.at("ada").deposit(10_000)
    for _ in range(3):
        assert await Transfer.at("rent").run("ada", "grace", 2_500) == "done"
    assert await balances() == (7_500, 2_500)


async def test_what_is_not_there_is_not_taken(world: World) -> None:
    assert await Transfer.at("rent").run("ada", "grace", 1) == "refused"
    assert await Transfer.at("rent").status() == ("refused", "Account/ada is short of 1 cents")
    assert await balances() == (0, 0)
    with pytest.raises(ValueError, match="at least one cent"):
        await Transfer.at("none").run("ada", "grace", 0)


async def test_a_transfer_waits_for_its_day(world: World) -> None:
    await Account.at("ada").deposit(10_000)
    day = world.now + timedelta(days=10)
    await perdure.send(Transfer.at("rent").run, "ada", "grace", 2_500, day)
    await world.advance(timedelta(days=9, hours=23))
    await world.crash(down=timedelta(minutes=30))
    assert await balances() == (10_000, 0)
    await world.advance(timedelta(minutes=30))
    assert await balances() == (7_500, 2_500)


async def scenario(world: World) -> Any:
    await Account.at("ada").deposit(10_000)
    await Account.at("closed").close()
    day = world.now + timedelta(days=1)
    await perdure.send(Transfer.at("late").run, "ada", "grace", 500, day)
    answers = [
        await Transfer.at("one").run("ada", "grace", 2_500),
        await Transfer.at("two").run("ada", "closed", 1_000),
        await Transfer.at("three").run("grace", "ada", 9_999),
    ]
    await world.hibernate()
    assert world.now < day
    await world.advance(timedelta(days=1))
    return answers, await balances(), await Transfer.at("late").status()


async def test_a_crash_anywhere_changes_nothing(world: World) -> None:
    sweep = await world.crash_everywhere(scenario)
    assert sweep.result == (["done", "returned", "refused"], (7_000, 3_000), ("done", ""))
