"""Requests that an object answers itself (`on_request`), and its responses on their way back."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

from perdure.gateway.problem import Headers, Reply, problem, problem_of_failure
from perdure.gateway.request import HttpRequest
from perdure.gateway.stream import Stream
from perdure.host.incoming import Answer
from perdure.host.raw_requests import RawRequest, unpack_head, unpack_response

if TYPE_CHECKING:
    from perdure.gateway.http import Gateway, Respond, Route

# The face writes these itself: they are about the connection, not about the answer.
_OF_THE_FACE = (b"connection", b"content-length", b"date", b"transfer-encoding")


def raw_request(request: HttpRequest) -> RawRequest:
    """A request as the journal keeps it."""
    scope = request.scope()
    target, _, query = request.target.partition(b"?")
    below = target.split(b"/", 3)
    client, server = scope.get("client"), scope.get("server")
    return RawRequest(
        method=scope["method"],
        scheme=scope.get("scheme", "http"),
        http_version=scope.get("http_version", "1.1"),
        path=scope["path"],
        raw_path=(scope.get("raw_path") or target).partition(b"?")[0],
        query=query,
        root_path=scope.get("root_path", ""),
        below=unquote(below[3].decode("latin-1")) if len(below) > 3 else "",
        headers=[(name.lower(), value) for name, value in request.headers],
        client=(client[0], client[1]) if client else None,
        server=(server[0], server[1]) if server else None,
        body=request.body,
    )


class RawAnswer:
    """One client of `on_request`: its response, as a whole or piece by piece."""

    __slots__ = ("_gateway", "_respond", "_route", "_stream")

    def __init__(self, gateway: Gateway, respond: Respond, route: Route) -> None:
        self._gateway = gateway
        self._respond: Respond | None = respond
        self._route = route
        self._stream: Stream | None = None

    def item(self, index: int, body: bytes) -> None:
        """A piece may leave: the head first."""
        if self._stream is not None:
            self._stream.write(body)
            return
        respond, self._respond = self._respond, None
        if respond is not None:
            head = unpack_head(body)
            self._stream = Stream(self._gateway.settings.socket_queue_bytes)
            self._gateway.count(self._route, head.status)
            respond(head.status, _headers(head.headers), self._stream)

    def answered(self, answer: Answer) -> None:
        """The call has come to its end."""
        if self._stream is not None:
            if answer.failure is not None:
                # Its head said that all is well; now the client must see that it is not whole.
                self._stream.cut()
            else:
                self._stream.end()
        elif answer.failure is not None:
            self._end(problem_of_failure(answer.failure))
        elif not answer.body:
            detail = "the recorded response came piece by piece and is not kept"
            self._end(problem("conflict", detail))
        else:
            response = unpack_response(answer.body)
            headers = _headers(response.headers)
            if answer.replayed:
                headers = (*headers, (b"idempotent-replayed", b"true"))
            self._end(Reply(response.status, headers, response.body))

    def timed_out(self, seconds: float) -> None:
        """The client's patience has ended; a response that has begun goes on."""
        self._end(problem("timeout", f"no answer within {seconds:g} s; the call itself goes on"))

    def _end(self, reply: Reply) -> None:
        respond, self._respond = self._respond, None
        if respond is not None:
            self._gateway.answer(respond, self._route, reply)


def _headers(headers: list[tuple[bytes, bytes]]) -> Headers:
    return tuple((name, value) for name, value in headers if name.lower() not in _OF_THE_FACE)
