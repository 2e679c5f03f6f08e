"""A transfer of money, today or on a day to come: an object for the transfer itself.

    perdure dev examples/transfer.py

    curl -d '{"cents": 10000}' http://127.0.0.1:7373/Account/ada/deposit
    perdure call Transfer/rent-may run source=ada target=grace cents=2500       # "done"
    perdure call Transfer/rent-may run source=ada target=grace cents=2500       # "done", once more
    curl http://127.0.0.1:7373/Account/grace/balance                            # 2500

The key of a transfer makes it happen once, however often it is asked for. Between taking and giving
the money is on its way: the transfer knows, and whatever crashes, gives it or brings it back.
"""

from datetime import datetime

from perdure import Object, atomic, query, sleep_until


class NotPossible(Exception):
    """The account does not take part in this."""


class Account(Object):
    """An account, in cents."""

    cents: int = 0
    closed: bool = False

    @atomic
    async def deposit(self, cents: int) -> int:
        if self.closed:
            raise NotPossible(f"{self.address} is closed")
        self.cents += cents
        return self.cents

    @atomic
    async def withdraw(self, cents: int) -> int:
        self.cents -= cents
        if self.cents < 0:
            raise NotPossible(f"{self.address} is short of {-self.cents} cents")
        return self.cents

    async def close(self) -> None:
        self.closed = True

    @query
    async def balance(self) -> int:
        return self.cents


class Transfer(Object, reentrant=False):
    """One transfer; its key is its number."""

    state: str = "new"
    why: str = ""

    async def run(self, source: str, target: str, cents: int, on: datetime | None = None) -> str:
        """Move the money; gives `done` or `returned`, or `refused` with nothing taken."""
        if self.state != "new":
            return self.state
        if cents <= 0:
            raise ValueError("an amount is at least one cent")
        if on is not None:
            self.state = "scheduled"
            await sleep_until(on)
        try:
            await Account.at(source).withdraw(cents)
        except NotPossible as error:
            self.state, self.why = "refused", str(error)
            return self.state
        self.state = "on its way"
        try:
            await Account.at(target).deposit(cents)
            self.state = "done"
        except NotPossible as error:
            await Account.at(source).deposit(cents)
            self.state, self.why = "returned", str(error)
        return self.state

    @query
    async def status(self) -> tuple[str, str]:
        """What became of it, and why."""
        return self.state, self.why
