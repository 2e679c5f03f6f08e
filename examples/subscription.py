"""A subscription that is billed on the first of each month, for years.

    perdure dev examples/subscription.py

    curl -d '{"cents": 900}' http://127.0.0.1:7373/Subscription/ada/start
    curl http://127.0.0.1:7373/Subscription/ada/bills
    curl -X POST http://127.0.0.1:7373/Subscription/ada/cancel

The whole of it is a loop. Between two months it sleeps on disk and costs nothing; a server that is
down on the first sends the bill when it is back. A customer whose card fails is asked again for two
weeks, and then no more.
"""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from perdure import Object, Retry, query, sleep_until, step, step_id


@step(retry=Retry(attempts=15, initial=86_400, factor=1, max_delay=86_400, jitter=0))
async def bill(customer: str, month: str, cents: int) -> str:
    """Take the money of one month; gives the number of the receipt. Once a day until it works."""
    return f"{month}-{step_id()}"  # your payment service here, with step_id() as idempotency key


@dataclass(frozen=True)
class Bill:
    """What was paid for a month."""

    month: str
    cents: int
    receipt: str
    paid: datetime


class Subscription(Object):
    """A customer's subscription."""

    state: str = "none"
    _loop: asyncio.Task[None] | None = None

    def __init__(self) -> None:
        self._bills: list[Bill] = []

    async def start(self, cents: int) -> None:
        """Begin with the first of the next month."""
        if self._loop is None:
            self.state = "active"
            self._loop = asyncio.create_task(self._bill_monthly(cents))

    async def cancel(self) -> None:
        """No more bills from now on."""
        if self._loop is not None:
            self._loop.cancel()
            self._loop, self.state = None, "cancelled"

    async def _bill_monthly(self, cents: int) -> None:
        while True:
            first = _next_first(datetime.now(UTC))
            await sleep_until(first)
            month = f"{first:%Y-%m}"
            try:
                receipt = await bill(self.key, month, cents)
            except Exception as error:
                self._loop, self.state = None, f"ended: {month} was not paid ({error})"
                return
            self._bills.append(Bill(month, cents, receipt, datetime.now(UTC)))

    @query
    async def bills(self) -> list[Bill]:
        return self._bills

    @query
    async def status(self) -> str:
        return self.state


def _next_first(now: datetime) -> datetime:
    later = now.replace(day=28, hour=0, minute=0, second=0, microsecond=0) + timedelta(days=4)
    return later.replace(day=1)
