"""`doctor`: which stored snapshots would not load, and what follows from it."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
from typing import Any

import pytest

import perdure
from perdure import Object, UnknownKind, query
from perdure.journal.identity import oid_of
from perdure.sight import doctor
from perdure.store.memory import MemoryStore
from perdure.suspend import probe
from tests.host.stage import Stage

needs_frames = pytest.mark.skipif(
    bool(probe.unfit()), reason=f"suspended code cannot be kept here: {probe.unfit()}"
)


class Note(Object):
    lines: list[str] = []

    async def add(self, line: str) -> None:
        self.lines.append(line)

    async def later(self, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        finally:
            self.lines.append("later")

    @query
    async def read(self) -> list[str]:
        return self.lines


class Ticker(Object):
    ticks: int = 0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            self.ticks += 1

    @query
    async def read(self) -> int:
        return self.ticks


def other_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is suspended was so under another Python."""
    monkeypatch.setattr(importlib.util, "MAGIC_NUMBER", b"2.7!")


async def examine(stage: Stage, **query: Any) -> dict[str, Any]:
    asked = {"kind": None, "after": None, "limit": 1000} | query
    return await doctor.examine(stage.host, asked["kind"], asked["after"], asked["limit"])


def damage(store: MemoryStore, address: str) -> None:
    oid = oid_of(*address.split("/"))
    part, row = store._rows[oid]
    assert row.snapshot is not None
    store._rows[oid] = part, dataclasses.replace(row, snapshot=row.snapshot[:-1] + b"?")


async def with_notes(stage: Stage) -> None:
    """An object at rest, and one that waits, both with three turns and on disk."""
    for key in ("rests", "waits"):
        for line in "ab":
            await Note.at(key).add(line)
    await stage.host.checkpointer.run()
    await Note.at("rests").add("c")
    await perdure.send(Note.at("waits").later, 100)
    await stage.node.drain()
    await stage.start()


@needs_frames
async def test_all_is_well() -> None:
    async with Stage(Note) as stage:
        await with_notes(stage)
        found = await examine(stage)
        assert found["checked"] == 2
        assert found["problems"] == []
        assert found["next"] is None
        assert found["interpreter"].startswith("CPython 3.")
        assert found["suspended_code"] == {"kept": True, "why": None}
        # Nothing was woken by it, and nothing ran.
        assert stage.host.stats().live == 0
        assert await Note.at("waits").read() == ["a", "b"]


@needs_frames
async def test_a_suspended_snapshot_of_another_python_means_a_replay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Stage(Note) as stage:
        await with_notes(stage)
        other_python(monkeypatch)
        [problem] = (await examine(stage))["problems"]
        assert problem == {
            "address": "Note/waits",
            "what": "suspended snapshot",
            "why": "the snapshot of Note/waits holds code suspended under another Python",
            "follows": "replay of 1 turn from turn 3",
            "loadable": True,
        }
        assert await Note.at("waits").read() == ["a", "b"]
        assert stage.host.stats().replayed == 1
        assert stage.host.quarantine.list() == []


async def test_where_suspended_code_cannot_be_kept_it_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Stage(Note) as stage:
        monkeypatch.setattr(probe, "_reason", "this is no Python")
        found = await examine(stage)
        assert found["suspended_code"] == {"kept": False, "why": "this is no Python"}


async def test_a_damaged_base_cannot_be_loaded() -> None:
    store = MemoryStore()
    async with Stage(Note, store=store) as stage:
        await Note.at("a").add("x")
        await stage.node.drain()
        await stage.start()
        damage(store, "Note/a")
        [problem] = (await examine(stage))["problems"]
        assert problem["what"] == "base snapshot"
        assert "checksum" in problem["why"]
        assert (problem["follows"], problem["loadable"]) == ("cannot be loaded", False)
        assert await stage.host.wake(oid_of("Note", "a")) is None
        [problem] = (await examine(stage))["problems"]
        assert problem["what"] == "quarantined"
        assert "checksum" in problem["why"]


@needs_frames
async def test_a_damaged_base_under_a_snapshot_that_loads_costs_nothing_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore()
    async with Stage(Note, store=store) as stage:
        await with_notes(stage)
        damage(store, "Note/waits")
        [problem] = (await examine(stage))["problems"]
        assert problem["follows"] == "nothing, while the snapshot of turn 3 loads"
        other_python(monkeypatch)
        both = (await examine(stage))["problems"]
        assert [problem["what"] for problem in both] == ["suspended snapshot", "base snapshot"]
        assert {problem["follows"] for problem in both} == {"replay of 3 turns from turn 1"}
        assert await Note.at("waits").read() == ["a", "b"]
        assert stage.host.stats().replayed == 3


async def test_a_class_that_is_not_served_is_found_in_rows_and_in_the_tail() -> None:
    async with Stage(Note, Ticker) as stage:
        await Note.at("a").add("x")
        await stage.host.checkpointer.run()
        await Note.at("b").add("x")
        await Ticker.at("t").read()
        stage.classes = (Ticker,)
        await stage.restart()
        for kind in (None, "Note"):
            found = await examine(stage, kind=kind)
            assert [
                (one["address"], one["what"], one["loadable"]) for one in found["problems"]
            ] == [
                ("Note/a", "class not served", False),
                ("Note/b", "class not served", False),
            ]
        assert (await examine(stage, kind="Ticker"))["checked"] == 0


async def test_pages() -> None:
    async with Stage(Note) as stage:
        for n in range(5):
            await Note.at(f"k{n}").add("x")
        await stage.host.checkpointer.run()
        await Note.at("young").add("x")
        seen = []
        after = None
        while True:
            found = await examine(stage, after=after, limit=2)
            seen.append(found["checked"])
            after = found["next"]
            if after is None:
                break
        assert seen == [2, 2, 2]


@needs_frames
@pytest.mark.parametrize("history", ["all", "none"])
async def test_the_base_of_what_never_rests_is_only_as_good_as_its_python(
    history: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Stage(Ticker, checkpoint_seconds=60.0, history=history, debug=False) as stage:
        await perdure.send(Ticker.at("t").run)
        oid = oid_of("Ticker", "t")
        await asyncio.sleep(600)
        assert stage.host.find(oid).base_seq > 0
        ticks = await Ticker.at("t").read()
        await stage.crash()
        other_python(monkeypatch)
        await stage.start()
        problems = (await examine(stage, kind="Ticker"))["problems"]
        base = problems[-1]
        assert base["what"] == "base snapshot"
        assert "another Python" in base["why"]
        if history == "all":
            assert base["loadable"]
            assert base["follows"].endswith("from turn 1")
            assert await Ticker.at("t").read() >= ticks
            assert stage.host.quarantine.list() == []
        else:
            assert not base["loadable"]
            assert await stage.host.wake(oid) is None
            [set_aside] = stage.host.quarantine.list()
            assert "another Python" in set_aside["reason"]


async def test_a_class_that_nobody_knows_is_said_to_be_none() -> None:
    async with Stage(Note) as stage:
        with pytest.raises(UnknownKind, match="'Nite'"):
            await examine(stage, kind="Nite")
        assert not (await examine(stage, kind="Note"))["checked"]
