"""The journal for people: filtered, page by page, followed; and the calls of the past."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

import perdure
from perdure import Object, Past
from perdure.errors import BadArguments, UnknownObject
from perdure.past import history
from perdure.past.record import record_of
from tests.host.stage import Stage


class Desk(Object):
    done: int = 0

    async def work(self, seconds: float = 0.0) -> int:
        if seconds:
            await asyncio.sleep(seconds)
        self.done += 1
        return self.done

    async def fail(self) -> None:
        raise ValueError("no")

    async def ask(self, other: str) -> int:
        return await Desk.at(other).work(5)

    async def ask_failing(self, other: str) -> None:
        await Desk.at(other).fail()

    async def tell(self, other: str) -> None:
        await perdure.send(Desk.at(other).work)


async def life(stage: Stage) -> Past:
    """Turns of every kind, in history and in the tail."""
    desk = Desk.at("d")
    await desk.work()
    await desk.work(30)
    with pytest.raises(ValueError, match="no"):
        await desk.fail()
    await stage.host.checkpointer.run()
    await desk.ask("e")
    with pytest.raises(ValueError, match="no"):
        await Desk.at("x").ask_failing("d")
    await Desk.at("x").tell("d")
    await asyncio.sleep(1)
    return Past(desk)


def kinds(turns: list[dict[str, Any]]) -> list[str]:
    return [turn["kind"] for turn in turns]


async def test_turns_can_be_had_by_kind_handler_time_and_outcome() -> None:
    async with Stage(Desk) as stage:
        past = await life(stage)
        every = await past.history()
        assert [turn["seq"] for turn in every] == list(range(1, len(every) + 1))
        assert kinds(every) == ["call", "call", "timer", "call", "call", "reply", "call", "send"]
        assert kinds(await past.history(kind="timer")) == ["timer"]
        assert kinds(await past.history(kind=["timer", "reply"])) == ["timer", "reply"]
        assert [t["seq"] for t in await past.history(handler="fail")] == [4, 7]
        assert [t["seq"] for t in await past.history(failed=True)] == [4, 7]
        assert [t["seq"] for t in await past.history(failed=True, after=4)] == [7]
        assert [t["seq"] for t in await past.history(limit=2, after=3)] == [4, 5]
        assert [t["seq"] for t in await past.history(since=timedelta(seconds=5))] == [6, 7, 8]
        until = every[2]["time"]
        assert [t["seq"] for t in await past.history(until=until)] == [1, 2, 3, 4, 5]
        assert [t["seq"] for t in await past.history(since=until)] == [3, 4, 5, 6, 7, 8]


async def test_calls_are_told_with_their_ends() -> None:
    async with Stage(Desk) as stage:
        past = await life(stage)
        running = asyncio.ensure_future(Desk.at("d").work(1000))
        await stage.settle()
        calls = await past.calls()
        assert [(c["handler"], c["status"], c["seq"], c["ended_seq"]) for c in calls] == [
            ("work", "done", 1, 1),
            ("work", "done", 2, 3),
            ("fail", "failed", 4, 4),
            ("ask", "done", 5, 6),
            ("fail", "failed", 7, 7),
            ("work", "done", 8, 8),
            ("work", "running", 9, None),
        ]
        assert calls[4]["caller"] == "Desk/x"
        assert [c["seq"] for c in await past.calls(handler="fail", after=4)] == [7]
        assert [c["seq"] for c in await past.calls(limit=2)] == [1, 2]
        await perdure.delete(Desk.at("d"))
        assert (await past.calls(after=8))[0]["status"] != "running"
        await asyncio.gather(running, return_exceptions=True)


async def test_who_follows_gets_each_turn_once_as_it_comes() -> None:
    async with Stage(Desk) as stage:
        desk = Desk.at("d")
        await desk.work()
        got: list[int] = []

        async def follow() -> None:
            async for turn in Past(desk).follow():
                got.append(turn["seq"])

        task = asyncio.ensure_future(follow())
        await asyncio.sleep(1)
        assert got == [1]
        for i in range(2, 6):
            await desk.work()
            if i == 3:
                await stage.host.checkpointer.run()
            await asyncio.sleep(1)
            assert got == list(range(1, i + 1))
        await asyncio.sleep(200)
        await desk.work()
        await asyncio.sleep(1)
        assert got == [1, 2, 3, 4, 5, 6]
        task.cancel()


async def test_who_follows_waits_for_the_first_turn_too() -> None:
    async with Stage(Desk) as stage:
        waiting = asyncio.ensure_future(
            history.follow(stage.host, "Desk/new", 0, 10, history.EVERYTHING, 30)
        )
        await asyncio.sleep(1)
        await Desk.at("new").work()
        assert [turn["seq"] for turn in await waiting] == [1]
        assert await history.follow(stage.host, "Desk/new", 1, 10, history.EVERYTHING, 2) == []
        with pytest.raises(UnknownObject):
            await history.follow(stage.host, "Desk/never", 0, 10, history.EVERYTHING, 2)


async def test_a_turn_is_shown_when_it_is_on_disk() -> None:
    from perdure.store.memory import MemoryStore
    from perdure.testing.faults import FaultyStore

    store = FaultyStore(MemoryStore())
    async with Stage(Desk, store=store) as stage:
        desk = Desk.at("d")
        await desk.work()
        store.hold()
        call = asyncio.ensure_future(desk.work())
        await stage.settle()
        looking = asyncio.ensure_future(Past(desk).history())
        await stage.settle()
        assert not looking.done()
        store.release()
        assert len(await looking) == 2
        await call


async def test_filters_from_text() -> None:
    now = 1_700_000_000 * 10**9
    wanted = history.read_filter({"kind": "call,send", "since": "10m", "failed": "1"}, now)
    assert wanted.kinds == {"call", "send"}
    assert wanted.since_ns == now - 600 * 10**9
    assert wanted.failed
    assert history.read_filter({}, now) == history.EVERYTHING
    for bad in ({"since": "soon"}, {"failed": "perhaps"}):
        with pytest.raises(BadArguments):
            history.read_filter(bad, now)


async def test_the_turn_at_a_time_is_found_among_many() -> None:
    async with Stage(Desk) as stage:
        desk, times = Desk.at("d"), [0]
        for i in range(40):
            await desk.work()
            times.append(stage.clock.now_ns())
            await asyncio.sleep(i % 3)
            if i % 7 == 0:
                await stage.host.checkpointer.run()
        record = await record_of(stage.host, "Desk/d")
        for time in times:
            expected = max(seq for seq, at in enumerate(times) if at <= time)
            assert await history.seq_at(record, time) == expected
            before = max((seq for seq, at in enumerate(times) if at <= time - 1), default=0)
            assert await history.seq_at(record, time - 1) == before
