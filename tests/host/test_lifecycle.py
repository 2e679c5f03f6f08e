"""Wake on demand, hibernate when idle, evict, drain, recover; and who wakes by itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import perdure
from perdure import Object, query
from perdure.errors import Overloaded, Unavailable
from perdure.host.checkpoint import SLICE_OBJECTS
from perdure.sight import look
from tests.host.stage import Stage, eventually


class Sleeper(Object):
    log: list[str] = []
    tags: set[int] = set()

    async def note(self, text: str) -> int:
        self.log.append(text)
        return len(self.log)

    async def nap(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.log.append(f"woke at {asyncio.get_running_loop().time():.3f}")

    async def later(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self.log.append, "later")

    async def tag(self, *numbers: int) -> list[int]:
        self.tags.update(numbers)
        return list(self.tags)

    async def untag(self, number: int) -> list[int]:
        self.tags.discard(number)
        return list(self.tags)

    @query
    async def read(self) -> list[str]:
        return self.log

    @query
    async def read_tags(self) -> list[int]:
        return list(self.tags)


class Brief(Sleeper, hibernate_after=2.0):
    pass


async def test_an_idle_object_leaves_memory_and_comes_back() -> None:
    async with Stage(Sleeper, Brief, hibernate_after=10.0) as stage:
        await Sleeper.at("a").note("one")
        await Brief.at("b").note("one")
        await asyncio.sleep(4)
        assert stage.host.machine_at("Brief/b") is None
        assert stage.host.machine_at("Sleeper/a") is not None
        await asyncio.sleep(8)
        assert stage.host.stats().live == 0
        assert stage.host.stats().hibernated == 2
        assert await Sleeper.at("a").note("two") == 2
        assert await Brief.at("b").read() == ["one"]


async def test_use_keeps_an_object_in_memory() -> None:
    async with Stage(Brief) as stage:
        for _ in range(10):
            await Brief.at("b").note("x")
            await asyncio.sleep(1.5)
        assert stage.host.stats().hibernated == 0


async def test_a_sleeping_object_is_woken_by_its_timer() -> None:
    async with Stage(Sleeper, hibernate_after=5.0, checkpoint_seconds=20.0) as stage:
        await Sleeper.at("a").later(3600)
        await asyncio.sleep(60)
        assert stage.host.stats().live == 0
        await asyncio.sleep(3600)
        assert await Sleeper.at("a").read() == ["later"]


async def test_a_timer_due_in_the_downtime_fires_at_once_after_it() -> None:
    async with Stage(Sleeper) as stage:
        await perdure.send(Sleeper.at("a").nap, 100)
        await stage.crash()
        await asyncio.sleep(1000)
        await stage.start()
        await stage.settle()
        await eventually(lambda: stage.host.turns > 0)
        [line] = await Sleeper.at("a").read()
        assert float(line.split()[-1]) >= stage.clock.now_ns() / 1e9 - 10


async def test_after_a_restart_exactly_those_with_something_to_do_wake() -> None:
    async with Stage(Sleeper) as stage:
        for i in range(20):
            await Sleeper.at(f"idle{i}").note("x")
        await perdure.send(Sleeper.at("naps").nap, 5)
        await Sleeper.at("timer").later(5)
        await stage.settle()
        await stage.restart()
        assert stage.host.stats().live == 0
        await asyncio.sleep(6)
        assert sorted(one.machine.key for one in stage.host.live()) == ["naps", "timer"]


async def test_a_clean_stop_snapshots_so_that_nothing_is_replayed() -> None:
    async with Stage(Sleeper) as stage:
        for i in range(2 * SLICE_OBJECTS + 10):
            await Sleeper.at(f"o{i}").note("x")
        for i in range(50):
            await Sleeper.at("busy").note(str(i))
        await stage.node.drain()
        await stage.start()
        assert len(await Sleeper.at("busy").read()) == 50
        assert await Sleeper.at("o7").note("y") == 2
        assert stage.host.stats().replayed == 0
        assert stage.host.log.tail_bytes < 1000


async def test_eviction_lets_the_longest_idle_go() -> None:
    async with Stage(Sleeper, max_live_objects=5) as stage:
        for i in range(12):
            await Sleeper.at(f"o{i:02}").note("x")
            await asyncio.sleep(0.01)
        await asyncio.sleep(3)
        assert sorted(one.machine.key for one in stage.host.live()) == [
            f"o{i:02}" for i in range(7, 12)
        ]
        assert stage.host.stats().evicted == 7
        for i in range(12):
            assert await Sleeper.at(f"o{i:02}").read() == ["x"]


async def test_a_checkpoint_shortens_the_log_and_keeps_the_history() -> None:
    async with Stage(Sleeper, checkpoint_seconds=5.0) as stage:
        for i in range(30):
            await Sleeper.at("a").note(str(i))
        await asyncio.sleep(10)
        assert stage.host.stats().checkpoints == 1
        assert stage.host.stats().tail_bytes == 0
        await Sleeper.at("a").note("after")
        past = await look.history(stage.host, "Sleeper/a", 0, 100)
        assert [line["seq"] for line in past] == list(range(1, 32))
        past = await look.history(stage.host, "Sleeper/a", 28, 2)
        assert [line["seq"] for line in past] == [29, 30]
        await stage.restart()
        assert len(await Sleeper.at("a").read()) == 31
        assert stage.host.stats().replayed == 1


async def test_calls_during_a_checkpoint_are_neither_lost_nor_doubled() -> None:
    async with Stage(Sleeper) as stage:
        counts = dict.fromkeys(range(250), 0)
        for i in counts:
            counts[i] = await Sleeper.at(f"o{i}").note("x")
        checkpoint = asyncio.create_task(stage.host.checkpointer.run())
        while not checkpoint.done():
            for i in list(counts)[::17]:
                counts[i] = await Sleeper.at(f"o{i}").note("y")
        await checkpoint
        await stage.restart()
        for i, count in counts.items():
            assert len(await Sleeper.at(f"o{i}").read()) == count


async def test_a_crash_between_the_slices_of_a_checkpoint_harms_nothing() -> None:
    async with Stage(Sleeper) as stage:
        for i in range(3 * SLICE_OBJECTS):
            await Sleeper.at(f"o{i}").note("x")
        checkpoint = asyncio.create_task(stage.host.checkpointer.run())
        await eventually(
            lambda: any(one.base_seq for one in stage.host.live()) or checkpoint.done()
        )
        checkpoint.cancel()
        await asyncio.gather(checkpoint, return_exceptions=True)
        await stage.restart()
        for i in range(3 * SLICE_OBJECTS):
            assert await Sleeper.at(f"o{i}").note("y") == 2
        await stage.host.checkpointer.run()
        await stage.restart()
        for i in range(0, 3 * SLICE_OBJECTS, 7):
            assert await Sleeper.at(f"o{i}").read() == ["x", "y"]
            assert len(await look.history(stage.host, f"Sleeper/o{i}", 0, 10)) == 2


async def test_sets_keep_their_order_over_snapshots() -> None:
    async with Stage(Sleeper) as stage:
        live: list[Any] = []
        numbers = [i * 7919 % 1009 for i in range(200)]
        for start in range(0, 200, 20):
            await Sleeper.at("a").tag(*numbers[start : start + 20])
            live = await Sleeper.at("a").untag(numbers[start + 3])
            await stage.host.checkpointer.run()
        live = await Sleeper.at("a").read_tags()
        await stage.restart()
        assert await Sleeper.at("a").read_tags() == live


async def test_the_mailbox_is_bounded() -> None:
    async with Stage(Sleeper, mailbox_limit=10) as stage:
        naps = [asyncio.create_task(Sleeper.at("a").nap(5)) for _ in range(15)]
        await stage.settle()
        refused = [task for task in naps if task.done()]
        assert len(refused) == 5
        assert all(isinstance(task.exception(), Overloaded) for task in refused)
        await asyncio.gather(*naps, return_exceptions=True)
        assert len(await Sleeper.at("a").read()) == 10


async def test_a_draining_node_refuses_what_is_new() -> None:
    async with Stage(Sleeper) as stage:
        await Sleeper.at("a").note("x")
        stage.host.draining = True
        with pytest.raises(Unavailable):
            await Sleeper.at("a").note("y")
        assert await Sleeper.at("a").read() == ["x"]
        stage.host.draining = False


async def test_ls_and_show_tell_what_is_there() -> None:
    async with Stage(Sleeper, Brief) as stage:
        for i in range(7):
            await Sleeper.at(f"k{i}").note("x")
        await Brief.at("b").note("x")
        await stage.host.checkpointer.run()
        await Sleeper.at("k9").note("only in the tail")
        await asyncio.sleep(5)
        listed = await look.list_objects(stage.host, None, "", None, 100, None)
        assert [line["address"] for line in listed] == [
            "Brief/b",
            *(f"Sleeper/k{i}" for i in range(7)),
            "Sleeper/k9",
        ]
        assert [line["status"] for line in listed][:2] == ["asleep", "active"]
        page = await look.list_objects(stage.host, "Sleeper", "k", None, 3, "Sleeper/k1")
        assert [line["key"] for line in page] == ["k2", "k3", "k4"]
        asleep = await look.list_objects(stage.host, None, "", "asleep", 100, None)
        assert [line["address"] for line in asleep] == ["Brief/b"]
        task = asyncio.create_task(Sleeper.at("k1").nap(100))
        await stage.settle()
        shown = await look.show(stage.host, "Sleeper/k1")
        assert shown["state"] == {"log": ["x"], "tags": []}
        [wait] = shown["waits"]
        assert wait["handler"] == "nap" and wait["waiting_on"].startswith("sleep until")
        assert wait["stack"][0]["function"] == "Sleeper.nap"
        assert len(shown["timers"]) == 1
        await task
