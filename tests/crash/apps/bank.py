"""Accounts that send each other money, and write down every transfer on both sides."""

from __future__ import annotations

from perdure import Object, query


class Account(Object):
    """An account, in cents. What stands in the ledger twice shows as twice the cents."""

    balance: int = 0
    opened_with: int = 0

    def __init__(self) -> None:
        self.ledger: dict[str, int] = {}

    async def open(self, cents: int) -> None:
        """Once."""
        assert not self.opened_with
        self.balance = self.opened_with = cents

    async def transfer(self, id: str, to: str, cents: int) -> bool:
        """Send money; False if there is not so much."""
        if cents > self.balance:
            return False
        self._book(id, -cents)
        await Account.at(to).deposit(id, cents)
        return True

    async def deposit(self, id: str, cents: int) -> None:
        self._book(id, cents)

    def _book(self, id: str, cents: int) -> None:
        self.balance += cents
        self.ledger[id] = self.ledger.get(id, 0) + cents

    @query
    async def statement(self) -> tuple[int, int, dict[str, int]]:
        return self.balance, self.opened_with, self.ledger
