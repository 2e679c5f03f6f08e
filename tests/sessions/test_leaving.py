"""Clients that leave before their upgrade is answered, or their request is authorized."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from structlog.testing import capture_logs

from perdure import Connection, Object
from tests.gateway.fakes import Client, until, vanish
from tests.sessions.faces import Served, asgi, own_front
from tests.sessions.test_framing import BINARY, FIN, TEXT, frame


class Door(Object):
    """Opens when it is told to."""

    def __init__(self) -> None:
        self.bell = asyncio.Event()
        self.log: list[Any] = []

    async def on_connect(self, conn: Connection) -> None:
        await self.bell.wait()

    async def on_message(self, conn: Connection, text: str) -> None:
        self.log.append(text)

    async def on_disconnect(self, conn: Connection) -> None:
        self.log.append(conn.close_code)

    async def on_request(self, request: Request) -> Response:
        self.log.append(request.method)
        return PlainTextResponse("in")

    async def open(self) -> None:
        self.bell.set()

    async def inside(self) -> int:
        return len(self.connections)

    async def read(self) -> list[Any]:
        return self.log


UPGRADE = (
    b"GET /Door/a HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def ring(served: Served, behind: bytes = b"") -> Client:
    client = Client(*await asyncio.open_connection("127.0.0.1", served.port))
    client.writer.write(UPGRADE)
    await served.eventually("/Door/a/inside", lambda count: count == 1)
    client.writer.write(behind)
    return client


def upgrading(served: Served) -> Any:
    (connection,) = [one for one in served.front.connections if one.rest is not None]
    return connection


@pytest.mark.parametrize("rudely", [False, True])
async def test_whoever_leaves_while_on_connect_waits_is_not_there_any_more(
    rudely: bool, tmp_path: Path
) -> None:
    async with own_front(tmp_path, Door) as served:
        client = await ring(served, frame(FIN | TEXT, b"nobody hears it"))
        connection = upgrading(served)
        vanish(client, rudely)
        if not rudely:
            # It may have closed its half alone, and still listen: for a minute.
            await until(lambda: connection.deaf_since)
            served.front.now += 70
            connection.sweep()
        await served.eventually("/Door/a/inside", lambda count: count == 0)
        assert connection not in served.front.connections
        await served.call("/Door/a/open")
        assert await served.eventually("/Door/a/read", bool) == [1006]


async def test_what_came_before_a_client_left_is_handled(tmp_path: Path) -> None:
    async with own_front(tmp_path, Door) as served:
        client = await ring(served, frame(FIN | TEXT, b"one") + frame(FIN | TEXT, b"two"))
        client.writer.write_eof()
        connection = upgrading(served)
        await until(lambda: connection.deaf_since)
        await served.call("/Door/a/open")
        log = await served.eventually("/Door/a/read", lambda log: len(log) == 3)
        assert log == ["one", "two", 1006]
        assert not served.front.sockets
        vanish(client, False)


async def test_what_comes_before_the_upgrade_is_bounded_and_whole(tmp_path: Path) -> None:
    async with own_front(tmp_path, Door) as served:
        text = "x" * 500_000
        data = frame(FIN | TEXT, text.encode()) * 4 + frame(FIN | BINARY, b"")
        client = await ring(served, data)
        connection = upgrading(served)
        await until(lambda: not connection.transport.is_reading())
        assert len(connection.rest or b"") < 1_000_000
        await served.call("/Door/a/open")
        log = await served.eventually("/Door/a/read", lambda log: len(log) == 5)
        assert log == [text] * 4 + [1007]
        vanish(client, False)


@pytest.mark.parametrize("head", [UPGRADE, b"GET /Door/a/x HTTP/1.1\r\nHost: a\r\n\r\n"])
async def test_whoever_leaves_while_authorize_waits_leaves_no_trace(
    head: bytes, tmp_path: Path
) -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    async def authorize(request: Any) -> None:
        asked.set()
        await go.wait()

    async with own_front(tmp_path, Door, authorize=authorize) as served:
        client = Client(*await asyncio.open_connection("127.0.0.1", served.port))
        client.writer.write(head)
        await asked.wait()
        with capture_logs() as logs:
            vanish(client, True)
            await until(lambda: not served.front.connections)
            go.set()
            read = await served.call("/Door/a/read")
        assert logs == []
        assert read in ([], ["GET"])


async def test_a_mounted_app_sees_who_leaves_while_on_connect_waits(tmp_path: Path) -> None:
    async with asgi(tmp_path, Door) as served:
        client = await ring(served)
        vanish(client, True)
        await served.eventually("/Door/a/inside", lambda count: count == 0)
        await served.call("/Door/a/open")
        assert await served.eventually("/Door/a/read", bool) == [1006]
        # Those that stay come in.
        async with served.connect("/Door/a") as stays:
            await stays.send("here")
            assert await served.eventually("/Door/a/read", lambda log: "here" in log)
