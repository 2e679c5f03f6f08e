"""A zoo of classes that are not deterministic: each is caught and quarantined, the turn named."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import time
from typing import Any

import pytest

from perdure import Object, send, step
from perdure.errors import ObjectQuarantined
from perdure.host import guard
from perdure.sight import look
from tests.host.stage import Stage

counter = itertools.count()
outside: dict[str, Any] = {"value": 0}


@step
async def nothing(x: object) -> None:
    pass


class Sane(Object):
    total: int = 0

    async def add(self, n: int) -> int:
        self.total += n
        return self.total

    async def wait(self, n: float) -> float:
        await asyncio.sleep(n)
        return n


class ModuleGlobal(Object):
    async def run(self) -> int:
        return next(counter)


class DefaultArgument(Object):
    async def run(self, seen: list[int] = []) -> int:  # noqa: B006 - the mistake under test
        return len(_remember(seen))


_seen: list[int] = []


def _remember(seen: list[int]) -> list[int]:
    _seen.append(1)
    return _seen


class ClassAttribute(Object):
    async def run(self) -> int:
        type(self).calls = getattr(type(self), "calls", 0) + 1
        return type(self).calls  # type: ignore[attr-defined]


class MemoryAddress(Object):
    async def run(self) -> int:
        return id(object()) ^ next(counter)


class OutsideSleep(Object):
    async def run(self) -> None:
        asyncio.get_running_loop().call_later(10 + next(counter), print)


class OutsideSend(Object):
    async def run(self) -> None:
        if next(counter) % 2 == 0:
            await send(Sane.at("x").add, 1)


class SendArgument(Object):
    async def run(self) -> None:
        await send(Sane.at("x").add, next(counter))


class StepArgument(Object):
    async def run(self) -> None:
        await nothing(next(counter))


class StepOrNot(Object):
    async def run(self) -> None:
        if outside["value"] == 0:
            await nothing(1)
        else:
            await asyncio.sleep(1)


class RaisesOrNot(Object):
    async def run(self) -> None:
        if outside["value"]:
            raise ValueError("now it does")


class OtherError(Object):
    async def run(self) -> None:
        raise ValueError(f"number {next(counter)}")


class SetOfAddresses(Object):
    async def run(self) -> list[int]:
        things = {_Thing(i) for i in range(30)}
        return [thing.i for thing in things]


class _Thing:
    def __init__(self, i: int) -> None:
        self.i = i

    def __hash__(self) -> int:
        # What an address-based hash does, without waiting for the allocator to show it.
        return hash((self.i, outside["value"])) * 7919


ZOO = [
    ModuleGlobal,
    DefaultArgument,
    ClassAttribute,
    MemoryAddress,
    OutsideSleep,
    OutsideSend,
    SendArgument,
    StepArgument,
    StepOrNot,
    RaisesOrNot,
    OtherError,
    SetOfAddresses,
]


@pytest.mark.parametrize("kind", ZOO, ids=lambda kind: kind.__name__)
async def test_each_is_caught(kind: Any) -> None:
    outside["value"] = 0
    async with Stage(kind, Sane) as stage:
        await Sane.at("neighbour").add(1)
        task = asyncio.create_task(kind.at("a").run())
        await stage.settle()
        await asyncio.sleep(2)
        await asyncio.gather(task, return_exceptions=True)
        outside["value"] = 1
        await stage.restart()
        with pytest.raises(ObjectQuarantined, match="turn 1"):
            await kind.at("a").run()
        assert await Sane.at("neighbour").add(1) == 2
        [facts] = stage.host.quarantine.list()
        assert facts["object"] == f"{kind.__name__}/a"
        assert facts["seq"] == 1
        assert facts["expected"] != facts["found"]
        assert (await look.show(stage.host, f"{kind.__name__}/a"))["status"] == "quarantined"


async def test_a_quarantine_outlives_the_process_and_ends_with_retry() -> None:
    outside["value"] = 0
    async with Stage(RaisesOrNot) as stage:
        await RaisesOrNot.at("a").run()
        await stage.host.checkpointer.run()
        await stage.restart()
        await RaisesOrNot.at("a").run()
        outside["value"] = 1
        await stage.restart()
        with pytest.raises(ObjectQuarantined):
            await RaisesOrNot.at("a").run()
        await stage.settle()
        await stage.restart()
        outside["value"] = 0
        with pytest.raises(ObjectQuarantined):
            await RaisesOrNot.at("a").run()
        stage.host.quarantine.retry("RaisesOrNot", "a")
        await RaisesOrNot.at("a").run()
        assert stage.host.quarantine.list() == []


@pytest.mark.parametrize("n", [1, 40])
async def test_unchanged_code_never_diverges(n: int) -> None:
    async with Stage(Sane) as stage:
        for i in range(n):
            await Sane.at("a").add(i)
            await send(Sane.at("a").wait, 0.5)
        await stage.restart()
        assert await Sane.at("a").add(0) == sum(range(n))
        await asyncio.sleep(5)
        await stage.restart()
        assert await Sane.at("a").add(0) == sum(range(n))
        assert stage.host.quarantine.list() == []


async def test_a_replay_prints_nothing_twice(capsys: pytest.CaptureFixture[str]) -> None:
    class Chatty(Object):
        async def run(self) -> None:
            print("said once")

    async with Stage(Chatty) as stage:
        await Chatty.at("a").run()
        await stage.restart()
        await look.show(stage.host, "Chatty/a")
    assert capsys.readouterr().out.count("said once") == 1


def test_outside_of_turns_time_and_chance_are_real() -> None:
    guard.install()
    assert abs(time.time() - time.time_ns() / 1e9) < 3600
    assert isinstance(time.monotonic(), float)


def test_whatever_replays_knows_each_event_without_a_host() -> None:
    # In a process of its own: here, a host and a gateway are imported already.
    source = """
import typing
import perdure.host.replay
from perdure.host.machine import EVENTS
from perdure.journal.entry import Call, Event
print(*(set(typing.get_args(Event)) - {Call} ^ EVENTS.keys()))
"""
    run = [sys.executable, "-c", source]
    assert subprocess.run(run, check=True, capture_output=True, text=True).stdout == "\n"
