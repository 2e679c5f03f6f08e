"""Calls and sends between objects: exactly once, in order for each pair, in cycles; deadlocks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import perdure
from perdure import Object, query
from perdure.errors import DeadlockError, UnknownHandler, UnknownKind
from perdure.ref import Ref
from tests.host.stage import Stage, seeded


class Node_(Object, name="Node"):
    got: list[Any] = []
    kept: list[int] = []

    async def take(self, value: Any) -> int:
        self.got.append(value)
        return len(self.got)

    async def slow(self, value: int) -> int:
        await asyncio.sleep(1)
        self.got.append(value)
        return value * 2

    async def tell_many(self, to: str, n: int) -> None:
        for i in range(n):
            await perdure.send(Node_.at(to).take, (self.key, i))

    async def ask(self, to: str, value: int) -> int:
        answer = await Node_.at(to).slow(value)
        self.kept.append(answer)
        return answer

    async def ask_unknown(self) -> str:
        try:
            await Ref("Nothing", "x").call()
        except UnknownKind as error:
            return type(error).__name__
        return "no error"

    async def ask_unknown_handler(self) -> str:
        try:
            await Ref("Node", "x").nothing()
        except UnknownHandler as error:
            return type(error).__name__
        return "no error"

    async def mutate_after_sending(self, to: str) -> None:
        value = [1]
        await perdure.send(Node_.at(to).take, value)
        value.append(2)

    async def ping(self, to: str, left: int) -> int:
        if left == 0:
            return 0
        return 1 + await Node_.at(to).ping(self.key, left - 1)

    async def fan(self, n: int) -> list[int]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(Node_.at(f"f{i}").slow(i)) for i in range(n)]
        return [task.result() for task in tasks]

    async def to_itself(self) -> int:
        return await Node_.at(self.key).take("self")

    @query
    async def read(self) -> list[Any]:
        return self.got

    @query
    async def read_kept(self) -> list[int]:
        return self.kept


class Held(Object, reentrant=False):
    log: list[str] = []

    async def call(self, to: str, then: str | None = None) -> int:
        return 1 + await Held.at(to).call_back(then if then is not None else self.key)

    async def call_back(self, to: str) -> int:
        return 1 + await Held.at(to).plain("back")

    async def plain(self, name: str) -> int:
        self.log.append(name)
        return 1

    async def long(self, name: str) -> None:
        self.log.append(f"{name} begins")
        await asyncio.sleep(1)
        self.log.append(f"{name} ends")

    async def cross(self, to: str) -> int:
        await asyncio.sleep(1)
        return await Held.at(to).plain("cross")

    @query
    async def read(self) -> list[str]:
        return self.log


async def test_a_caller_that_crashed_finds_the_reply_waiting() -> None:
    async with Stage(Node_) as stage:
        await perdure.send(Node_.at("a").ask, "b", 21)
        await stage.settle()
        for _ in range(3):
            await stage.restart()
            await asyncio.sleep(0.2)
        await asyncio.sleep(2)
        assert await Node_.at("a").read_kept() == [42]
        assert await Node_.at("b").read() == [21]


async def test_messages_of_a_pair_arrive_once_and_in_order_whatever_crashes() -> None:
    chance = seeded(7)
    async with Stage(Node_) as stage:
        for sender in "xyz":
            await perdure.send(Node_.at(sender).tell_many, "to", 30)
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
            await stage.restart()
        await stage.settle()
        got = await Node_.at("to").read()
        for sender in "xyz":
            assert [i for who, i in got if who == sender] == list(range(30))


async def test_arguments_are_copied() -> None:
    async with Stage(Node_) as stage:
        await Node_.at("a").mutate_after_sending("b")
        await stage.settle()
        assert await Node_.at("b").read() == [[1]]


async def test_a_call_cycle_works() -> None:
    async with Stage(Node_):
        assert await Node_.at("a").ping("b", 9) == 9
        assert await Node_.at("a").to_itself() == 1


async def test_fan_out_and_in() -> None:
    async with Stage(Node_):
        assert await Node_.at("a").fan(20) == [i * 2 for i in range(20)]


async def test_an_unknown_class_or_handler_is_an_error_for_the_caller() -> None:
    async with Stage(Node_) as stage:
        assert await Node_.at("a").ask_unknown() == "UnknownKind"
        assert await Node_.at("a").ask_unknown_handler() == "UnknownHandler"
        await stage.restart()
        assert stage.host.stats().outbox == 0


async def test_a_message_for_a_class_that_is_not_served_waits_for_it() -> None:
    class Sender(Object):
        async def tell(self) -> None:
            await perdure.send(Node_.at("later").take, 1)

    async with Stage(Sender) as stage:
        await Sender.at("s").tell()
        await stage.settle()
        assert stage.host.stats().outbox == 1
        stage.classes = (Sender, Node_)
        await stage.restart()
        await stage.settle()
        assert await Node_.at("later").read() == [1]
        assert stage.host.stats().outbox == 0


async def test_one_handler_at_a_time_in_a_held_object_and_queries_go_on() -> None:
    async with Stage(Held) as stage:
        both = asyncio.gather(Held.at("h").long("one"), Held.at("h").long("two"))
        await asyncio.sleep(0.5)
        assert await Held.at("h").read() == ["one begins"]
        await stage.settle()
        await both
        assert await Held.at("h").read() == ["one begins", "one ends", "two begins", "two ends"]


async def test_the_queue_of_a_held_object_survives() -> None:
    async with Stage(Held) as stage:
        for name in ("one", "two", "three"):
            await perdure.send(Held.at("h").long, name)
        for _ in range(8):
            await stage.restart()
            await asyncio.sleep(0.4)
        await asyncio.sleep(3)
        log = await Held.at("h").read()
        assert log == [
            f"{name} {what}" for name in ("one", "two", "three") for what in ("begins", "ends")
        ]


async def test_a_deadlock_names_the_calls_in_its_circle() -> None:
    async with Stage(Held):
        with pytest.raises(DeadlockError) as caught:
            await Held.at("a").call("b")
        text = str(caught.value)
        assert "Held/a.plain" in text and "Held/b.call_back" in text and "Held/a.call" in text
        # Nothing stays held.
        assert await Held.at("a").plain("after") == 1
        assert await Held.at("b").plain("after") == 1


async def test_a_deadlock_of_two_independent_calls_is_found() -> None:
    async with Stage(Held):
        results = await asyncio.gather(
            Held.at("a").cross("b"), Held.at("b").cross("a"), return_exceptions=True
        )
        assert sorted(type(result).__name__ for result in results) == ["DeadlockError", "int"]


async def test_waiting_for_a_held_object_without_a_circle_is_no_deadlock() -> None:
    async with Stage(Held):
        results = await asyncio.gather(
            Held.at("a").cross("c"), Held.at("b").cross("c"), Held.at("c").long("x")
        )
        assert results == [1, 1, None]
