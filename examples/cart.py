"""A shopping cart that empties itself when it was left standing.

    perdure dev examples/cart.py

    curl -d '{"sku": "tea", "price": "4.20", "quantity": 2}' http://127.0.0.1:7373/Cart/ada/add
    curl -d '{"sku": "mug", "price": "11.50"}' http://127.0.0.1:7373/Cart/ada/add
    curl http://127.0.0.1:7373/Cart/ada/total                             # "19.90"
    curl http://127.0.0.1:7373/Cart/ada/show
    curl -X POST http://127.0.0.1:7373/Cart/ada/check_out

The waiting for the half hour to pass is one line of ordinary asyncio. It goes on through crashes,
restarts and the cart's own sleep on disk.
"""

import asyncio
from dataclasses import dataclass, replace
from decimal import Decimal

from perdure import Object, query


@dataclass(frozen=True)
class Line:
    """So many of one thing, at one price each."""

    sku: str
    price: Decimal
    quantity: int = 1

    @property
    def total(self) -> Decimal:
        return self.price * self.quantity


@dataclass(frozen=True)
class Receipt:
    """What was bought."""

    lines: list[Line]
    total: Decimal


class Cart(Object):
    """What somebody is about to buy."""

    lines: dict[str, Line] = {}
    patience: float = 1800.0
    _expiry: asyncio.Task[None] | None = None

    async def add(self, sku: str, price: Decimal, quantity: int = 1) -> Decimal:
        """Put something in; gives the new total."""
        known = self.lines.get(sku)
        before = known.quantity if known else 0
        self.lines[sku] = Line(sku, price, before + quantity)
        self._start_over()
        return _total(self.lines)

    async def change(self, sku: str, quantity: int) -> Decimal:
        """Set how many there are of it; 0 takes it out. Gives the new total."""
        if quantity > 0:
            self.lines[sku] = replace(self.lines[sku], quantity=quantity)
        else:
            del self.lines[sku]
        self._start_over()
        return _total(self.lines)

    async def keep_for(self, seconds: float) -> None:
        """Set how long the cart may be left standing."""
        self.patience = seconds
        self._start_over()

    async def check_out(self) -> Receipt:
        """Take everything out and pay for it."""
        if not self.lines:
            raise ValueError("the cart is empty")
        receipt = Receipt(list(self.lines.values()), _total(self.lines))
        self.lines.clear()
        self._stop_waiting()
        return receipt

    @query
    async def total(self) -> Decimal:
        return _total(self.lines)

    @query
    async def show(self) -> list[Line]:
        return list(self.lines.values())

    def _start_over(self) -> None:
        self._stop_waiting()
        self._expiry = asyncio.create_task(self._expire())

    def _stop_waiting(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    async def _expire(self) -> None:
        await asyncio.sleep(self.patience)
        self.lines.clear()
        self._expiry = None


def _total(lines: dict[str, Line]) -> Decimal:
    return sum((line.total for line in lines.values()), Decimal(0))
