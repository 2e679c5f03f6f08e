"""Raw HTTP in an object: `on_request` gets a Starlette Request and gives a Starlette Response.

The request is the call's body in the journal: body and all, or, where that is long, its head and
what came with it. Then the rest comes as Pieces, each an event of the object, and is kept in the
machine until the handler has read it; so a replay reads what was read, and code that waits for more
can wait in a snapshot. How the pieces come here, no faster than they are read, is uploads.py.

The response runs in the object as the small ASGI application that it is: what it sends in one piece
is the call's answer; what comes piece by piece leaves as items, the head as the first of them.
"""

from __future__ import annotations

import inspect
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from perdure.errors import ResultTypeError
from perdure.host.task import Future
from perdure.journal.entry import HTTP, Call, Piece, Yielded

if TYPE_CHECKING:
    from perdure.host.machine import Machine


class RawRequest(msgspec.Struct, array_like=True):
    """A request as the journal has it; the fields are those of an ASGI scope."""

    method: str
    scheme: str
    http_version: str
    path: str
    raw_path: bytes
    query: bytes
    root_path: str
    below: str
    """The rest of the path, below the object's own: `request.path_params["path"]`."""
    headers: list[tuple[bytes, bytes]]
    client: tuple[str, int] | None
    server: tuple[str, int | None] | None
    body: bytes


class Head(msgspec.Struct, array_like=True):
    """The beginning of a response that comes piece by piece."""

    status: int
    headers: list[tuple[bytes, bytes]]


class RawResponse(msgspec.Struct, array_like=True):
    """A response that is there as a whole."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


_encode = msgspec.msgpack.Encoder().encode
pack = _encode
unpack_request = msgspec.msgpack.Decoder(RawRequest).decode
unpack_head = msgspec.msgpack.Decoder(Head).decode
unpack_response = msgspec.msgpack.Decoder(RawResponse).decode

PIECE_BYTES_MAX = 64 * 1024
"""What `request.stream()` gives at a time."""

WHOLE = "whole"
GONE = "gone"
SILENT = "silent"


def scope_of(raw: RawRequest) -> dict[str, Any]:
    """The ASGI scope that the Request is made of."""
    return {
        "type": "http",
        # From 2.4 on, a response that streams needs no second task to watch for a disconnect.
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": raw.http_version,
        "method": raw.method,
        "scheme": raw.scheme,
        "path": raw.path,
        "raw_path": raw.raw_path,
        "query_string": raw.query,
        "root_path": raw.root_path,
        "path_params": {"path": raw.below},
        "headers": raw.headers,
        "client": raw.client,
        "server": raw.server,
    }


class _Body:
    """Where the request's body comes from: an ASGI `receive`."""

    def __init__(self, machine: Machine, body: bytes) -> None:
        self._machine = machine
        self._body = body
        self._at = 0
        self._whole = False

    async def __call__(self) -> dict[str, Any]:
        if self._whole:
            # Nobody in here is told when the client goes: what was begun goes on.
            await Future(loop=self._machine)
        piece = self._body[self._at : self._at + PIECE_BYTES_MAX]
        self._at += PIECE_BYTES_MAX
        self._whole = self._at >= len(self._body)
        return {"type": "http.request", "body": piece, "more_body": not self._whole}


class OpenBody:
    """A request's body that still comes: an ASGI `receive`."""

    __slots__ = ("_machine", "_pieces", "end", "received", "unread", "waiters")

    def __init__(self, machine: Machine, first: bytes) -> None:
        self._machine = machine
        self._pieces: deque[bytes] = deque()
        self.waiters: list[Future] = []
        """Who has asked for more than there is."""
        self.end = ""
        """Empty while more comes; then as in Piece."""
        self.received = 0
        """The number of the last piece."""
        self.unread = 0
        """Bytes that nobody has asked for yet."""
        self._keep(first)

    def put(self, piece: Piece) -> None:
        """The next piece has come."""
        self.received = piece.number
        self._keep(piece.body)
        self.close(piece.end)

    def close(self, end: str) -> None:
        """Nothing more comes, if `end` says how it ends; whoever waits goes on."""
        self.end = end
        if end == SILENT:
            return
        if end == WHOLE and not self._pieces:
            # The last that was read said that more would come.
            self._pieces.append(b"")
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _keep(self, data: bytes) -> None:
        self.unread += len(data)
        for at in range(0, len(data), PIECE_BYTES_MAX):
            self._pieces.append(data[at : at + PIECE_BYTES_MAX])

    async def __call__(self) -> dict[str, Any]:
        while not self._pieces:
            if self.end == GONE:
                return {"type": "http.disconnect"}
            # Behind the last piece nobody is told when the client goes: what was begun goes on.
            waiter = Future(loop=self._machine)
            self.waiters.append(waiter)
            try:
                await waiter
            finally:
                self.waiters.remove(waiter)
        piece = self._pieces.popleft()
        self.unread -= len(piece)
        more = bool(self._pieces) or self.end != WHOLE
        return {"type": "http.request", "body": piece, "more_body": more}


def open_body(machine: Machine, event: Call) -> OpenBody:
    """The body of a call that was taken in before it came whole."""
    if machine.uploads is None:
        machine.uploads = {}
    body = machine.uploads.get(event.id)
    if body is None:
        body = machine.uploads[event.id] = OpenBody(machine, unpack_request(event.body).body)
    return body


def piece_came(machine: Machine, event: Piece) -> None:
    """The turn of a Piece. Of a call that has ended, it is nobody's; told twice, it counts once."""
    body = machine.uploads.get(event.id) if machine.uploads is not None else None
    if body is not None and not body.end and event.number == body.received + 1:
        body.put(event)


def close_body(machine: Machine, event: Call) -> None:
    """A call ends: nobody reads on."""
    if machine.uploads is not None:
        machine.uploads.pop(event.id, None)
        machine.uploads = machine.uploads or None


def cut_bodies(machine: Machine) -> None:
    """Nobody is there who would send the rest."""
    for body in (machine.uploads or {}).values():
        if not body.end:
            body.close(GONE)


def clients_of(machine: Machine) -> int:
    """How many clients are to be missed if they are lost: as Entry.connections says."""
    sending = sum(not body.end for body in (machine.uploads or {}).values())
    return len(machine.connections or ()) + sending


class _Answer:
    """Where the response goes: an ASGI `send`."""

    def __init__(self, machine: Machine, event: Call) -> None:
        self._machine = machine
        self._event = event
        self._head: Head | None = None
        self._sent = 0
        self.whole = b""
        """The response, if it came in one piece."""

    async def __call__(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._head = Head(message["status"], list(message["headers"]))
            return
        assert self._head is not None
        piece = bytes(message.get("body", b""))
        if not (self._sent or message.get("more_body")):
            self.whole = pack(RawResponse(self._head.status, self._head.headers, piece))
            return
        if not self._sent:
            self._give(pack(self._head))
        if piece:
            self._give(piece)

    def _give(self, body: bytes) -> None:
        self._sent += 1
        self._machine.commands.append(Yielded(self._event.id, self._sent, body))


async def answer_request(machine: Machine, event: Call) -> bytes:
    """Run `on_request`; gives the packed response, empty if it has left piece by piece."""
    from starlette.requests import Request
    from starlette.responses import Response

    raw = unpack_request(event.body)
    scope = scope_of(raw)
    receive = _Body(machine, raw.body) if event.format == HTTP else open_body(machine, event)
    response = machine.instance.on_request(Request(scope, receive))  # type: ignore[union-attr]
    if inspect.isawaitable(response):
        response = await response
    if not isinstance(response, Response):
        raise ResultTypeError(
            f"{machine.kind.name}.on_request gave a {type(response).__name__}; "
            "what it gives is a starlette.responses.Response"
        )
    answer = _Answer(machine, event)
    await response(scope, receive, answer)  # type: ignore[arg-type]
    return answer.whole
