"""Read by mypy and pyright alone: what is waited for keeps its type."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_type

from perdure import App, Object, Promise, Schedule, cron, every, wait_until


@dataclass
class Approval:
    approved: bool


class Order(Object):
    paid: int = 0
    promise: Promise[Approval] | None = None

    async def run(self) -> Approval:
        promise = Promise[Approval](timeout=timedelta(days=1))
        assert_type(promise, Promise[Approval])
        assert_type(promise.token, str)
        self.promise = promise
        assert_type(await promise, Approval)
        assert_type(await wait_until(lambda: self.paid), int)
        assert_type(await wait_until(lambda: self.promise is not None, timeout=5.0), bool)
        await Promise.resolve(promise.token, Approval(True))
        await Promise.reject(promise.token, "no")
        return await promise

    @every(timedelta(minutes=5), missed="skip")
    async def sweep(self) -> int:
        handle = self.schedule(timedelta(days=1), self.remind, "text", times=2, id="remind")
        assert_type(handle, Schedule)
        assert_type(handle.next, datetime | None)
        self.schedule("0 9 * * *", self.remind, "text", tz="Europe/Lisbon", missed="all")
        self.schedule(every(timedelta(hours=1)), self.remind, "text", window=timedelta(hours=2))
        assert_type(handle.cancel(), bool)
        return 1

    @cron("0 9 * * *", tz="Europe/Lisbon")
    async def remind(self, text: str = "", times: int = 1) -> None: ...


async def decorated_handlers_keep_their_signature() -> None:
    order = Order.at("1")
    assert_type(await order.sweep(), int)
    await order.remind("x")


app = App([Order], objects=[Order.at("main")])
