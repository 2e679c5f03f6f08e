"""The ASGI face of the gateway, for mounting in somebody else's server.

The same requests mean the same as at the own front; what a server decodes is taken in its raw
form where it hands that over, so that `%2F` in a key stays in the key. A request reaches the
gateway from a plain callback of the loop, never within the server's task: a turn may begin there,
and the turn's tasks must not run inside another loop's (on 3.14 that is an error).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any
from urllib.parse import quote, unquote

from perdure.gateway.http import Gateway, Respond
from perdure.gateway.inflow import comes_in_pieces, too_large_body
from perdure.gateway.problem import Headers, Refusal
from perdure.gateway.request import Fields, HttpRequest
from perdure.gateway.stream import Stream
from perdure.gateway.wire import BODILESS
from perdure.host.uploads import Upload

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class AsgiRequest(HttpRequest):
    """A request as an ASGI server hands it over."""

    mounted = True

    asgi: Scope
    upload: Upload | None = None  # type: ignore[misc]

    def prefix(self) -> str:
        return str(self.asgi.get("root_path", ""))

    def client(self) -> str | None:
        client = self.asgi.get("client")
        return str(client[0]) if client else None

    def scope(self) -> Scope:
        return self.asgi


async def serve_http(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request of an ASGI server."""
    headers = list(scope["headers"])
    answered: asyncio.Future[tuple[int, Headers, bytes | Stream]]
    answered = asyncio.get_running_loop().create_future()

    def respond(status: int, headers: Headers, body: bytes | Stream) -> None:
        # The server may have ended this task: then nobody waits any more.
        if not answered.done():
            answered.set_result((status, headers, body))
        elif isinstance(body, Stream):
            body.left()

    body: bytes | None = b""
    reading: _Reading | None = None
    fields, target = Fields(headers), target_of(scope)
    method = scope["method"].encode("latin-1")
    try:
        if comes_in_pieces(gateway, target, fields):
            body, more = await _first_of_body(receive, fields)
            if more:
                reading = _Reading(gateway, receive, respond, fields, body or b"")
        else:
            body = await _read_body(receive, fields, gateway.settings.max_body_bytes)
    except Refusal as refusal:
        gateway.refuse(respond, refusal)
    else:
        if body is None:
            return
        upload = reading.upload if reading is not None else None
        request = AsgiRequest(method, target, headers, body, False, scope, upload)
        asyncio.get_running_loop().call_soon(gateway.handle, request, respond)
    try:
        status, out, content = await answered
        if isinstance(content, Stream):
            start = {"type": "http.response.start", "status": status, "headers": list(out)}
            head_only = scope["method"] == "HEAD" or status in BODILESS
            left = _left(receive) if reading is None else reading.left()
            await _send_stream(content, start, left, send, head_only=head_only)
            return
    finally:
        if reading is not None:
            await reading.stop()
    if status not in BODILESS:
        out = (*out, (b"content-length", b"%d" % len(content)))
    await send({"type": "http.response.start", "status": status, "headers": list(out)})
    if scope["method"] == "HEAD" or status in BODILESS:
        content = b""
    await send({"type": "http.response.body", "body": content})


class _Pieces:
    """The sink of a stream whose pieces an ASGI server takes one by one."""

    def __init__(self) -> None:
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._queued = 0
        self.whole = True

    def chunk(self, data: bytes) -> None:
        self._queued += len(data)
        self._pieces.put_nowait(data)

    def finish(self) -> None:
        self._pieces.put_nowait(None)

    def cut(self) -> None:
        self.whole = False
        self._pieces.put_nowait(None)

    def queued(self) -> int:
        return self._queued

    async def next(self) -> bytes | None:
        """The next piece; None at the end."""
        piece = await self._pieces.get()
        if piece is not None:
            self._queued -= len(piece)
        return piece


async def _send_stream(
    stream: Stream,
    start: Message,
    left: Coroutine[Any, Any, None],
    send: Send,
    *,
    head_only: bool,
) -> None:
    """Send a body as it comes, until it ends or the client goes, which `left` waits for."""
    try:
        await send(start)
    except BaseException:
        left.close()
        raise
    if head_only:
        left.close()
        stream.left()
        await send({"type": "http.response.body", "body": b""})
        return
    pieces = _Pieces()
    stream.attach(pieces)
    leaving = asyncio.ensure_future(left)
    leaving.add_done_callback(lambda _: pieces.cut())
    try:
        while (piece := await pieces.next()) is not None:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if pieces.whole:
            await send({"type": "http.response.body", "body": b""})
        elif not leaving.done():
            # The server ends the connection of a body that is not complete, and its client knows.
            raise ConnectionError("the client does not read what is sent to it")
    finally:
        stream.left()
        leaving.cancel()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Reading:
    """A body that is read as fast as the call takes it, in a task beside that of the request."""

    def __init__(
        self, gateway: Gateway, receive: Receive, respond: Respond, fields: Fields, first: bytes
    ) -> None:
        """`first` has been read. Raises Refusal if the body is too long."""
        self._gateway = gateway
        self._receive = receive
        self._respond = respond
        self._wanted = asyncio.Event()
        self._most = gateway.settings.upload_bytes_max
        length = fields.raw(b"content-length")
        if max(int(length) if length.isdigit() else 0, len(first)) > self._most:
            raise Refusal(*too_large_body(self._most))
        # A server tells a client that waits for it to go on when it is first asked for more.
        waits = b"expect" in fields
        self.upload = Upload(gateway.host, self._most, self, first, paused=waits)
        if not waits:
            self._wanted.set()
        self._task = asyncio.get_running_loop().create_task(self._read())

    def pause(self) -> None:
        """As in Flow."""
        self._wanted.clear()

    def go_on(self) -> None:
        """As in Flow."""
        self._wanted.set()

    async def _read(self) -> None:
        try:
            more = True
            while more:
                await self._wanted.wait()
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    return
                if not self.upload.feed(message.get("body", b"")):
                    self._gateway.refuse(self._respond, Refusal(*too_large_body(self._most)))
                    return
                more = message.get("more_body", False)
            self.upload.end()
        finally:
            # Of one that has ended it changes nothing.
            self.upload.gone()

    async def left(self) -> None:
        """Returns when the client has gone, as far as that shows."""
        await asyncio.shield(self._task)
        await _left(self._receive)

    async def stop(self) -> None:
        """The request is answered, or nobody waits for that any more."""
        self._task.cancel()
        await asyncio.wait([self._task])


async def _first_of_body(receive: Receive, fields: Fields) -> tuple[bytes | None, bool]:
    """What is there of a body whose length is not known, and whether more comes; None if the
    client has gone. Of any other nothing is read: that more comes is certain."""
    if b"content-length" in fields or b"expect" in fields:
        return b"", True
    message = await receive()
    if message["type"] == "http.disconnect":
        return None, False
    return message.get("body", b""), message.get("more_body", False)


async def _read_body(receive: Receive, fields: Fields, most: int) -> bytes | None:
    """The whole body; None if the client has gone. Raises Refusal, unread, if it is too long."""
    too_large = Refusal(*too_large_body(most))
    length = fields.raw(b"content-length")
    if length.isdigit() and int(length) > most:
        raise too_large
    body = b""
    rest: bytearray | None = None
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunk = message.get("body", b"")
        if rest is not None:
            rest += chunk
        elif body:
            rest = bytearray(body + chunk)
        else:
            body = chunk
        if len(body if rest is None else rest) > most:
            raise too_large
        if not message.get("more_body", False):
            return bytes(body if rest is None else rest)


def target_of(scope: Scope) -> bytes:
    """Path and query behind the mount prefix, percent-encoded."""
    raw = scope.get("raw_path")
    path = raw if raw is not None else quote(scope["path"], safe="/").encode()
    path = path.partition(b"?")[0]
    query = scope.get("query_string", b"")
    target = _behind(path, scope.get("root_path", "").rstrip("/"))
    return target + b"?" + query if query else target


def _behind(path: bytes, prefix: str) -> bytes:
    """What follows a prefix, which is decoded while the path is not."""
    if not prefix:
        return path
    # Found slash by slash: a prefix may hold escapes itself (`/tenants/{name}`).
    end = 0
    while end >= 0:
        end = path.find(b"/", end + 1)
        head = path if end < 0 else path[:end]
        if unquote(head.decode("latin-1")) == prefix:
            return path[len(head) :] or b"/"
    # The server has taken it off already.
    return path
