"""Objects that read long bodies, and clients that send them byte by byte."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from perdure import App, Object, Settings, wait_until
from perdure.gateway.front import Front, Limits, serve_front
from perdure.gateway.http import Gateway
from perdure.node import Node
from tests.gateway.fakes import Client, until


class Depot(Object):
    """Takes what is sent to it, in the way that the path says."""

    log: list[str] = []
    open: bool = False
    taken: int = 0
    allowed: int = 0

    async def on_request(self, request: Request) -> Response:
        path = request.path_params["path"]
        self.log.append(f"begun {path}")
        try:
            return await getattr(self, f"_{path}")(request)  # type: ignore[no-any-return]
        except ClientDisconnect:
            self.log.append("disconnect")
            raise

    async def _hash(self, request: Request) -> Response:
        digest, sizes = hashlib.sha256(), []
        async for piece in request.stream():
            digest.update(piece)
            sizes.append(len(piece))
        self.taken += sum(sizes)
        return JSONResponse(
            {"sha256": digest.hexdigest(), "size": sum(sizes), "largest": max(sizes)}
        )

    async def _gate(self, request: Request) -> Response:
        async for piece in request.stream():
            self.taken += len(piece)
            await wait_until(lambda: self.open)
        return PlainTextResponse(str(self.taken))

    async def _one(self, request: Request) -> Response:
        """Takes a piece for each time that it is allowed one."""
        async for piece in request.stream():
            await wait_until(lambda: self.allowed > 0)
            self.allowed -= 1
            self.taken += len(piece)
        return PlainTextResponse(str(self.taken))

    async def _early(self, request: Request) -> Response:
        async for piece in request.stream():
            self.taken += len(piece)
            return PlainTextResponse("enough", 409)
        raise AssertionError("there was nothing to read")

    async def _refuse(self, request: Request) -> Response:
        return PlainTextResponse("no", 403)

    async def _body(self, request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    async def _json(self, request: Request) -> Response:
        return PlainTextResponse(str(len((await request.json())["text"])))

    async def _form(self, request: Request) -> Response:
        async with request.form() as form:
            return PlainTextResponse(f"{form['name']} {len(str(form['text']))}")

    async def _echo(self, request: Request) -> Response:
        async def upper() -> AsyncIterator[bytes]:
            async for piece in request.stream():
                if piece:
                    yield piece.upper()

        return StreamingResponse(upper())

    async def seen(self) -> list[str]:
        return self.log

    async def let_in(self) -> int:
        self.open = True
        return self.taken

    async def allow(self, count: int) -> int:
        self.allowed += count
        return self.taken


@dataclass
class Place:
    """A served node, and the way to talk to it in bytes."""

    node: Any
    port: int
    front: Front | None = None
    clients: list[Client] = field(default_factory=list)

    async def open(self) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.clients.append(Client(reader, writer))
        return self.clients[-1]

    async def ask(self, handler: str, body: str = "", key: str = "a") -> Any:
        client = await self.open()
        head = f"POST /Depot/{key}/{handler} HTTP/1.1\r\nHost: t\r\n"
        reply = await client.ask(f"{head}Content-Length: {len(body)}\r\n\r\n{body}")
        client.close()
        return reply.json()

    def machine(self, key: str = "a") -> Any:
        activation = self.node.host.at("Depot", key)
        return activation.machine if activation is not None else None

    def unread(self, key: str = "a") -> int:
        return sum(body.unread for body in (self.machine(key).uploads or {}).values())

    def upload(self) -> Any:
        """The only one that is under way."""
        (table,) = self.node.host.uploads.open.values()
        (upload,) = table.values()
        return upload


@asynccontextmanager
async def own_front(
    data: Path, *, limits: Limits | None = None, authorize: Any = None, **settings: Any
) -> AsyncIterator[Place]:
    chosen = Settings(data=str(data), **settings)
    node = Node([Depot], chosen)
    await node.start()
    gateway = Gateway(node.host, chosen, authorize)
    front = await serve_front(gateway, host="127.0.0.1", port=0, limits=limits)
    place = Place(node, front.port, front)
    try:
        yield place
    finally:
        for client in place.clients:
            client.close()
        await front.drain(5)
        await node.drain()


@asynccontextmanager
async def asgi(data: Path, *, authorize: Any = None, **settings: Any) -> AsyncIterator[Place]:
    app = App([Depot], data=str(data), authorize=authorize, **settings)
    config = uvicorn.Config(app, port=0, log_level="critical", loop="uvloop")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    place = Place(
        SimpleNamespace(host=app._gateway.host), server.servers[0].sockets[0].getsockname()[1]
    )
    try:
        yield place
    finally:
        for client in place.clients:
            client.close()
        server.should_exit = True
        await serving


def head(path: str, *fields: str, key: str = "a", method: str = "PUT") -> str:
    return "\r\n".join([f"{method} /Depot/{key}/{path} HTTP/1.1", "Host: t", *fields, "", ""])


def of_length(path: str, length: int, *fields: str, key: str = "a") -> str:
    return head(path, f"Content-Length: {length}", *fields, key=key)


def in_chunks(path: str, *fields: str, key: str = "a") -> str:
    return head(path, "Transfer-Encoding: chunked", *fields, key=key)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST = b"0\r\n\r\n"
