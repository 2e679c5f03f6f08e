"""Promises: made in an object, awaited by many, resolved once by whoever has the token."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from perdure import (
    BadArguments,
    CallCancelled,
    Conflict,
    Object,
    Promise,
    PromiseRejected,
    UnknownPromise,
    delete,
    query,
    send,
)
from perdure.store.base import PromiseFilter
from tests.host.stage import Stage, eventually


@dataclasses.dataclass
class Approval:
    approved: bool
    by: str = ""


class Order(Object):
    """Waits for promises in all the places where one can be kept."""

    def __init__(self) -> None:
        self.paid: Promise[int] = Promise[int]()
        self.said: list[Any] = []
        self.approval: Promise[Approval] | None = None

    async def ask(self, seconds: float | None = None) -> str:
        timeout = None if seconds is None else timedelta(seconds=seconds)
        self.approval = Promise[Approval](timeout=timeout)
        return self.approval.token

    async def approved(self) -> Approval:
        assert self.approval is not None
        return await self.approval

    async def local(self) -> str:
        promise = Promise[list[int]]()
        self.said.append(promise.token)
        numbers = await promise
        return f"sum {sum(numbers)}"

    async def payment(self) -> int:
        return await self.paid

    async def impatient(self) -> str:
        try:
            async with asyncio.timeout(1):
                return str(await self.paid)
        except TimeoutError:
            return "waited in vain"

    async def hand_to(self, desk: str) -> Approval:
        promise = Promise[Approval]()
        await send(Desk.at(desk).decide, promise, self.key)
        return await promise

    async def give_up(self) -> bool:
        assert self.approval is not None
        return self.approval.cancel()

    async def resolve_own(self) -> int:
        await Promise.resolve(self.paid.token, 7)
        return await self.paid

    async def resolve_wrongly(self, token: str) -> str:
        try:
            await Promise.resolve(token, {"approved": True})
        except (BadArguments, Conflict, UnknownPromise) as error:
            return type(error).__name__
        return "resolved"

    @query
    async def heard(self) -> list[Any]:
        return self.said

    @query
    async def token(self) -> str:
        return self.paid.token


class Desk(Object):
    """Decides for others."""

    async def decide(self, promise: Promise[Approval], who: str) -> None:
        await Promise.resolve(promise.token, Approval(True, f"{self.key} for {who}"))

    async def refuse(self, token: str) -> None:
        await Promise.reject(token, ValueError("not today"))

    async def wait_elsewhere(self, promise: Promise[Approval]) -> bool:
        await promise
        return True


async def test_a_promise_is_awaited_by_many_and_many_times() -> None:
    async with Stage(Order) as stage:
        order = Order.at("1")
        waiting = [asyncio.ensure_future(order.payment()) for _ in range(3)]
        await stage.settle()
        await Promise.resolve(await order.token(), 5)
        assert await asyncio.gather(*waiting) == [5, 5, 5]
        assert await order.payment() == 5


async def test_one_who_gives_up_does_not_take_the_others_along() -> None:
    async with Stage(Order):
        order = Order.at("1")
        patient = asyncio.ensure_future(order.payment())
        assert await order.impatient() == "waited in vain"
        await Promise.resolve(await order.token(), 5)
        assert await patient == 5


async def test_a_second_resolution_changes_nothing() -> None:
    async with Stage(Order) as stage:
        order = Order.at("1")
        await order.ask()
        token = await order.ask()
        await Promise.resolve(token, Approval(True))
        seq = stage.host.at("Order", "1").machine.seq
        with pytest.raises(Conflict):
            await Promise.resolve(token, Approval(False))
        assert (await order.approved()).approved
        assert stage.host.at("Order", "1").machine.seq == seq + 1


async def test_a_value_of_the_wrong_type_is_refused_and_the_promise_stays_open() -> None:
    async with Stage(Order):
        order = Order.at("1")
        token = await order.ask()
        with pytest.raises(BadArguments):
            await Promise.resolve(token, {"approved": "perhaps"})
        assert await Order.at("2").resolve_wrongly(token) == "BadArguments"
        await Promise.resolve(token, Approval(True))


async def test_tokens_that_were_never_given_out_are_unknown() -> None:
    async with Stage(Order):
        token = await Order.at("1").ask()
        for wrong in (
            "",
            "x",
            token[:-1],
            token[:-1] + ("0" if token[-1] != "0" else "1"),
            token.replace("-p", "-p1"),
            f"{0:016x}-p1.{'0' * 32}",
            "ä" * 40,
        ):
            with pytest.raises(UnknownPromise):
                await Promise.resolve(wrong, 1)
            assert await Order.at("2").resolve_wrongly(wrong) == "UnknownPromise"


async def test_a_token_begins_with_its_objects_number() -> None:
    async with Stage(Order) as stage:
        token = await Order.at("1").ask()
        oid = stage.host.at("Order", "1").machine.oid
        assert token.startswith(f"{oid:016x}-")
        assert token != await Order.at("1").ask()


async def test_a_promise_times_out_and_its_token_is_spent() -> None:
    async with Stage(Order):
        order = Order.at("1")
        token = await order.ask(60.0)
        with pytest.raises(TimeoutError):
            await order.approved()
        with pytest.raises(Conflict):
            await Promise.resolve(token, Approval(True))
        with pytest.raises(TimeoutError):
            await order.approved()


async def test_one_that_is_resolved_in_time_does_not_time_out() -> None:
    async with Stage(Order) as stage:
        order = Order.at("1")
        token = await order.ask(60.0)
        await Promise.resolve(token, Approval(True))
        await asyncio.sleep(120)
        assert (await order.approved()).approved
        assert stage.host.at("Order", "1").machine.timers is None


async def test_rejections_reach_whoever_waits() -> None:
    async with Stage(Order, Desk):
        order = Order.at("1")
        token = await order.ask()
        await Promise.reject(token, "too dear")
        with pytest.raises(PromiseRejected, match="too dear"):
            await order.approved()
        token = await order.ask()
        await Desk.at("a").refuse(token)
        with pytest.raises(ValueError, match="not today"):
            await order.approved()


async def test_a_promise_is_withdrawn() -> None:
    async with Stage(Order) as stage:
        order = Order.at("1")
        token = await order.ask()
        waiting = asyncio.ensure_future(order.approved())
        await stage.settle()
        assert await order.give_up()
        assert not await order.give_up()
        with pytest.raises(CallCancelled):
            await waiting
        with pytest.raises(Conflict):
            await Promise.resolve(token, Approval(True))


async def test_another_object_is_handed_one_and_resolves_it() -> None:
    async with Stage(Order, Desk):
        assert await Order.at("1").hand_to("front") == Approval(True, "front for 1")


async def test_elsewhere_a_promise_is_not_awaited() -> None:
    class Mistaken(Object):
        async def ask(self) -> bool:
            return await Desk.at("x").wait_elsewhere(Promise[Approval]())

    async with Stage(Mistaken, Desk):
        with pytest.raises(RuntimeError, match="another object"):
            await Mistaken.at("1").ask()


async def test_an_object_resolves_its_own() -> None:
    async with Stage(Order):
        assert await Order.at("1").resolve_own() == 7


async def test_with_its_object_a_promise_is_gone() -> None:
    async with Stage(Order) as stage:
        order = Order.at("1")
        token = await order.ask()
        await delete(order)
        with pytest.raises(UnknownPromise):
            await Promise.resolve(token, Approval(True))
        other = await order.ask()
        assert other != token
        with pytest.raises(UnknownPromise):
            await Promise.resolve(token, Approval(True))
        await Promise.resolve(other, Approval(True))
        await stage.restart()
        with pytest.raises(UnknownPromise):
            await Promise.resolve(token, Approval(True))


async def test_promises_survive_crashes_and_hibernation() -> None:
    async with Stage(Order) as stage:
        order = Order.at("1")
        waiting = asyncio.ensure_future(order.local())
        await stage.settle()
        (token,) = await order.heard()
        await stage.restart()
        waiting.cancel()
        await stage.hibernate()
        assert stage.host.live_count == 0
        kept = await send(order.local)
        await stage.hibernate()
        second = (await order.heard())[1]
        await Promise.resolve(token, [1, 2])
        await Promise.resolve(second, [3, 4])
        answer = await stage.host.find_call(kept, 1.0)
        assert answer is not None
        assert answer.failure is None
        await stage.hibernate()
        await stage.restart()
        with pytest.raises(Conflict):
            await Promise.resolve(token, [1])


async def test_outside_of_objects_there_are_none() -> None:
    with pytest.raises(RuntimeError, match="inside an object"):
        Promise[int]()
    with pytest.raises(RuntimeError, match="nobody to call"):
        await Promise.resolve("x", 1)


async def test_a_query_makes_none() -> None:
    class Asks(Object):
        @query
        async def ask(self) -> str:
            return Promise[int]().token

    from perdure import ReadOnlyError

    async with Stage(Asks):
        with pytest.raises(ReadOnlyError):
            await Asks.at("1").ask()


# --- the list of open ones


async def listed(stage: Stage, **filters: Any) -> list[tuple[str, str]]:
    rows = await stage.host.open_promises.page(stage.host, PromiseFilter(**filters), None, 100)
    return [(f"{row.kind}/{row.key}", row.type) for row in rows]


async def test_open_promises_are_listed_wherever_their_object_is() -> None:
    async with Stage(Order) as stage:
        token = await Order.at("1").ask()
        await asyncio.sleep(1)
        waiting = asyncio.ensure_future(Order.at("2").payment())
        await stage.settle()
        both = [("Order/1", "int"), ("Order/1", "Approval"), ("Order/2", "int")]
        assert await listed(stage) == both
        await stage.hibernate()
        await stage.host.checkpointer.run()
        assert await listed(stage) == both
        assert await listed(stage, type="Approval") == [("Order/1", "Approval")]
        assert await listed(stage, kind="Order", key="2") == [("Order/2", "int")]
        await Promise.resolve(token, Approval(True))
        assert await listed(stage) == [both[0], both[2]]
        await stage.restart()
        assert await listed(stage) == [both[0], both[2]]
        await stage.host.checkpointer.run()
        assert await listed(stage) == [both[0], both[2]]
        await delete(Order.at("2"))
        assert await listed(stage) == [both[0]]
        await stage.host.checkpointer.run()
        assert await listed(stage) == [both[0]]
        waiting.cancel()


async def test_the_list_comes_in_pages() -> None:
    async with Stage(Order) as stage:
        for number in range(7):
            await Order.at(f"{number}").ask()
            await asyncio.sleep(1)
            if number == 3:
                await stage.host.checkpointer.run()
        found: list[str] = []
        after = None
        page = stage.host.open_promises.page
        while rows := await page(stage.host, PromiseFilter("Order"), after, 3):
            found += [row.token for row in rows]
            after = (rows[-1].since, rows[-1].token)
        assert len(found) == len(set(found)) == 14


async def test_a_resolution_that_was_not_written_did_not_happen() -> None:
    from perdure.store.memory import MemoryStore
    from perdure.testing.faults import FaultyStore

    store = FaultyStore(MemoryStore())
    async with Stage(Order, store=store) as stage:
        token = await Order.at("1").ask()
        store.hold()
        first = asyncio.ensure_future(Promise.resolve(token, Approval(True, "first")))
        await stage.settle()
        assert not first.done()
        store.crash_now()
        await stage.restart()
        await Promise.resolve(token, Approval(True, "second"))
        assert (await Order.at("1").approved()).by == "second"
        first.cancel()
        await eventually(lambda: store.held == 0)
