"""Which calls there are: open, failed and ended; of objects in memory, asleep, after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

import perdure
from perdure import BadArguments, Object, Promise, Retry, UnknownKind, delete, send, step
from perdure.clock import NS
from perdure.ref import Ref
from perdure.sight.calls import list_calls
from perdure.sight.stuck import count, stuck
from tests.host.stage import Stage


@step(retry=Retry(attempts=50, initial=500.0, max_delay=500.0, jitter=0.0))
async def never() -> None:
    raise ValueError("always")


class Job(Object):
    async def nap(self, seconds: float = 1000.0) -> str:
        await asyncio.sleep(seconds)
        return "rested"

    async def quick(self) -> int:
        return 1

    async def fail(self) -> None:
        raise ValueError("no luck")

    async def fail_late(self) -> None:
        await asyncio.sleep(5)
        raise KeyError("late")

    async def ask(self, to: str) -> str:
        return await Job.at(to).nap(1000)

    async def tell(self, to: str) -> str:
        return await send(Job.at(to).fail)

    async def forever(self) -> None:
        await asyncio.Event().wait()

    async def approve(self) -> None:
        self.promise = Promise[str]()
        await self.promise

    async def charge(self) -> None:
        await never()

    async def stubborn(self) -> None:
        for _ in range(2):
            try:
                await asyncio.sleep(5000)
            except asyncio.CancelledError:
                pass

    async def call_nobody(self) -> None:
        await send(Ref("Nobody", "n").hello)


class Held(Object, reentrant=False):
    async def hold(self, seconds: float = 100.0) -> None:
        await asyncio.sleep(seconds)


async def told(stage: Stage, **wanted: Any) -> list[tuple[Any, ...]]:
    lines, _ = await list_calls(stage.host, **wanted)
    return [(line["object"], line["handler"], line["status"]) for line in lines]


async def everywhere(stage: Stage, check: Callable[[], Awaitable[None]]) -> None:
    """The same in memory, asleep, from the tail after a crash, and from the store."""
    await check()
    await stage.hibernate()
    await check()
    await stage.restart()
    await check()
    await stage.restart()
    await stage.host.checkpointer.run()
    await check()
    await stage.hibernate()
    await stage.restart()
    await check()
    await stage.hibernate()
    await stage.host.checkpointer.run()
    await check()


async def test_open_calls_are_found_wherever_their_objects_are() -> None:
    async with Stage(Job, Held) as stage:
        for key in "ab":
            await send(Job.at(key).nap)
            await asyncio.sleep(1)
        await Job.at("c").quick()
        await send(Job.at("d").ask, "e")

        async def check() -> None:
            lines, _ = await list_calls(stage.host)
            assert [line["object"] for line in lines[2:]] == ["Job/b", "Job/a"]
            assert {line["object"] for line in lines[:2]} == {"Job/d", "Job/e"}
            assert {line["status"] for line in lines} == {"running"}
            by = {line["object"]: line for line in lines}
            assert by["Job/d"]["waiting_on"] == "call Job/e.nap"
            assert by["Job/a"]["waiting_on"].startswith("sleep until ")
            assert by["Job/e"]["caller"] == "Job/d"
            assert by["Job/a"]["caller"] is None

        await everywhere(stage, check)
        for line in (await list_calls(stage.host))[0]:
            if line["caller"] is None:
                await perdure.cancel(line["id"])
        await stage.settle()

        async def check_cancelled() -> None:
            found = await told(stage)
            # That of the job that was asked was told to who asked.
            assert found.count(("Job/a", "nap", "cancelled")) == 1
            assert await told(stage, status="open") == []

        await everywhere(stage, check_cancelled)


async def test_sleeping_objects_are_not_woken_for_the_list() -> None:
    async with Stage(Job) as stage:
        for n in range(5):
            await send(Job.at(f"{n}").nap)
        await stage.hibernate()
        assert len(await told(stage)) == 5
        assert stage.host.live_count == 0
        await stage.host.checkpointer.run()
        assert not stage.host.register._asleep
        lines, _ = await list_calls(stage.host)
        assert {line["waiting_on"][:5] for line in lines} == {"sleep"}
        assert stage.host.live_count == 0


async def test_queued_calls() -> None:
    async with Stage(Held) as stage:
        for _ in range(3):
            await send(Held.at("h").hold)
        await stage.settle()

        async def check() -> None:
            found = sorted(await told(stage))
            assert found == [("Held/h", "hold", "queued")] * 2 + [("Held/h", "hold", "running")]
            assert len(await told(stage, status="queued")) == 2
            assert len(await told(stage, status="open")) == 3
            lines, _ = await list_calls(stage.host, status="queued")
            assert lines[0]["waiting_on"].startswith("its turn: hold")

        await everywhere(stage, check)


async def test_failed_calls_are_found_without_knowing_where() -> None:
    async with Stage(Job) as stage:
        with pytest.raises(ValueError, match="no luck"):
            await Job.at("a").fail()
        await Job.at("b").tell("c")
        failing = asyncio.create_task(Job.at("d").fail_late())
        await asyncio.sleep(1)
        await Job.at("e").quick()
        with pytest.raises(KeyError):
            await failing

        async def check() -> None:
            lines, _ = await list_calls(stage.host, status="failed")
            by = {line["object"]: line for line in lines}
            assert by.keys() == {"Job/a", "Job/c", "Job/d"}
            assert by["Job/a"]["error"] == "ValueError: no luck"
            assert by["Job/c"]["caller"] == "Job/b"
            assert by["Job/d"]["error"].startswith("KeyError: ")
            assert by["Job/d"]["since"] < by["Job/d"]["ended"]

        await everywhere(stage, check)
        await asyncio.sleep(stage.settings.call_retention + 1)
        await Job.at("e").quick()
        await stage.host.checkpointer.run()
        assert await told(stage, status="failed") == []


async def test_failures_are_bounded() -> None:
    async with Stage(Job) as stage:
        for _ in range(50):
            with pytest.raises(ValueError, match="no luck"):
                await Job.at("a").fail()
        assert len(await told(stage, status="failed")) == 20
        assert stage.host.register._failed_count == 20
        await stage.host.checkpointer.run()
        assert stage.host.register._failed_count == 0
        assert len(await told(stage, status="failed")) == 20


async def test_calls_that_ended_well_are_read_from_the_journals() -> None:
    async with Stage(Job, Held) as stage:
        await Job.at("a").quick()
        call_id = await send(Job.at("a").nap, 3.0)
        asking = asyncio.create_task(Job.at("b").ask("c"))
        await asyncio.sleep(5)
        await Held.at("h").hold(1.0)

        async def check() -> None:
            assert sorted(await told(stage, status="done")) == [
                ("Held/h", "hold", "done"),
                ("Job/a", "nap", "done"),
                ("Job/a", "quick", "done"),
            ]
            assert sorted(await told(stage, address="Job/a")) == [
                ("Job/a", "nap", "done"),
                ("Job/a", "quick", "done"),
            ]
            assert await told(stage, address="Job/c") == [("Job/c", "nap", "running")]
            assert len(await told(stage, status="done", kind="Held")) == 1
            lines, _ = await list_calls(stage.host, address="Job/a")
            assert call_id in {line["id"] for line in lines}

        await everywhere(stage, check)
        asking.cancel()


async def test_filters_and_pages() -> None:
    async with Stage(Job, Held) as stage:
        for n in range(25):
            await send(Job.at(f"{n:02}").nap)
            await asyncio.sleep(1)
            if n == 12:
                await stage.hibernate()
                await stage.host.checkpointer.run()
        await send(Held.at("h").hold)
        await stage.settle()
        assert len(await told(stage, kind="Job")) == 25
        assert len(await told(stage, kind="Held")) == 1
        since = stage.clock.now_ns() - 5 * NS
        assert len(await told(stage, since=since)) == 6
        found: list[str] = []
        after = None
        while True:
            lines, after = await list_calls(stage.host, kind="Job", limit=7, after=after)
            found += [line["object"] for line in lines]
            if after is None:
                break
        assert found == [f"Job/{n:02}" for n in reversed(range(25))]
        with pytest.raises(UnknownKind):
            await told(stage, kind="Nobody")
        with pytest.raises(BadArguments):
            await told(stage, status="lost")
        with pytest.raises(BadArguments):
            await told(stage, limit=0)


async def test_a_deleted_object_has_no_open_calls() -> None:
    async with Stage(Job) as stage:
        await send(Job.at("a").nap)
        await stage.hibernate()
        await stage.host.checkpointer.run()
        await delete(Job.at("a"))

        async def check() -> None:
            assert await told(stage, status="open") == []

        await everywhere(stage, check)


async def test_calls_from_a_program() -> None:
    async with Stage(Job) as stage:
        await send(Job.at("a").nap)
        await stage.settle()
        [line] = await perdure.calls(kind=Job, object=Job.at("a"), status="open")
        assert line["handler"] == "nap"
        assert await perdure.calls(kind="Job", status="failed") == []


async def test_nothing_is_noted_of_calls_that_end_well() -> None:
    async with Stage(Job) as stage:
        for n in range(100):
            await Job.at(f"{n % 7}").quick()
        register = stage.host.register
        assert not (register._failed or register._asleep or register._unsure)
        await stage.host.checkpointer.run()
        assert not any(activation.listed for activation in stage.host.live())
        await stage.restart()
        assert not register._unsure


# --- stuck


async def found(stage: Stage, seconds: float = 0) -> list[tuple[Any, ...]]:
    lines = await stuck(stage.host, int(seconds * NS), 100)
    return sorted((line["what"], line["object"], line["handler"]) for line in lines)


async def test_what_is_stuck_is_found_without_knowing_where() -> None:
    async with Stage(Job, Held) as stage:
        assert await found(stage) == []
        await send(Job.at("nap").nap)
        await send(Job.at("waits").forever)
        await send(Job.at("approval").approve)
        await send(Job.at("step").charge)
        await Job.at("sender").tell("broken")
        await Job.at("sender").tell("broken")
        await Job.at("lonely").call_nobody()

        async def late() -> None:
            async with perdure.deadline(timedelta(seconds=5)):
                await Job.at("late").stubborn()

        with pytest.raises(TimeoutError):
            await late()
        await asyncio.sleep(100)
        expected = [
            ("failed", "Job/broken", "fail"),
            ("late", "Job/late", "stubborn"),
            ("not served", "Nobody/n", "hello"),
            ("retrying", "Job/step", "charge"),
            ("waiting", "Job/waits", "forever"),
        ]

        async def check() -> None:
            assert await found(stage) == expected
            assert await count(stage.host) == 2

        await everywhere(stage, check)
        assert await found(stage, 1000) == expected[:3]
        lines = await stuck(stage.host, 0, 100)
        assert next(line["count"] for line in lines if line["what"] == "failed") == 2
        assert next(line["detail"] for line in lines if line["what"] == "failed") == (
            "ValueError: no luck"
        )


async def test_quarantined_objects_are_stuck() -> None:
    async with Stage(Job) as stage:
        await send(Job.at("a").nap)
        await stage.settle()
        stage.host.quarantine._set_aside(stage.host.at("Job", "a"), {"reason": "a test"})
        assert ("quarantined", "Job/a", None) in await found(stage)
        assert await count(stage.host) == 1
        stage.host.quarantine.retry("Job", "a")
