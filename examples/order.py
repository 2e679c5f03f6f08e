"""An order that is paid for, packed and sent, or undone: a saga in ordinary Python.

    perdure dev examples/order.py

    curl -d '{"count": 10}' http://127.0.0.1:7373/Stock/tea/supply
    curl -d '{"sku": "tea", "count": 2, "cents": 840}' http://127.0.0.1:7373/Order/42/place
    curl http://127.0.0.1:7373/Order/42/status                            # "sent"
    curl http://127.0.0.1:7373/Stock/tea/count                            # 8

What has been done is put on a stack of what would undo it. If something fails further down, the
stack is unwound, last thing first; whatever crashes on the way, it is unwound to its end. Set
SHOP_URL to have the payments and parcels asked for from a service; without it, all are granted.
"""

import os
from contextlib import AsyncExitStack

from perdure import Fatal, Object, Retry, http, query, step, step_id

SHOP_URL = os.environ.get("SHOP_URL", "")


class Refused(Fatal):
    """The service says no; asking once more would change nothing."""


class OutOfStock(Exception):
    """There is not enough of it."""


# For days, should the service be down for so long: a request that was begun has to come to an end.
PATIENT = Retry(attempts=60, initial=0.5, factor=2, max_delay=7200)


@step(retry=PATIENT, timeout=30)
async def charge(order: str, cents: int) -> str:
    """Take money; gives the number of the payment."""
    return await _ask("charge", order=order, cents=cents)


@step(retry=PATIENT, timeout=30)
async def refund(payment: str) -> str:
    """Give it back."""
    return await _ask("refund", payment=payment)


@step(retry=PATIENT, timeout=30)
async def send_parcel(order: str, sku: str, count: int) -> str:
    """Have it sent; gives the number of the parcel."""
    return await _ask("parcel", order=order, sku=sku, count=count)


async def _ask(what: str, **details: object) -> str:
    if not SHOP_URL:
        return f"{what}-{step_id()}"
    # By its key the service knows a request that it has had before.
    key = {"Idempotency-Key": step_id()}
    answer = await http.post(f"{SHOP_URL}/{what}", json=details, headers=key)
    if answer.is_client_error:
        raise Refused(f"{what} was refused: {answer.text}")
    return str(answer.raise_for_status().json()["id"])


class Stock(Object):
    """How much there is of one thing."""

    left: int = 0

    async def supply(self, count: int) -> int:
        self.left += count
        return self.left

    async def reserve(self, count: int) -> None:
        if count > self.left:
            raise OutOfStock(f"{self.left} of {self.key} are left")
        self.left -= count

    async def release(self, count: int) -> None:
        self.left += count

    @query
    async def count(self) -> int:
        return self.left


class Order(Object):
    """One order; its key is its number."""

    state: str = "new"

    async def place(self, sku: str, count: int, cents: int) -> str:
        """Gives the number of the parcel; raises OutOfStock or Refused, with nothing left over."""
        if self.state != "new":
            raise ValueError(f"{self.address} is {self.state} already")
        try:
            async with AsyncExitStack() as undo:
                self.state = "reserving"
                await Stock.at(sku).reserve(count)
                undo.push_async_callback(Stock.at(sku).release, count)
                self.state = "paying"
                payment = await charge(self.key, cents)
                undo.push_async_callback(refund, payment)
                self.state = "sending"
                parcel = await send_parcel(self.key, sku, count)
                undo.pop_all()
        except (OutOfStock, Refused):
            self.state = "undone"
            raise
        self.state = "sent"
        return parcel

    @query
    async def status(self) -> str:
        return self.state
