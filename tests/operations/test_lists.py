"""Restored and forked objects are found by their Indexed attributes, and their calls are listed."""

from __future__ import annotations

import asyncio
from pathlib import Path

from perdure import Indexed, Object, send
from perdure.operations.backup import back_up
from perdure.operations.restore import restore
from perdure.past.planting import fork
from perdure.sight.calls import list_calls
from perdure.store.sqlite import SqliteStore
from tests.host.stage import Stage


class Order(Object):
    status: Indexed[str] = "new"

    async def run(self) -> str:
        self.status = "waits"
        await asyncio.sleep(100)
        self.status = "sent"
        return self.status

    async def put(self, status: str) -> None:
        self.status = status


def stage_in(data: Path) -> Stage:
    store = SqliteStore(data, commit_inline_ms=1e6)
    return Stage(Order, store=store, data=str(data))


async def keys(status: str) -> list[str]:
    return [order.key for order in await Order.find(status=status)]


async def test_a_store_that_goes_back_finds_what_was_then(tmp_path: Path) -> None:
    data, copy, past = tmp_path / "data", tmp_path / "copy", tmp_path / "past"
    async with stage_in(data) as stage:
        call_id = await send(Order.at("a").run)
        await Order.at("b").put("old")
        await stage.host.checkpointer.run()
        await asyncio.sleep(1)
        then = stage.clock.now_ns()
        await asyncio.sleep(1)
        await Order.at("b").put("newer")
        await Order.at("c").put("late")
        await asyncio.sleep(200)
        assert await keys("sent") == ["a"]
        back_up(data, copy)
    restore(copy, past, then)
    async with stage_in(past) as stage:
        stage.clock.jump_ns = then - stage.clock.now_ns()
        [line] = (await list_calls(stage.host))[0]
        assert (line["id"], line["object"], line["status"]) == (call_id, "Order/a", "running")
        assert await keys("waits") == ["a"]
        assert await keys("old") == ["b"]
        assert await keys("newer") == await keys("late") == await keys("sent") == []


async def test_a_fork_has_values_and_calls_of_its_own(tmp_path: Path) -> None:
    async with stage_in(tmp_path) as stage:
        await send(Order.at("a").run)
        await stage.settle()
        await fork(stage.host, "Order/a", "twin", None)
        assert await keys("waits") == ["a", "twin"]
        await Order.at("twin").put("mine")
        assert await keys("waits") == ["a"]
        for _ in range(2):
            lines, _ = await list_calls(stage.host, status="open")
            assert sorted(line["object"] for line in lines) == ["Order/a", "Order/twin"]
            await stage.hibernate()
            await stage.host.checkpointer.run()
            await stage.hibernate()
