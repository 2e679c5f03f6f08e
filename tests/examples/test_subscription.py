"""Years of bills: each month once, on its day, wherever it crashes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from examples.subscription import Subscription, bill
from perdure.testing import World
from tests.examples.ledger import Ledger

YEAR = timedelta(days=365)


async def test_five_years_of_months(world: World) -> None:
    ledger = Ledger()
    await world.replace(bill, ledger.noting("bill"))
    ada = world.at(Subscription, "ada")
    await ada.start(900)
    for _ in range(5):
        await world.advance(YEAR)
        await world.hibernate()
    bills = await ada.bills()
    assert len(bills) == 60 == ledger.count("bill")
    assert [one.month for one in bills[:3]] == ["2023-12", "2024-01", "2024-02"]
    assert all(one.paid.day == 1 and one.paid.hour == 0 for one in bills)
    await ada.cancel()
    await world.advance(YEAR)
    assert ledger.count("bill") == 60
    assert await ada.status() == "cancelled"


async def test_a_server_that_was_down_on_the_first_bills_when_it_is_back(world: World) -> None:
    ada = world.at(Subscription, "ada")
    await ada.start(900)
    await world.crash(down=timedelta(days=25))
    await world.advance(timedelta(days=60))
    bills = await ada.bills()
    assert [one.month for one in bills] == ["2023-12", "2024-01", "2024-02"]
    assert bills[0].paid == datetime(2023, 12, 9, 22, 13, 20, tzinfo=UTC)


async def test_a_card_that_fails_is_tried_for_two_weeks(world: World) -> None:
    ada = world.at(Subscription, "ada")
    await ada.start(900)
    await world.fail(bill, 14)
    await world.advance(timedelta(days=31))
    assert [one.paid.day for one in await ada.bills()] == [15]
    await world.fail(bill, 15)
    await world.advance(timedelta(days=31))
    assert (await ada.status()).startswith("ended: 2024-01 was not paid")
    await world.advance(YEAR)
    assert len(await ada.bills()) == 1


async def scenario(world: World) -> Any:
    ledger = Ledger()
    await world.replace(bill, ledger.noting("bill"))
    ada = world.at(Subscription, "ada")
    await ada.start(900)
    await world.advance(timedelta(days=100))
    await world.hibernate()
    await world.advance(timedelta(days=100))
    await ada.cancel()
    await world.advance(YEAR)
    return await ada.bills(), ledger.done()


async def test_a_crash_anywhere_changes_nothing(world: World) -> None:
    sweep = await world.crash_everywhere(scenario)
    bills, done = sweep.result
    assert len(bills) == len(done) == 7
