"""Read by mypy and pyright alone: a step keeps the signature of its function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_type

from perdure import Fatal, Object, Retry, Transient, atomic, step, step_id, transient


@dataclass(frozen=True)
class Payment:
    id: str


@step(retry=Retry(attempts=5, initial=0.5, factor=2.0, max_delay=60), timeout=30)
async def charge(card: str, cents: int) -> Payment:
    if not card:
        raise Fatal("no card")
    assert_type(step_id(), str)
    return Payment(step_id())


@step
def convert(path: str) -> bytes:
    return path.encode()


class Order(Object):
    paid: Payment | None = None
    seen: Transient[dict[str, int]] = transient(dict[str, int])

    async def pay(self, card: str) -> Payment:
        payment = await charge(card, 100)
        assert_type(payment, Payment)
        self.paid = payment
        assert_type(self.seen, dict[str, int])
        return payment

    @atomic
    async def change(self, card: str) -> bytes:
        assert_type(await convert(card), bytes)
        await charge(card)  # type: ignore[call-arg]
        await charge(card, "100")  # type: ignore[arg-type]
        return await convert(card)


async def refs(order: Order) -> None:
    assert_type(await order.pay("4242"), Payment)
    assert_type(await order.change("4242"), bytes)
    await order.pay(4242)  # type: ignore[arg-type]
