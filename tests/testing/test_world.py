"""The world of a test: time, accidents, steps, deploys, and what it says of misuse."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import perdure
from perdure import App, HandlerError, Object, Retry, UnknownKind, query, step, step_id
from perdure.suspend import probe
from perdure.testing import World, run

DAY = timedelta(days=1)


@dataclass
class Bank:
    """The outside world of these tests."""

    requests: list[str] = field(default_factory=list)
    effects: dict[str, int] = field(default_factory=dict)


BANK = Bank()


@pytest.fixture(autouse=True)
def _bank() -> None:
    BANK.__init__()  # type: ignore[misc]


@step(retry=Retry(attempts=5, initial=1, jitter=0))
async def charge(who: str, cents: int) -> str:
    BANK.requests.append(step_id())
    BANK.effects.setdefault(step_id(), cents)
    return f"{who} paid {cents}"


@step
def weigh(things: list[str]) -> int:
    return len(things)


class Order(Object):
    """Pays, waits a month, reminds."""

    def __init__(self) -> None:
        self.log: list[str] = []

    async def run(self, cart: list[str]) -> str:
        self.log.append(await charge(self.key, 100 * await weigh(cart)))
        await asyncio.sleep(30 * 86_400)
        self.log.append("rate your meal")
        return "done"

    @query
    async def messages(self) -> list[str]:
        return self.log

    async def principal(self) -> Any:
        return perdure.current().principal


class Clock(Object):
    """Ticks once a day."""

    def __init__(self) -> None:
        self.ticks: list[datetime] = []

    async def tick(self, times: int) -> None:
        for _ in range(times):
            await asyncio.sleep(86_400)
            self.ticks.append(datetime.now(UTC))

    async def time_out(self, times: int) -> None:
        for _ in range(times):
            try:
                async with asyncio.timeout(86_400):
                    await asyncio.Event().wait()
            except TimeoutError:
                self.ticks.append(datetime.now(UTC))

    @query
    async def read(self) -> list[datetime]:
        return self.ticks


# --- time


async def test_a_month_passes_through_a_crash(world: World) -> None:
    order = world.at(Order, "42")
    await perdure.send(order.run, ["tea"])
    await world.advance(timedelta(days=29))
    await world.crash()
    assert await order.messages() == ["42 paid 100"]
    await world.advance(DAY)
    assert await Order.at("42").messages() == ["42 paid 100", "rate your meal"]
    assert world.crashes == 1


async def test_whoever_waits_for_an_answer_waits_no_time(world: World) -> None:
    assert world.now == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert await Order.at("1").run([]) == "done"
    assert world.now == datetime(2023, 12, 14, 22, 13, 20, tzinfo=UTC)


@pytest.mark.parametrize("handler", ["tick", "time_out"])
async def test_a_year_of_days_is_a_year(world: World, handler: str) -> None:
    clock = world.at(Clock, "wall")
    await perdure.send(getattr(clock, handler), 366)
    await world.advance(timedelta(days=365))
    assert len(await clock.read()) == 365
    await world.advance(DAY)
    assert len(await clock.read()) == 366


async def test_timers_of_many_objects_fire_in_their_order(world: World) -> None:
    for n in range(5):
        await world.advance(timedelta(hours=1))
        await perdure.send(world.at(Clock, str(n)).tick, 2)
    await world.advance(timedelta(days=3))
    ticks = [tick for n in range(5) for tick in await Clock.at(str(n)).read()]
    assert len(ticks) == 10
    assert all((tick - datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)).seconds % 3600 == 0
               for tick in ticks)  # fmt: skip


async def test_settling_takes_no_time(world: World) -> None:
    waiting = asyncio.create_task(world.at(Order, "1").run([]))
    before = world.now
    await world.settle()
    assert not waiting.done()
    assert world.now == before
    assert len(BANK.requests) == 1
    assert await waiting == "done"


async def test_a_clock_that_is_set_forward_lets_what_is_due_fire(world: World) -> None:
    clock = world.at(Clock, "wall")
    await perdure.send(clock.tick, 3)
    await world.jump(DAY)
    assert len(await clock.read()) == 1
    await world.jump(-10 * DAY)
    await world.advance(9 * DAY)
    assert len(await clock.read()) == 1
    await world.advance(2 * DAY)
    assert len(await clock.read()) == 2
    ticks = await clock.read()
    assert ticks == sorted(ticks)


# --- accidents


async def test_nothing_of_memory_survives_and_no_finally_runs(world: World) -> None:
    ended: list[str] = []

    class Holder(Object):
        value: int = 0

        async def hold(self) -> None:
            self.value += 1
            try:
                await asyncio.sleep(60)
            finally:
                ended.append("object")

        @query
        def read(self) -> int:
            return self.value

    async def slow(who: str, cents: int) -> str:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("step")
        return ""

    await world.replace(charge, slow)
    holder = world.at(Holder, "x")
    await perdure.send(holder.hold)
    await perdure.send(world.at(Order, "1").run, [])
    await world.settle()
    await world.crash()
    assert ended == []
    assert [call.outcome for call in world.step_calls(charge)] == ["cut off"]
    assert await holder.read() == 1
    await world.advance(timedelta(minutes=2))
    assert ended == ["object"]
    await world.advance(timedelta(hours=2))
    assert ended == ["object", "step"]


async def test_a_call_that_is_cut_off_happens_once(world: World) -> None:
    clock = world.at(Order, "1")
    waiting = asyncio.create_task(clock.run(["a"]))
    for _ in range(5):
        await world.advance(timedelta(days=3))
        await world.crash()
    assert await waiting == "done"
    assert len(await clock.messages()) == 2


async def test_while_the_process_is_down_time_goes_on(world: World) -> None:
    clock = world.at(Clock, "wall")
    await perdure.send(clock.tick, 1)
    before = world.now
    await world.crash(down=timedelta(days=10))
    assert world.now == before + 10 * DAY
    await world.settle()
    assert await clock.read() == [before + 10 * DAY]


async def test_a_crash_before_and_after_a_commit(world: World) -> None:
    order = world.at(Order, "1")
    await world.crash_before("commit")
    await perdure.send(order.run, [])
    assert world.crashes == 1
    await world.crash_after("commit", 2)
    await perdure.send(world.at(Order, "2").run, [])
    await world.settle()
    assert world.crashes == 2
    assert len(set(BANK.requests)) == 2


async def test_a_crash_before_a_step_and_after_it(world: World) -> None:
    await world.crash_before(charge)
    await world.crash_after(charge, 1)
    await perdure.send(world.at(Order, "1").run, [])
    await world.settle()
    assert world.crashes == 2
    assert [(call.outcome, call.attempt) for call in world.step_calls(charge)] == [
        ("cut off", 1),
        ("done", 2),
        ("done", 3),
    ]
    assert len(BANK.requests) == 2
    assert len(BANK.effects) == 1


async def test_a_crash_at_a_numbered_operation(world: World) -> None:
    await world.settle()
    begun = len(world.operations)
    await world.crash_before(begun + 2)
    await perdure.send(world.at(Order, "1").run, [])
    await world.settle()
    assert world.crashes == 1
    assert world.operations[begun + 1 : begun + 3] == ["commit", "open"]
    with pytest.raises(ValueError, match=r"operation 1 is past: the store has had \d+"):
        await world.crash_before(1)


async def test_objects_hibernate_and_wake(world: World) -> None:
    orders = [world.at(Order, str(n)) for n in range(3)]
    for order in orders:
        await perdure.send(order.run, [])
    await world.hibernate(orders[0])
    await world.hibernate()
    assert "checkpoint" in world.operations
    await world.advance(timedelta(days=30))
    assert [len(await order.messages()) for order in orders] == [2, 2, 2]


async def test_code_that_waits_is_kept_as_bytes(world: World) -> None:
    order = world.at(Order, "1")
    await perdure.send(order.run, [])
    await world.hibernate(order)
    shown = await world.show(order)
    if not probe.unfit():
        assert shown["rebuild"]["why"] is None
        assert shown["rebuild"]["snapshot_seq"] == shown["seq"] > 1


async def test_an_object_with_a_step_under_way_cannot_hibernate(world: World) -> None:
    async def slow(who: str, cents: int) -> str:
        await asyncio.sleep(60)
        return "late"

    await world.replace(charge, slow)
    order = world.at(Order, "1")
    await perdure.send(order.run, [])
    with pytest.raises(RuntimeError, match="a step of it is under way"):
        await world.hibernate(order)
    await world.hibernate()
    await world.advance(timedelta(minutes=1))
    assert await order.messages() == ["late"]


# --- steps


async def test_attempts_fail_as_ordered(world: World) -> None:
    await world.fail(charge, 2)
    await world.fail(charge, error=TimeoutError, after=True)
    order = world.at(Order, "1")
    await perdure.send(order.run, ["a"])
    await world.advance(timedelta(seconds=7))
    calls = world.step_calls(charge)
    assert [type(call.error) for call in calls] == [
        ConnectionError,
        ConnectionError,
        TimeoutError,
        type(None),
    ]
    assert [call.outcome for call in calls] == ["failed", "failed", "failed", "done"]
    assert [call.at.second for call in calls] == [20, 21, 23, 27]
    assert {call.id for call in calls} == {calls[0].id}
    assert (calls[0].object, calls[0].args) == ("Order/1", ("1", 100))
    assert len(BANK.requests) == 2
    assert await order.messages() == ["1 paid 100"]


async def test_steps_are_replaced_and_put_back(world: World) -> None:
    await world.replace(weigh, lambda things: 7)
    await world.replace("tests.testing.test_world:charge", lambda who, cents: f"free {cents}")
    await perdure.send(world.at(Order, "1").run, [])
    await world.settle()
    await world.replace(charge, None)
    await perdure.send(world.at(Order, "2").run, [])
    await world.settle()
    assert await Order.at("1").messages() == ["free 700"]
    assert await Order.at("2").messages() == ["2 paid 700"]


async def test_outside_calls_are_recorded_and_played_again(tmp_path: Path) -> None:
    path = tmp_path / "tapes" / "order.json"

    async def scenario(mode: str) -> list[str]:
        async with World(Order) as world:
            await world.cassette(path, mode)
            if mode != "replay":
                await world.fail(charge)
            await perdure.send(world.at(Order, "1").run, ["x"])
            await world.advance(timedelta(seconds=5))
            return await Order.at("1").messages()

    def play(mode: str) -> list[str]:
        return run(scenario(mode))

    first = await asyncio.to_thread(play, "auto")
    assert len(BANK.requests) == 1
    assert await asyncio.to_thread(play, "replay") == first
    assert len(BANK.requests) == 1
    assert '"1 paid 100"' in path.read_text()


async def test_a_tape_that_lacks_an_outcome_says_so(world: World, tmp_path: Path) -> None:
    path = tmp_path / "empty.json"
    path.write_text('{"calls": []}')
    await world.cassette(path)
    with pytest.raises((LookupError, HandlerError), match="one more was asked for"):
        await world.at(Order, "1").run([])


# --- other code


class Greeter(Object, name="Greeter"):
    greeted: int = 0

    async def greet(self, name: str) -> str:
        self.greeted += 1
        return f"hello {name}"


class PoliteGreeter(Object, name="Greeter"):
    greeted: int = 0

    async def greet(self, name: str) -> str:
        self.greeted += 1
        return f"good day, {name}: the {self.greeted}th"


@pytest.mark.perdure(Greeter, Order)
async def test_a_deploy_keeps_what_there_is(world: World) -> None:
    greeter = world.at(Greeter, "door")
    assert await greeter.greet("ada") == "hello ada"
    await perdure.send(Order.at("1").run, [])
    await world.deploy(PoliteGreeter)
    assert await greeter.greet("grace") == "good day, grace: the 2th"
    await world.advance(timedelta(days=30))
    assert len(await Order.at("1").messages()) == 2
    await world.deploy(App([Greeter]))
    with pytest.raises(UnknownKind):
        await Order.at("1").messages()


async def test_a_call_that_waits_outlives_a_deploy(world: World) -> None:
    waiting = asyncio.create_task(world.at(Order, "1").run([]))
    await world.settle()
    await world.deploy(App([Order, Clock]))
    assert await waiting == "done"


# --- every test a test of determinism

COUNTER: Iterator[int]


class Random(Object):
    """Sleeps as long as something outside of it says."""

    def __init__(self) -> None:
        self.known: set[str] = set()

    async def fair(self) -> float:
        for n in range(30):
            self.known.add(f"{random.random()} {n}")
            await asyncio.sleep(random.random())
        return len(self.known)

    async def unfair(self) -> None:
        for _ in range(3):
            await asyncio.sleep(next(COUNTER))


@pytest.mark.perdure(replay=True)
async def test_honest_code_is_rebuilt_before_each_turn(world: World) -> None:
    assert world.replay
    assert await world.at(Random, "a").fair() == 30
    await perdure.send(world.at(Order, "1").run, [])
    await world.advance(timedelta(days=31))
    assert len(await Order.at("1").messages()) == 2
    assert world.rebuilt > 30


async def unfair(*, replay: bool) -> None:
    global COUNTER
    COUNTER = iter(range(1, 100))
    async with World(Random, replay=replay) as world:
        await world.at(Random, "a").unfair()


def test_a_divergence_fails_the_test_with_its_text() -> None:
    run(unfair(replay=False))
    with pytest.raises(AssertionError, match=r"(?s)Random/a: .*turn 1.*rebuilt from its journal"):
        run(unfair(replay=True))


# --- seeds


async def chances(seed: int) -> list[float]:
    class Dice(Object):
        async def roll(self) -> float:
            return random.random()

    async with World(seed=seed) as world:
        return [await world.at(Dice, "d").roll(), world.choice.random()]


def test_chance_comes_from_the_seed() -> None:
    assert run(chances(1)) == run(chances(1)) != run(chances(2))


async def test_the_test_calls_on_behalf_of_somebody(world: World) -> None:
    world.principal = {"name": "ada"}
    assert await world.at(Order, "1").principal() == {"name": "ada"}


async def test_what_is_there_can_be_looked_at(world: World) -> None:
    order = world.at(Order, "1")
    await perdure.send(order.run, [])
    await world.settle()
    shown = await world.show(order)
    assert (shown["address"], shown["waits"][0]["handler"]) == ("Order/1", "run")
    assert len(await world.history(order)) == shown["seq"]
    assert "operations of the store" in world.describe()


# --- misuse


async def test_misuse_is_told(world: World) -> None:
    with pytest.raises(TypeError, match="takes a timedelta, not 30"):
        await world.advance(30)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"does not run backwards; await world.jump"):
        await world.advance(-DAY)
    with pytest.raises(TypeError, match=r"world.at takes a class and a key"):
        world.at(Order.at("1"), "2")  # type: ignore[type-var]
    with pytest.raises(ValueError, match="the store has no operation 'comit'; it has open"):
        await world.crash_before("comit")
    with pytest.raises(ValueError, match="is no step; give the function"):
        await world.fail(asyncio.sleep)
    with pytest.raises(ValueError, match="times counts from 1"):
        await world.fail(charge, 0)
    with pytest.raises(ValueError, match="nth counts from 1"):
        await world.crash_after("commit", 0)
    with pytest.raises(TypeError, match="error is an exception"):
        await world.fail(charge, error="no")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="replaced by a function"):
        await world.replace(charge, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a ref is needed"):
        await world.hibernate("Order/1")
    with pytest.raises(TypeError, match="deploy takes an App or classes"):
        await world.deploy()
    with pytest.raises(TypeError, match=r"an App or classes of perdure.Object, not"):
        World("Order")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mode is one of"):
        await world.cassette("x.json", "play")
    with pytest.raises(FileNotFoundError, match="record it with"):
        await world.cassette("x.json", "replay")


async def test_a_world_begins_once_and_ends(world: World) -> None:
    with pytest.raises(RuntimeError, match="has begun already"):
        await world.__aenter__()
    other = World(Order)
    with pytest.raises(RuntimeError, match="has not begun"):
        await other.settle()
    async with other:
        await other.at(Order, "1").messages()
    with pytest.raises(RuntimeError, match="is over"):
        await other.settle()
    # And the first one is where it was.
    await perdure.send(world.at(Order, "2").run, [])
    assert await Order.at("2").messages() == []


def test_a_world_needs_virtual_time() -> None:
    async def main() -> None:
        async with World(Order):
            pass

    with pytest.raises(RuntimeError, match="needs virtual time"):
        asyncio.run(main())


class Stuck(Object):
    async def wait(self) -> None:
        await asyncio.Event().wait()


def test_a_test_that_waits_for_ever_is_told_for_what() -> None:
    async def main() -> None:
        async with World(Stuck) as world:
            await world.at(Stuck, "a").wait()

    with pytest.raises(AssertionError, match=r"(?s)never comes.*Stuck/a: wait waits for Event"):
        run(main())


def test_a_quarantined_object_fails_the_test() -> None:
    async def main(*, expected: bool) -> None:
        global COUNTER
        COUNTER = iter(range(1, 100))
        async with World(Random) as world:
            await perdure.send(world.at(Random, "a").unfair)
            await world.advance(timedelta(seconds=1))
            await world.crash()
            await world.advance(timedelta(seconds=10))
            assert world.problems
            if expected:
                world.problems.clear()

    run(main(expected=True))
    with pytest.raises(AssertionError, match="Random/a is quarantined"):
        run(main(expected=False))
