"""Steps that stream: each item once, in order, also when everything around them dies."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from perdure import (
    Fatal,
    Object,
    OutcomeUnknown,
    Retry,
    query,
    send,
    step,
    step_id,
    step_items,
)
from perdure.errors import StoreFull
from perdure.host.effects import ITEMS_AHEAD
from perdure.sight import look
from perdure.store.memory import MemoryStore
from perdure.testing.faults import FaultyStore
from tests.host.stage import Stage, eventually

log: list[Any] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    log.clear()


@step
async def tokens(count: int, pause: float = 1.0) -> AsyncIterator[str]:
    """As a model would: it goes on behind what was given already."""
    given = step_items()
    log.append((step_id(), len(given)))
    try:
        for n in range(len(given), count):
            await asyncio.sleep(pause)
            yield f"t{n}"
    finally:
        log.append("closed")


@step
def lines(count: int) -> Iterator[int]:
    thread = threading.get_ident()
    try:
        for n in range(len(step_items()), count):
            assert threading.get_ident() == thread
            yield n
    finally:
        log.append(("closed", threading.get_ident() == thread))


@step
async def endless(size: int = 1) -> AsyncIterator[bytes]:
    n = 0
    try:
        while True:
            log.append(n)
            n += 1
            yield bytes(size)
            await asyncio.sleep(0)
    finally:
        log.append("closed")


@step(retry=Retry(attempts=3, initial=5.0, jitter=0.0))
async def stumbles(count: int) -> AsyncIterator[int]:
    for n in range(len(step_items()), count):
        yield n
        if n % 2:
            raise ConnectionError(f"lost at {n}")


@step
async def breaks(error: str) -> AsyncIterator[int]:
    yield 1
    raise {"fatal": Fatal, "key": KeyError}[error](error)


@step(repeat=False)
async def once(count: int) -> AsyncIterator[int]:
    for n in range(count):
        yield n
        await asyncio.sleep(1)


@step(timeout=5)
async def too_slow() -> AsyncIterator[int]:
    for n in range(100):
        yield n
        await asyncio.sleep(1)


@step(total_timeout=5)
async def slow_in_all() -> AsyncIterator[int]:
    for n in range(100):
        yield n
        await asyncio.sleep(1)


@step(heartbeat_timeout=3)
async def with_heartbeat() -> AsyncIterator[int]:
    for n in range(3):
        yield n
        await asyncio.sleep(2)
    await asyncio.sleep(10)


@step
async def odd_items() -> AsyncIterator[Any]:
    yield threading.Lock()


STEPS: dict[str, Any] = {
    "tokens": tokens,
    "lines": lines,
    "stumbles": stumbles,
    "breaks": breaks,
    "once": once,
    "too_slow": too_slow,
    "slow_in_all": slow_in_all,
    "heartbeat": with_heartbeat,
    "odd": odd_items,
}


class Reader(Object):
    got: list[Any] = []
    end: str = ""

    async def read_all(self, name: str, *args: Any) -> str:
        try:
            async for item in STEPS[name](*args):
                self.got.append(item)
            self.end = "end"
        except (Exception, asyncio.CancelledError) as error:
            self.end = f"{type(error).__name__}: {error}"
        return self.end

    async def read_some(self, count: int) -> list[Any]:
        async for item in tokens(1000):
            self.got.append(item)
            if len(self.got) == count:
                break
        return self.got

    async def read_slowly(self, size: int, pause: float) -> None:
        async for _ in endless(size):
            await asyncio.sleep(pause)
            self.got.append(1)

    async def give_up(self) -> str:
        try:
            async with asyncio.timeout(3.5):
                async for item in tokens(1000):
                    self.got.append(item)
        except TimeoutError:
            return "gave up"
        return "read all"

    async def by_hand(self) -> list[Any]:
        stream = tokens(10, 0.0)
        first = await anext(stream)
        second = await stream.__anext__()
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        return [first, second]

    @query
    def shown(self) -> tuple[list[Any], str]:
        return self.got, self.end


async def test_items_come_as_they_are_given() -> None:
    async with Stage(Reader) as stage:
        call = asyncio.create_task(Reader.at("1").read_all("tokens", 5))
        await asyncio.sleep(2.5)
        assert await Reader.at("1").shown() == (["t0", "t1"], "")
        [told] = (await look.show(stage.host, "Reader/1"))["steps"]
        assert (told["items"], told["status"]) == (2, "running")
        assert await call == "end"
        assert await Reader.at("1").shown() == ([f"t{n}" for n in range(5)], "end")
        assert stage.host.effects.running == 0


async def test_after_a_crash_it_goes_on_behind_what_is_recorded() -> None:
    async with Stage(Reader) as stage:
        await send(Reader.at("1").read_all, "tokens", 10)
        for _ in range(4):
            await asyncio.sleep(2.5)
            await stage.restart()
        await asyncio.sleep(20)
        assert await Reader.at("1").shown() == ([f"t{n}" for n in range(10)], "end")
        begun = [entry for entry in log if entry != "closed"]
        assert len({id_ for id_, _ in begun}) == 1
        assert [given for _, given in begun] == sorted({given for _, given in begun})


@pytest.mark.parametrize("count", [0, 1, 500])
async def test_a_plain_generator_streams_from_one_thread(count: int) -> None:
    async with Stage(Reader):
        assert await Reader.at("1").read_all("lines", count) == "end"
        assert (await Reader.at("1").shown())[0] == list(range(count))
        assert log == [("closed", True)]


async def test_break_closes_the_generator_outside() -> None:
    async with Stage(Reader) as stage:
        assert await Reader.at("1").read_some(3) == ["t0", "t1", "t2"]
        await eventually(lambda: log[-1] == "closed")
        assert (await look.show(stage.host, "Reader/1"))["steps"] == []
        assert stage.host.effects.running == 0


async def test_cancelling_closes_the_generator_outside() -> None:
    async with Stage(Reader) as stage:
        assert await Reader.at("1").give_up() == "gave up"
        await eventually(lambda: log[-1] == "closed")
        assert stage.host.effects.running == 0
        await stage.restart()
        assert (await Reader.at("1").shown())[0] == ["t0", "t1", "t2"]


async def test_deleting_the_object_closes_the_generator_outside() -> None:
    async with Stage(Reader) as stage:
        await send(Reader.at("1").read_all, "tokens", 1000)
        await asyncio.sleep(3)
        await stage.host.delete("Reader/1")
        await eventually(lambda: log[-1] == "closed")
        assert stage.host.effects.running == 0


async def test_it_is_an_async_iterator_to_use_by_hand() -> None:
    async with Stage(Reader):
        assert await Reader.at("1").by_hand() == ["t0", "t1"]


@pytest.mark.parametrize("size", [1, 200_000])
async def test_a_slow_reader_holds_the_generator_back(size: int) -> None:
    async with Stage(Reader) as stage:
        await send(Reader.at("1").read_slowly, size, 1.0)
        for seconds in (1, 100):
            await asyncio.sleep(seconds)
            taken = len((await Reader.at("1").shown())[0])
            assert taken < len(log) <= taken + 2 * ITEMS_AHEAD + 2
        await stage.host.delete("Reader/1")
        await eventually(lambda: log[-1] == "closed")


async def test_a_retry_goes_on_behind_what_was_given() -> None:
    async with Stage(Reader) as stage:
        call = asyncio.create_task(Reader.at("1").read_all("stumbles", 5))
        await asyncio.sleep(1)
        [told] = (await look.show(stage.host, "Reader/1"))["steps"]
        assert told["last_error"] == "ConnectionError: lost at 1"
        assert await call == "end"
        assert (await Reader.at("1").shown())[0] == list(range(5))


async def test_the_last_failure_is_the_one_caught() -> None:
    async with Stage(Reader):
        assert await Reader.at("1").read_all("stumbles", 50) == "ConnectionError: lost at 5"
        assert (await Reader.at("1").shown())[0] == list(range(6))


@pytest.mark.parametrize(
    ("name", "args", "end"),
    [
        ("breaks", ["fatal"], "Fatal: fatal"),
        ("breaks", ["key"], "KeyError: 'key'"),
        ("too_slow", [], "TimeoutError"),
        ("slow_in_all", [], "TimeoutError"),
        ("heartbeat", [], "TimeoutError: no heartbeat"),
        ("odd", [], "NotSerializable"),
    ],
)
async def test_what_it_gave_before_it_failed_is_had_first(
    name: str, args: list[Any], end: str
) -> None:
    async with Stage(Reader):
        assert (await Reader.at("1").read_all(name, *args)).startswith(end)
        got = (await Reader.at("1").shown())[0]
        assert got == {"breaks": [1], "heartbeat": [0, 1, 2], "odd": []}.get(name, [0, 1, 2, 3, 4])


async def test_one_that_is_not_repeated_gives_what_is_recorded_and_then_says_so() -> None:
    async with Stage(Reader) as stage:
        await send(Reader.at("1").read_all, "once", 10)
        await asyncio.sleep(2.5)
        await stage.restart()
        await asyncio.sleep(20)
        got, end = await Reader.at("1").shown()
        assert got == [0, 1, 2]
        assert end.startswith(OutcomeUnknown.__name__)


async def test_a_full_disk_loses_and_doubles_nothing() -> None:
    store = FaultyStore(MemoryStore())
    async with Stage(Reader, store=store) as stage:
        await send(Reader.at("1").read_all, "tokens", 200)
        for _ in range(3):
            await asyncio.sleep(10)
            store.full = True
            await asyncio.sleep(20)
            store.full = False
        await asyncio.sleep(300)
        assert await Reader.at("1").shown() == ([f"t{n}" for n in range(200)], "end")
        assert len([entry for entry in log if entry != "closed"]) == 1
        assert stage.host.effects.running == 0


async def test_a_refusal_at_each_commit() -> None:
    async def run(fail: int) -> int:
        log.clear()
        store = FaultyStore(MemoryStore())
        async with Stage(Reader, store=store) as stage:
            before = len(store.operations)
            store.fail(before + fail, StoreFull("full"))
            while True:
                try:
                    await send(Reader.at("1").read_all, "tokens", 5, 0.01)
                    break
                except Exception:
                    await asyncio.sleep(1)
            await asyncio.sleep(20)
            assert await Reader.at("1").shown() == ([f"t{n}" for n in range(5)], "end"), fail
            assert stage.host.effects.running == 0
            assert len([entry for entry in log if entry != "closed"]) == 1
            return len(store.operations) - before

    for fail in range(1, await run(10_000)):
        await run(fail)


async def test_a_kept_snapshot_holds_the_stream() -> None:
    async with Stage(Reader, checkpoint_seconds=0.5) as stage:
        await send(Reader.at("1").read_all, "tokens", 600, 0.01)
        for _ in range(3):
            await asyncio.sleep(2)
            await stage.restart()
        await asyncio.sleep(20)
        assert await Reader.at("1").shown() == ([f"t{n}" for n in range(600)], "end")


async def test_outside_of_objects_it_is_just_the_generator() -> None:
    assert [len(item) async for item in _first(endless(3), 2)] == [3, 3]
    plain: Any = lines(3)
    assert list(plain) == [0, 1, 2]
    assert step_items() == []


async def _first(items: AsyncIterator[Any], count: int) -> AsyncIterator[Any]:
    for _ in range(count):
        yield await anext(items)
