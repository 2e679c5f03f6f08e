"""Bank accounts that send each other money, to the cent, whatever crashes.

    perdure dev examples/bank.py

    curl -d '{"cents": 10000}' http://127.0.0.1:7373/Account/ada/deposit
    curl -d '{"to": "grace", "cents": 2500}' http://127.0.0.1:7373/Account/ada/transfer
    curl http://127.0.0.1:7373/Account/grace/balance                      # 2500
    curl http://127.0.0.1:7373/Account/ada/statement

    curl -d '{"to": "grace", "cents": 99999}' http://127.0.0.1:7373/Account/ada/transfer

The last one is answered 500 with `"error": "InsufficientFunds"`, and nothing has moved. To send a
request again without paying twice, give it a header: `-H 'Idempotency-Key: rent-may'`.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from perdure import Object, atomic, query


class InsufficientFunds(Exception):
    """The account does not hold that much."""


class AccountClosed(Exception):
    """The account takes and gives no more money."""


@dataclass(frozen=True)
class Booking:
    """One line of a statement; negative cents went out."""

    at: datetime
    cents: int
    text: str


class Account(Object):
    """An account, in cents. It is never overdrawn."""

    cents: int = 0
    open: bool = True

    def __init__(self) -> None:
        self.bookings: list[Booking] = []

    def _book(self, cents: int, text: str) -> int:
        self.cents += cents
        self.bookings.append(Booking(datetime.now(UTC), cents, text))
        if not self.open:
            raise AccountClosed(f"{self.address} is closed")
        if self.cents < 0:
            raise InsufficientFunds(f"{self.address} is short of {-self.cents} cents")
        return self.cents

    # It books first and looks afterwards. That is sound because @atomic undoes all that a handler
    # did when it raises before its first await.
    @atomic
    async def deposit(self, cents: int, text: str = "deposit") -> int:
        """Put money in; gives the new balance."""
        return self._book(_positive(cents), text)

    @atomic
    async def withdraw(self, cents: int, text: str = "withdrawal") -> int:
        """Take money out; gives the new balance. Raises InsufficientFunds."""
        return self._book(-_positive(cents), text)

    @atomic
    async def transfer(self, to: str, cents: int) -> int:
        """Send money to another account; gives the new balance here.

        What leaves here and the message that brings it there are made durable together, and the
        message is delivered exactly once: the money is never in two places, and on its way at most.
        """
        other = Account.at(to)
        self._book(-_positive(cents), f"to {to}")
        try:
            await other.deposit(cents, f"from {self.key}")
        except AccountClosed:
            self._book(cents, f"returned by {to}")
            raise
        return self.cents

    async def close(self) -> int:
        """Close the account; gives what was left on it."""
        left, self.cents, self.open = self.cents, 0, False
        return left

    @query
    async def balance(self) -> int:
        return self.cents

    @query
    async def statement(self) -> list[Booking]:
        return self.bookings


def _positive(cents: int) -> int:
    if cents <= 0:
        raise ValueError("an amount is at least one cent")
    return cents
