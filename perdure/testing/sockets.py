"""Clients with a WebSocket, as a test has them: through the gateway's own code, with no network.

    ada = await world.connect(Room.at("lobby"), name="ada")
    await ada.send("hello")
    assert await ada.receive() == "hello"

The line between can be slow, and can break at any moment: by `drop`, or since the process ended.
A client that `resumes` speaks perdure.v1: it comes back by `resume`, misses nothing, and sends
again what was not acknowledged.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
from collections import deque
from collections.abc import Callable, MutableMapping
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import urlencode

from perdure.clock import NS
from perdure.gateway.asgi_websocket import serve_websocket
from perdure.gateway.http import Authorize, Gateway
from perdure.gateway.session import RESUME_PROTOCOL
from perdure.node import Node
from perdure.testing.process import Process

T = TypeVar("T")

_LOST = 1006


class Sockets:
    """The gateway of a world's process, and the clients at it."""

    def __init__(self, process: Process, authorize: Authorize) -> None:
        self.process = process
        self._authorize = authorize
        self._gateway: tuple[Node, Gateway] | None = None

    def gateway(self, node: Node) -> Gateway:
        """One for each node."""
        if self._gateway is None or self._gateway[0] is not node:
            made = Gateway(
                node.host,
                node.settings,
                self._authorize,
                ready=lambda: node.ready,
                clock=node.clock,
            )
            self._gateway = node, made
        return self._gateway[1]


class FakeClient:
    """One client and its line. Made by `world.connect`."""

    def __init__(
        self, sockets: Sockets, path: str, query: dict[str, str], *, resumes: bool, delay_ns: int
    ) -> None:
        self.received: list[str | bytes] = []
        """Every message so far, in order."""
        self.closed: tuple[int, str] | None = None
        """Code and reason, once the line has ended; 1006 for one that broke."""
        self.refused: tuple[int, Any] | None = None
        """Status and problem, where the upgrade was refused."""
        self._sockets = sockets
        self._path = path
        self._query = query
        self._resumes = resumes
        self._delay_s = delay_ns / NS
        self._context = contextvars.copy_context()
        self._line: _Line | None = None
        self._unread: deque[str | bytes] = deque()
        self._changed: list[asyncio.Future[None]] = []
        self._token = self._at = ""
        self._sent = 0
        self._unacknowledged: dict[int, str | bytes] = {}

    async def connect(self) -> None:
        """Open the line; returns when it is open or refused."""
        self.closed = None
        query = dict(self._query)
        if self._token:
            query |= {"resume": self._token, "at": self._at}
        node, life = await self._sockets.process.up()
        line = self._line = _Line(self, self._context)
        scope = {
            "type": "websocket",
            "path": self._path,
            "raw_path": self._path.encode(),
            "root_path": "",
            "query_string": urlencode(query).encode(),
            "headers": [(b"sec-websocket-protocol", RESUME_PROTOCOL.encode())]
            if self._resumes
            else [],
            "subprotocols": [RESUME_PROTOCOL] if self._resumes else [],
            "extensions": {"websocket.http.response": {}},
            "client": ("127.0.0.1", 1),
        }
        target = f"{self._path}?{urlencode(query)}".encode()
        gateway = self._sockets.gateway(node)
        line.inbox.put_nowait({"type": "websocket.connect"})
        life.task(serve_websocket(gateway, scope, target, line.take, line.send))
        # For as long as the line lasts: it breaks when the process ends.
        self._sockets.process.connection(line.broken).__enter__()
        line.broken.add_done_callback(lambda _: self._ended(line, _LOST, ""))
        await self._until(lambda: line.open or self.closed is not None or self.refused)

    # --- what a test does

    async def send(self, message: str | bytes) -> None:
        """Send a message. Raises ConnectionError on a line that has ended, unless it resumes."""
        if not isinstance(message, str | bytes):
            raise TypeError(f"a message is str or bytes, not {message!r}; or use send_json")
        if not self._resumes:
            self._open_line().put(message)
            return
        self._sent += 1
        self._unacknowledged[self._sent] = message
        if self._line is not None and self.closed is None:
            self._put_numbered(self._sent, message)

    async def send_json(self, value: Any) -> None:
        """Send a value as JSON."""
        await self.send(json.dumps(value))

    async def receive(self) -> str | bytes:
        """The next message, when it comes. Raises ConnectionError if the line ends before."""
        await self._until(lambda: self._unread or self.closed is not None)
        if not self._unread:
            raise ConnectionError(f"the line has ended: {self.closed}")
        return self._unread.popleft()

    async def receive_json(self) -> Any:
        """The next message, read as JSON."""
        return json.loads(await self.receive())

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Say good-bye."""
        line = self._open_line()
        line.leave(code, reason)
        self._ended(line, code, reason)

    async def drop(self) -> None:
        """Let the line break: what is on its way is lost, both ways."""
        line = self._open_line()
        line.cut = True
        line.inbox.put_nowait({"type": "websocket.disconnect", "code": _LOST})
        self._ended(line, _LOST, "")

    async def resume(self) -> None:
        """Come back after the line broke; what was missed comes, and what was not heard is sent
        again. Raises ConnectionError if the connection is gone."""
        if not self._resumes:
            raise RuntimeError("this client cannot resume: connect it with resumes=True")
        if self.closed is None:
            raise RuntimeError("the line is open; drop it first")
        await self.connect()
        if self.closed is not None:
            raise ConnectionError(f"the connection is gone: {self.closed}")

    # --- the line

    def _open_line(self) -> _Line:
        if self._line is None or self.closed is not None:
            raise ConnectionError(f"the line has ended: {self.closed}")
        return self._line

    def _put_numbered(self, number: int, message: str | bytes) -> None:
        assert self._line is not None
        if isinstance(message, str):
            self._line.put(f"m {number}\n{message}")
        else:
            self._line.put(b"m %d\n%b" % (number, message))

    def arrived(self, line: _Line, message: dict[str, Any]) -> None:
        """Something has come over the line."""
        if line.cut or line is not self._line:
            return
        kind = message["type"]
        if kind == "websocket.accept":
            line.open = not self._resumes
        elif kind == "websocket.send":
            text = message.get("text")
            self._take(line, text if text is not None else message["bytes"])
        elif kind == "websocket.close":
            self._ended(line, message.get("code", 1000), message.get("reason") or "")
        elif kind == "websocket.http.response.start":
            self.refused = message["status"], None
        elif kind == "websocket.http.response.body":
            assert self.refused is not None
            self.refused = self.refused[0], json.loads(message["body"])
            self._ended(line, _LOST, "refused")
        self._tell()

    def _take(self, line: _Line, message: str | bytes) -> None:
        if not self._resumes:
            self._keep(message)
            return
        head, body = _parted(message)
        words = head.split()
        if words[0] == "hello":
            self._token = words[1]
            line.open = True
            heard = int(words[5])
            for number in [n for n in self._unacknowledged if n <= heard]:
                del self._unacknowledged[number]
            for number, waiting in self._unacknowledged.items():
                self._put_numbered(number, waiting)
        elif words[0] == "ack":
            for number in [n for n in self._unacknowledged if n <= int(words[1])]:
                del self._unacknowledged[number]
        elif words[0] in ("m", "e"):
            self._at = words[1] if words[0] == "m" else self._at
            self._keep(body)

    def _keep(self, message: str | bytes) -> None:
        self.received.append(message)
        self._unread.append(message)

    def _ended(self, line: _Line, code: int, reason: str) -> None:
        if line is self._line and self.closed is None:
            self.closed = code, reason
            self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, []
        for future in changed:
            if not future.done():
                future.set_result(None)

    async def _until(self, condition: Callable[[], Any]) -> None:
        while not condition():
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._changed.append(future)
            await future

    def later(self, function: Callable[..., None], *args: Any) -> None:
        """Do something on the other side of the line."""
        loop = asyncio.get_running_loop()
        loop.call_later(self._delay_s, function, *args, context=self._context)


class _Line:
    """What connects a client with one process."""

    def __init__(self, client: FakeClient, context: contextvars.Context) -> None:
        self.open = self.cut = False
        self.inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the process has ended."""
        self._client = client

    def put(self, message: str | bytes) -> None:
        """From the client."""
        name = "text" if isinstance(message, str) else "bytes"
        self._client.later(self._put, {"type": "websocket.receive", name: message})

    def leave(self, code: int, reason: str) -> None:
        message = {"type": "websocket.disconnect", "code": code, "reason": reason}
        self._client.later(self._put, message)

    def _put(self, message: dict[str, Any]) -> None:
        if not self.cut:
            self.inbox.put_nowait(message)

    async def take(self) -> MutableMapping[str, Any]:
        """From the client (the ASGI server's part)."""
        return await self.inbox.get()

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """To the client (the ASGI server's part)."""
        self._client.later(self._client.arrived, self, dict(message))


def _parted(message: str | bytes) -> tuple[str, str | bytes]:
    if isinstance(message, str):
        head, _, body = message.partition("\n")
        return head, body
    first, _, rest = message.partition(b"\n")
    return first.decode(), rest


def delay_of(delay: timedelta) -> int:
    """Nanoseconds; raises for what is no time that a message can take."""
    if not isinstance(delay, timedelta):
        raise TypeError(f"delay is a timedelta, not {delay!r}")
    if delay < timedelta(0):
        raise ValueError("no message arrives before it was sent")
    return round(delay.total_seconds() * NS)
