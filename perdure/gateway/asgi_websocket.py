"""WebSockets of an ASGI server: the same sessions, whose bytes the server takes and brings.

Framing, pings and compression are the server's. What is left for this side is order, bounds and
the codes: what goes out waits in a queue whose bytes are bounded, and what comes in reaches the
session from a plain callback of the loop, never within the server's task.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from perdure.gateway.frames import BINARY, NO_CODE, TEXT
from perdure.gateway.problem import Headers
from perdure.gateway.request import HttpRequest
from perdure.gateway.session import Phase, Session, opcode_of, with_header
from perdure.gateway.stream import Stream
from perdure.host.lines import Frame, Lines
from perdure.host.sessions import LOST
from perdure.journal.identity import oid_of

if TYPE_CHECKING:
    from perdure.gateway.http import Gateway
    from perdure.gateway.upgrade import Upgrade
    from perdure.kind import Kind

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_DRAIN_S = 20.0


class AsgiSession(Session):
    """One client of an ASGI server."""

    __slots__ = ("_changed", "_emptied", "_queue", "_queued", "_reading")

    def __init__(
        self, gateway: Gateway, lines: Lines, kind: Kind, key: str, oid: int, *, resumable: bool
    ) -> None:
        super().__init__(gateway, lines, kind, key, oid, resumable=resumable)
        self._queue: deque[Message] = deque()
        self._queued = 0
        self._changed = asyncio.Event()
        self._emptied = asyncio.Event()
        self._reading = asyncio.Event()
        self._reading.set()

    # --- what a session asks of its face

    def accept(self, subprotocol: str) -> bool:
        self._put({"type": "websocket.accept", "subprotocol": subprotocol or None}, 0)
        return self.phase is Phase.JOINING

    def write(self, opcode: int, body: bytes) -> None:
        self._put_message(opcode, body)

    def send(self, frame: Frame) -> None:
        if self._queued > self.gateway.settings.socket_queue_bytes and not self._catching:
            # One message may be larger than the bound; it is the next one that is too many.
            self.leave_out()
            return
        self._put_message(opcode_of(frame), with_header(frame) if self.resumable else frame.body)

    def end(self, code: int, reason: str) -> None:
        self._put({"type": "websocket.close", "code": code, "reason": reason}, 0)

    def pause(self, paused: bool) -> None:
        if paused:
            self._reading.clear()
        else:
            self._reading.set()

    async def drained(self) -> bool:
        if self._queued > self.gateway.settings.socket_queue_bytes // 2:
            self._emptied.clear()
            try:
                async with asyncio.timeout(_DRAIN_S):
                    await self._emptied.wait()
            except TimeoutError:
                self._catching = False
                return False
        return self.phase is Phase.OPEN

    # --- between session and server

    def _put_message(self, opcode: int, body: bytes) -> None:
        if opcode == TEXT:
            self._put({"type": "websocket.send", "text": str(body, "utf-8")}, len(body))
        else:
            self._put({"type": "websocket.send", "bytes": body}, len(body))

    def _put(self, message: Message, size: int) -> None:
        message["size"] = size
        self._queue.append(message)
        self._queued += size
        self._changed.set()

    async def run(self, receive: Receive, send: Send) -> None:
        """Serve the client to its end."""
        reader = asyncio.get_running_loop().create_task(self._read(receive))
        try:
            await self._write_all(send)
        finally:
            self._emptied.set()
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            if self.phase is not Phase.CLOSED:
                self.gone(LOST, "")

    async def _write_all(self, send: Send) -> None:
        while self.phase is not Phase.CLOSED:
            while self._queue:
                message = self._queue.popleft()
                self._queued -= message.pop("size")
                try:
                    await send(message)
                except Exception:
                    # Servers differ in what they raise when the client is gone; all mean that.
                    return
                if message["type"] == "websocket.close":
                    self.phase = Phase.CLOSED
                    return
            self._emptied.set()
            self._changed.clear()
            await self._changed.wait()

    async def _read(self, receive: Receive) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._reading.wait()
            message = await receive()
            if message["type"] == "websocket.disconnect":
                loop.call_soon(self._on_disconnect, message)
                return
            text = message.get("text")
            body = text.encode() if text is not None else message.get("bytes") or b""
            loop.call_soon(self.message, TEXT if text is not None else BINARY, body)
            # So that it has its turn before the next one is taken.
            await asyncio.sleep(0)

    def _on_disconnect(self, message: Message) -> None:
        # Servers say 1005 of a close without a code, and of a line that was cut as well.
        code = message.get("code") or NO_CODE
        if self.phase in (Phase.OPEN, Phase.JOINING) and code not in (LOST, NO_CODE):
            self.left(code, message.get("reason") or "")
        elif self.phase is not Phase.CLOSED:
            self.gone(LOST, "")
        self.phase = Phase.CLOSED
        self._changed.set()


Outcome = AsgiSession | tuple[int, Headers, bytes]
"""What becomes of an upgrade: a session, or the answer that refuses it."""


class AsgiUpgrade(HttpRequest):
    """A request for a WebSocket as an ASGI server hands it over."""

    mounted = True
    upgrades = True

    asgi: Scope
    begun: asyncio.Future[Outcome]
    waiting: list[AsgiSession]
    """The session, once there is one."""

    def session(
        self, gateway: Gateway, kind: Kind, key: str, upgrade: Upgrade, *, resumable: bool
    ) -> AsgiSession:
        oid = oid_of(kind.name, key)
        made = AsgiSession(gateway, gateway.host.lines, kind, key, oid, resumable=resumable)
        self.waiting.append(made)
        return made

    def switched(self) -> None:
        if not self.begun.done():
            self.begun.set_result(self.waiting[-1])

    def prefix(self) -> str:
        return str(self.asgi.get("root_path", ""))

    def client(self) -> str | None:
        client = self.asgi.get("client")
        return str(client[0]) if client else None

    def scope(self) -> Scope:
        # What `authorize` gets is a request, and a WebSocket begins as one.
        return {**self.asgi, "type": "http", "method": "GET"}


async def serve_websocket(
    gateway: Gateway, scope: Scope, target: bytes, receive: Receive, send: Send
) -> None:
    """Serve one WebSocket of an ASGI server."""
    await receive()
    loop = asyncio.get_running_loop()
    begun: asyncio.Future[Outcome] = loop.create_future()

    def respond(status: int, headers: Headers, body: bytes | Stream) -> None:
        if not begun.done():
            begun.set_result((status, headers, body if isinstance(body, bytes) else b""))

    request = AsgiUpgrade(b"GET", target, list(scope["headers"]), b"", False, scope, begun, [])
    loop.call_soon(gateway.handle, request, respond)
    # Before the upgrade is answered nothing can come but the end: `on_connect` may take days.
    first = asyncio.ensure_future(receive())
    try:
        await asyncio.wait((begun, first), return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        first.cancel()
        _leave(request)
        raise
    if not begun.done():
        begun.cancel()
        _leave(request)
        await asyncio.gather(first, return_exceptions=True)
        return
    outcome = begun.result()
    if isinstance(outcome, AsgiSession):
        came = [first]
        await outcome.run(lambda: came.pop() if came else receive(), send)
    else:
        first.cancel()
        await _refuse(scope, send, *outcome)


def _leave(request: AsgiUpgrade) -> None:
    for session in request.waiting:
        session.gone(LOST, "")


async def _refuse(scope: Scope, send: Send, status: int, headers: Headers, body: bytes) -> None:
    if "websocket.http.response" not in scope.get("extensions", {}):
        # The server makes a bare 403 of it.
        await send({"type": "websocket.close", "code": 1000})
        return
    start = {"type": "websocket.http.response.start", "status": status, "headers": list(headers)}
    await send(start)
    await send({"type": "websocket.http.response.body", "body": body})
