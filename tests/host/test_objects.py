"""Section 2 of the interface: what an object is."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest

import perdure
from perdure import Object, Transient, atomic, query, transient
from perdure.errors import (
    BadArguments,
    InvalidClass,
    InvalidKey,
    ReadOnlyError,
    ResultTypeError,
    UnknownHandler,
)
from perdure.ref import Ref
from perdure.sight import look
from tests.host.stage import Stage


class Odd(Exception):
    """An exception of the app."""


class Room(Object):
    history: list[str] = []
    size: int = 3
    LIMITS: ClassVar[dict[str, int]] = {"a": 1}

    def __init__(self) -> None:
        self.made = [self.key]

    async def on_create(self) -> None:
        self.made.append("created")

    async def post(self, text: str) -> int:
        self.history.append(text)
        return len(self.history)

    def plain(self, a: int, b: int = 2) -> int:
        return a * 10 + b

    @query
    async def read(self) -> list[str]:
        return self.history

    @query
    async def all_made(self) -> list[str]:
        return self.made

    @query
    async def assigns(self) -> None:
        self.size = 4

    @query
    async def deletes(self) -> None:
        del self.size

    @query
    async def changes_deep(self) -> None:
        self.history.append("deep")

    @query
    async def waits(self) -> None:
        await asyncio.sleep(1)

    @query
    async def sends(self) -> None:
        await perdure.send(Room.at("x").post, "y")

    @query
    async def starts_a_task(self) -> None:
        asyncio.create_task(asyncio.Event().wait())  # noqa: RUF006

    async def fails(self) -> None:
        self.history.append("before")
        raise Odd("no", 7)

    async def fails_builtin(self) -> None:
        raise KeyError("k")

    @atomic
    async def undone(self) -> None:
        self.history.append("never")
        await perdure.send(Room.at("elsewhere").post, "never")
        asyncio.get_running_loop().call_later(1, self.history.append, "never")
        raise Odd("undone")

    @atomic
    async def half(self) -> None:
        self.history.append("kept")
        await asyncio.sleep(1)
        raise Odd("too late to undo")

    async def wrong(self) -> int:
        return "text"  # type: ignore[return-value]

    async def who(self) -> tuple[str, str | None, str | None]:
        now = perdure.current()
        return now.ref.address, now.caller.address if now.caller else None, now.call_id

    async def ask_who(self, other: str) -> Any:
        return await Room.at(other).who()


async def test_attributes_are_kept_without_saving() -> None:
    async with Stage(Room) as stage:
        room = Room.at("lobby")
        assert await room.post("hi") == 1
        await stage.restart()
        assert await room.post("again") == 2
        assert await room.read() == ["hi", "again"]


async def test_defaults_are_copied_for_each_object() -> None:
    async with Stage(Room):
        await Room.at("a").post("only here")
        assert await Room.at("b").read() == []


async def test_init_and_on_create_run_once_before_the_first_call() -> None:
    async with Stage(Room) as stage:
        await Room.at("a").post("x")
        await stage.restart()
        await Room.at("a").post("y")
        assert await Room.at("a").all_made() == ["a", "created"]


async def test_a_query_to_an_object_that_never_was_creates_nothing() -> None:
    async with Stage(Room) as stage:
        assert await Room.at("ghost").read() == []
        assert await look.list_objects(stage.host, None, "", None, 10, None) == []


@pytest.mark.parametrize(
    "name", ["assigns", "deletes", "changes_deep", "waits", "sends", "starts_a_task"]
)
async def test_a_query_that_changes_something_is_refused_and_leaves_nothing(name: str) -> None:
    async with Stage(Room) as stage:
        await Room.at("a").post("x")
        with pytest.raises(ReadOnlyError):
            await getattr(Room.at("a"), name)()
        assert await Room.at("a").read() == ["x"]
        shown = await look.show(stage.host, "Room/a")
        assert shown["state"]["size"] == 3
        assert shown["timers"] == [] and shown["waits"] == []
        assert shown["seq"] == 1


async def test_an_exception_of_the_app_arrives_as_itself_and_the_object_lives_on() -> None:
    async with Stage(Room):
        with pytest.raises(Odd) as caught:
            await Room.at("a").fails()
        assert caught.value.args == ("no", 7)
        with pytest.raises(KeyError):
            await Room.at("a").fails_builtin()
        assert await Room.at("a").read() == ["before"]


async def test_an_atomic_handler_that_raises_is_undone() -> None:
    async with Stage(Room) as stage:
        await Room.at("a").post("x")
        with pytest.raises(Odd):
            await Room.at("a").undone()
        await asyncio.sleep(5)
        for _ in range(2):
            assert await Room.at("a").read() == ["x"]
            assert await Room.at("elsewhere").read() == []
            await stage.restart()


async def test_an_atomic_first_call_that_raises_leaves_no_object() -> None:
    async with Stage(Room) as stage:
        with pytest.raises(Odd):
            await Room.at("a").undone()
        with pytest.raises(perdure.UnknownObject):
            await look.show(stage.host, "Room/a")
        assert await Room.at("a").post("x") == 1


async def test_atomic_ends_at_the_first_wait() -> None:
    async with Stage(Room):
        with pytest.raises(Odd):
            await Room.at("a").half()
        assert await Room.at("a").read() == ["kept"]


async def test_results_and_arguments_are_checked() -> None:
    async with Stage(Room):
        with pytest.raises(ResultTypeError):
            await Room.at("a").wrong()
        with pytest.raises(BadArguments):
            await Room.at("a").post(7)  # type: ignore[arg-type]
        with pytest.raises(UnknownHandler):
            await Room.at("a").nothing()  # type: ignore[attr-defined]


async def test_a_plain_function_is_a_handler_too() -> None:
    async with Stage(Room):
        assert await Room.at("a").plain(1) == 12  # type: ignore[misc]


async def test_current_tells_who_asks() -> None:
    async with Stage(Room):
        ref, caller, call_id = await Room.at("a").ask_who("b")
        assert (ref, caller) == ("Room/b", "Room/a")
        assert call_id
        assert (await Room.at("a").who())[1] is None
    with pytest.raises(RuntimeError):
        perdure.current()


@pytest.mark.parametrize("key", ["", "x" * 513, "é" * 257, "\ud800"])
def test_bad_keys_are_refused(key: str) -> None:
    with pytest.raises(InvalidKey):
        Room.at(key)


def test_refs_are_values() -> None:
    assert Room.at("a") == Room.at("a") != Room.at("b")
    assert hash(Room.at("a")) == hash(Room.at("a"))
    assert isinstance(Room.at("a"), Ref)
    assert Room.at("a/b%c").address == "Room/a%2Fb%25c"
    assert Room.new() != Room.new()


class Holder(Object):
    friend: Room | None = None

    async def keep(self, friend: Room) -> None:
        self.friend = friend

    async def tell(self, text: str) -> int:
        assert self.friend is not None
        return await self.friend.post(text)

    async def keep_me(self, other: str) -> None:
        await Keeper.at(other).keep(self)


class Keeper(Object):
    who: Holder | None = None

    async def keep(self, who: Holder) -> None:
        self.who = who

    async def tell(self) -> int:
        assert self.who is not None
        return await self.who.tell("through two")


async def test_refs_are_stored_and_sent_and_self_travels_as_a_ref() -> None:
    async with Stage(Room, Holder, Keeper) as stage:
        await Holder.at("h").keep(Room.at("lobby"))
        await Holder.at("h").keep_me("k")
        await stage.restart()
        assert await Keeper.at("k").tell() == 1
        assert await Room.at("lobby").read() == ["through two"]


class Cached(Object):
    cache: Transient[dict[str, int]] = transient(dict)
    count: int = 0

    async def put(self, key: str) -> int:
        self.cache[key] = 1
        self.count += 1
        return len(self.cache)

    @query
    async def peek(self) -> int:
        self.cache = {"a": 1, "b": 2}
        return len(self.cache)


async def test_transient_attributes_are_made_anew_after_a_load() -> None:
    async with Stage(Cached) as stage:
        assert await Cached.at("a").put("x") == 1
        assert await Cached.at("a").peek() == 2
        await stage.hibernate()
        assert await Cached.at("a").put("y") == 1
        assert (await look.show(stage.host, "Cached/a"))["state"] == {"count": 2}


class Failing(Object):
    async def on_create(self) -> None:
        raise Odd("never born")

    async def call(self) -> int:
        return 1


class Slow(Object):
    steps: list[str] = []

    async def on_create(self) -> None:
        await asyncio.sleep(1)
        self.steps.append("created")

    async def call(self, name: str) -> list[str]:
        self.steps.append(name)
        return self.steps


async def test_calls_wait_for_on_create_and_fail_with_it() -> None:
    async with Stage(Failing, Slow) as stage:
        with pytest.raises(Odd):
            await Failing.at("a").call()
        with pytest.raises(perdure.UnknownObject):
            await look.show(stage.host, "Failing/a")
        first, second = await asyncio.gather(Slow.at("s").call("one"), Slow.at("s").call("two"))
        assert first == ["created", "one"]
        assert second == ["created", "one", "two"]


async def test_delete_ends_an_object_and_the_next_call_begins_a_new_one() -> None:
    async with Stage(Room) as stage:
        await Room.at("a").post("old")
        await perdure.delete(Room.at("a"))
        assert await look.list_objects(stage.host, None, "", None, 10, None) == []
        for _ in range(2):
            assert await Room.at("a").read() == []
            await stage.restart()
        assert await Room.at("a").post("new") == 1
        assert len(await look.history(stage.host, "Room/a", 0, 100)) == 3


def test_classes_that_cannot_be_served_say_what_to_change() -> None:
    with pytest.raises(InvalidClass, match="shared by all its objects"):

        class Shared(Object):
            items = []

        perdure.kind.kind_of(Shared)

    with pytest.raises(InvalidClass, match="generator"):

        class Streams(Object):
            def numbers(self) -> Any:
                yield 1

        perdure.kind.kind_of(Streams)


@pytest.mark.parametrize("name", ["at", "new", "key", "address", "schedule", "broadcast"])
def test_a_class_may_not_hide_what_every_object_has(name: str) -> None:
    with pytest.raises(InvalidClass, match=f"defines {name}, which"):
        type("Hides", (Object,), {name: lambda self: None})
    with pytest.raises(InvalidClass, match=f"defines {name}, which"):
        type("Hides", (Object,), {"__annotations__": {name: str}})
