"""Raw HTTP in an object: `on_request` gets a Starlette Request and gives a Starlette Response.

The request, body and all, is the call's body in the journal. The response runs in the object as
the small ASGI application that it is: what it sends in one piece is the call's answer; what comes
piece by piece leaves as items, the head as the first of them.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import msgspec

from perdure.errors import ResultTypeError
from perdure.host.task import Future
from perdure.journal.entry import Call, Yielded

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

# What `request.stream()` gives at a time.
_PIECE = 64 * 1024


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
        piece = self._body[self._at : self._at + _PIECE]
        self._at += _PIECE
        self._whole = self._at >= len(self._body)
        return {"type": "http.request", "body": piece, "more_body": not self._whole}


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
    receive = _Body(machine, raw.body)
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
