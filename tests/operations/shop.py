"""Objects with everything that a copy has to carry: state, timers, messages, waits, promises."""

from __future__ import annotations

from perdure import Object, Promise, query, send, sleep


class Ledger(Object):
    rows: list[int] = []

    async def note(self, amount: int) -> None:
        self.rows.append(amount)

    @query
    def total(self) -> int:
        return sum(self.rows)


class Account(Object):
    balance: int = 100
    said: list[str] = []

    async def pay(self, to: str, amount: int) -> int:
        self.balance -= amount
        await Account.at(to).receive(amount)
        await send(Ledger.at("all").note, amount)
        return self.balance

    async def receive(self, amount: int) -> None:
        self.balance += amount

    async def remind(self, seconds: float) -> None:
        await sleep(seconds)
        self.said.append("reminded")

    async def ask(self) -> bool:
        promise = Promise[bool]()
        self.token = promise.token
        answer = await promise
        self.said.append(f"answered {answer}")
        return answer

    @query
    def state(self) -> tuple[int, list[str]]:
        return self.balance, self.said
