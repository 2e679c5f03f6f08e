"""Limits of steps, their threads, and their signs of life."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from perdure import Limit, Object, heartbeat, send, step
from perdure.host.throttles import Throttle
from perdure.sight import look
from tests.host.stage import Stage, eventually

began: list[tuple[Any, float]] = []
inside: dict[Any, int] = {}
most: dict[Any, int] = {}


@pytest.fixture(autouse=True)
def _fresh() -> None:
    began.clear()
    inside.clear()
    most.clear()


async def visit(name: Any, seconds: float = 1.0) -> float:
    at = asyncio.get_running_loop().time()
    began.append((name, at))
    inside[name] = inside.get(name, 0) + 1
    most[name] = max(most.get(name, 0), inside[name])
    await asyncio.sleep(seconds)
    inside[name] -= 1
    return at


@step(limit=Limit(concurrency=3))
async def few(n: int) -> float:
    return await visit("few")


@step(limit=Limit(per_second=2))
async def slowly(n: int) -> float:
    return await visit("slowly", 0.0)


@step(limit=Limit(per_second=1, burst=4))
async def bursts(n: int) -> float:
    return await visit("bursts", 0.0)


@step(limit=Limit(concurrency=1, key=lambda host: host.lower()))
async def fetch(n: int, host: str = "A") -> float:
    return await visit(host.lower())


@step(limit=Limit(concurrency=1, key=lambda host: {host: 1}))  # type: ignore[arg-type, return-value]
async def no_key(host: str) -> None: ...


both = Limit(concurrency=2)


@step(limit=both)
async def one(n: int) -> float:
    return await visit("both")


@step(limit=both)
async def other(n: int) -> float:
    return await visit("both")


release = threading.Event()
in_threads: list[int] = []


@step(limit=Limit(concurrency=1), timeout=0.2)
def hangs(n: int) -> int:
    in_threads.append(n)
    release.wait(20)
    return n


STEPS: dict[str, Any] = {
    "few": few,
    "slowly": slowly,
    "bursts": bursts,
    "one": one,
    "other": other,
    "hangs": hangs,
}


class Crawler(Object):
    async def visit(self, name: str, n: int = 0) -> Any:
        return await STEPS[name](n)

    async def fetch(self, n: int, host: str) -> float:
        return await fetch(n, host)

    async def no_key(self) -> None:
        await no_key("a")

    async def impatient(self, n: int) -> str:
        try:
            async with asyncio.timeout(0.5):
                await few(n)
        except TimeoutError:
            return "gave up"
        return "came in"


async def many(name: str, count: int) -> list[float]:
    times = await asyncio.gather(*(Crawler.at(str(n)).visit(name, n) for n in range(count)))
    first = min(times)
    return sorted(round(at - first, 3) for at in times)


async def test_so_many_at_once_on_a_node() -> None:
    async with Stage(Crawler):
        assert await many("few", 10) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
        assert most == {"few": 3}


async def test_so_many_a_second() -> None:
    async with Stage(Crawler):
        assert await many("slowly", 5) == [0, 0.5, 1, 1.5, 2]
        await asyncio.sleep(100)
        assert await many("slowly", 3) == [0, 0.5, 1]


async def test_a_burst_after_a_pause() -> None:
    async with Stage(Crawler):
        assert await many("bursts", 6) == [0, 0, 0, 0, 1, 2]
        await asyncio.sleep(2)
        assert await many("bursts", 4) == [0, 0, 1, 2]


async def test_each_key_has_places_of_its_own() -> None:
    async with Stage(Crawler):
        hosts = ["a", "b", "A", "c"]
        await asyncio.gather(*(Crawler.at(str(n)).fetch(n, h) for n, h in enumerate(hosts)))
        first = min(at for _, at in began)
        assert [(name, round(at - first)) for name, at in began] == [
            ("a", 0),
            ("b", 0),
            ("c", 0),
            ("a", 1),
        ]


async def test_a_limit_given_to_several_steps_is_shared() -> None:
    async with Stage(Crawler):
        await asyncio.gather(
            *(Crawler.at(str(n)).visit("one" if n % 2 else "other", n) for n in range(6))
        )
        assert most == {"both": 2}


async def test_who_comes_first_is_served_first() -> None:
    async with Stage(Crawler):
        calls = []
        for n in range(20):
            calls.append(asyncio.create_task(Crawler.at(str(n)).visit("slowly", n)))
            await asyncio.sleep(0.01)
        times = await asyncio.gather(*calls)
        assert list(times) == sorted(times)


async def test_a_wait_is_seen_and_can_be_given_up() -> None:
    async with Stage(Crawler) as stage:
        first = [asyncio.create_task(Crawler.at(str(n)).visit("few", n)) for n in range(3)]
        await asyncio.sleep(0.1)
        waiting = asyncio.create_task(Crawler.at("w").impatient(9))
        await asyncio.sleep(0.1)
        [told] = (await look.show(stage.host, "Crawler/w"))["steps"]
        assert told["status"] == "waiting for a place"
        assert await waiting == "gave up"
        await asyncio.gather(*first)
        # The place it had waited for is free.
        assert await many("few", 3) == [0, 0, 0]
        assert len(began) == 6


async def test_a_crash_forgets_nobody_who_waits() -> None:
    async with Stage(Crawler) as stage:
        for n in range(7):
            await send(Crawler.at(str(n)).visit, "few", n)
        await asyncio.sleep(0.5)
        await stage.restart()
        await asyncio.sleep(10)
        shown = [await look.show(stage.host, f"Crawler/{n}") for n in range(7)]
        assert [one["steps"] for one in shown] == [[]] * 7


async def test_a_key_that_cannot_be_one_fails_the_step() -> None:
    async with Stage(Crawler):
        with pytest.raises(TypeError, match="unhashable"):
            await Crawler.at("1").no_key()


def in_real_time(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """For tests with threads: virtual time stands still while one runs."""

    @functools.wraps(test)
    def run() -> None:
        asyncio.run(test())

    del run.__wrapped__  # type: ignore[attr-defined]
    return run


@in_real_time
async def test_a_thread_that_goes_on_after_its_time_still_counts() -> None:
    release.clear()
    in_threads.clear()
    async with Stage(Crawler) as stage:
        with pytest.raises(TimeoutError):
            await Crawler.at("1").visit("hangs", 1)
        second = asyncio.create_task(Crawler.at("2").visit("hangs", 2))
        while not stage.host.effects.running:
            await asyncio.sleep(0)
        [told] = (await look.show(stage.host, "Crawler/2"))["steps"]
        assert told["status"] == "waiting for a place"
        assert in_threads == [1]
        release.set()
        assert await second == 2


@in_real_time
async def test_threads_are_bounded_and_a_wait_for_one_is_seen() -> None:
    async with Stage(Sums, step_threads=2) as stage:
        gate.clear()
        calls = [asyncio.create_task(Sums.at(str(n)).add(n)) for n in range(5)]
        await eventually(lambda: len(working) == 2 and stage.host.effects.running == 5)
        told = [(await look.show(stage.host, f"Sums/{n}"))["steps"][0]["status"] for n in range(5)]
        assert told == ["running"] * 2 + ["waiting for a place"] * 3
        gate.set()
        assert await asyncio.gather(*calls) == [0, 1, 2, 3, 4]
        assert max(working.values()) <= 2


gate = threading.Event()
working: dict[int, int] = {}


@step
def slow_sum(n: int) -> int:
    working[n] = sum(1 for thread in threading.enumerate() if "perdure-step" in thread.name)
    gate.wait(20)
    return n


class Sums(Object):
    async def add(self, n: int) -> int:
        return await slow_sum(n)


# --- throttles by themselves


async def test_a_place_given_to_somebody_who_left_goes_to_the_next() -> None:
    loop = asyncio.get_running_loop()
    throttle = Throttle(loop, 1, per_second=10)
    await throttle.enter()
    waiting = [asyncio.create_task(throttle.enter()) for _ in range(3)]
    await asyncio.sleep(1)
    throttle.leave()
    waiting[0].cancel()  # in the very moment in which it has got the place
    await asyncio.sleep(0)
    await asyncio.wait_for(waiting[1], 1)
    waiting[2].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    throttle.leave()
    await asyncio.sleep(1)
    assert throttle.idle()
    assert throttle.try_enter()


async def test_nobody_passes_those_who_wait() -> None:
    throttle = Throttle(asyncio.get_running_loop(), 1)
    assert throttle.try_enter()
    waiting = asyncio.create_task(throttle.enter())
    await asyncio.sleep(0)
    throttle.leave()
    assert not throttle.try_enter()
    await waiting


@pytest.mark.parametrize(
    "bad",
    [
        {},
        *({"concurrency": value} for value in (0, -1, 1.5, True, "2")),
        *({"per_second": value} for value in (0, -1, float("inf"), "2", True)),
        {"per_second": 1, "burst": 0},
        {"concurrency": 1, "burst": 2},
        {"concurrency": 1, "key": "url"},
    ],
)
def test_impossible_limits_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Limit(**bad)


# --- heartbeats


@step(heartbeat_timeout=10)
async def reports(beats: int, pause: float) -> int:
    for n in range(beats):
        await asyncio.sleep(pause)
        heartbeat({"done": n + 1, "of": beats})
    return beats


@step(heartbeat_timeout=10, timeout=35)
async def talks_too_long() -> None:
    while True:
        await asyncio.sleep(1)
        heartbeat()


thread_goes_on = threading.Event()


@step
def reports_from_a_thread() -> int:
    heartbeat("half")
    thread_goes_on.wait(20)
    return 1


class Job(Object):
    async def run(self, beats: int, pause: float) -> int:
        return await reports(beats, pause)

    async def talk(self) -> None:
        await talks_too_long()

    async def in_thread(self) -> int:
        return await reports_from_a_thread()

    async def misuse(self) -> None:
        heartbeat()


async def test_a_heartbeat_keeps_a_step_alive_and_shows_how_far_it_is() -> None:
    async with Stage(Job) as stage:
        call = asyncio.create_task(Job.at("1").run(20, 9.0))
        await asyncio.sleep(30)
        [told] = (await look.show(stage.host, "Job/1"))["steps"]
        assert told["progress"] == {"done": 3, "of": 20}
        assert told["heartbeat"] > told["since"]
        assert told["status"] == "running"
        assert await call == 20


async def test_without_a_heartbeat_an_attempt_has_failed() -> None:
    async with Stage(Job):
        with pytest.raises(TimeoutError, match="no heartbeat of reports for 10 s"):
            await Job.at("1").run(2, 11.0)


async def test_a_heartbeat_does_not_prolong_the_time_of_an_attempt() -> None:
    async with Stage(Job):
        with pytest.raises(TimeoutError) as caught:
            await Job.at("1").talk()
        assert "heartbeat" not in str(caught.value)


@in_real_time
async def test_a_heartbeat_from_a_thread() -> None:
    thread_goes_on.clear()
    async with Stage(Job) as stage:
        call = asyncio.create_task(Job.at("1").in_thread())

        async def progress() -> Any:
            return (await look.show(stage.host, "Job/1"))["steps"][0]["progress"]

        await eventually(lambda: stage.host.effects.running == 1)
        while await progress() != "half":
            await asyncio.sleep(0.01)
        thread_goes_on.set()
        assert await call == 1


async def test_a_heartbeat_in_a_handler_is_refused_and_outside_goes_nowhere() -> None:
    heartbeat(1)
    async with Stage(Job):
        with pytest.raises(RuntimeError, match="belongs inside a step"):
            await Job.at("1").misuse()
