"""Handlers that stream: items leave as they come, once, and are found again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from perdure import HandlerError, Object, ResultTypeError, query, sleep
from perdure.host.following import follow
from perdure.host.incoming import Answer, IncomingCall
from perdure.testing.virtual import run_virtual
from tests.host.stage import Stage


class Teller(Object):
    """Tells a story, word by word."""

    told: int = 0
    ended: str = ""

    async def count(self, to: int, pause: float = 0.0) -> AsyncIterator[int]:
        try:
            for number in range(1, to + 1):
                if pause:
                    await sleep(pause)
                self.told += 1
                yield number
        finally:
            self.ended += "."

    async def lie(self) -> AsyncIterator[int]:
        try:
            yield 1
            yield "two"  # type: ignore[misc]
        finally:
            self.ended += "!"

    async def stumble(self) -> AsyncIterator[int]:
        yield 1
        await sleep(1)
        raise LookupError("no more")

    @query
    async def listed(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number + self.told

    @query
    def state(self) -> tuple[int, str]:
        return self.told, self.ended


class Listener(Object):
    heard: list[int] = []
    raised: str = ""

    async def listen(self, to: int, pause: float = 0.0) -> list[int]:
        try:
            async for number in Teller.at("t").count(to, pause):
                self.heard.append(number)
        except Exception as error:
            self.raised = repr(error)
        return self.heard

    async def listen_to_trouble(self) -> None:
        try:
            async for number in Teller.at("t").stumble():
                self.heard.append(number)
        except LookupError as error:
            self.raised = repr(error)

    @query
    def all(self) -> tuple[list[int], str]:
        return self.heard, self.raised


async def collect(stream: Any) -> list[Any]:
    return [item async for item in stream]


def test_items_come_in_order_and_end() -> None:
    async def main() -> None:
        async with Stage(Teller) as stage:
            assert await collect(Teller.at("t").count(3)) == [1, 2, 3]
            assert await collect(Teller.at("t").count(3, 1.0)) == [1, 2, 3]
            assert await Teller.at("t").state() == (6, "..")
            await stage.restart()
            assert await Teller.at("t").state() == (6, "..")

    run_virtual(main())


def test_an_item_that_does_not_fit_ends_the_stream_and_runs_its_finally() -> None:
    async def main() -> None:
        async with Stage(Teller):
            stream = Teller.at("t").lie()
            assert await anext(aiter(stream)) == 1
            with pytest.raises((ResultTypeError, HandlerError), match="does not fit"):
                await collect(stream)
            assert await Teller.at("t").state() == (0, "!")

    run_virtual(main())


def test_what_a_stream_raises_reaches_its_caller() -> None:
    async def main() -> None:
        async with Stage(Teller):
            got: list[int] = []
            with pytest.raises(LookupError, match="no more"):
                async for item in Teller.at("t").stumble():
                    got.append(item)
            assert got == [1]

    run_virtual(main())


def test_a_query_may_stream_what_is_there() -> None:
    async def main() -> None:
        async with Stage(Teller) as stage:
            assert await collect(Teller.at("t").listed(3)) == [0, 1, 2]
            assert stage.host.stats().entries == 0

    run_virtual(main())


def test_a_stream_between_objects_survives_a_crash_in_its_middle() -> None:
    async def main() -> None:
        async with Stage(Teller, Listener) as stage:
            task = asyncio.create_task(Listener.at("l").listen(5, 10.0))
            await asyncio.sleep(25)
            assert (await Listener.at("l").all())[0] == [1, 2]
            task.cancel()
            await stage.restart()
            await asyncio.sleep(12)
            await stage.restart()
            await asyncio.sleep(60)
            assert await Listener.at("l").all() == ([1, 2, 3, 4, 5], "")
            assert await Teller.at("t").state() == (5, ".")
            await Listener.at("l").listen_to_trouble()
            assert (await Listener.at("l").all())[1] == "LookupError('no more')"

    run_virtual(main())


class Heard:
    """Somebody outside who listens."""

    def __init__(self) -> None:
        self.items: list[tuple[int, bytes]] = []
        self.answer: Answer | None = None

    def item(self, index: int, body: bytes) -> None:
        assert self.answer is None
        self.items.append((index, body))

    def end(self, answer: Answer) -> None:
        self.answer = answer


def call(stage: Stage, heard: Heard, body: bytes, **options: Any) -> IncomingCall:
    kind = stage.host.kinds["Teller"]
    handler = kind.handlers["count"]
    arguments = handler.signature.decode_json(body)
    made = IncomingCall(
        kind, "t", handler, arguments, body, heard.end, on_item=heard.item, **options
    )
    stage.host.call(made)
    return made


@pytest.mark.parametrize("between", ["nothing", "restart", "checkpoint", "hibernate"])
def test_who_comes_back_gets_what_it_missed_and_the_rest(between: str) -> None:
    async def main() -> None:
        async with Stage(Teller, history="all") as stage:
            first = Heard()
            made = call(stage, first, b'{"to": 5, "pause": 10}')
            await asyncio.sleep(35)
            assert first.items == [(1, b"1"), (2, b"2"), (3, b"3")]
            if between == "restart":
                await stage.restart()
            elif between == "checkpoint":
                await stage.host.checkpointer.run()
            elif between == "hibernate":
                await stage.hibernate()
            second = Heard()
            await follow(stage.host, made.id, 1, second.item, second.end)
            assert second.items == [(2, b"2"), (3, b"3")]
            await asyncio.sleep(60)
            assert second.items == [(2, b"2"), (3, b"3"), (4, b"4"), (5, b"5")]
            assert second.answer is not None
            assert second.answer.body == b"null"
            late = Heard()
            await follow(stage.host, made.id, 4, late.item, late.end)
            assert (late.items, late.answer) == ([(5, b"5")], second.answer)

    run_virtual(main())


def test_the_same_key_again_goes_on_where_the_client_wants_it() -> None:
    async def main() -> None:
        async with Stage(Teller) as stage:
            body = b'{"to": 3, "pause": 10}'
            first, second, third = Heard(), Heard(), Heard()
            call(stage, first, body, idempotency_key="k")
            await asyncio.sleep(15)
            call(stage, second, body, idempotency_key="k", after=1)
            await asyncio.sleep(60)
            assert [index for index, _ in first.items] == [1, 2, 3]
            assert [index for index, _ in second.items] == [2, 3]
            call(stage, third, body, idempotency_key="k")
            await asyncio.sleep(1)
            assert [index for index, _ in third.items] == [1, 2, 3]
            assert third.answer is not None
            assert await Teller.at("t").state() == (3, ".")

    run_virtual(main())


def test_what_is_remembered_of_streams_is_forgotten_in_time() -> None:
    async def main() -> None:
        async with Stage(Teller, call_retention=60) as stage:
            made = call(stage, Heard(), b"[2]")
            await asyncio.sleep(3600)
            call(stage, Heard(), b"[2]")
            await asyncio.sleep(1)
            machine = stage.host.at("Teller", "t").machine
            assert len(machine.streamed) == 1
            assert made.id not in machine.streamed

    run_virtual(main())
