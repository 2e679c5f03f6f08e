"""Connections in virtual time: life and death of lines, grace, faults, what a turn may do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure import Connection, Object, ReadOnlyError, Reject, ephemeral, query
from perdure.host.incoming import Answer
from perdure.journal.identity import oid_of
from perdure.sight import look
from perdure.store.memory import MemoryStore
from perdure.testing.faults import FaultyStore
from tests.host.stage import Stage, eventually


class Room(Object):
    def __init__(self) -> None:
        self.log: list[Any] = []

    async def on_connect(self, conn: Connection) -> None:
        if "slow" in conn.query:
            await asyncio.sleep(10)
        if "no" in conn.query:
            raise Reject("no")
        conn.tags.add(conn.query.get("tag", "plain"))
        self.log.append(f"+{conn.id}")

    async def on_message(self, conn: Connection, text: str) -> None:
        if text == "wait":
            await asyncio.sleep(100)
        if text == "close all":
            for one in self.connections:
                one.close(1000, "all")
            conn.send("too late")
        self.log.append(text)
        self.broadcast(text)

    async def on_disconnect(self, conn: Connection) -> None:
        assert not conn.open
        self.log.append(f"-{conn.id} {conn.close_code}")

    async def read(self) -> list[Any]:
        return self.log

    async def tagged(self, tag: str) -> list[str]:
        assert self.connections.get("nobody") is None
        return [conn.id for conn in self.connections.tagged(tag)]

    @query
    async def peek(self) -> int:
        self.broadcast("no")
        return 0

    @ephemeral
    async def sly(self) -> None:
        next(iter(self.connections)).close()


class Line:
    """A line that writes down what it is told."""

    def __init__(self, stage: Stage, key: str = "a", *, resumable: bool = False) -> None:
        self.stage = stage
        self.kind = stage.host.kinds["Room"]
        self.key = key
        self.oid = oid_of("Room", key)
        self.id = ""
        self.resumable = resumable
        self.from_seq = 0
        self.answers: list[Answer] = []
        self.got: list[Any] = []

    def join(self, **query: str) -> Line:
        lines = self.stage.host.lines
        lines.connect(self, "/Room/a", query, {}, (), None, self.answers.append)
        return self

    def say(self, text: str, number: int = 0) -> None:
        self.stage.host.lines.receive(self, text.encode(), True, number)

    def lose(self) -> None:
        self.stage.host.lines.lost(self)

    def frame(self, frame: Any) -> None:
        self.got.append(frame.body.decode())

    def acknowledge(self, number: int) -> None:
        self.got.append(number)

    def taken(self) -> None: ...

    def settled(self) -> None: ...

    def close(self, code: int, reason: str) -> None:
        self.got.append((code, reason))


async def log_of(key: str = "a") -> list[Any]:
    return await Room.at(key).read()


async def test_the_grace_time_is_kept_to_the_second() -> None:
    async with Stage(Room, resume_grace=30.0) as stage:
        one, two = Line(stage, resumable=True).join(), Line(stage).join()
        await stage.settle()
        one.lose()
        two.lose()
        await stage.settle()
        assert await log_of() == ["+c1", "+c2", "-c2 1006"]
        await stage.hibernate()
        await asyncio.sleep(29.9)
        assert (await log_of())[-1] == "-c2 1006"
        await asyncio.sleep(0.2)
        assert (await log_of())[-1] == "-c1 1006"


@pytest.mark.parametrize("checkpointed", [False, True])
async def test_a_start_finds_the_lost_ones_and_wakes_no_others(checkpointed: bool) -> None:
    async with Stage(Room, resume_grace=30.0) as stage:
        for key in ("a", "b"):
            Line(stage, key).join()
            Line(stage, key, resumable=True).join()
        gone = Line(stage, "c").join()
        await stage.settle()
        gone.lose()
        await Room.at("d").read()
        if checkpointed:
            await stage.host.checkpointer.run()
        await stage.restart()
        await eventually(lambda: stage.host.live_count == 2)
        await asyncio.sleep(1)
        assert stage.host.live_count == 2
        for key in ("a", "b"):
            assert await log_of(key) == ["+c1", "+c2", "-c1 1006"]
        # A second crash within the grace time: it begins anew, and ends once.
        await stage.restart()
        await asyncio.sleep(31)
        await stage.restart()
        await asyncio.sleep(100)
        for key in ("a", "b"):
            assert await log_of(key) == ["+c1", "+c2", "-c1 1006", "-c2 1006"]
        assert await log_of("c") == ["+c1", "-c1 1006"]


async def test_hooks_that_wait_go_on_after_a_crash_in_their_order() -> None:
    async with Stage(Room) as stage:
        one = Line(stage).join()
        await stage.settle()
        for text in ("wait", "second", "third"):
            one.say(text)
        await stage.settle()
        await stage.restart()
        await asyncio.sleep(120)
        assert await log_of() == ["+c1", "wait", "-c1 1006"]


async def test_a_client_that_leaves_while_on_connect_waits() -> None:
    async with Stage(Room) as stage:
        one = Line(stage).join(slow="")
        refused = Line(stage).join(slow="", no="")
        await stage.settle()
        one.lose()
        refused.lose()
        await asyncio.sleep(20)
        assert await log_of() == ["+c1", "-c1 1006"]


async def test_closing_all_from_within() -> None:
    async with Stage(Room) as stage:
        lines = [Line(stage).join() for _ in range(3)]
        await stage.settle()
        lines[1].say("close all")
        await stage.settle()
        assert [line.got for line in lines] == [[(1000, "all")]] * 3
        log = await log_of()
        assert log[:4] == ["+c1", "+c2", "+c3", "close all"]
        assert sorted(log[4:]) == ["-c1 1000", "-c2 1000", "-c3 1000"]
        lines[0].say("nobody hears this")
        await stage.settle()
        assert len(await log_of()) == 7


async def test_messages_whose_commit_failed_are_not_taken_for_kept() -> None:
    store = FaultyStore(MemoryStore())
    async with Stage(Room, store=store) as stage:
        plain, resumable = Line(stage).join(), Line(stage, resumable=True).join()
        await stage.settle()
        store.full = True
        plain.say("lost")
        resumable.say("lost too", 1)
        await stage.settle()
        assert [one[0] for one in (plain.got[-1], resumable.got[-1])] == [1013, 1013]
        store.full = False
        await asyncio.sleep(2)
        assert await log_of() == ["+c1", "+c2", "-c1 1013"]
        refused = Line(stage).join()
        await stage.settle()
        assert refused.answers[0].failure is None


async def test_a_message_behind_one_that_was_lost_waits_for_it() -> None:
    store = FaultyStore(MemoryStore())
    async with Stage(Room, store=store) as stage:
        one = Line(stage, resumable=True).join()
        await stage.settle()
        store.full = True
        one.say("n1", 1)
        # The next one meets an object that is being built again.
        activation = stage.host.at("Room", "a")
        activation.reload()
        one.say("n2", 2)
        await stage.settle()
        store.full = False
        await asyncio.sleep(2)
        assert await log_of() == ["+c1"]
        assert not [got for got in one.got if isinstance(got, int)]


async def test_more_messages_than_the_mailbox_takes() -> None:
    async with Stage(Room, mailbox_limit=5) as stage:
        one = Line(stage).join()
        await stage.settle()
        for text in ("wait", "1", "2", "3", "4", "5", "6"):
            one.say(text)
        await stage.settle()
        assert one.got[-1][0] == 1013
        await asyncio.sleep(200)
        assert await log_of() == ["+c1", "wait", "-c1 1013"]


async def test_a_number_that_came_before_is_acknowledged_and_not_handled() -> None:
    async with Stage(Room) as stage:
        one = Line(stage, resumable=True).join()
        await stage.settle()
        for number in (1, 2, 2, 1, 3):
            one.say(f"n{number}", number)
        await stage.settle()
        assert await log_of() == ["+c1", "n1", "n2", "n3"]
        assert [got for got in one.got if isinstance(got, int)][-1] == 3
        one.say("n9", 9)
        await stage.settle()
        assert one.got[-1][0] == 1002


async def test_a_query_sends_nothing_and_an_ephemeral_handler_changes_nothing() -> None:
    async with Stage(Room) as stage:
        one = Line(stage).join()
        await stage.settle()
        for call in (Room.at("a").peek, Room.at("a").sly):
            with pytest.raises(ReadOnlyError):
                await call()
        assert one.got == []
        assert await Room.at("a").tagged("plain") == ["c1"]


async def test_connections_are_shown() -> None:
    async with Stage(Room) as stage:
        Line(stage).join(name="ada", tag="vip")
        lost = Line(stage, resumable=True).join()
        await stage.settle()
        lost.lose()
        shown = (await look.show(stage.host, "Room/a"))["connections"]
        assert [(one["id"], one["tags"], one["line"]) for one in shown] == [
            ("c1", ["vip"], "open"),
            ("c2", ["plain"], "lost"),
        ]
        kinds = [one["kind"] for one in await look.history(stage.host, "Room/a", 0, 10)]
        assert kinds == ["connect", "connect"]
