"""`why`: the chain of waits across objects, to its end."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

import perdure
from perdure.errors import UnknownKind, UnknownObject
from perdure.journal.identity import oid_of
from perdure.sight import why
from perdure.suspend import probe
from tests.host.stage import Stage
from tests.host.waiters import Door, Waiter, at

needs_frames = pytest.mark.skipif(
    bool(probe.unfit()), reason=f"suspended code cannot be kept here: {probe.unfit()}"
)


def lines(chain: list[dict[str, Any]]) -> list[tuple[int, str, str | None]]:
    return [(line["depth"], line["address"], line["end"]) for line in chain]


async def test_why_follows_calls_to_their_end() -> None:
    async with Stage(Waiter, Door) as stage:
        await perdure.send(Waiter.at("a").calling)
        await stage.settle()
        await perdure.send(Waiter.at("b").calling)
        await stage.settle()
        await stage.hibernate()
        chain = await why.why(stage.host, "Waiter/b")
        assert lines(chain) == [
            (0, "Waiter/b", None),
            (1, "Door/d", None),
            (2, "Door/d", "timer"),
        ]
        caller, queued, holder = chain
        assert caller["waiting_on"] == "call Door/d.enter"
        assert caller["since"] == at(0)
        assert caller["stack"][0]["function"] == "Waiter.calling"
        assert queued["task"].startswith("enter (call ")
        assert queued["waiting_on"].startswith("its turn: enter (call ")
        assert holder["waiting_on"] == f"sleep until {at(100)}"
        assert holder["until"] == at(100)
        assert set(caller) == {
            *("address", "task", "waiting_on", "since", "until", "stack", "depth", "end")
        }


async def test_why_follows_tasks_inside_an_object() -> None:
    async with Stage(Waiter) as stage:
        await perdure.send(Waiter.at("a").group)
        await stage.settle()
        chain = await why.why(stage.host, "Waiter/a")
        assert lines(chain) == [
            (0, "Waiter/a", None),
            (1, "Waiter/a", "timer"),
            (1, "Waiter/a", "timer"),
        ]


@needs_frames
async def test_why_ends_where_the_chain_comes_round() -> None:
    async with Stage(Waiter) as stage:
        await perdure.send(Waiter.at("left").left)
        await asyncio.sleep(1)
        chain = await why.why(stage.host, "Waiter/left")
        # It begins with the task that nothing else in the object waits for.
        assert lines(chain) == [
            (0, "Waiter/left", None),
            (1, "Waiter/left", None),
            (2, "Waiter/right", None),
            (3, "Waiter/left", "circle"),
        ]
        assert chain[0]["waiting_on"] == "Lock self.lock, held by Task-1"
        assert chain[3]["task"] == chain[0]["task"]
        chain = await why.why(stage.host, "Waiter/right")
        assert lines(chain)[-1] == (3, "Waiter/right", "circle")


async def test_why_tells_what_nobody_has_resolved() -> None:
    async with Stage(Waiter) as stage:
        await perdure.send(Waiter.at("a").wait_for_future)
        [line] = await why.why(stage.host, "Waiter/a")
        assert (line["waiting_on"], line["end"]) == ("future self.paid, to be set", "future")
        await perdure.send(Waiter.at("b").charging)
        [line] = await why.why(stage.host, "Waiter/b")
        assert (line["waiting_on"], line["end"]) == ("step charge", "step")


async def test_why_of_an_object_that_waits_for_nothing_is_empty() -> None:
    async with Stage(Waiter) as stage:
        with pytest.raises(UnknownObject):
            await why.why(stage.host, "Waiter/a")
        with pytest.raises(UnknownKind):
            await why.why(stage.host, "Nobody/a")
        await Waiter.at("a").nap(0)
        assert await why.why(stage.host, "Waiter/a") == []


async def test_why_ends_at_an_object_that_cannot_be_looked_into() -> None:
    async with Stage(Waiter, Door) as stage:
        await perdure.send(Waiter.at("a").calling)
        await stage.hibernate()
        facts = {"object": "Door/d", "cause": "load", "reason": "it cannot be loaded"}
        stage.host.quarantine.objects[oid_of("Door", "d")] = json.dumps(facts)
        expected = "Door/d is quarantined: it cannot be loaded"
        _, line = await why.why(stage.host, "Waiter/a")
        assert (line["task"], line["end"], line["waiting_on"]) == (None, "quarantined", expected)
        [line] = await why.why(stage.host, "Door/d")
        assert (line["depth"], line["end"], line["waiting_on"]) == (0, "quarantined", expected)
        stage.host.quarantine.objects.clear()
        stage.classes = (Waiter,)
        await stage.restart()
        _, line = await why.why(stage.host, "Waiter/a")
        assert (line["end"], line["waiting_on"]) == (
            "not served",
            "no class 'Door' is served here",
        )


async def test_a_chain_that_is_too_long_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(why, "LINES_MAX", 3)
    async with Stage(Waiter, Door) as stage:
        for n in range(5):
            await perdure.send(Waiter.at("a").calling, f"d{n}")
        chain = await why.why(stage.host, "Waiter/a")
        assert [line["end"] for line in chain][-1] == "cut"
        assert len(chain) == 4
