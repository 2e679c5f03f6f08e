"""What each hook promises, as clients of both faces see it; the peer is `websockets`."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from perdure import (
    Action,
    Connection,
    Forbidden,
    InvalidClass,
    Object,
    Reject,
    Unauthorized,
    atomic,
    current,
    ephemeral,
)
from perdure.kind import kind_of
from tests.sessions.faces import closing, faces, own_front, texts


class Room(Object):
    """A chat."""

    def __init__(self) -> None:
        self.history: list[str] = []
        self.gone: list[tuple[str, int | None]] = []

    async def on_connect(self, conn: Connection) -> None:
        if conn.query.get("name") == "mallory":
            raise Reject("full")
        if conn.query.get("name") == "broken":
            raise LookupError("no")
        conn.state["name"] = conn.query.get("name", "")
        if "vip" in conn.query:
            conn.tags.add("vip")
        conn.send_json({"history": self.history})

    async def on_message(self, conn: Connection, text: str) -> None:
        match text:
            case "boom":
                raise ValueError("boom")
            case "close":
                conn.close(4001, "as you wish")
            case "to vips":
                self.broadcast("psst", tag="vip")
            case "who":
                names = [one.state["name"] for one in self.connections]
                conn.send_json([len(self.connections), len(self.connections.tagged("vip")), names])
            case "twice":
                conn.send("one")
                self.broadcast("two")
                conn.send(b"three")
            case "slowly":
                await asyncio.sleep(0.02)
                conn.send("slowly")
            case _:
                self.history.append(text)
                self.broadcast(text, exclude=conn)

    async def on_disconnect(self, conn: Connection) -> None:
        self.gone.append((conn.state["name"], conn.close_code))

    async def left(self) -> list[Any]:
        return self.gone

    async def count(self) -> int:
        return len(self.connections)

    async def kick(self, name: str) -> None:
        for conn in self.connections:
            if conn.state["name"] == name:
                conn.close(1000, "kicked")

    @ephemeral
    def wave(self, by: str) -> int:
        self.broadcast(f"{by} waves")
        return len(self.connections)


@faces
async def test_a_client_is_greeted_and_hears_the_others(face: Any, tmp_path: Path) -> None:
    async with (
        face(tmp_path, Room) as served,
        served.connect("/Room/lobby?name=ada") as ada,
        served.connect("/Room/lobby?name=bob&vip") as bob,
    ):
        assert await texts(ada, 1) == ['{"history":[]}']
        await texts(bob, 1)
        await ada.send("hello")
        assert await texts(bob, 1) == ["hello"]
        await ada.send("who")
        assert await texts(ada, 1) == ['[2,1,["ada","bob"]]']
        await ada.send("to vips")
        assert await texts(bob, 1) == ["psst"]
        await ada.send("twice")
        assert await texts(ada, 3) == ["one", "two", b"three"]
        assert await texts(bob, 1) == ["two"]
        assert await served.call("/Room/lobby/count") == 2


@faces
async def test_a_refused_client_learns_why_before_the_upgrade(face: Any, tmp_path: Path) -> None:
    async with face(tmp_path, Room) as served:
        for name, status, told in (
            ("mallory", 403, ("forbidden", "full")),
            ("broken", 500, ("handler-error", "LookupError: no")),
        ):
            with pytest.raises(InvalidStatus) as refused:
                await served.connect(f"/Room/lobby?name={name}")
            assert refused.value.response.status_code == status
            problem = json.loads(refused.value.response.body)
            assert (problem["code"], problem["detail"]) == told
        assert await served.call("/Room/lobby/left") == []
        assert await served.call("/Room/lobby/count") == 0


@faces
async def test_an_exception_in_on_message_closes_and_the_object_lives_on(
    face: Any, tmp_path: Path
) -> None:
    async with face(tmp_path, Room) as served:
        async with (
            served.connect("/Room/lobby?name=ada") as ada,
            served.connect("/Room/lobby?name=bob") as bob,
        ):
            await ada.send("boom")
            assert await closing(ada) == (1011, "ValueError")
            await bob.send("still here")
            assert await served.call("/Room/lobby/left") == [["ada", 1011]]
        await served.eventually("/Room/lobby/left", lambda left: len(left) == 2)


@faces
async def test_each_end_is_told_once_with_its_code(face: Any, tmp_path: Path) -> None:
    async with face(tmp_path, Room) as served:
        async with served.connect("/Room/lobby?name=polite"):
            pass
        async with served.connect("/Room/lobby?name=asked") as asked:
            await asked.send("close")
            assert await closing(asked) == (4001, "as you wish")
        cut = await served.connect("/Room/lobby?name=cut")
        await texts(cut, 1)
        cut.transport.abort()
        async with served.connect("/Room/lobby?name=kicked") as kicked:
            await served.call("/Room/lobby/kick", {"name": "kicked"})
            assert await closing(kicked) == (1000, "kicked")
        left = await served.eventually("/Room/lobby/left", lambda left: len(left) >= 4)
        expected = [["polite", 1000], ["asked", 4001], ["cut", 1006], ["kicked", 1000]]
        assert sorted(left) == sorted(expected)
        assert await served.call("/Room/lobby/count") == 0


@faces
async def test_messages_of_one_connection_are_handled_in_order(face: Any, tmp_path: Path) -> None:
    async with (
        face(tmp_path, Room) as served,
        served.connect("/Room/lobby?name=ada") as ada,
        served.connect("/Room/lobby?name=bob") as bob,
    ):
        await texts(ada, 1)
        await texts(bob, 1)
        for text in ("slowly", "twice", "who"):
            await ada.send(text)
        # Another connection does not wait.
        await bob.send("who")
        assert await texts(bob, 1) == ['[2,0,["ada","bob"]]']
        assert await texts(ada, 4) == ["slowly", "one", "two", b"three"]


@faces
async def test_delete_closes_the_sockets(face: Any, tmp_path: Path) -> None:
    async with face(tmp_path, Room) as served, served.connect("/Room/lobby?name=ada") as ada:
        await served.host.delete("Room/lobby")
        assert await closing(ada) == (1000, "deleted")
        assert await served.call("/Room/lobby/left") == []


@faces
async def test_a_sleeping_object_keeps_its_sockets_and_wakes(face: Any, tmp_path: Path) -> None:
    async with (
        face(tmp_path, Room) as served,
        served.connect("/Room/lobby?name=ada") as ada,
        served.connect("/Room/lobby?name=bob") as bob,
    ):
        await texts(ada, 1)
        await texts(bob, 1)
        for round_ in range(3):
            await served.hibernate()
            await ada.send(f"round {round_}")
            assert await texts(bob, 1) == [f"round {round_}"]
        await served.hibernate()
        assert await served.call("/Room/lobby/count") == 2


@faces
async def test_an_ephemeral_handler_reaches_the_sockets(face: Any, tmp_path: Path) -> None:
    async with face(tmp_path, Room) as served, served.connect("/Room/lobby?name=ada") as ada:
        await texts(ada, 1)
        before = served.host.turns
        assert await served.call("/Room/lobby/wave", {"by": "bob"}) == 1
        assert await texts(ada, 1) == ["bob waves"]
        assert served.host.turns == before


@dataclass
class Move:
    """A typed message."""

    x: int
    y: int = 0


class Board(Object):
    async def on_message(self, conn: Connection, move: Move) -> None:
        conn.send_json([move.x, move.y])


class Lenient(Object):
    wrong: int = 0

    def on_message(self, conn: Connection, move: Move | None) -> None:
        conn.send(str(self.wrong))

    def on_invalid(self, conn: Connection, error: Exception) -> None:
        self.wrong += 1
        conn.send(type(error).__name__)


class Raw(Object):
    def on_message(self, conn: Connection, data: bytes) -> None:
        conn.send(data)


class Either(Object):
    def on_message(self, conn: Connection, data: str | bytes) -> None:
        conn.send(data)


class Silent(Object):
    def on_connect(self, conn: Connection) -> None:
        conn.send("welcome")


@faces
async def test_the_annotation_decides_what_a_message_is(face: Any, tmp_path: Path) -> None:
    async with face(tmp_path, Board, Lenient, Raw, Either, Silent) as served:
        async with served.connect("/Board/a") as board:
            await board.send('{"x": 1}')
            assert await texts(board, 1) == ["[1,0]"]
            await board.send('{"x": "one"}')
            code, reason = await closing(board)
            assert code == 1007
            assert "$.x" in reason
        for path, wrong in (("/Board/b", "{"), ("/Raw/a", "text"), ("/Room/a", b"bytes")):
            if path.startswith("/Room"):
                continue
            async with served.connect(path) as client:
                await client.send(wrong)
                assert (await closing(client))[0] == 1007
        async with served.connect("/Lenient/a") as lenient:
            await lenient.send("{")
            await lenient.send('{"y": 1}')
            await lenient.send("null")
            assert await texts(lenient, 3) == ["BadJson", "BadArguments", "2"]
        async with served.connect("/Raw/a") as raw:
            await raw.send(b"\x00\xff")
            assert await texts(raw, 1) == [b"\x00\xff"]
        async with served.connect("/Either/a") as either:
            await either.send(b"\x00")
            await either.send("\N{SNOWMAN}")
            assert await texts(either, 2) == [b"\x00", "\N{SNOWMAN}"]
        async with served.connect("/Silent/a") as silent:
            assert await texts(silent, 1) == ["welcome"]
            await silent.send("anybody?")
            assert (await closing(silent))[0] == 1003


class Cursors(Object):
    """Ephemeral messages for what fits, journaled ones for the rest."""

    kept: list[str] = []

    async def on_connect(self, conn: Connection) -> None:
        pass

    @ephemeral
    def on_ephemeral(self, conn: Connection, at: Move) -> Any:
        if at.x < 0:
            return NotImplemented
        if at.x == 13:
            self.kept.append("changed")
        if at.x == 14:
            self.kept = []
        self.broadcast(f"{conn.id} at {at.x}", exclude=conn)
        return None

    def on_message(self, conn: Connection, text: str) -> None:
        self.kept.append(text)
        conn.send(f"kept {len(self.kept)}")

    def read(self) -> list[str]:
        return self.kept


@faces
async def test_ephemeral_messages_skip_the_journal(face: Any, tmp_path: Path) -> None:
    async with (
        face(tmp_path, Cursors, debug=True) as served,
        served.connect("/Cursors/a") as one,
        served.connect("/Cursors/a") as two,
    ):
        before = served.host.turns
        await one.send('{"x": 5}')
        assert await texts(two, 1) == ["c1 at 5"]
        assert served.host.turns == before
        await one.send("hello")
        assert await texts(one, 1) == ["kept 1"]
        await one.send('{"x": -1}')
        assert await texts(one, 1) == ["kept 2"]
        await served.hibernate()
        await one.send('{"x": 6}')
        assert await texts(two, 1) == ["c1 at 6"]
        await two.send('{"x": 13}')
        assert (await closing(two))[0] == 1011
        await one.send('{"x": 14}')
        assert (await closing(one))[0] == 1011
        assert await served.call("/Cursors/a/read") == ["hello", '{"x": -1}']


class Guarded(Object):
    async def authorize(self, principal: Any, action: Action) -> None:
        if action.kind == "connect" and principal != "ada":
            raise Forbidden(f"{principal} may not {action.kind}")

    def on_connect(self, conn: Connection) -> None:
        secret = "cookie" in conn.headers or "Authorization" in conn.headers
        conn.send_json([conn.principal, conn.path, conn.headers["X-Mine"], secret])

    def on_message(self, conn: Connection, text: str) -> None:
        conn.send_json([current().principal, str(current().ref)])


def who(request: Any) -> str:
    name = request.headers.get("authorization")
    if name is None:
        raise Unauthorized("who is there?")
    return str(name)


@faces
async def test_both_hooks_of_authorization_are_asked(face: Any, tmp_path: Path) -> None:
    async with face(tmp_path, Guarded, authorize=who) as served:
        for headers, status in (({}, 401), ({"Authorization": "bob"}, 403)):
            with pytest.raises(InvalidStatus) as refused:
                await served.connect("/Guarded/a", additional_headers=headers)
            assert refused.value.response.status_code == status
        headers = {"Authorization": "ada", "X-Mine": "1", "Cookie": "a=b"}
        async with served.connect("/Guarded/a/b/c", additional_headers=headers) as ada:
            assert await texts(ada, 1) == ['["ada","/Guarded/a/b/c","1",false]']
            await ada.send("?")
            assert json.loads((await texts(ada, 1))[0])[0] == "ada"


@faces
async def test_the_origin_is_checked(face: Any, tmp_path: Path) -> None:
    allowed = "https://one.example, https://two.example"
    async with face(tmp_path, Room, allowed_origins=allowed) as served:
        for origin in (None, f"http://127.0.0.1:{served.port}", "https://two.example"):
            async with served.connect("/Room/a", origin=origin) as client:
                await texts(client, 1)
        for origin in ("https://evil.example", "null", "https://one.example.evil.example"):
            with pytest.raises(InvalidStatus) as refused:
                await served.connect("/Room/a", origin=origin)
            assert refused.value.response.status_code == 403
            assert json.loads(refused.value.response.body)["code"] == "forbidden"
    async with (
        face(tmp_path, Room, allowed_origins="*") as served,
        served.connect("/Room/a", origin="https://evil.example") as client,
    ):
        await texts(client, 1)


@faces
async def test_what_is_no_place_for_a_socket_is_404(face: Any, tmp_path: Path) -> None:
    class Counter(Object):
        def increment(self) -> int:
            return 1

    async with face(tmp_path, Room, Counter) as served:
        for path, code in (
            ("/", "not-found"),
            ("/Nothing/a", "unknown-class"),
            ("/Counter/a", "unknown-handler"),
            ("/Room", "not-found"),
        ):
            with pytest.raises(InvalidStatus) as refused:
                await served.connect(path)
            assert json.loads(refused.value.response.body)["code"] == code, path


class Picky(Object):
    async def on_connect(self, conn: Connection) -> None:
        await asyncio.sleep(0.01)
        if "chat.v2" in conn.subprotocols:
            conn.subprotocol = "chat.v2"

    def on_message(self, conn: Connection, text: str) -> None:
        conn.send(str(conn.subprotocol))


@faces
async def test_a_subprotocol_is_agreed_on(face: Any, tmp_path: Path) -> None:
    async with face(tmp_path, Picky) as served:
        async with served.connect("/Picky/a", subprotocols=["chat.v1", "chat.v2"]) as client:
            assert client.subprotocol == "chat.v2"
            await client.send("?")
            assert await texts(client, 1) == ["chat.v2"]
        async with served.connect("/Picky/a") as client:
            assert client.subprotocol is None


class Single(Object, reentrant=False):
    """One thing at a time, whoever asks."""

    log: list[str] = []

    async def on_connect(self, conn: Connection) -> None:
        self.log.append("connect")

    async def on_message(self, conn: Connection, text: str) -> None:
        self.log.append(f"{text} begins")
        await asyncio.sleep(0.01)
        self.log.append(f"{text} ends")
        conn.send(text)

    async def on_disconnect(self, conn: Connection) -> None:
        self.log.append("disconnect")

    async def read(self) -> list[str]:
        await asyncio.sleep(0.01)
        return self.log


@faces
async def test_an_object_that_is_not_reentrant_finishes_each_hook(
    face: Any, tmp_path: Path
) -> None:
    async with face(tmp_path, Single) as served:
        async with served.connect("/Single/a") as one, served.connect("/Single/a") as two:
            for _ in range(2):
                await one.send("one")
                await two.send("two")
            assert [await texts(one, 2), await texts(two, 2)] == [["one"] * 2, ["two"] * 2]
        log = await served.eventually("/Single/a/read", lambda log: log[-2:] == ["disconnect"] * 2)
        assert log[:2] == ["connect"] * 2
        begun = [line for line in log if line.endswith(("begins", "ends"))]
        assert begun[1::2] == [line.replace("begins", "ends") for line in begun[::2]]
        assert len(begun) == 8


@faces
async def test_too_long_or_too_many_messages_close(face: Any, tmp_path: Path) -> None:
    limits = {"max_message_bytes": 1000, "max_messages_per_second": 50}
    async with face(tmp_path, Either, **limits) as served:
        async with served.connect("/Either/a", compression=None) as client:
            await client.send("x" * 1000)
            assert len((await texts(client, 1))[0]) == 1000
            await client.send("x" * 1001)
            assert (await closing(client))[0] == 1009
        async with served.connect("/Either/a") as client:
            # Small on the wire, large when it is unpacked.
            await client.send("x" * 100_000)
            assert (await closing(client))[0] == 1009
        async with served.connect("/Either/a") as client:
            for _ in range(101):
                await client.send("x")
            assert (await closing(client))[0] == 1008


async def test_a_client_that_does_not_read_is_closed_with_1013(tmp_path: Path) -> None:
    async with (
        own_front(tmp_path, Room, socket_queue_bytes=200_000) as served,
        served.connect("/Room/a?name=slow", max_queue=1, compression=None) as slow,
        served.connect("/Room/a?name=fast", compression=None) as fast,
    ):
        async with asyncio.timeout(20):
            while await served.call("/Room/a/count") == 2:
                for _ in range(10):
                    await fast.send("x" * 50_000)
        assert (await closing(slow))[0] == 1013
        assert await served.call("/Room/a/left") == [["slow", 1013]]


class Large(Object):
    """Sends more at once than a socket's queue may hold."""

    def on_connect(self, conn: Connection) -> None:
        conn.send(b"x" * 3_000_000)

    def on_message(self, conn: Connection, text: str) -> None:
        conn.send(b"y" * 5_000_000)


@faces
async def test_one_message_may_be_larger_than_the_queue(face: Any, tmp_path: Path) -> None:
    async with (
        face(tmp_path, Large, socket_queue_bytes=100_000) as served,
        served.connect("/Large/a", max_size=None, compression=None) as client,
    ):
        assert len((await texts(client, 1))[0]) == 3_000_000
        await client.send("more")
        assert len((await texts(client, 1))[0]) == 5_000_000


async def test_compressed_messages_come_back_as_they_were(tmp_path: Path) -> None:
    async with own_front(tmp_path, Either) as served, served.connect("/Either/a") as client:
        assert "permessage-deflate" in client.response.headers["Sec-WebSocket-Extensions"]
        for size in (0, 1, 511, 512, 5000, 300_000):
            for data in ("ab" * size, bytes(range(256)) * (size // 256)):
                await client.send(data)
                assert await texts(client, 1) == [data]


async def test_a_drain_closes_with_1012(tmp_path: Path) -> None:
    async with own_front(tmp_path, Room) as served:
        client = await served.connect("/Room/a?name=ada")
        draining = asyncio.create_task(served.front.drain(5))
        assert await closing(client) == (1012, "the server restarts")
        assert await draining


async def test_silence_is_pinged_and_then_cut(tmp_path: Path) -> None:
    async with own_front(tmp_path, Room, ping_interval=10.0) as served:
        client = await served.connect("/Room/a?name=ada", ping_interval=None)
        await texts(client, 1)
        (socket,) = served.front.sockets
        served.front.now += 11
        socket.sweep()
        # The client's library answers; that counts as a sign of life.
        served.front.now += 1
        async with asyncio.timeout(10):
            while socket._heard < served.front.now:
                await asyncio.sleep(0.005)
        served.front.now += 21
        socket.sweep()
        left = await served.eventually("/Room/a/left", lambda left: left != [])
        assert left == [["ada", 1006]]
        await client.close()


def test_hooks_that_cannot_work_are_refused() -> None:
    class Atomic(Object):
        @atomic
        def on_message(self, conn: Connection, text: str) -> None: ...

    class Short(Object):
        def on_message(self, conn: Connection) -> None: ...

    class Unmarked(Object):
        def on_ephemeral(self, conn: Connection, text: str) -> None: ...

    class Wrong(Object):
        @ephemeral
        def on_message(self, conn: Connection, text: str) -> None: ...

    for cls in (Atomic, Short, Unmarked, Wrong):
        with pytest.raises(InvalidClass, match="on_"):
            kind_of(cls)


def test_a_connection_is_for_its_own_object() -> None:
    conn = Connection("c1", "/", {}, {})
    for wrong in (lambda: conn.send("x"), lambda: conn.close(), lambda: conn.send_json(1)):
        with pytest.raises(RuntimeError, match="inside"):
            wrong()
    for code in (999, 1004, 1006, 1015, 2000, 5000):
        with pytest.raises(ValueError, match="close code"):
            conn.close(code)
    with pytest.raises(TypeError, match="send_json"):
        conn.send({"a": 1})  # type: ignore[arg-type]
