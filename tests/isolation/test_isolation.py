"""`isolation="process"`: the same object, in a process whose end is nobody else's."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from perdure import (
    Forbidden,
    InvalidClass,
    Object,
    ObjectQuarantined,
    ProcessLost,
    Promise,
    delete,
    ephemeral,
)
from perdure.kind import kind_of
from perdure.node import Node
from perdure.sight import look, why
from tests.isolation.places import Game, Guarded, Sender, lives, served, until

a, b = Game.at("a"), Game.at("b")


# --- the same object


async def test_each_object_has_a_process_of_its_own(tmp_path: Path) -> None:
    async with served(tmp_path):
        assert await a.play(2) == 2
        assert await a.play() == 3
        assert await b.play() == 1
        processes = {await a.process(), await b.process(), os.getpid()}
        assert len(processes) == 3
        # The outside world is the node's business: steps run there.
        assert await a.steps() == os.getpid()


async def test_waits_timers_steps_calls_promises_and_streams(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        waiting = asyncio.create_task(a.wait())
        await a.play(21)
        assert [line["task"] for line in await why.why(node.host, "Game/a")] != []
        await a.open()
        assert await waiting == "in"
        assert await a.nap(0.01) == 21
        assert await a.pay() == 42
        assert [number async for number in a.count(3)] == [0, 1, 2]
        token = await a.ask()
        answer = asyncio.create_task(a.answer())
        await asyncio.sleep(0)
        await Promise.resolve(token, 7)
        assert await answer == 7
        await a.remind(0.01)
        async with asyncio.timeout(20):
            while await a.told() != ["rang"]:
                await asyncio.sleep(0.01)
        assert [ref.key for ref in await Game.find(score=21)] == ["a"]


async def test_errors_reach_the_caller_and_atomic_undoes(tmp_path: Path) -> None:
    async with served(tmp_path):
        await a.play()
        process = await a.process()
        with pytest.raises(LookupError, match="nothing there"):
            await a.fail()
        assert await a.read() == 11
        with pytest.raises(LookupError):
            await a.fail_whole()
        assert await a.read() == 11
        assert await a.process() == process
        assert await Guarded.at("x").open() == "open"
        with pytest.raises(Forbidden, match="not for you"):
            await Guarded.at("x").secret()


async def test_everything_is_there_in_the_next_node(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        for _ in range(40):
            await a.play()
        await node.host.checkpointer.run()
        walked = await a.walked()
        napping = asyncio.create_task(a.wait())
        await a.play()
        napping.cancel()
    async with served(tmp_path) as node:
        assert await a.read() == 41
        # What a set is walked in is part of what is kept.
        assert sorted(await a.walked()) == sorted([*walked, "t41"])
        await a.open()
        shown = await look.show(node.host, "Game/a")
        assert shown["state"]["score"] == 41
        assert shown["seq"] == 43
        await delete(a)
        assert await a.read() == 0


async def test_the_journal_is_that_of_any_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path) as node:
        for _ in range(20):
            await a.play()
        await node.host.checkpointer.run()
        with pytest.raises(LookupError):
            await a.fail_whole()
        waiting = asyncio.create_task(a.wait())
        for _ in range(20):
            await a.play()
        await a.pay()
        walked = await a.walked()
        await node.host.log.durable(node.host.log.appended_lsn)
        waiting.cancel()
        # No snapshot at the end: what follows is built by running the journal again.
        monkeypatch.setattr(node.host.checkpointer, "run", _nothing)
    monkeypatch.setattr(Node, "_isolates", lambda _: False)
    async with served(tmp_path) as node:
        assert await a.read() == 40
        assert node.host.replayed > 20
        assert await a.walked() == walked
        assert await a.process() == os.getpid()
        await a.open()
        await node.host.checkpointer.run()
    monkeypatch.undo()
    async with served(tmp_path):
        assert await a.play() == 41
        assert await a.process() != os.getpid()


async def _nothing() -> None:
    """In the place of a checkpoint."""


async def test_it_ends_when_idle_and_comes_back(tmp_path: Path) -> None:
    async with served(tmp_path, hibernate_after=0.1) as node:
        await a.play(5)
        process = await a.process()
        await until(lambda: node.host.live_count == 0)
        await until(lambda: not lives(process))
        assert await a.read() == 5
        assert await a.process() != process
        # A timer wakes it as a call does.
        await a.remind(0.5)
        await until(lambda: node.host.live_count == 0)
        turns = node.host.turns
        await until(lambda: node.host.turns == turns + 1)
        assert await a.told() == ["rang"]


async def test_a_drain_leaves_no_process_behind(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        await a.play()
        spinning = asyncio.create_task(b.wait())
        processes = [await a.process(), await b.process(), node.host.nursery._pid]  # type: ignore[union-attr]
    assert not any(map(lives, processes))
    spinning.cancel()
    async with served(tmp_path):
        assert await a.read() == 1


# --- accidents


@pytest.mark.parametrize(
    ("accident", "how"),
    [
        ("abort", "signal SIGABRT"),
        ("leave", "exit code 3"),
        ("grow", "memory_limit"),
        ("grow_to_look", "memory_limit"),
        ("spin", "did not end within 1 s"),
    ],
)
async def test_an_accident_is_nobody_elses(tmp_path: Path, accident: str, how: str) -> None:
    async with served(tmp_path, turn_timeout=1.0) as node:
        await a.play(3)
        process = await b.process()
        for tries in range(3):
            falling: Any = asyncio.create_task(getattr(a, accident)())
            assert await b.play() == tries + 1
            with pytest.raises(ProcessLost, match=how):
                await falling
            if tries < 2:
                assert await a.read() == 3
        with pytest.raises(ObjectQuarantined, match="three times"):
            await a.read()
        node.host.quarantine.retry("Game", "a")
        assert await a.play() == 4
        assert await b.process() == process


async def test_a_message_that_ended_a_process_is_tried_again(tmp_path: Path) -> None:
    switch = tmp_path / "switch"
    switch.write_text("")
    async with served(tmp_path / "data") as node:
        await a.play()
        await Sender.at("s").poke("a", str(switch))
        await until(lambda: node.host.nursery.started >= 2)  # type: ignore[union-attr]
        switch.write_text("on")
        async with asyncio.timeout(20):
            while True:
                try:
                    if await a.told():
                        break
                except ObjectQuarantined:
                    node.host.quarantine.retry("Game", "a")
                await asyncio.sleep(0.01)
        assert await a.told() == ["survived"]
        assert await a.read() == 1


async def test_an_event_that_ends_processes_can_be_skipped(tmp_path: Path) -> None:
    switch = tmp_path / "switch"
    switch.write_text("")
    async with served(tmp_path / "data") as node:
        await a.play()
        await Sender.at("s").poke("a", str(switch))
        await until(lambda: node.host.quarantine.objects)
        node.host.quarantine.skip("Game", "a")
        await until(lambda: not node.host.log.outbox)
        assert await a.play() == 2
        assert await a.told() == []


async def test_a_process_killed_while_idle_costs_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        await a.play(3)
        for _ in range(5):
            activation: Any = node.host.live()[0]
            os.kill(await a.process(), signal.SIGKILL)
            await until(lambda activation=activation: activation.process.ended)
            assert await a.read() == 3
        waiting = asyncio.create_task(a.wait())
        while not (await look.show(node.host, "Game/a"))["waits"]:
            await asyncio.sleep(0.01)
        os.kill(await a.process(), signal.SIGKILL)
        await until(lambda: activation.process.ended)
        await a.open()
        assert await waiting == "in"


async def test_a_nursery_killed_is_replaced(tmp_path: Path) -> None:
    async with served(tmp_path) as node:
        await a.play(3)
        process, nursery = await a.process(), node.host.nursery
        assert nursery is not None
        os.kill(nursery._pid, signal.SIGKILL)
        await until(lambda: not lives(process))
        await until(lambda: nursery._control is None)
        assert await a.play() == 4


# --- what the class line may say


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"isolation": "thread"}, "isolation is 'process' or 'none', not 'thread'"),
        ({"memory_limit": 1 << 30}, "memory_limit needs isolation='process'"),
        ({"isolation": "process", "memory_limit": 0}, "memory_limit is a number more than 0"),
        ({"isolation": "process", "memory_limit": "1G"}, "memory_limit is a number more than 0"),
        ({"isolation": "process", "cpu_limit": True}, "cpu_limit is a number more than 0"),
    ],
)
def test_options_that_mean_nothing(options: dict[str, Any], text: str) -> None:
    class Odd(Object, **options):
        pass

    with pytest.raises(InvalidClass, match=text):
        kind_of(Odd)


def test_messages_past_the_journal_are_refused() -> None:
    class Board(Object, isolation="process"):
        @ephemeral
        def on_ephemeral(self, conn: Any, message: str) -> None:
            pass

    with pytest.raises(InvalidClass, match="on_ephemeral"):
        kind_of(Board)
