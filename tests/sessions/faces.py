"""Both faces with WebSockets, served in the test's own loop: `async with face(tmp_path, Room)`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from perdure import App, Object
from perdure.gateway.front import Front, serve_front
from perdure.gateway.http import Gateway
from perdure.host.host import Host
from perdure.node import Node
from perdure.settings import load_settings
from tests.gateway.fakes import until


class Served:
    """A server of some classes, and how its clients reach it."""

    def __init__(self, port: int, host: Host, front: Front | None = None) -> None:
        self.port = port
        self.host = host
        self._front = front

    @property
    def front(self) -> Front:
        assert self._front is not None
        return self._front

    def connect(self, path: str, **options: Any) -> connect:
        return connect(f"ws://127.0.0.1:{self.port}{path}", **options)

    async def call(self, path: str, arguments: Any = None) -> Any:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}") as http:
            answer = await http.post(path, json=arguments if arguments is not None else {})
            assert answer.status_code == 200, answer.text
            return answer.json()

    async def eventually(self, path: str, wanted: Callable[[Any], bool]) -> Any:
        """What a handler answers, as soon as it is what is wanted."""
        async with asyncio.timeout(20):
            while not wanted(found := await self.call(path)):
                await asyncio.sleep(0.01)
        return found

    async def hibernate(self) -> None:
        """Let every object leave memory."""
        for activation in self.host.live():
            await until(activation.evictable)
            assert self.host.residency.let_go(activation)
        assert self.host.live_count == 0


@asynccontextmanager
async def own_front(
    data: Path, *classes: type[Object], authorize: Any = None, **settings: Any
) -> AsyncIterator[Served]:
    """The front of `perdure serve`."""
    loaded = load_settings({"data": str(data)} | settings, {})
    node = Node(classes, loaded)
    await node.start()
    gateway = Gateway(node.host, loaded, authorize)
    front = await serve_front(gateway, host="127.0.0.1", port=0)
    try:
        yield Served(front.port, node.host, front)
    finally:
        await front.drain(5)
        await node.drain()


@asynccontextmanager
async def asgi(
    data: Path, *classes: type[Object], authorize: Any = None, **settings: Any
) -> AsyncIterator[Served]:
    """Mounted in uvicorn."""
    app = App(classes, authorize=authorize, data=str(data), **settings)
    config = uvicorn.Config(
        app, port=0, log_level="critical", loop="uvloop", ws="websockets-sansio"
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        await until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        assert app._gateway is not None
        yield Served(port, app._gateway.host)
    finally:
        server.should_exit = True
        await serving


faces = pytest.mark.parametrize("face", [own_front, asgi], ids=["front", "asgi"])


async def closing(client: ClientConnection) -> tuple[int, str]:
    """Code and reason that the server closes with."""
    async with asyncio.timeout(20):
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                await client.recv()
        received = closed.value.rcvd
        assert received is not None
        return received.code, received.reason


async def texts(client: ClientConnection, count: int) -> list[str | bytes]:
    """The next messages."""
    async with asyncio.timeout(20):
        return [await client.recv() for _ in range(count)]
