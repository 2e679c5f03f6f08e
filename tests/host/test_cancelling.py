"""Cancelled calls and deadlines: told once, where the code waits; compensation runs, durably."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import perdure
from perdure import (
    CallCancelled,
    Conflict,
    DeadlineExceeded,
    Object,
    UnknownCall,
    current,
    query,
    send,
)
from perdure.clock import NS
from perdure.errors import StoreUnavailable
from perdure.journal.entry import JSON
from perdure.store.memory import MemoryStore
from perdure.testing.faults import FaultyStore
from tests.host.stage import Stage, eventually


class Ledger(Object):
    undone: dict[str, int] = {}

    async def undo(self, what: str) -> int:
        await asyncio.sleep(0.5)
        self.undone[what] = self.undone.get(what, 0) + 1
        return self.undone[what]

    @query
    async def read(self) -> dict[str, int]:
        return self.undone


class Worker(Object):
    log: list[str] = []

    async def work(self, seconds: float) -> str:
        self.log.append("begun")
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.log.append("cancelled")
            await asyncio.sleep(1)
            await Ledger.at("l").undo(self.key)
            raise
        finally:
            self.log.append("ended")
        return f"{self.key} worked"

    async def stubborn(self) -> str:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            self.log.append("swallowed")
        await asyncio.sleep(5)
        return "done all the same"

    async def fails(self) -> None:
        await asyncio.sleep(1)
        raise ValueError("no")

    async def until(self) -> datetime | None:
        return current().deadline

    async def pass_on(self, to: str, seconds: float) -> str:
        async with perdure.deadline(50):
            return await Worker.at(to).work(seconds)

    async def deadlines(self) -> list[datetime | None]:
        found = [current().deadline]
        async with perdure.deadline(10):
            found.append(current().deadline)
            found.append(await Worker.at("x").until())
            async with perdure.deadline(100):
                found.append(await Worker.at("x").until())
        found.append(await Worker.at("x").until())
        return found

    @query
    async def read(self) -> list[str]:
        return self.log


class Held(Object, reentrant=False):
    log: list[str] = []

    async def hold(self, name: str, seconds: float) -> None:
        self.log.append(name)
        await asyncio.sleep(seconds)

    @query
    async def read(self) -> list[str]:
        return self.log


class Boss(Object):
    log: list[Any] = []

    async def fan(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for name in "abc":
                    group.create_task(Worker.at(name).work(1000))
                group.create_task(Worker.at("f").fails())
        except* ValueError:
            self.log.append(("failed", asyncio.get_running_loop().time()))

    async def fan_once(self) -> None:
        if not self.log:
            self.log.append("begun")
            await self.fan()

    async def impatient(self, how: str) -> str:
        try:
            if how == "timeout":
                async with asyncio.timeout(3):
                    await Worker.at("a").work(1000)
            elif how == "wait_for":
                await asyncio.wait_for(Worker.at("a").work(1000), 3)
            else:
                async with perdure.deadline(timedelta(seconds=3)):
                    await Worker.at("a").work(1000)
        except TimeoutError as error:
            self.log.append(asyncio.get_running_loop().time())
            return type(error).__name__
        return "no error"

    async def shielded(self) -> str:
        try:
            await asyncio.wait_for(asyncio.shield(Worker.at("a").work(5)), 3)
        except TimeoutError:
            return "timeout"
        return "no error"

    async def first_of(self) -> str:
        tasks = [asyncio.create_task(Worker.at(f"w{n}").work(n)) for n in (2, 9)]
        done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        return done.pop().result()

    async def tell_and_cancel(self) -> str:
        call_id = await send(Worker.at("a").work, 1000)
        await perdure.cancel(call_id)
        return call_id

    async def cancel(self, call_id: str) -> str:
        try:
            await perdure.cancel(call_id)
        except (UnknownCall, Conflict) as error:
            return type(error).__name__
        return "told"

    async def ask(self) -> str:
        try:
            return await Worker.at("a").work(1000)
        except CallCancelled as error:
            return f"{type(error).__name__}: {error}"

    async def cancel_itself(self) -> str:
        call_id = current().call_id
        assert call_id is not None
        try:
            await perdure.cancel(call_id)
        except asyncio.CancelledError:
            return "cancelled"
        return "not cancelled"

    async def raises_it(self) -> None:
        raise asyncio.CancelledError("by hand")

    async def with_time(self, seconds: float) -> str:
        return await Worker.at("a").work(seconds)

    @query
    async def read(self) -> list[Any]:
        return self.log


CLASSES = (Boss, Worker, Ledger, Held)


def outcome(stage: Stage, call_id: str) -> Any:
    return stage.host.find_call(call_id)


async def call(stage: Stage, address: str, handler: str, *args: Any, seconds: float) -> Any:
    """A call from outside with a deadline; gives the failure's or the result's text."""
    from perdure.host.incoming import Answer, IncomingCall
    from perdure.ref import parse_address
    from perdure.serde import to_json

    kind, key = parse_address(address)
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    stage.host.call(
        IncomingCall(
            stage.host.kinds[kind],
            key,
            stage.host.kinds[kind].handlers[handler],
            (args, {}),
            to_json(list(args)),
            future.set_result,
            format=JSON,
            deadline_ns=stage.clock.now_ns() + int(seconds * NS),
        )
    )
    answer = await future
    return answer.failure if answer.failure is not None else answer.body


# --- cancelled by its id


async def test_a_cancelled_call_runs_its_compensation_and_is_kept() -> None:
    async with Stage(*CLASSES) as stage:
        call_id = await send(Worker.at("a").work, 1000)
        await stage.settle()
        await perdure.cancel(call_id)
        await asyncio.sleep(0.5)
        assert await outcome(stage, call_id) is None
        assert await Worker.at("a").read() == ["begun", "cancelled"]
        await stage.restart()
        await asyncio.sleep(2)
        assert await Worker.at("a").read() == ["begun", "cancelled", "ended"]
        assert await Ledger.at("l").read() == {"a": 1}
        answer = await outcome(stage, call_id)
        assert answer.failure.code == "cancelled"


async def test_a_second_cancel_leaves_the_compensation_alone() -> None:
    async with Stage(*CLASSES) as stage:
        call_id = await send(Worker.at("a").work, 1000)
        await perdure.cancel(call_id)
        await asyncio.sleep(0.2)
        await perdure.cancel(call_id)
        await stage.restart()
        await perdure.cancel(call_id)
        await asyncio.sleep(3)
        assert await Ledger.at("l").read() == {"a": 1}
        # And once it is over, being asked for the same again is no error.
        await perdure.cancel(call_id)


async def test_again_raises_it_in_the_compensation() -> None:
    async with Stage(*CLASSES) as stage:
        call_id = await send(Worker.at("a").work, 1000)
        await perdure.cancel(call_id)
        await perdure.cancel(call_id, again=True)
        await asyncio.sleep(3)
        assert await Ledger.at("l").read() == {}
        assert await Worker.at("a").read() == ["begun", "cancelled", "ended"]
        assert (await outcome(stage, call_id)).failure.code == "cancelled"


async def test_a_handler_that_swallows_it_ends_with_its_result() -> None:
    async with Stage(*CLASSES) as stage:
        call_id = await send(Worker.at("a").stubborn)
        await stage.settle()
        await perdure.cancel(call_id)
        await stage.hibernate()
        await asyncio.sleep(6)
        answer = await outcome(stage, call_id)
        assert answer.failure is None
        with pytest.raises(Conflict):
            await perdure.cancel(call_id)


async def test_a_call_that_was_never_kept_is_kept_once_it_is_cancelled() -> None:
    async with Stage(*CLASSES) as stage:
        asking = asyncio.create_task(Worker.at("a").work(1000))
        await stage.settle()
        [call_id] = stage.host.machine_at("Worker/a").running
        await perdure.cancel(call_id)
        with pytest.raises(CallCancelled):
            await asking
        assert (await outcome(stage, call_id)).failure.code == "cancelled"
        await asyncio.sleep(stage.settings.call_retention + 1)
        with pytest.raises(UnknownCall):
            await outcome(stage, call_id)


async def test_unknown_and_ended_calls() -> None:
    async with Stage(*CLASSES) as stage:
        for unknown in ("nonsense", "00000000000000ff-1.1", "1-"):
            with pytest.raises(UnknownCall):
                await perdure.cancel(unknown)
            assert await Boss.at("b").cancel(unknown) == "UnknownCall"
        assert stage.host.stats().outbox == 0
        call_id = await send(Worker.at("a").work, 1)
        await asyncio.sleep(2)
        with pytest.raises(Conflict):
            await perdure.cancel(call_id)
        assert await Boss.at("b").cancel(call_id) == "Conflict"
        assert (await outcome(stage, call_id)).failure is None


async def test_a_queued_call_is_taken_out() -> None:
    async with Stage(*CLASSES) as stage:
        first = await send(Held.at("h").hold, "first", 10.0)
        second = await send(Held.at("h").hold, "second", 10.0)
        third = await send(Held.at("h").hold, "third", 1.0)
        await stage.settle()
        await perdure.cancel(second)
        assert (await outcome(stage, second)).failure.code == "cancelled"
        await perdure.cancel(first)
        await asyncio.sleep(2)
        assert await Held.at("h").read() == ["first", "third"]
        assert (await outcome(stage, third)).failure is None


async def test_an_object_cancels_what_it_has_just_sent() -> None:
    async with Stage(*CLASSES) as stage:
        call_id = await Boss.at("b").tell_and_cancel()
        await asyncio.sleep(3)
        assert await Ledger.at("l").read() == {"a": 1}
        assert (await outcome(stage, call_id)).failure.code == "cancelled"


async def test_whoever_awaits_a_call_that_somebody_cancels_gets_call_cancelled() -> None:
    async with Stage(*CLASSES) as stage:
        asking = asyncio.create_task(Boss.at("b").ask())
        await stage.settle()
        [call_id] = stage.host.machine_at("Worker/a").running
        await perdure.cancel(call_id)
        assert await asking == "CallCancelled: work was cancelled"


async def test_a_call_may_cancel_itself() -> None:
    async with Stage(*CLASSES) as stage:
        assert await Boss.at("b").cancel_itself() == "cancelled"
        await stage.settle()
        assert stage.host.stats().outbox == 0


async def test_cancelled_error_raised_by_hand_is_a_cancelled_call() -> None:
    async with Stage(*CLASSES):
        with pytest.raises(CallCancelled):
            await Boss.at("b").raises_it()


async def test_a_race_of_cancel_and_end_has_one_outcome() -> None:
    """Whatever comes first is what the caller is told, and both that ask agree."""
    async with Stage(*CLASSES) as stage:
        for lead_ms in range(-3, 4):
            key = f"race{lead_ms}"
            call_id = await send(Worker.at(key).work, 1)
            await asyncio.sleep(1 + lead_ms / 1000)
            try:
                await perdure.cancel(call_id)
                told = True
            except Conflict:
                told = False
            await asyncio.sleep(3)
            answer = await outcome(stage, call_id)
            assert told == (answer.failure is not None)
            assert (await Ledger.at("l").read()).get(key, 0) == int(told)


# --- nobody awaits it any more


async def test_when_one_of_a_group_fails_the_others_are_cancelled_where_they_run() -> None:
    async with Stage(*CLASSES) as stage:
        began = asyncio.get_running_loop().time()
        await send(Boss.at("b").fan)
        await stage.settle()
        await stage.restart()
        await asyncio.sleep(4)
        [(what, when)] = await Boss.at("b").read()
        # The group does not wait for the compensation of those it cancels.
        assert what == "failed"
        assert when - stage.clock.now_ns() / NS + asyncio.get_running_loop().time() - began < 1.1
        assert await Ledger.at("l").read() == {"a": 1, "b": 1, "c": 1}
        for name in "abc":
            assert await Worker.at(name).read() == ["begun", "cancelled", "ended"]


@pytest.mark.parametrize("how", ["timeout", "wait_for", "deadline"])
async def test_a_timeout_cancels_the_call_it_waited_for(how: str) -> None:
    async with Stage(*CLASSES) as stage:
        assert await Boss.at("b").impatient(how) == "TimeoutError"
        await asyncio.sleep(3)
        assert await Ledger.at("l").read() == {"a": 1}
        assert await Worker.at("a").read() == ["begun", "cancelled", "ended"]
        assert stage.host.stats().outbox == 0


async def test_what_is_shielded_goes_on() -> None:
    async with Stage(*CLASSES):
        assert await Boss.at("b").shielded() == "timeout"
        await asyncio.sleep(3)
        assert await Worker.at("a").read() == ["begun", "ended"]


async def test_the_first_of_several_and_the_others_cancelled() -> None:
    async with Stage(*CLASSES):
        assert await Boss.at("b").first_of() == "w2 worked"
        await asyncio.sleep(2)
        assert await Worker.at("w9").read() == ["begun", "cancelled", "ended"]


# --- deadlines


async def test_a_deadline_cancels_the_call_and_whatever_was_called_for_it() -> None:
    async with Stage(*CLASSES) as stage:
        failing = asyncio.create_task(call(stage, "Boss/b", "with_time", 1000.0, seconds=20))
        await asyncio.sleep(5)
        # Counted from the first start, whatever happens in between.
        await stage.hibernate()
        await asyncio.sleep(14)
        assert not failing.done()
        await asyncio.sleep(1.5)
        failure = failing.result()
        assert (failure.code, failure.error) == ("timeout", "DeadlineExceeded")
        await asyncio.sleep(3)
        assert await Worker.at("a").read() == ["begun", "cancelled", "ended"]
        # Its compensation called the ledger, and had the time it took.
        assert await Ledger.at("l").read() == {"a": 1}


async def test_a_deadline_is_counted_across_a_crash() -> None:
    async with Stage(*CLASSES) as stage:
        lost = asyncio.create_task(call(stage, "Boss/b", "with_time", 1000.0, seconds=20))
        await asyncio.sleep(1)
        await stage.crash()
        await asyncio.sleep(60)
        await stage.start()
        await asyncio.sleep(3)
        assert await Worker.at("a").read() == ["begun", "cancelled", "ended"]
        lost.cancel()


async def test_deadlines_travel_and_the_earliest_counts() -> None:
    async with Stage(*CLASSES) as stage:
        now = stage.clock.now_ns()
        found = await Worker.at("a").deadlines()
        ten = datetime.fromtimestamp(now // NS, UTC) + timedelta(seconds=10)
        assert found[0] is None
        assert found[4] is None
        for one in found[1:4]:
            assert one is not None
            assert abs(one - ten) < timedelta(seconds=1)
        async with perdure.deadline(5):
            until = await Worker.at("a").until()
            assert until is not None
            assert abs(until - ten + timedelta(seconds=5)) < timedelta(seconds=1)


async def test_a_deadline_of_the_caller_ends_the_call_of_a_deadline_block() -> None:
    async with Stage(*CLASSES):
        with pytest.raises(TimeoutError):
            async with perdure.deadline(2):
                await Worker.at("p").pass_on("a", 1000)
        await asyncio.sleep(3)
        assert await Worker.at("a").read() == ["begun", "cancelled", "ended"]


async def test_a_call_that_is_too_late_does_not_begin() -> None:
    async with Stage(*CLASSES) as stage:
        holding = await send(Held.at("h").hold, "first", 10.0)
        failure = await call(stage, "Held/h", "hold", "second", 1.0, seconds=3)
        assert failure.error == "DeadlineExceeded"
        failure = await call(stage, "Held/h", "hold", "third", 1.0, seconds=-1)
        assert failure.error == "DeadlineExceeded"
        await asyncio.sleep(10)
        assert await Held.at("h").read() == ["first"]
        assert (await outcome(stage, holding)).failure is None


async def test_a_call_in_time_leaves_no_timer_behind() -> None:
    async with Stage(*CLASSES) as stage:
        assert await call(stage, "Worker/a", "work", 1.0, seconds=20) == b'"a worked"'
        machine = stage.host.machine_at("Worker/a")
        assert machine.deadlines is None
        assert machine.next_timer_ns() == 0
        assert machine.quiescent()


async def test_a_cancelled_call_is_not_cut_off_by_its_deadline() -> None:
    async with Stage(*CLASSES) as stage:
        failing = asyncio.create_task(call(stage, "Worker/a", "work", 1000.0, seconds=1.2))
        await asyncio.sleep(1)
        [call_id] = stage.host.machine_at("Worker/a").running
        await perdure.cancel(call_id)
        failure = await failing
        assert failure.code == "cancelled"
        assert await Ledger.at("l").read() == {"a": 1}


async def test_deadline_exceeded_is_a_timeout_error() -> None:
    assert issubclass(DeadlineExceeded, TimeoutError)


# --- accidents


async def _fan_with(accident: Any) -> int:
    """The fan-out above on a store with an accident; gives the number of its operations."""
    down = asyncio.Event()
    store = FaultyStore(MemoryStore(), on_crash=down.set)
    accident(store)
    stage = Stage(*CLASSES, store=store, checkpoint_seconds=1.0)
    stage_up = False
    over = False
    for _ in range(5):
        down.clear()
        try:
            starting = asyncio.create_task(stage.start())
            falling = asyncio.create_task(down.wait())
            await asyncio.wait({starting, falling}, return_when=asyncio.FIRST_COMPLETED)
            falling.cancel()
            if not starting.done():
                starting.cancel()
                continue
            starting.result()
            stage_up = True
            driving = asyncio.create_task(_drive())
            falling = asyncio.create_task(down.wait())
            lost = asyncio.create_task(_until_lost(stage))
            await asyncio.wait({driving, falling, lost}, return_when=asyncio.FIRST_COMPLETED)
            for task in (falling, lost):
                task.cancel()
            if driving.done() and driving.exception() is None:
                over = True
                break
            driving.cancel()
            await asyncio.gather(driving, return_exceptions=True)
        except StoreUnavailable:
            pass
        finally:
            if stage_up and not over:
                await stage.crash()
                stage_up = False
    assert over
    assert await Ledger.at("l").read() == {"a": 1, "b": 1, "c": 1}
    for name in "abc":
        assert await Worker.at(name).read() == ["begun", "cancelled", "ended"]
    assert stage.host.stats().outbox == 0
    assert len(await Boss.at("b").read()) == 2
    operations = len(store.operations)
    await stage.crash()
    return operations


async def _drive() -> None:
    await send(Boss.at("b").fan_once)
    await asyncio.sleep(8)
    await eventually(lambda: True)


async def _until_lost(stage: Stage) -> None:
    while not stage.host.draining:
        await asyncio.sleep(0.1)


async def test_cancellation_is_exactly_once_whatever_operation_is_the_last() -> None:
    operations = await _fan_with(lambda store: None)
    assert operations > 20
    for after in (False, True):
        for number in range(1, operations + 1):
            print(f"crash {'after' if after else 'before'} operation {number}")
            await _fan_with(lambda store, n=number, a=after: store.crash(n, after=a))
            await _fan_with(
                lambda store, n=number, a=after: store.fail(n, StoreUnavailable("cut"), after=a)
            )
