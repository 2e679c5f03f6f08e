"""What suspended code waits for, as `show` tells it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import perdure
from perdure.journal.identity import oid_of
from perdure.sight import look
from perdure.sight.stacks import short
from perdure.suspend import heap, probe
from tests.host import waiters
from tests.host.stage import Stage
from tests.host.waiters import Door, Slow, Waiter, at

needs_frames = pytest.mark.skipif(
    bool(probe.unfit()), reason=f"suspended code cannot be kept here: {probe.unfit()}"
)


NAPS_4_AND_5 = [
    f"sleep until {at(4)}",
    f"sleep until {at(5)}",
    "2 at once: task Task-2 (Waiter._nap), task Task-3 (Waiter._nap)",
]
EXPECTED: dict[str, list[str]] = {
    "nap": [f"sleep until {at(100)}"],
    "patient": [f"sleep until {at(100)}"],
    "wait_for_future": ["future self.paid, to be set"],
    "wait_for_set_future": [f"a timer at {at(3)}"],
    "gathering": [
        *(f"sleep until {at(n)}" for n in (4, 5, 6, 3)),
        "4 at once: task Task-2 (Waiter._nap), task Task-4 (Waiter._nap), "
        "task Task-5 (Waiter._nap), …",
    ],
    "group": [
        f"sleep until {at(4)}",
        f"sleep until {at(5)}",
        "2 at once: task Task-2 (Waiter._nap), task five (Waiter._nap)",
    ],
    "first_of": NAPS_4_AND_5,
    "completed": NAPS_4_AND_5,
    "queued": [
        "Queue self.queue, for room",
        "Queue, for an item",
        "Queue self.queue, to be worked off",
        "3 at once: task Task-2 (Queue.put), task Task-3 (Queue.get), task Task-4 (Queue.join)",
    ],
    "at_a_barrier": [
        "Barrier, for 1 more",
        "Barrier, for 1 more",
        "2 at once: task Task-2 (Barrier.wait), task Task-3 (Barrier.wait)",
    ],
    "streaming": [f"sleep until {at(20)}"],
    "charging": ["step charge"],
    "retrying": [f"sleep until {at(50)}, then step fails, attempt 2"],
    "calling": ["call Door/d.enter"],
}
HOLDERS: dict[str, list[str]] = {
    "locked": [f"sleep until {at(10)}", "Lock self.lock, held by Task-2"],
    "conditioned": [
        "Condition condition, to be notified",
        f"sleep until {at(10)}",
        "Condition condition, held by Task-3",
    ],
    "counted": [
        f"sleep until {at(10)}",
        f"sleep until {at(10)}",
        "Semaphore places, held by Task-2, Task-3",
    ],
}


async def begin(stage: Stage, handler: str, *args: Any) -> dict[str, Any]:
    """What a fresh object is like, a moment after a handler has begun."""
    await perdure.send(getattr(Waiter.at(handler), handler), *args)
    await asyncio.sleep(0.5)
    shown: dict[str, Any] = await look.show(stage.host, f"Waiter/{handler}")
    return shown


def words(shown: dict[str, Any]) -> list[str]:
    return [wait["waiting_on"] for wait in shown["waits"]]


# --- show


@pytest.mark.parametrize("handler", EXPECTED)
async def test_a_wait_is_told_in_words(handler: str) -> None:
    async with Stage(Waiter, Door) as stage:
        shown = await begin(stage, handler)
        # as_completed begins its tasks in the order of a set.
        assert sorted(words(shown)) == sorted(EXPECTED[handler])
        assert {wait["since"] for wait in shown["waits"]} == {at(0)}


@needs_frames
@pytest.mark.parametrize("handler", HOLDERS)
async def test_who_holds_a_lock_is_told(handler: str) -> None:
    async with Stage(Waiter) as stage:
        told = words(await begin(stage, handler))
        assert told[: len(HOLDERS[handler])] == HOLDERS[handler]


@pytest.mark.parametrize(
    ("handler", "until"),
    [("nap", 100), ("patient", 50), ("wait_for_event", 30), ("first_of", 3), ("charging", None)],
)
async def test_until_when_it_waits_is_the_earliest_timer(handler: str, until: int | None) -> None:
    async with Stage(Waiter) as stage:
        shown = await begin(stage, handler)
        wait = next(one for one in shown["waits"] if one["task"] == "Task-1")
        assert wait["until"] == (None if until is None else at(until))


async def test_an_event_is_told_by_the_name_that_the_object_has_for_it() -> None:
    async with Stage(Waiter) as stage:
        assert "Event self.paid, to be set" in words(await begin(stage, "wait_for_event"))


async def test_a_stack_reads_like_a_traceback_with_its_variables() -> None:
    async with Stage(Waiter) as stage:
        [wait] = (await begin(stage, "nap", 100.0))["waits"]
        assert wait["handler"] == "nap" and wait["call_id"]
        own, library = wait["stack"]
        assert own["file"] == waiters.__file__
        assert own["function"] == "Waiter.nap"
        assert own["text"] == "await asyncio.sleep(seconds)"
        assert own["locals"] == {
            "self": "<Waiter/nap>",
            "seconds": "100.0",
            "rest": "[1, 2, 100.0]",
        }
        assert (own["library"], library["library"]) == (False, True)
        assert library["function"] == "sleep"


@needs_frames
async def test_code_in_an_async_generator_is_on_the_stack() -> None:
    async with Stage(Waiter) as stage:
        [wait] = (await begin(stage, "streaming"))["waits"]
        functions = [frame["function"] for frame in wait["stack"]]
        assert functions[:2] == ["Waiter.streaming", "Waiter.streaming.<locals>.numbers"]


async def test_since_is_when_the_wait_began_and_not_the_call() -> None:
    async with Stage(Waiter) as stage:
        await begin(stage, "twice")
        await asyncio.sleep(1)
        [wait] = (await look.show(stage.host, "Waiter/twice"))["waits"]
        # To the second: a timer fires a moment late, also in virtual time.
        times = [wait[name][:19] for name in ("began", "since", "until")]
        assert times == [at(0)[:19], at(1)[:19], at(101)[:19]]


async def test_all_of_it_is_the_same_after_a_wake() -> None:
    async with Stage(Waiter, Door) as stage:
        for handler in ("gathering", "locked", "wait_for_event", "patient"):
            before = (await begin(stage, handler))["waits"]
            await stage.hibernate()
            assert stage.host.find(oid_of("Waiter", handler)) is None
            after = (await look.show(stage.host, f"Waiter/{handler}"))["waits"]
            for wait in before + after:
                for frame in wait["stack"]:
                    # Addresses in memory are in the reprs of functions.
                    del frame["locals"]
            assert after == before


async def test_calls_in_the_queue_are_shown() -> None:
    async with Stage(Door, Slow) as stage:
        calls = [asyncio.create_task(Door.at("d").enter(10)) for _ in range(2)]
        calls.append(asyncio.create_task(Slow.at("s").go()))
        await stage.settle()
        first, queued = (await look.show(stage.host, "Door/d"))["waits"]
        assert (queued["task"], queued["handler"], queued["stack"]) == (None, "enter", [])
        assert queued["waiting_on"] == f"its turn: enter (call {first['call_id']}) runs first"
        creating, waiting = (await look.show(stage.host, "Slow/s"))["waits"]
        assert creating["task"] == "on_create"
        assert waiting["waiting_on"] == "its turn: on_create runs first"
        await asyncio.gather(*calls)


# --- reprs


@pytest.mark.parametrize(
    ("what", "seen"),
    [
        ("raises", "<Loud, whose repr raises SystemExit>"),
        ("opens", "<Loud, whose repr raises SideEffectError>"),
        ("sends", "<Loud, whose repr raises ReadOnlyError>"),
        ("starts", "<Loud starts 0>"),
        ("counts", "<Loud counts 1>"),
    ],
)
async def test_a_repr_changes_nothing(what: str, seen: str) -> None:
    async with Stage(Waiter, Door) as stage:
        await perdure.send(Waiter.at("loud").shouting, what)
        await stage.settle()
        oid = oid_of("Waiter", "loud")
        before = heap.dump_heap(stage.host.find(oid).machine)
        shown = await look.show(stage.host, "Waiter/loud")
        assert shown["state"]["loud"] == seen
        await stage.host.wake(oid)
        machine = stage.host.find(oid).machine
        assert not heap.differs(machine, before)
        assert (machine.read_only, list(machine.ready), len(machine.tasks)) == (False, [], 1)
        assert await Waiter.at("loud").looks() == 0


async def test_no_repr_ends_the_process() -> None:
    async with Stage(Waiter) as stage:
        shown = await begin(stage, "whispering")
        assert [timer["calls"] for timer in shown["timers"]] == [
            "<Loud, whose repr raises SystemExit>"
        ]
        assert shown["steps"][0]["arguments"].endswith(" bytes>")
        [turn] = await look.history(stage.host, "Waiter/whispering", 0, 10)
        assert " bytes>" in turn["output"]


def test_a_short_repr_walks_no_more_than_it_shows() -> None:
    class Endless(list[int]):
        pass

    circle: list[Any] = [1]
    circle.append(circle)
    assert short(circle) == "[1, [1, [1, [1, […]]]]]"
    assert short(list(range(10**6)), 20) == "[0, 1, 2, 3, 4, 5, …"
    assert len(short("x" * 10**6)) == 200
    assert short(10**5000) == "<int, whose repr raises ValueError>"
    assert short([set(), (), (1,), {2}, frozenset({3}), {"a": [4]}, b"5"]) == (
        "[set(), (), (1,), {2}, frozenset({3}), {'a': [4]}, b'5']"
    )


# --- how it would come back


@needs_frames
async def test_rebuild_tells_how_the_object_would_come_back() -> None:
    async with Stage(Waiter, debug=False) as stage:
        shown = await begin(stage, "nap")
        expected = {"by": "replay", "entries": 1, "snapshot_seq": 0, "base_seq": 0, "why": None}
        assert shown["rebuild"] == expected
        await stage.node.drain()
        await stage.start()
        shown = await look.show(stage.host, "Waiter/nap")
        assert shown["rebuild"] == expected | {"by": "snapshot", "entries": 0, "snapshot_seq": 1}
        await perdure.send(Waiter.at("nap").wait_for_future)
        shown = await look.show(stage.host, "Waiter/nap")
        assert shown["rebuild"]["by"] == "snapshot and replay"
        assert shown["rebuild"]["entries"] == 1


@needs_frames
async def test_rebuild_says_why_there_can_be_no_snapshot() -> None:
    async with Stage(Waiter) as stage:
        why = (await begin(stage, "unkept"))["rebuild"]["why"]
        assert why.startswith("Waiter/unkept: unkept() line ")
        assert "local 'lock' is a lock of threads" in why


async def test_where_frames_are_not_known_the_stack_is_shown_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Stage(Waiter) as stage:
        monkeypatch.setattr(probe, "_reason", "this is another Python")
        shown = await begin(stage, "nap", 100.0)
        assert "this is another Python" in shown["rebuild"]["why"]
        [wait] = shown["waits"]
        assert wait["waiting_on"] == f"sleep until {at(100)}"
        assert wait["stack"][0]["locals"]["rest"] == "[1, 2, 100.0]"
