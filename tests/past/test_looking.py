"""Looks at the past: what they show is what was there, and the live object is left alone."""

from __future__ import annotations

import asyncio
import enum
import json
from typing import Any

import msgspec
import pytest

import perdure
from perdure import Object, Past, atomic, step
from perdure.errors import BadArguments, DivergenceError, UnknownTurn
from perdure.past import looking, walk
from perdure.past.moment import Moment
from perdure.past.record import Snapshot, record_of
from perdure.past.state import changes
from perdure.sight import look
from perdure.suspend import heap
from tests.host.programs import NAMES, Programs
from tests.host.stage import Stage, seeded
from tests.past.observed import Basket, Life, observing


@pytest.mark.parametrize("seed", range(6))
async def test_the_state_at_each_turn_is_what_was_observed_live(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "SPACING", 5)
    rng = seeded(seed)
    async with Stage(Basket) as stage:
        with observing("Basket/b") as live:
            await Life(stage, rng).go(60)
        past = Past(Basket.at("b"))
        last = max(live)
        assert last > 30
        order = list(live)
        rng.shuffle(order)
        for seq in order:
            assert (await past.state(seq))["state"] == live[seq], seq
        # And from the snapshots that these looks have made, and from those of the store.
        await stage.host.checkpointer.run()
        for seq in order:
            assert (await past.state(seq))["state"] == live[seq], seq


@pytest.mark.parametrize("name", NAMES)
async def test_programs_of_asyncio_are_seen_as_they_were(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "SPACING", 1)
    async with Stage(Programs) as stage:
        with observing("Programs/p") as live:
            await perdure.send(getattr(Programs.at("p"), name))
            await asyncio.sleep(100)
        await stage.host.checkpointer.run()
        past = Past(Programs.at("p"))
        for _ in range(2):
            for seq in live:
                assert (await past.state(seq))["state"] == live[seq]


@pytest.mark.parametrize("seed", range(4))
async def test_built_by_replay_equals_built_from_any_snapshot(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "SPACING", 7)
    async with Stage(Basket) as stage:
        await Life(stage, seeded(seed)).go(80)
        await stage.host.checkpointer.run()
        record = await record_of(stage.host, "Basket/b")
        monkeypatch.setattr(type(record), "snapshot", _none)
        (await walk.walk(record, record.last)).discard()
        points = await stage.store.waypoints(record.oid)
        assert points
        plain = await walk.walk(record, record.last)
        for seq, _ in points:
            monkeypatch.setattr(type(record), "snapshot", _only(stage, record.oid, seq))
            other = await walk.walk(record, record.last)
            assert heap.same_heap(plain, other), seq
            other.discard()
        plain.discard()


async def _none(self: Any, upto: int) -> None:
    return None


def _only(stage: Stage, oid: int, seq: int) -> Any:
    async def snapshot(self: Any, upto: int) -> Any:
        found = await stage.store.waypoint(oid, seq, stage.host.version)
        assert found is not None
        return Snapshot(found.seq, found.body, certain=True) if upto >= seq else None

    return snapshot


# --- one class, small


class Note(Object):
    text: str = ""
    items: list[Any] = []

    async def write(self, text: str) -> str:
        self.text = text
        return text

    async def put(self, item: Any) -> None:
        self.items.append(item)

    async def drop(self, i: int) -> None:
        del self.items[i]

    async def price(self, i: int, price: int) -> None:
        self.items[i]["price"] = price

    async def divide(self, by: int) -> float:
        parts = [1, 2, 3]
        self.text = "dividing"
        return sum(parts) / by

    @atomic
    async def divide_atomic(self, by: int) -> float:
        self.text = "undone"
        return 1 / by

    async def sleeps(self) -> str:
        count = 7
        await asyncio.sleep(10)
        raise KeyError(count)

    async def background(self) -> None:
        self.task = asyncio.ensure_future(self.sleeps())

    async def outside(self) -> int:
        return await effect()


effects: list[int] = []


@step
async def effect() -> int:
    effects.append(1)
    return len(effects)


async def test_a_look_leaves_the_live_object_alone() -> None:
    effects.clear()
    async with Stage(Note) as stage:
        note = Note.at("n")
        await note.write("a")
        await note.outside()
        waiting = asyncio.ensure_future(note.sleeps())
        await stage.settle()
        activation = stage.host.at("Note", "n")
        before = (activation.machine.seq, stage.host.turns, stage.host.log.appended_lsn)
        bytes_before = heap.dump_heap(activation.machine)
        past = Past(note)
        for seq in range(5):
            await past.state(seq)
        await past.diff(0, 4)
        await past.history()
        await past.errors()
        await past.calls()
        after = (activation.machine.seq, stage.host.turns, stage.host.log.appended_lsn)
        assert after == before
        assert heap.dump_heap(activation.machine) == bytes_before
        assert effects == [1]
        waiting.cancel()


async def test_a_look_wakes_nobody() -> None:
    async with Stage(Note) as stage:
        await Note.at("n").write("a")
        await stage.hibernate()
        assert (await Past(Note.at("n")).state())["state"]["text"] == "a"
        assert stage.host.at("Note", "n") is None


async def test_a_moment_is_a_turn_a_time_or_an_age() -> None:
    async with Stage(Note) as stage:
        note, times = Note.at("n"), []
        for i in range(5):
            await asyncio.sleep(60)
            await note.write(str(i))
            times.append(stage.clock.now_ns())
            if i == 2:
                await stage.host.checkpointer.run()
        past = Past(note)
        assert (await past.state(2))["state"]["text"] == "1"
        assert (await past.state("2"))["state"]["text"] == "1"
        assert (await past.state("90s"))["state"]["text"] == "2"
        from datetime import UTC, datetime, timedelta

        assert (await past.state(timedelta(seconds=100)))["seq"] == 3
        for i, ns in enumerate(times):
            when = datetime.fromtimestamp(ns / 1e9 + 1, UTC)
            assert (await past.state(when))["state"]["text"] == str(i)
        assert (await past.state("7d")) == {
            "address": "Note/n",
            "seq": 0,
            "time": None,
            "state": None,
        }
        with pytest.raises(UnknownTurn, match="has no turn 9"):
            await past.state(9)
        with pytest.raises(BadArguments, match="neither a turn nor a time"):
            await past.state("yesterday")


async def test_a_deleted_object_keeps_its_past_and_the_next_life_goes_on_behind() -> None:
    async with Stage(Note) as stage:
        note = Note.at("n")
        await note.write("first life")
        await perdure.delete(note)
        await stage.host.checkpointer.run()
        past = Past(note)
        assert (await past.state(1))["state"]["text"] == "first life"
        assert (await past.state(2))["state"] is None
        await note.write("second")
        assert (await past.state())["state"]["text"] == "second"
        assert (await past.state(1))["state"]["text"] == "first life"


async def test_what_differs_has_a_path() -> None:
    async with Stage(Note):
        note = Note.at("n")
        for i in range(5):
            await note.put({"name": f"n{i}", "price": 10})
        await note.price(3, 12)
        past = Past(note)
        found = await past.diff(5, 6)
        assert [change["text"] for change in found["changes"]] == ["items[3].price: 10 -> 12"]
        await note.drop(0)
        texts = [change["text"] for change in (await past.diff(6, 7))["changes"]]
        assert texts == ['items[0]: - {"name":"n0","price":10}']
        assert (await past.diff(7, 7))["changes"] == []
        back = await past.diff(7, 6)
        assert [change["what"] for change in back["changes"]] == ["added"]


def test_paths_of_every_kind() -> None:
    before = {"a": {"x y": 1, "k": [1, 2, 3]}, "gone": 1, "same": [1], "n": 1}
    after = {"a": {"x y": 2, "k": [1, 9, 2, 3]}, "same": [1], "n": "1", "new": {"q": None}}
    assert [str(change) for change in changes(before, after)] == [
        "gone: - 1",
        'a["x y"]: 1 -> 2',
        "a.k[1]: + 9",
        'n: 1 -> "1"',
        'new: + {"q":null}',
    ]
    assert [str(change) for change in changes(None, {"a": 1})] == ["a: + 1"]
    assert list(changes(None, None)) == []


async def test_an_error_is_told_with_its_locals_as_they_were() -> None:
    async with Stage(Note) as stage:
        note = Note.at("n")
        with pytest.raises(ZeroDivisionError):
            await note.divide(0)
        await note.write("later")
        [error] = await Past(note).errors()
        assert (error["seq"], error["handler"]) == (1, "divide")
        assert error["error"] == "ZeroDivisionError"
        [frame] = error["frames"]
        assert frame["function"] == "Note.divide"
        assert frame["text"] == "return sum(parts) / by"
        assert frame["locals"]["parts"] == "[1, 2, 3]"
        assert frame["locals"]["by"] == "0"
        assert error["traceback"].endswith("ZeroDivisionError: division by zero\n")
        assert "machine.py" not in error["traceback"]
        assert (await note.write("x")) == "x"
        assert stage.host.at("Note", "n").machine.seq == 3


async def test_errors_of_atomic_calls_of_suspended_ones_and_of_tasks() -> None:
    async with Stage(Note):
        note = Note.at("n")
        with pytest.raises(ZeroDivisionError):
            await note.divide_atomic(0)
        with pytest.raises(KeyError):
            await note.sleeps()
        await note.background()
        await asyncio.sleep(20)
        past = Past(note)
        first, second = await past.errors()
        assert first["frames"][-1]["locals"]["by"] == "0"
        assert second["frames"][-1]["locals"]["count"] == "7"
        assert second["kind"] == "timer"
        assert await past.errors(2) == []
        with pytest.raises(UnknownTurn):
            await past.errors(99)


async def test_a_past_that_does_not_replay_is_told_and_not_guessed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Stage(Note):
        note = Note.at("n")
        for i in range(4):
            await note.write(str(i))
        real = Note.write

        async def write(self: Note, text: str) -> str:
            return await real(self, text) + ("!" if text == "2" else "")

        handler = perdure.kind.kind_of(Note).handlers["write"]
        monkeypatch.setattr(handler, "function", write)
        past = Past(note)
        assert (await past.state(2))["state"]["text"] == "1"
        with pytest.raises(DivergenceError) as raised:
            await past.state(4)
        assert (raised.value.seq, raised.value.expected) == (3, "answer '2'")
        assert raised.value.found == "answer '2!'"


async def test_a_snapshot_that_misleads_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "SPACING", 2)
    async with Stage(Note) as stage:
        note = Note.at("n")
        for i in range(9):
            await note.write(str(i))
        await stage.host.checkpointer.run()
        record = await record_of(stage.host, "Note/n")
        await Past(note).state(8)
        points = await stage.store.waypoints(record.oid)
        good = await stage.store.waypoint(record.oid, 99, stage.host.version)
        assert good is not None
        assert len(points) > 1
        bad = good._replace(body=good.body[:-3] + b"???")
        await stage.store.put_waypoints([bad])
        assert (await Past(note).state(8))["state"]["text"] == "7"
        # It is gone, or made anew.
        again = await stage.store.waypoint(record.oid, 99, stage.host.version)
        assert again is None or again.body != bad.body


def test_snapshots_of_a_walk_are_bounded() -> None:
    for last in (10, 100_000, 10_000_000):
        for size in (100, 100_000, 10**8):
            count = last // walk.spacing_for(last, size)
            assert count <= walk.KEPT_MAX
            assert count * size <= walk.KEPT_BYTES_MAX or count <= 1


async def test_a_forgotten_past_is_said_to_be_gone() -> None:
    async with Stage(Note, history="none") as stage:
        note = Note.at("n")
        for i in range(5):
            await note.write(str(i))
        await stage.host.checkpointer.run()
        await note.write("now")
        past = Past(note)
        assert (await past.state(6))["state"]["text"] == "now"
        assert (await past.state(5))["state"]["text"] == "4"
        with pytest.raises(UnknownTurn, match="no longer kept"):
            await past.state(3)


async def test_looks_from_inside_an_object_are_refused() -> None:
    class Nosy(Object):
        async def look(self) -> Any:
            return await Past(Note.at("n")).state()

    async with Stage(Nosy, Note):
        await Note.at("n").write("x")
        with pytest.raises(perdure.SideEffectError, match="past of objects"):
            await Nosy.at("x").look()


async def test_moments_of_a_diff_may_be_times() -> None:
    async with Stage(Note) as stage:
        await Note.at("n").write("a")
        record = await record_of(stage.host, "Note/n")
        found = await looking.diff(record, Moment(0, None), Moment(None, stage.clock.now_ns()))
        assert [c["path"] for c in found["changes"]] == ["text", "items"]


class NoValue(enum.Enum):
    A = object


class Attic(Object):
    things: dict[str, Any] = {}

    async def fill(self) -> None:
        self.things = {
            "half": "\ud800x",
            "\udfff": 1,
            "long": 10**5000,
            "wide": 2**64,
            "member": NoValue.A,
            "deep": [["\ud800"]],
            "fine": [1, 2.5, None, True, "ü"],
        }


async def test_a_state_is_shown_whatever_is_in_it() -> None:
    async with Stage(Attic) as stage:
        await Attic.at("a").fill()
        past = Past(Attic.at("a"))
        things = (await past.state(1))["state"]["things"]
        assert things["half"] == "\\ud800x"
        assert things["\\udfff"] == 1
        assert things["wide"] == 2**64
        assert things["deep"] == [["\\ud800"]]
        assert things["fine"] == [1, 2.5, None, True, "ü"]
        assert isinstance(things["long"], str)
        assert isinstance(things["member"], str)
        assert [str(change) for change in changes(None, {"things": things})]
        shown = (await look.show(stage.host, "Attic/a"))["state"]["things"]
        assert json.loads(msgspec.json.encode(shown)) == shown == things
        # A file of exports has ints of 64 bits: it came out or it did not, for all of a class.
        await stage.node.host.checkpointer.run()
        assert await past.export()


def test_nan_is_no_change() -> None:
    nan = float("nan")
    assert not changes({"a": nan, "b": [1, nan]}, {"a": float("nan"), "b": [1, nan]})
    assert [one.path for one in changes({"a": nan}, {"a": 1.0})] == ["a"]


async def test_the_time_that_a_turn_is_shown_with_includes_it() -> None:
    async with Stage(Basket) as stage:
        basket = Basket.at("b")
        # The clock of the stage stands between two microseconds.
        stage.clock.jump_ns += 500
        await basket.put("bread", 1.0)
        await asyncio.sleep(1)
        await basket.put("jam", 2.0)
        past = Past(basket)
        (first, second) = (await past.history(kind="call"))[:2]
        assert (await past.state(at=first["time"]))["seq"] == first["seq"]
        assert [turn["seq"] for turn in await past.history(until=second["time"])] == [1, 2]
        assert [turn["seq"] for turn in await past.history(since=second["time"])] == [2]
