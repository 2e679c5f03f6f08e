"""Section 3 of the interface, the core: recorded once, retried durably, the same id each time."""

from __future__ import annotations

import asyncio
import functools
import itertools
import threading
from datetime import timedelta
from typing import Any

import pytest

from perdure import (
    Fatal,
    InvalidClass,
    Limit,
    Object,
    Retry,
    query,
    send,
    step,
    step_id,
)
from perdure.journal.identity import oid_of
from perdure.sight import look
from tests.host.stage import Stage, eventually

ran: list[Any] = []


class Declined(Exception):
    pass


@pytest.fixture(autouse=True)
def _fresh() -> None:
    ran.clear()


@step
async def charge(card: str, cents: int) -> str:
    ran.append(step_id())
    await asyncio.sleep(0.5)
    return f"{card}:{cents}"


@step
def in_a_thread(x: int) -> tuple[int, bool, str]:
    return x * 2, threading.current_thread() is threading.main_thread(), step_id()


@step(retry=Retry(attempts=4, initial=10.0, factor=2.0, jitter=0.0))
async def flaky(failures: int) -> int:
    ran.append(step_id())
    if len(ran) <= failures:
        raise Declined(f"no {len(ran)}")
    return len(ran)


@step(retry=Retry(attempts=9, initial=0.1))
async def hopeless() -> None:
    ran.append(1)
    raise Fatal("give up")


@step(retry=Retry(attempts=9, initial=0.1, on=(KeyError,)))
async def other_error() -> None:
    ran.append(1)
    raise Declined("not retried")


@step(timeout=1)
async def slow() -> None:
    await asyncio.sleep(100)


@step(retry=Retry(attempts=100, initial=1.0, factor=1.0), total_timeout=5.5)
async def never() -> None:
    ran.append(1)
    raise Declined


@step
async def returns_a_lock() -> Any:
    return threading.Lock()


class Order(Object):
    log: list[Any] = []

    async def pay(self) -> str:
        paid = await charge("visa", 100)
        self.log.append(paid)
        return paid

    async def run(self, name: str) -> Any:
        steps: dict[str, Any] = {
            "thread": lambda: in_a_thread(21),
            "flaky": lambda: flaky(2),
            "too flaky": lambda: flaky(9),
            "hopeless": hopeless,
            "other": other_error,
            "slow": slow,
            "never": never,
            "lock": returns_a_lock,
        }
        try:
            result = await steps[name]()
        except (Exception, asyncio.CancelledError) as error:
            result = repr(error)
        self.log.append([result, asyncio.get_running_loop().time()])
        return result

    async def gives_up(self) -> str:
        try:
            async with asyncio.timeout(1):
                await charge_slowly()
        except TimeoutError:
            return "gave up"
        return "done"

    async def direct_io(self) -> None:
        await bad_arguments()  # type: ignore[call-arg]

    @query
    async def read(self) -> list[Any]:
        return self.log


@step
async def charge_slowly() -> None:
    try:
        await asyncio.sleep(50)
    except asyncio.CancelledError:
        ran.append("cancelled")
        raise


@step
async def bad_arguments(x: int) -> int:
    return x


async def test_a_result_is_recorded_once() -> None:
    async with Stage(Order) as stage:
        assert await Order.at("1").pay() == "visa:100"
        await stage.restart()
        assert await Order.at("1").read() == ["visa:100"]
        assert len(ran) == 1


async def test_a_step_cut_off_by_a_crash_runs_again_with_the_same_id() -> None:
    async with Stage(Order) as stage:
        await send(Order.at("1").pay)
        await eventually(lambda: len(ran) == 1)
        await stage.restart()
        await eventually(lambda: len(ran) == 2)
        await asyncio.sleep(1)
        assert await Order.at("1").read() == ["visa:100"]
        assert ran[0] == ran[1]


async def test_ids_differ_between_steps() -> None:
    async with Stage(Order):
        await asyncio.gather(Order.at("1").pay(), Order.at("1").pay(), Order.at("2").pay())
        assert len(set(ran)) == 3


async def test_a_plain_function_runs_in_a_thread() -> None:
    async with Stage(Order):
        doubled, main, id_ = await Order.at("1").run("thread")
        assert (doubled, main) == (42, False)
        assert id_


async def test_outside_an_object_a_step_simply_runs() -> None:
    ran.clear()
    with pytest.raises(RuntimeError):
        await charge("visa", 1)
    assert in_a_thread.__wrapped__  # type: ignore[attr-defined]


async def test_retries_wait_durably_with_back_off() -> None:
    async with Stage(Order) as stage:
        began = stage.clock.now_ns()
        await send(Order.at("1").run, "flaky")
        for _ in range(4):
            await asyncio.sleep(5)
            await stage.restart()
        await asyncio.sleep(40)
        [[result, at]] = await Order.at("1").read()
        assert result >= 3
        assert len(set(ran)) == 1
        assert at - began / 1e9 >= 30


async def test_the_last_error_is_the_one_caught() -> None:
    async with Stage(Order):
        assert await Order.at("1").run("too flaky") == "Declined('no 4')"


@pytest.mark.parametrize(
    ("name", "error"), [("hopeless", "Fatal('give up')"), ("other", "Declined('not retried')")]
)
async def test_some_errors_end_the_retries(name: str, error: str) -> None:
    async with Stage(Order):
        assert await Order.at("1").run(name) == error
        assert len(ran) == 1


async def test_timeouts_for_an_attempt_and_for_all() -> None:
    async with Stage(Order):
        assert "TimeoutError" in await Order.at("1").run("slow")
        assert "TimeoutError" in await Order.at("1").run("never")
        assert len(ran) == 6


async def test_a_result_that_cannot_be_kept_is_an_error_for_the_handler() -> None:
    async with Stage(Order):
        assert "NotSerializable" in await Order.at("1").run("lock")


async def test_a_step_nobody_waits_for_is_cancelled() -> None:
    async with Stage(Order) as stage:
        assert await Order.at("1").gives_up() == "gave up"
        await stage.settle()
        assert ran == ["cancelled"]
        assert (await look.show(stage.host, "Order/1"))["steps"] == []


async def test_wrong_arguments_are_raised_where_they_are_given() -> None:
    async with Stage(Order):
        with pytest.raises(TypeError):
            await Order.at("1").direct_io()


@step(retry=Retry(attempts=3, initial=1.0, jitter=0.0))
async def told_when() -> int:
    ran.append(asyncio.get_running_loop().time())
    if len(ran) < 3:
        error = Declined("busy")
        error.retry_after = 50.0  # type: ignore[attr-defined]
        raise error
    return len(ran)


@step
async def leaves() -> None:
    raise SystemExit(3)


@step
def stops() -> None:
    raise StopIteration


class Watched(Object):
    async def run(self, name: str) -> Any:
        steps: dict[str, Any] = {"told": told_when, "leaves": leaves, "stops": stops, "too": flaky}
        try:
            return await (steps[name](9) if name == "too" else steps[name]())
        except Exception as error:
            return type(error).__name__


async def test_an_error_may_say_when_to_try_again() -> None:
    async with Stage(Watched):
        assert await Watched.at("1").run("told") == 3
        assert [later - earlier >= 50 for earlier, later in itertools.pairwise(ran)] == [True, True]


async def test_a_step_that_leaves_the_process_only_fails() -> None:
    async with Stage(Watched):
        assert await Watched.at("1").run("leaves") == "HandlerError"
        assert await Watched.at("1").run("stops") == "RuntimeError"


async def test_show_tells_of_the_next_try_and_of_what_failed() -> None:
    async with Stage(Watched) as stage:
        await send(Watched.at("1").run, "too")
        await asyncio.sleep(5)
        for _ in range(2):
            shown = await look.show(stage.host, "Watched/1")
            [told] = shown["steps"]
            assert told["status"] == "waiting for the next attempt"
            assert (told["attempt"], told["last_error"]) == (1, "Declined: no 1")
            assert told["next_try"] > told["since"]
            assert shown["failed_steps"] == []
            await stage.restart()
        await asyncio.sleep(600)
        shown = await look.show(stage.host, "Watched/1")
        assert shown["steps"] == []
        [failed] = shown["failed_steps"]
        assert failed["attempt"] == 4
        assert failed["error"].startswith("Declined: no ")
        assert failed["name"].endswith(":flaky")


@pytest.mark.parametrize(
    "bad",
    [
        *({"attempts": value} for value in (0, -1, True, 1.5)),
        *({"initial": value} for value in (-1, "1", float("nan"))),
        {"factor": 0.5},
        {"jitter": 2},
        {"max_delay": float("inf")},
        *({"on": value} for value in ((), KeyboardInterrupt, "x", (Exception, 3))),
    ],
)
def test_impossible_policies_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Retry(**bad)


@pytest.mark.parametrize(
    "bad",
    [
        *({"timeout": value} for value in (0, -1, "1", True, float("inf"), timedelta(0))),
        {"total_timeout": 0},
        {"heartbeat_timeout": -1},
        {"retry": 3},
        {"limit": 3},
        {"repeat": "no"},
        {"repeat": False, "retry": Retry(attempts=2)},
        {"limit": Limit(concurrency=1, key=lambda wrong: wrong)},
    ],
)
def test_impossible_steps_are_refused_where_they_are_defined(bad: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        step(**bad)(ordinary)


def ordinary(x: int) -> int:
    return x


@pytest.mark.parametrize("bad", [3, "text", print, functools.partial(ordinary, 1)])
def test_only_functions_are_steps(bad: Any) -> None:
    with pytest.raises(InvalidClass):
        step(bad)


def test_times_may_be_timedeltas() -> None:
    made = step(timeout=timedelta(minutes=1), total_timeout=timedelta(hours=1))(ordinary)
    assert (made.perdure_step.timeout, made.perdure_step.total_timeout) == (60.0, 3600.0)  # type: ignore[attr-defined]


def test_back_off_is_bounded() -> None:
    assert Retry(attempts=10_000).delay_s(9_999, 0.0) == 60.0


class Unmade(Object):
    async def on_create(self) -> None:
        asyncio.create_task(charge("visa", 1))  # noqa: RUF006
        await asyncio.sleep(0.1)
        raise Declined("not made")

    async def run(self) -> None: ...


async def test_a_step_of_an_object_that_could_not_be_made_is_forgotten() -> None:
    async with Stage(Unmade) as stage:
        with pytest.raises(Declined):
            await Unmade.at("1").run()
        await asyncio.sleep(5)
        assert stage.host.effects.running == 0


async def test_long_arguments_are_not_kept_in_the_journal() -> None:
    async with Stage(Big) as stage:
        await send(Big.at("1").run, 100_000)
        await eventually(lambda: len(ran) == 1)
        assert max(map(len, stage.host.log.entries_of(oid_of("Big", "1")))) < 1000
        await stage.restart()
        await eventually(lambda: len(ran) == 2)
        await asyncio.sleep(2)
        assert ran == [100_000, 100_000]
        await stage.restart()
        assert await Big.at("1").read() == 100_000


@step
async def length(text: str) -> int:
    ran.append(len(text))
    await asyncio.sleep(1)
    return len(text)


class Big(Object):
    found: int = 0

    async def run(self, size: int) -> None:
        self.found = await length("x" * size)

    @query
    async def read(self) -> int:
        return self.found
