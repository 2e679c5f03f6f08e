"""A long body that is read in the process of a single object."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response

from perdure import Object, query, wait_until
from perdure.gateway.front import serve_front
from perdure.gateway.http import Gateway
from perdure.host.uploads import UNREAD_BYTES_MAX
from perdure.node import Node
from perdure.settings import Settings
from tests.gateway.fakes import Client, until

MB = 1024 * 1024


class Reader(Object, isolation="process"):
    taken: int = 0
    open: bool = True
    end: str = ""

    async def on_request(self, request: Request) -> Response:
        try:
            async for piece in request.stream():
                self.taken += len(piece)
                await wait_until(lambda: self.open)
        except ClientDisconnect:
            self.end += "gone"
            raise
        return PlainTextResponse(str(self.taken))

    async def shut(self, shut: bool) -> None:
        self.open = not shut

    @query
    async def read(self) -> tuple[int, str]:
        return self.taken, self.end

    @query
    async def process(self) -> int:
        return os.getpid()


reader = Reader.at("r")


@asynccontextmanager
async def place(tmp_path: Path) -> AsyncIterator[tuple[Any, Client]]:
    settings = Settings(data=str(tmp_path))
    node = Node([Reader], settings)
    await node.start()
    front = await serve_front(Gateway(node.host, settings), host="127.0.0.1", port=0)
    client = Client(*await asyncio.open_connection("127.0.0.1", front.port))
    try:
        yield node, client
    finally:
        client.close()
        await front.drain(5)
        await node.drain()


def head(length: int) -> str:
    return f"PUT /Reader/r/x HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n\r\n"


async def taken(least: int) -> None:
    async with asyncio.timeout(20):
        while (await reader.read())[0] < least:
            await asyncio.sleep(0.01)


async def test_it_is_read_there_and_the_client_held_back_here(tmp_path: Path) -> None:
    async with place(tmp_path) as (node, client):
        await reader.shut(True)
        client.send(head(5 * MB).encode() + b"x" * 5 * MB)
        await until(lambda: node.host.uploads.open)
        ((upload,),) = (table.values() for table in node.host.uploads.open.values())
        await until(lambda: upload.paused)
        for _ in range(10):
            await reader.read()
        (body,) = node.host.at("Reader", "r").machine.uploads.values()
        assert 0 < body.unread <= UNREAD_BYTES_MAX
        assert upload.size < 2 * MB
        await reader.shut(False)
        assert (await client.reply()).body == str(5 * MB).encode()


async def test_a_process_that_ends_in_the_middle_is_replaced_and_it_goes_on(tmp_path: Path) -> None:
    async with place(tmp_path) as (_, client):
        client.send(head(2 * MB).encode() + b"x" * MB)
        await taken(MB)
        os.kill(await reader.process(), signal.SIGKILL)
        client.send(b"x" * MB)
        assert (await client.reply()).body == str(2 * MB).encode()
        assert await reader.read() == (2 * MB, "")


async def test_a_client_that_leaves_is_told(tmp_path: Path) -> None:
    async with place(tmp_path) as (_, client):
        client.send(head(2 * MB).encode() + b"x" * MB)
        await taken(MB)
        client.close()
        async with asyncio.timeout(20):
            while not (await reader.read())[1]:
                await asyncio.sleep(0.01)
        assert await reader.read() == (MB, "gone")
