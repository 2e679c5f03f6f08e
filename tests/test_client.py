"""The Python client against real servers: calls, streams, errors, and the sync twin."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import uvloop

import perdure
from perdure import Object, Settings, query
from perdure.client import session
from perdure.client.line import Connection, ConnectionEnded
from perdure.gateway.front import serve_front
from perdure.gateway.http import Gateway
from perdure.node import Node


@dataclass
class Line:
    id: UUID
    count: int


class Shop(Object):
    lines: list[Line] = []
    gate: bool = False

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def add(self, line: Line, times: int = 1) -> Line:
        self.lines += [line] * times
        return Line(line.id, len(self.lines))

    async def wait(self) -> str:
        await self.open.wait()
        return "open"

    async def unlock(self) -> None:
        self.open.set()

    async def fail(self, name: str) -> None:
        raise {"lookup": LookupError("gone"), "own": Sold("out")}[name]

    async def items(self, to: int) -> AsyncIterator[Line]:
        for number in range(1, to + 1):
            yield Line(UUID(int=number), number)

    async def stumble(self) -> AsyncIterator[int]:
        yield 1
        raise LookupError("no more")

    @query
    def count(self) -> int:
        return len(self.lines)


class Ear(Object):
    def __init__(self) -> None:
        self.heard: list[int] = []

    def on_message(self, conn: perdure.Connection, message: str | bytes) -> None:
        self.heard.append(len(message))
        conn.send(message)

    async def read(self) -> list[int]:
        return self.heard


class Sold(Exception):
    pass


LINE = Line(UUID(int=1), 1)


@asynccontextmanager
async def served(data: Path, port: int = 0) -> AsyncIterator[str]:
    settings = Settings(data=str(data))
    node = Node([Shop, Ear], settings)
    await node.start()
    front = await serve_front(Gateway(node.host, settings), host="127.0.0.1", port=port)
    try:
        yield f"http://127.0.0.1:{front.port}"
    finally:
        await front.drain(0.2)
        await node.drain()


def on_uvloop(test: Callable[[Path], Any]) -> Callable[[Path], None]:
    def run(tmp_path: Path) -> None:
        uvloop.run(test(tmp_path))

    run.__name__ = test.__name__
    return run


@on_uvloop
async def test_calls_with_the_class_are_checked_and_typed(tmp_path: Path) -> None:
    async with served(tmp_path) as url, perdure.connect(url) as client:
        shop = client.at(Shop, "a/b")
        assert shop.key == "a/b"
        assert await shop.add(LINE) == Line(LINE.id, 1)
        assert await shop.add(LINE, times=2) == Line(LINE.id, 3)
        assert await shop.count() == 3
        with pytest.raises(perdure.BadArguments, match="times"):
            await shop.add(LINE, times="x")  # type: ignore[arg-type]
        with pytest.raises(LookupError, match="gone"):
            await shop.fail("lookup")
        with pytest.raises(Sold, match="out"):
            await shop.fail("own")
        with pytest.raises(perdure.HandlerError, match="out") as raised:
            await client.at("Shop", "a/b").fail("own")
        assert raised.value.error == "Sold"
        with pytest.raises(perdure.UnknownHandler):
            shop.nothing()  # type: ignore[attr-defined]
        assert [line.count async for line in shop.items(3)] == [1, 2, 3]


@on_uvloop
async def test_calls_without_the_class_are_json(tmp_path: Path) -> None:
    async with served(tmp_path) as url, perdure.connect(url) as client:
        shop = client.at("Shop", "a")
        line = {"id": str(LINE.id), "count": 1}
        assert await shop.call("add", line=line, times=2) == {**line, "count": 2}
        assert await shop.call("add", line) == {**line, "count": 3}
        assert await shop.count() == 3
        with pytest.raises(TypeError, match="class"):
            await shop.call("add", line, times=2)
        with pytest.raises(perdure.UnknownHandler, match="nothing"):
            await shop.nothing()
        with pytest.raises(perdure.BadArguments) as raised:
            await shop.call("add", line={}, times=2)
        assert raised.value.errors[0][0].startswith("$.line")
        assert [one["count"] async for one in shop.stream("items", 2)] == [1, 2]


@on_uvloop
async def test_a_stream_that_fails_raises_what_its_handler_raised(tmp_path: Path) -> None:
    async with served(tmp_path) as url, perdure.connect(url) as client:
        got: list[int] = []
        with pytest.raises(LookupError, match="no more"):
            async for item in client.at(Shop, "a").stumble():
                got.append(item)
        assert got == [1]


@on_uvloop
async def test_a_call_that_was_sent_is_found_by_its_id(tmp_path: Path) -> None:
    async with served(tmp_path) as url, perdure.connect(url) as client:
        shop = client.at("Shop", "a")
        call_id = await shop.send("wait")
        with pytest.raises(perdure.CallTimeout):
            await client.result(call_id, wait=0)
        await shop.call("unlock")
        assert await client.result(call_id) == "open"
        with pytest.raises(perdure.UnknownCall):
            await client.result(call_id + "0")


@on_uvloop
async def test_a_call_with_a_key_outlives_its_server(tmp_path: Path) -> None:
    async with served(tmp_path) as url:
        port = int(url.rpartition(":")[2])
        async with perdure.connect(url) as client:
            waiting = asyncio.create_task(client.at(Shop, "a", idempotency_key="k").wait())
            # The call was taken in before this one was answered.
            assert await client.at(Shop, "a").count() == 0
    async with perdure.connect(url) as client:
        with pytest.raises(perdure.Unavailable, match="nobody answers"):
            await client.at(Shop, "a").count()
    waiting.cancel()
    async with served(tmp_path, port), perdure.connect(url) as client:
        waiting = asyncio.create_task(client.at(Shop, "a", idempotency_key="k").wait())
        await client.at(Shop, "a").unlock()
        assert await waiting == "open"


@on_uvloop
async def test_a_timeout_ends_the_wait_alone(tmp_path: Path) -> None:
    async with served(tmp_path) as url, perdure.connect(url) as client:
        with pytest.raises(perdure.CallTimeout):
            await client.at(Shop, "a", timeout=0.01).wait()


@contextmanager
def served_in_a_thread(data: Path) -> Iterator[str]:
    started: list[str] = []
    ready, done = threading.Event(), threading.Event()

    async def main() -> None:
        async with served(data) as url:
            started.append(url)
            ready.set()
            await asyncio.get_running_loop().run_in_executor(None, done.wait)

    thread = threading.Thread(target=lambda: uvloop.run(main()))
    thread.start()
    ready.wait()
    try:
        yield started[0]
    finally:
        done.set()
        thread.join()


@on_uvloop
async def test_a_key_may_be_dots(tmp_path: Path) -> None:
    async with served(tmp_path) as url, perdure.connect(url) as client:
        for key in (".", "..", "...", "a/b", " "):
            assert await client.at("Shop", key).call("count") == 0
            assert (await client.at(Shop, key).add(LINE)).count == 1


@on_uvloop
async def test_what_is_no_message_is_refused_and_the_connection_goes_on(tmp_path: Path) -> None:
    async with (
        served(tmp_path) as url,
        perdure.connect(url) as client,
        client.at("Ear", "a").connect() as connection,
    ):
        for wrong in (None, 3, {"a": 1}):
            with pytest.raises(TypeError, match="send_json"):
                await connection.send(wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="lone surrogate at 3"):
            await connection.send("no \udc80")
        with pytest.raises(TypeError, match="send_json"):
            await connection.send_ephemeral({})  # type: ignore[arg-type]
        buffer = bytearray(b"one")
        await connection.send(buffer)  # type: ignore[arg-type]
        buffer[:] = b"two"
        async with asyncio.timeout(10):
            assert await connection.receive() == b"one"


@on_uvloop
async def test_who_leaves_sends_the_last_behind_what_is_on_its_way(tmp_path: Path) -> None:
    sent: list[Any] = []
    line = asyncio.Lock()

    class Slow:
        async def send(self, frame: Any) -> None:
            async with line:
                await asyncio.sleep(0)
                sent.append(frame)

    connection = Connection("ws://127.0.0.1:1/", {}, dict, lambda status, body: OSError())
    connection._session.up = True
    for text in "ab":
        connection._session.send(text)
    first = asyncio.create_task(connection._flush(Slow()))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    connection._session.send("c")
    await connection._flush(Slow())  # type: ignore[arg-type]
    await first
    assert sent == ["m 1\na", "m 2\nb", "m 3\nc"]


@on_uvloop
async def test_what_was_received_comes_before_the_end(tmp_path: Path) -> None:
    connection = Connection("ws://127.0.0.1:1/", {}, dict, lambda status, body: OSError())
    connection._opened = asyncio.get_running_loop().create_future()
    count = 256
    for number in range(count):
        connection._received.put_nowait(str(number))
    assert connection._received.full()
    connection._end(ConnectionEnded(1000, ""))
    assert [one async for one in connection] == [str(number) for number in range(count)]
    with pytest.raises(ConnectionEnded):
        await connection.receive()


def test_the_sync_twin_does_the_same(tmp_path: Path) -> None:
    with served_in_a_thread(tmp_path) as url, perdure.connect_sync(url) as client:
        shop: Any = client.at(Shop, "a")
        assert shop.add(LINE) == Line(LINE.id, 1)
        assert client.at("Shop", "a").call("count") == 1
        assert [line.count for line in shop.items(3)] == [1, 2, 3]
        with pytest.raises(LookupError, match="gone"):
            shop.fail("lookup")
        call_id = client.at("Shop", "a").send("unlock")
        assert client.result(call_id) is None


def test_a_sync_client_needs_no_with(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with served_in_a_thread(tmp_path) as url:
        client = perdure.connect_sync(url)
        assert client.at("Shop", "a").call("count") == 0
        shop: Any = client.at(Shop, "a")
        assert next(shop.items(3)).count == 1
        client.close()
        client.close()
    # The stream that nobody walked to its end has left nothing behind.
    assert caplog.text == ""


# --- the protocol, without a server


def test_a_session_resends_what_is_not_acknowledged_and_drops_what_it_has() -> None:
    line = session.Session()
    line.send("early")
    assert line.outgoing == []
    assert line.query() == {}
    assert line.receive("hello T 30 c1 0 0\n") == session.Opened("c1", False)
    assert line.outgoing == ["m 1\nearly"]
    line.outgoing.clear()
    assert line.receive("m 17.0\nhi") == session.Message("hi")
    assert line.receive(b"m 17.2\n\x00\n") == session.Message(b"\x00\n")
    assert line.receive("m 17.1\nold") is None
    line.send("two")
    line.receive("ack 1\n")
    assert line.lost(1006) == "resume"
    assert line.query() == {"resume": "T", "at": "17.2"}
    line.send(b"three")
    assert line.receive("hello U 30 c1 1 1\n") == session.Opened("c1", True)
    assert line.outgoing == ["m 2\ntwo", b"m 3\nthree"]
    assert line.receive("later 1\n") is None
    with pytest.raises(session.ProtocolError):
        line.receive("m x\n")
    with pytest.raises(session.ProtocolError):
        line.receive("m 1.1")


@pytest.mark.parametrize(
    ("code", "step"),
    [
        *((code, "ended") for code in (1000, 1009, 1011, 3000, 4409)),
        *((code, "resume") for code in (1001, 1006, 1012, 1013)),
        (4404, "anew"),
    ],
)
def test_a_close_code_says_how_it_goes_on(code: int, step: str) -> None:
    line = session.Session()
    line.receive("hello T 30 c1 0 0\n")
    line.send("x")
    assert line.lost(code) == step
    assert bool(line.query()) == (step != "anew")
