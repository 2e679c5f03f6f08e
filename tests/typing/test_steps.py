"""Read by mypy and pyright alone: a step keeps the signature of its function."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, assert_type

from perdure import (
    Fatal,
    Limit,
    Object,
    Retry,
    Transient,
    atomic,
    heartbeat,
    http,
    step,
    step_id,
    step_items,
    transient,
)


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


def kind_of(prompt: str) -> str:
    return prompt[:1]


@step(limit=Limit(concurrency=5, per_second=10.0, key=kind_of), repeat=False)
async def tokens(prompt: str) -> AsyncIterator[str]:
    assert_type(step_items(), list[Any])
    heartbeat({"at": 1})
    yield prompt


@step(timeout=timedelta(seconds=3), heartbeat_timeout=3)
def lines(path: str) -> Iterator[bytes]:
    yield path.encode()


class Order(Object):
    paid: Payment | None = None
    seen: Transient[dict[str, int]] = transient(dict[str, int])

    async def pay(self, card: str) -> Payment:
        payment = await charge(card, 100)
        assert_type(payment, Payment)
        self.paid = payment
        assert_type(self.seen, dict[str, int])
        return payment

    async def read(self) -> str:
        text = ""
        async for token in tokens("hello"):
            assert_type(token, str)
            text += token
        async for line in lines("a"):
            assert_type(line, bytes)
        response = await http.post("https://shop.example/", json={"a": 1}, retry=Retry())
        assert_type(response.raise_for_status().text, str)
        async for event in http.events("GET", "https://shop.example/"):
            assert_type(event.data, str)
        async for chunk in http.stream("GET", "https://shop.example/"):
            assert_type(chunk, bytes)
        tokens(3)  # type: ignore[arg-type]
        return text

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
