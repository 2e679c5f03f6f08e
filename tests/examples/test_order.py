"""The saga: each effect once, and all or nothing, wherever it crashes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

import perdure
from examples.order import Order, OutOfStock, Refused, Stock, charge, refund, send_parcel
from perdure.testing import World
from tests.examples.ledger import Ledger


async def shop(world: World, *, refuses: str = "") -> Ledger:
    ledger = Ledger()
    for step in (charge, refund, send_parcel):
        name = step.__name__
        await world.replace(step, refusing(name) if name == refuses else ledger.noting(name))
    await world.at(Stock, "tea").supply(10)
    return ledger


def refusing(name: str) -> Any:
    def refuse(*args: Any) -> str:
        raise Refused(f"{name} was refused")

    return refuse


async def test_an_order_is_sent(world: World) -> None:
    ledger = await shop(world)
    assert await Order.at("42").place("tea", 2, 840) == "send_parcel-2"
    assert ledger.done() == [("charge", "42", 840), ("send_parcel", "42", "tea", 2)]
    assert await Stock.at("tea").count() == 8
    with pytest.raises(ValueError, match="Order/42 is sent already"):
        await Order.at("42").place("tea", 2, 840)


async def test_without_stock_nothing_is_paid(world: World) -> None:
    ledger = await shop(world)
    with pytest.raises(OutOfStock, match="10 of tea are left"):
        await Order.at("42").place("tea", 11, 840)
    assert ledger.done() == []
    assert await Order.at("42").status() == "undone"


async def test_what_cannot_be_sent_is_paid_back(world: World) -> None:
    ledger = await shop(world, refuses="send_parcel")
    with pytest.raises(Refused):
        await Order.at("42").place("tea", 2, 840)
    assert ledger.done() == [("charge", "42", 840), ("refund", "charge-1")]
    assert await Stock.at("tea").count() == 10


async def test_a_service_that_is_down_is_waited_for(world: World) -> None:
    ledger = await shop(world)
    await world.fail(charge, 20)
    await world.fail(send_parcel, 3, after=True)
    await perdure.send(Order.at("42").place, "tea", 2, 840)
    await world.advance(timedelta(hours=3))
    assert await Order.at("42").status() == "paying"
    await world.crash()
    await world.advance(timedelta(days=2))
    assert await Order.at("42").status() == "sent"
    assert sorted(ledger.requests.values()) == [1, 4]


async def placed(world: World) -> Any:
    ledger = await shop(world)
    parcel = await Order.at("42").place("tea", 2, 840)
    await world.hibernate()
    return parcel, ledger.done(), await Stock.at("tea").count(), await Order.at("42").status()


async def undone(world: World) -> Any:
    ledger = await shop(world, refuses="send_parcel")
    with pytest.raises(Refused):
        await Order.at("42").place("tea", 2, 840)
    return ledger.done(), await Stock.at("tea").count(), await Order.at("42").status()


@pytest.mark.parametrize("scenario", [placed, undone])
async def test_a_crash_anywhere_changes_nothing(scenario: Any, world: World) -> None:
    sweep = await world.crash_everywhere(scenario)
    assert sweep.runs >= 30
