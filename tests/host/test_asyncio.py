"""Section 1 of the interface: ordinary asyncio is durable. Each program runs once undisturbed, and
once with a kill after every turn; both come to the same."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import perdure
from perdure.errors import SideEffectError
from perdure.sight import look
from perdure.store.memory import MemoryStore
from perdure.testing.virtual import START_NS
from tests.host.programs import NAMES, Programs
from tests.host.stage import Stage, eventually


async def run_through(stage: Stage, name: str, *, kill: bool) -> tuple[list[Any], int]:
    await perdure.send(getattr(Programs.at("p"), name))
    kills = 0
    while True:
        await stage.settle()
        activation = await stage.host.wake(perdure.journal.identity.oid_of("Programs", "p"))
        machine = activation.machine
        if machine.quiescent() and not machine.timers:
            return await Programs.at("p").read(), kills
        if kill:
            await stage.restart()
            kills += 1
            activation = await stage.host.wake(machine.oid)
        seq = activation.machine.seq
        await eventually(lambda now=activation, seq=seq: now.machine.seq > seq)


@pytest.mark.parametrize("name", NAMES)
async def test_a_program_killed_after_every_turn_comes_to_the_same(name: str) -> None:
    layout = MemoryStore().layout
    async with Stage(Programs, store=MemoryStore(layout)) as stage:
        began = stage.clock.now_ns()
        undisturbed, _ = await run_through(stage, name, kill=False)
    async with Stage(Programs, store=MemoryStore(layout)) as stage:
        # The same wall time, so that what reads it agrees.
        stage.clock.jump_ns = began - stage.clock.now_ns()
        killed, kills = await run_through(stage, name, kill=True)
    assert undisturbed and kills
    if name == "chances":
        # Turns that a kill comes between have times of their own, and nothing else differs.
        assert [line[:3] for line in killed] == [line[:3] for line in undisturbed]
    else:
        assert [line[:-1] for line in killed] == [line[:-1] for line in undisturbed]


async def test_time_stands_still_in_a_turn_and_is_the_entrys() -> None:
    async with Stage(Programs) as stage:
        await run_through(stage, "chances", kill=False)
        entries = await look.history(stage.host, "Programs/p", 0, 10)
        log = await Programs.at("p").read()
        assert log[0][3] >= START_NS / 1e9
        assert len(entries) == 4
        assert len({line[0] for line in log}) == 3


class Outside(perdure.Object):
    async def thread(self) -> None:
        await asyncio.to_thread(print)

    async def runs(self) -> None:
        nothing = asyncio.sleep(0)
        try:
            asyncio.run(nothing)
        finally:
            nothing.close()

    async def connects(self) -> None:
        await asyncio.open_connection("localhost", 1)


@pytest.mark.parametrize("name", ["thread", "connects"])
async def test_what_reaches_outside_is_refused(name: str) -> None:
    async with Stage(Outside):
        with pytest.raises(SideEffectError, match=r"test_asyncio\.py:\d+ in Outside\."):
            await getattr(Outside.at("a"), name)()


async def test_asyncio_run_is_refused() -> None:
    async with Stage(Outside):
        with pytest.raises(RuntimeError):
            await Outside.at("a").runs()


class Libraries(perdure.Object):
    """What libraries find out about the loop they run on."""

    async def tasks(self) -> list[bool]:
        async def nothing() -> int:
            return 3

        task = asyncio.create_task(nothing())
        done, _ = await asyncio.wait([task])
        assert done == {task}
        current = asyncio.current_task()
        return [isinstance(one, asyncio.Task) for one in (task, current)]


async def test_a_task_is_a_task_to_libraries_that_ask() -> None:
    async with Stage(Libraries):
        assert await Libraries.at("x").tasks() == [True, True]


async def test_what_stands_in_the_context_of_a_caller_is_no_part_of_the_object() -> None:
    from contextvars import ContextVar

    from perdure.suspend import heap, probe

    class Unkept:
        def __reduce__(self) -> Any:
            raise TypeError("not to be kept")

    variable: ContextVar[Unkept] = ContextVar("of_the_caller")
    variable.set(Unkept())
    async with Stage(Programs) as stage:
        await perdure.send(Programs.at("p").sleeping)
        await stage.settle()
        (activation,) = stage.host.live()
        assert activation.machine.tasks
        if not probe.unfit():
            assert heap.dump_heap(activation.machine)
