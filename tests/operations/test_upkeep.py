"""Erasure, pruning and repairs: what goes, what stays, and what the journal says of it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import perdure
from perdure import Fatal, Object, query, send, step
from perdure.cli.check import open_file
from perdure.errors import BadArguments, Conflict, UnknownCall, UnknownObject
from perdure.host import repairing, retention
from perdure.operations.backup import back_up
from perdure.operations.sizes import sizes
from perdure.sight import look
from perdure.store.memory import MemoryStore
from perdure.store.sqlite import SqliteStore
from tests.host.stage import Stage

SECRET = "ada-lovelace-1815"


@step
async def stuck(order: str) -> int:
    await asyncio.Event().wait()
    return 0


class Person(Object):
    name: str = ""
    seen: list[str] = []

    async def rename(self, name: str) -> None:
        self.name = name

    async def see(self, what: str) -> int:
        self.seen.append(what)
        return len(self.seen)

    async def order(self) -> int | str:
        try:
            return await stuck(self.key)
        except Fatal as error:
            return f"failed: {error}"

    async def fail(self, unless: str) -> str:
        if self.name != unless:
            raise LookupError(self.name)
        return "fine"

    @query
    def read(self) -> tuple[str, int]:
        return self.name, len(self.seen)


class Short(Person, history="1h"):
    pass


def stage_in(data: Path, **settings: Any) -> Stage:
    store = SqliteStore(data, commit_inline_ms=1e6)
    return Stage(Person, Short, store=store, data=str(data), **settings)


def bytes_of(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(directory.iterdir()))


@pytest.mark.parametrize("name", [False, True])
async def test_nothing_of_an_erased_object_is_left_on_disk(name: bool, tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    async with stage_in(data) as stage:
        await Person.at("p").rename(SECRET)
        for _ in range(50):
            await Person.at("p").see(SECRET * 10)
        await Person.at("other").rename("charles")
        await stage.host.checkpointer.run()
        await Person.at("p").see(SECRET)
        back_up(data, copy)
        assert SECRET.encode() in bytes_of(copy)
        turns = await retention.erase(stage.host, "Person/p", name=name, compact=True)
        assert turns == 53
        with pytest.raises(UnknownObject):
            await look.show(stage.host, "Person/p")
        assert await Person.at("other").read() == ("charles", 0)
        back_up(data, copy)
        assert await Person.at("p").read() == ("", 0)
        assert await Person.at("p").see("again") == 1
    assert SECRET.encode() not in bytes_of(data)
    assert SECRET.encode() not in bytes_of(copy)
    for directory in (data, copy):
        with open_file(directory) as file:
            assert file.check().findings == []
    async with stage_in(data):
        assert await Person.at("p").read() == ("", 1)


async def test_what_was_never_there_cannot_be_erased() -> None:
    async with Stage(Person) as stage:
        with pytest.raises(UnknownObject):
            await retention.erase(stage.host, "Person/p", name=False, compact=False)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_old_history_goes_and_objects_stay(kind: str, tmp_path: Path) -> None:
    sqlite = SqliteStore(tmp_path, commit_inline_ms=1e6)
    store: Any = MemoryStore() if kind == "memory" else sqlite
    async with Stage(Person, Short, store=store) as stage:
        for _ in range(3):
            for cls in (Person, Short):
                await cls.at("p").see("x")
            await stage.host.checkpointer.run()
            await stage.hibernate()
            await asyncio.sleep(7200)
        await stage.host.checkpointer.run()
        before = retention.cutoffs(stage.host)
        assert list(before) == ["Short"]
        would = await retention.prune(stage.host, before, apply=False)
        assert (would.objects, would.segments) == (1, 3)
        assert await retention.prune(stage.host, before, apply=True) == would
        assert await retention.prune(stage.host, before, apply=True) == (0, 0, 0)
        assert len(await look.history(stage.host, "Person/p", 0, 100)) == 3
        assert await look.history(stage.host, "Short/p", 0, 100) == []
        await stage.hibernate()
        assert await Short.at("p").see("y") == 4
        with pytest.raises(perdure.UnknownKind):
            await retention.prune(stage.host, {"Nobody": 1}, apply=True)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_history_is_bounded_by_size_as_well(kind: str, tmp_path: Path) -> None:
    sqlite = SqliteStore(tmp_path, commit_inline_ms=1e6)
    store: Any = MemoryStore() if kind == "memory" else sqlite
    async with Stage(Person, store=store) as stage:
        for _ in range(5):
            await Person.at("p").see("x" * 1000)
            await stage.hibernate()
            await stage.host.checkpointer.run()
        await Person.at("small").see("x")
        await stage.hibernate()
        over = {"Person": 2500}
        would = await retention.prune(stage.host, {}, apply=False, over=over)
        assert (would.objects, would.segments) == (1, 2)
        assert await retention.prune(stage.host, {}, apply=True, over=over) == would
        past = await look.history(stage.host, "Person/p", 0, 10)
        assert [entry["seq"] for entry in past] == [3, 4, 5]
        assert len(await look.history(stage.host, "Person/small", 0, 10)) == 1
        assert await Person.at("p").see("y") == 6


async def test_a_class_that_keeps_an_hour_is_pruned_by_itself() -> None:
    async with Stage(Short) as stage:
        await Short.at("p").see("x")
        await stage.hibernate()
        await asyncio.sleep(timedelta(hours=3).total_seconds())
        await Short.at("q").see("x")
        await asyncio.sleep(120)
        assert await look.history(stage.host, "Short/p", 0, 100) == []
        assert await Short.at("p").see("y") == 2


@pytest.mark.parametrize("history", ["forever", "30", "1y", "-1d"])
def test_how_long_history_is_kept_is_checked_where_it_is_said(history: str) -> None:
    with pytest.raises(perdure.BadSettings, match="history"):
        perdure.Settings(history=history)

    class Wrong(Object, history=history):
        pass

    with pytest.raises(perdure.InvalidClass, match="history"):
        perdure.kind.kind_of(Wrong)


async def test_a_step_gets_its_result_by_hand_and_the_journal_says_so() -> None:
    async with Stage(Person) as stage:
        ordering = asyncio.create_task(Person.at("p").order())
        await asyncio.sleep(1)
        [waiting] = (await look.show(stage.host, "Person/p"))["steps"]
        await repairing.resolve_step(stage.host, "Person/p", waiting["id"], 7, "ada", "ticket 1")
        assert await ordering == 7
        with pytest.raises(Conflict, match="under way"):
            await repairing.resolve_step(stage.host, "Person/p", waiting["id"], 8, "ada", "again")
        entry = (await look.history(stage.host, "Person/p", 0, 10))[1]
        assert entry["kind"] == "repair"
        assert entry["input"].endswith("(by ada: ticket 1)")
        await stage.restart()
        assert await Person.at("p").read() == ("", 0)


async def test_a_step_may_fail_for_good_by_hand() -> None:
    async with Stage(Person) as stage:
        await send(Person.at("p").order)
        ordering = asyncio.create_task(Person.at("p").order())
        await asyncio.sleep(1)
        first, second = (await look.show(stage.host, "Person/p"))["steps"]
        assert first["id"] != second["id"]
        await repairing.fail_step(stage.host, "Person/p", second["id"], "no bank", "ada", "why")
        assert await ordering == "failed: no bank"
        await stage.restart()
        await asyncio.sleep(1)
        assert len((await look.show(stage.host, "Person/p"))["steps"]) == 1


async def test_an_attribute_is_set_as_its_annotation_says() -> None:
    async with Stage(Person) as stage:
        with pytest.raises(UnknownObject):
            await repairing.set_attribute(stage.host, "Person/p", "name", b'"x"', "ada", "why")
        await Person.at("p").see("x")
        await repairing.set_attribute(stage.host, "Person/p", "name", b'"x"', "ada", "why")
        with pytest.raises(BadArguments, match="str"):
            await repairing.set_attribute(stage.host, "Person/p", "name", b"1", "ada", "why")
        with pytest.raises(BadArguments, match="no attribute"):
            await repairing.set_attribute(stage.host, "Person/p", "nam", b"1", "ada", "why")
        await stage.restart()
        assert await Person.at("p").read() == ("x", 1)


async def test_a_call_that_failed_is_begun_anew_with_its_arguments() -> None:
    async with Stage(Person) as stage:
        call_id = await send(Person.at("p").fail, "ada")
        await asyncio.sleep(1)
        answer = await repairing.drive_again(stage.host, call_id, "ada", "still wrong")
        assert answer.failure is not None
        await Person.at("p").rename("ada")
        answer = await repairing.drive_again(stage.host, call_id, "ada", "mended")
        assert answer.failure is None
        with pytest.raises(UnknownCall):
            await repairing.drive_again(stage.host, call_id + "0", "ada", "why")


async def test_sizes_are_told_by_class_and_object(tmp_path: Path) -> None:
    async with stage_in(tmp_path) as stage:
        await Person.at("large").see("x" * 100_000)
        await Person.at("small").see("x")
        await Short.at("s").see("x")
        await stage.hibernate()
        await stage.host.checkpointer.run()
        found = sizes(tmp_path, 1)
    assert [(row["class"], row["objects"]) for row in found["classes"]] == [
        ("Person", 2),
        ("Short", 1),
    ]
    [largest] = found["largest"]
    assert (largest["address"], largest["turns"]) == ("Person/large", 1)
    assert largest["history"] > 100_000
