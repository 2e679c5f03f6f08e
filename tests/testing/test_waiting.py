"""Promises, schedules and wait_until in a simulated world: months pass in a moment, and a crash at
any operation of the store changes nothing."""

from __future__ import annotations

from datetime import timedelta

from perdure import App, Object, Promise, current, every, query, send, wait_until
from perdure.testing import World, run


class Order(Object):
    """Waits for an approval, with a reminder, and then for the money."""

    def __init__(self) -> None:
        self.approval: Promise[bool] | None = None
        self.paid = 0
        self.told: list[str] = []

    async def run(self) -> str:
        self.approval = Promise[bool](timeout=timedelta(days=10))
        reminder = self.schedule(timedelta(days=3), self._remind, id="remind")
        try:
            if not await self.approval:
                return "refused"
        except TimeoutError:
            return "nobody decided"
        finally:
            reminder.cancel()
        await wait_until(lambda: self.paid >= 100, timeout=timedelta(days=30))
        self.told.append("shipped")
        return "shipped"

    async def _remind(self) -> None:
        self.told.append("please decide")

    async def pay(self, cents: int) -> None:
        self.paid += cents

    async def token(self) -> str:
        assert self.approval is not None
        return self.approval.token

    @query
    async def messages(self) -> list[str]:
        return self.told


class Biller(Object):
    """Bills each month, for years."""

    def __init__(self) -> None:
        self.bills: list[str] = []

    async def start(self) -> None:
        self.schedule("0 9 1 * *", self._bill, id="bill", tz="Europe/Lisbon", missed="all")

    async def _bill(self) -> None:
        due = current().due
        assert due is not None
        self.bills.append(f"{due:%Y-%m}")

    @query
    async def billed(self) -> list[str]:
        return self.bills


class Janitor(Object):
    """Sweeps without being called."""

    swept: int = 0

    @every(timedelta(hours=1))
    async def sweep(self) -> None:
        self.swept += 1

    @query
    async def count(self) -> int:
        return self.swept


async def test_an_order_with_a_reminder_through_crashes_at_every_operation(world: World) -> None:
    async def scenario(world: World) -> list[str]:
        order = world.at(Order, "1")
        await send(order.run)
        await world.advance(timedelta(days=4))
        await Promise.resolve(await order.token(), True)
        await order.pay(60)
        await order.pay(60)
        await world.settle()
        return await order.messages()

    await world.crash_everywhere(scenario)
    assert await scenario(world) == ["please decide", "shipped"]


async def test_three_years_of_bills_with_downtime(world: World) -> None:
    biller = world.at(Biller, "1")
    await biller.start()
    for _ in range(12):
        await world.advance(timedelta(days=91))
        await world.crash()
        await world.hibernate()
    bills = await biller.billed()
    assert len(bills) == len(set(bills))
    assert bills == sorted(bills)
    assert len(bills) in (35, 36)


def test_objects_that_an_app_names_run_by_themselves() -> None:
    async def main() -> int:
        async with World(App([Janitor], objects=[Janitor.at("main")])) as world:
            await world.advance(timedelta(days=2))
            await world.crash()
            await world.advance(timedelta(days=1, minutes=1))
            return await world.at(Janitor, "main").count()

    assert run(main()) == 72
