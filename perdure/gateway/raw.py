"""Requests that an object answers itself (`on_request`), and its responses on their way back."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from perdure.clock import Timer
from perdure.gateway.problem import Headers, Reply, problem, problem_of_failure
from perdure.gateway.request import HttpRequest, split_target
from perdure.gateway.stream import Stream
from perdure.host.incoming import Answer
from perdure.host.raw_requests import RawRequest, unpack_head, unpack_response

if TYPE_CHECKING:
    from perdure.gateway.http import Gateway, Respond, Route
    from perdure.host.uploads import Upload

# The face writes these itself: they are about the connection, not about the answer.
_OF_THE_FACE = (b"connection", b"content-length", b"date", b"transfer-encoding")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NO_VALUE = re.compile(rb"[\r\n\0]")


def raw_request(request: HttpRequest) -> RawRequest:
    """A request as the journal keeps it."""
    scope = request.scope()
    target, query = split_target(request.target)
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

    __slots__ = ("_gateway", "_respond", "_route", "_stream", "_timer", "_upload")

    def __init__(
        self, gateway: Gateway, respond: Respond, route: Route, upload: Upload | None
    ) -> None:
        self._gateway = gateway
        self._respond: Respond | None = respond
        self._route = route
        self._stream: Stream | None = None
        self._upload = upload
        self._timer: Timer | None = None

    def end_at(self, when_ns: int, seconds: float) -> None:
        """So long the client waits for its response to begin."""
        self._timer = self._gateway.clock.call_at(when_ns, lambda: self._timed_out(seconds))

    def item(self, index: int, body: bytes) -> None:
        """A piece may leave: the head first."""
        if self._stream is not None:
            self._stream.write(body)
            return
        respond = self._taken()
        if respond is not None:
            head = unpack_head(body)
            if (fault := _fault(head.status, head.headers)) is not None:
                self._gateway.answer(respond, self._route, fault)
                return
            self._stream = Stream(self._gateway.settings.socket_queue_bytes)
            self._gateway.count(self._route, head.status)
            respond(head.status, _headers(head.headers), self._stream)

    def answered(self, answer: Answer) -> None:
        """The call has come to its end."""
        if self._upload is not None:
            self._upload.stop()
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
            if (fault := _fault(response.status, response.headers)) is not None:
                self._end(fault)
                return
            headers = _headers(response.headers)
            if answer.replayed:
                headers = (*headers, (b"idempotent-replayed", b"true"))
            self._end(Reply(response.status, headers, response.body))

    def _timed_out(self, seconds: float) -> None:
        # A response that has begun goes on.
        self._end(problem("timeout", f"no answer within {seconds:g} s; the call itself goes on"))

    def _end(self, reply: Reply) -> None:
        respond = self._taken()
        if respond is not None:
            self._gateway.answer(respond, self._route, reply)

    def _taken(self) -> Respond | None:
        if self._timer is not None:
            self._timer.cancel()
        respond, self._respond = self._respond, None
        return respond


def _headers(headers: list[tuple[bytes, bytes]]) -> Headers:
    return tuple((name, value) for name, value in headers if name.lower() not in _OF_THE_FACE)


def _fault(status: int, headers: list[tuple[bytes, bytes]]) -> Reply | None:
    """The answer in the place of a response that is none in HTTP: its client would wait for ever,
    or take a part of it for something else."""
    wrong = ""
    if not 200 <= status <= 999:
        wrong = f"its status is {status}; that of a response is from 200 to 999"
    for name, value in headers:
        if not _NAME.fullmatch(name) or _NO_VALUE.search(value):
            wrong = f"its header field {(name + b': ' + value)[:100]!r} cannot stand in a head"
    if not wrong:
        return None
    detail = f"on_request gave a response that cannot be sent: {wrong}"
    return problem("handler-error", detail, error="ResultTypeError", message=detail)
