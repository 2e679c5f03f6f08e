"""The smaller examples with a crash before and after each operation of the store."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from examples.bank import Account, InsufficientFunds
from examples.cart import Cart
from examples.counter import Counter
from examples.rate_limiter import RateLimiter
from perdure.testing import World


async def count(world: World) -> Any:
    counter = world.at(Counter, "lobby")
    counted = [await counter.increment(by) for by in (1, 2, 3)]
    await world.hibernate()
    return counted, await counter.read()


async def shop(world: World) -> Any:
    cart = world.at(Cart, "ada")
    totals = [await cart.add("tea", Decimal("4.20"), 2), await cart.add("mug", Decimal("11.50"))]
    await world.advance(timedelta(minutes=20))
    await world.hibernate()
    totals.append(await cart.change("tea", 1))
    await world.advance(timedelta(minutes=29))
    totals.append(await cart.total())
    await world.advance(timedelta(minutes=1))
    return totals, await cart.show()


async def limit(world: World) -> Any:
    limiter = world.at(RateLimiter, "ada")
    await limiter.configure(2, 5)
    verdicts = [await limiter.take(4), await limiter.take(4)]
    waited = await asyncio.gather(*(limiter.wait_for(2) for _ in range(3)))
    return verdicts, waited


async def bank(world: World) -> Any:
    ada, grace = world.at(Account, "ada"), world.at(Account, "grace")
    await ada.deposit(10_000)
    left = await ada.transfer("grace", 2_500)
    with pytest.raises(InsufficientFunds):
        await ada.transfer("grace", 99_999)
    await world.hibernate()
    return left, await ada.balance(), await grace.balance(), await grace.statement()


@pytest.mark.parametrize("scenario", [count, shop, limit, bank])
async def test_a_crash_anywhere_changes_nothing(scenario: Any, world: World) -> None:
    sweep = await world.crash_everywhere(scenario)
    assert sweep.runs > 20
