"""A host without objects, and a client that speaks HTTP byte by byte."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from perdure import Object, query
from perdure.errors import UnknownCall
from perdure.failure import Failure
from perdure.gateway.front import Front, Limits, serve_front
from perdure.gateway.http import Authorize, Gateway
from perdure.gateway.http1 import Connection
from perdure.gateway.problem import Headers
from perdure.gateway.request import HttpRequest
from perdure.host.host import HostStats
from perdure.host.incoming import Answer, IncomingCall
from perdure.kind import kind_of
from perdure.settings import Settings


class Counter(Object):
    """A counter."""

    value: int = 0

    async def increment(self, by: int = 1) -> int:
        """Add to it."""
        self.value += by
        return self.value

    async def label(self, text: str) -> str:
        return text

    @query
    async def read(self) -> int:
        return self.value

    @query
    async def plus(self, by: int, tags: list[str] | None = None) -> int:
        return self.value + by


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.timers: list[FakeTimer] = []

    def now_ns(self) -> int:
        return int(self.seconds * 1e9)

    def monotonic(self) -> float:
        return self.seconds

    def random_bytes(self, n: int) -> bytes:
        return bytes(n)

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(when_ns, callback)
        self.timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        self.seconds += seconds
        for timer in list(self.timers):
            if timer.when_ns <= self.now_ns():
                self.timers.remove(timer)
                if not timer.cancelled:
                    timer.callback()


@dataclass
class FakeTimer:
    when_ns: int
    callback: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeHost:
    """Answers each call with what it was called with; or, holding, when it is told to."""

    def __init__(self, *classes: type[Object]) -> None:
        self.kinds = {kind.name: kind for kind in map(kind_of, classes or (Counter,))}
        self.calls: list[IncomingCall] = []
        self.holding = False
        self.failure: Failure | None = None
        self.replayed = False
        self.kept: dict[str, Answer | None] = {}
        self.done: list[tuple[Any, ...]] = []
        self.arrived: asyncio.Event = asyncio.Event()

    def call(self, call: IncomingCall) -> None:
        self.calls.append(call)
        self.arrived.set()
        if call.keep and call.on_accepted is not None and self.failure is None:
            call.on_accepted(f"c{len(self.calls)}")
        if not self.holding:
            self.answer(call)

    def answer(self, call: IncomingCall, body: bytes | None = None) -> None:
        if self.failure is not None:
            call.on_answer(Answer("c", b"", self.failure, self.replayed))
            return
        if body is None:
            args, kwargs = call.args
            body = json.dumps([call.handler.name, call.key, list(args), kwargs]).encode()
        call.on_answer(Answer("c", body, None, self.replayed))

    async def wait_for(self, count: int) -> None:
        """Until so many calls have come."""
        while len(self.calls) < count:
            self.arrived.clear()
            await self.arrived.wait()

    async def find_call(self, call_id: str, wait_s: float = 0.0) -> Answer | None:
        self.done.append(("find_call", call_id, wait_s))
        if call_id not in self.kept:
            raise UnknownCall(f"no call {call_id!r}")
        return self.kept[call_id]

    def stats(self) -> HostStats:
        return HostStats(*range(1, len(HostStats._fields) + 1))


@dataclass
class Reply:
    """One answer as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Sent:
    """A request handed to a gateway without any face."""

    gateway: Gateway
    replies: list[Reply] = field(default_factory=list)

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        named = {name.decode(): value.decode() for name, value in headers}
        self.replies.append(Reply(status, named, body))

    def reply(self) -> Reply:
        assert len(self.replies) == 1
        return self.replies[0]


class PlainRequest(HttpRequest):
    """A request without a face."""

    remote: str | None = "127.0.0.1"
    mounted_at: str = ""

    def prefix(self) -> str:
        return self.mounted_at

    def client(self) -> str | None:
        return self.remote

    def scope(self) -> dict[str, Any]:
        path, _, query = self.target.partition(b"?")
        return {
            "type": "http",
            "method": self.method.decode(),
            "path": path.decode(),
            "query_string": query,
            "headers": [(name.lower(), value) for name, value in self.headers],
        }


def hand(
    gateway: Gateway,
    line: str,
    body: bytes = b"",
    *,
    headers: list[tuple[str, str]] | None = None,
    **facts: Any,
) -> Sent:
    """Hand a request to a gateway: `hand(gateway, "POST /Counter/a/increment")`."""
    method, target = line.split(" ", 1)
    raw = [(name.encode(), value.encode()) for name, value in headers or []]
    plain = not raw and method in ("GET", "POST")
    sent = Sent(gateway)
    request = PlainRequest(method.encode(), target.encode(), raw, body, plain, **facts)
    gateway.handle(request, sent.respond)
    return sent


async def settle(sent: Sent) -> Reply:
    """The answer of a request that takes a task or two to answer."""
    for _ in range(100):
        if sent.replies:
            break
        await asyncio.sleep(0)
    return sent.reply()


@dataclass
class Wire:
    """A served front, and the way to talk to it in bytes."""

    front: Front
    host: FakeHost
    clock: FakeClock
    clients: list[Client] = field(default_factory=list)

    async def open(self) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.front.port)
        self.clients.append(Client(reader, writer))
        return self.clients[-1]

    def sweep(self, seconds: float) -> None:
        """Let time pass, and the sweep of the front with it."""
        self.clock.seconds += seconds
        for _ in range(5):
            self.front.tick()


@dataclass
class Client:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: str | bytes) -> None:
        self.writer.write(data.encode() if isinstance(data, str) else data)

    async def ask(self, data: str | bytes) -> Reply:
        self.send(data)
        return await self.reply()

    async def reply(self, *, bodyless: bool = False) -> Reply:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        version, status = first.split(" ")[:2]
        assert version == "HTTP/1.1"
        headers: dict[str, str] = {}
        for line in lines:
            name, value = line.split(": ", 1)
            assert name not in headers
            headers[name] = value
        length = 0 if bodyless else int(headers.get("content-length", 0))
        return Reply(int(status), headers, await self.reader.readexactly(length))

    async def ended(self) -> bool:
        """Whether the server closes its half now, with nothing more to say."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        self.writer.close()


@asynccontextmanager
async def wire(
    settings: Settings | None = None,
    limits: Limits | None = None,
    authorize: Authorize | None = None,
) -> AsyncIterator[Wire]:
    """A front on a free port of loopback, with a fake host behind it."""
    host, clock = FakeHost(), FakeClock()
    gateway = Gateway(host, settings or Settings(), authorize, clock=clock)  # type: ignore[arg-type]
    front = await serve_front(gateway, host="127.0.0.1", port=0, limits=limits)
    served = Wire(front, host, clock)
    try:
        yield served
    finally:
        for client in served.clients:
            client.close()
        front.close()
        await asyncio.sleep(0)


def post(path: str, body: bytes | str = b"", *headers: str) -> bytes:
    """The bytes of a POST."""
    raw = body.encode() if isinstance(body, str) else body
    lines = [f"POST {path} HTTP/1.1", "Host: test", f"Content-Length: {len(raw)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + raw


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    """The bytes of a GET."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: test", *headers, "", ""]).encode()


def vanish(client: Client, rudely: bool) -> None:
    """Close the connection, or (rudely) reset it."""
    sock = client.writer.get_extra_info("socket")
    if rudely:
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        client.writer.transport.abort()
    else:
        client.close()


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until something holds; each pass may bring it."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def joined(front: Front) -> set[Connection]:
    """The connections of a front, when there is one."""
    await until(lambda: front.connections)
    return front.connections
