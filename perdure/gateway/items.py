"""The items of a handler that streams as a body: server-sent events, or a line of JSON each.

    text/event-stream       id: 1 | data: {…} | an empty line      … event: end | event: error
    application/x-ndjson    {…} and a newline                      … {"error": problem}

Number 1 is the first item. A client that names the last one it has in `Last-Event-ID`, together
with the call's `Idempotency-Key` or at the call's own path under `/_perdure/calls/`, gets what
comes behind it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from perdure.clock import NS, Timer
from perdure.gateway.problem import Headers, Refusal, Reply, problem, problem_of_failure
from perdure.gateway.request import Fields
from perdure.gateway.stream import Stream
from perdure.host.incoming import Answer

if TYPE_CHECKING:
    from perdure.gateway.http import Gateway, Respond, Route

EVENTS = b"text/event-stream"
LINES = b"application/x-ndjson"

# Proxies close what is silent for a minute.
_KEEP_ALIVE_NS = 15 * NS
_COMMENT = b":\n\n"
_ID_DIGITS_MAX = 18


def wants_events(fields: Fields) -> bool:
    """Whether the client asks for server-sent events."""
    return EVENTS in fields.raw(b"accept").lower()


def wants_items(fields: Fields) -> bool:
    """Whether the client asks for the items of a call, one by one."""
    return wants_events(fields) or LINES in fields.raw(b"accept").lower()


def read_last_id(fields: Fields) -> int:
    """What `Last-Event-ID` says: the number of the last item the client has; 0 for none."""
    text = fields.one(b"last-event-id")
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= _ID_DIGITS_MAX):
        raise Refusal("bad-request", f"Last-Event-ID is the number of an item, not {text[:50]!r}")
    return int(text)


class ItemsBody:
    """One client of a call that streams. The head leaves with the first item, or once the call is
    on disk and runs; what goes wrong before is answered as for any other call."""

    __slots__ = (
        "_call_id",
        "_events",
        "_gateway",
        "_patience",
        "_prefix",
        "_respond",
        "_route",
        "_stream",
        "_timer",
    )

    def __init__(
        self,
        gateway: Gateway,
        respond: Respond,
        route: Route | None,
        prefix: str,
        *,
        events: bool,
        call_id: str = "",
    ) -> None:
        self._gateway = gateway
        self._respond: Respond | None = respond
        self._route = route
        self._prefix = prefix
        self._events = events
        self._stream = Stream(gateway.settings.socket_queue_bytes)
        self._call_id = call_id
        self._timer: Timer | None = None
        self._patience: Timer | None = None

    def end_at(self, when_ns: int, seconds: float) -> None:
        """So long the client waits for the stream to begin."""
        self._patience = self._gateway.clock.call_at(when_ns, lambda: self._timed_out(seconds))

    def accepted(self, call_id: str) -> None:
        """The call is on disk. Its answer may be there as well, and comes right behind."""
        self._call_id = call_id
        asyncio.get_running_loop().call_soon(self._begin)

    def item(self, index: int, body: bytes) -> None:
        """An item may leave."""
        self._begin()
        if self._events:
            self._stream.write(b"id: %d\ndata: %b\n\n" % (index, body))
        else:
            self._stream.write(body + b"\n")

    def answered(self, answer: Answer) -> None:
        """The call has come to its end."""
        reply = problem_of_failure(answer.failure) if answer.failure is not None else None
        if reply is not None and self._respond is not None:
            self.refuse(reply)
            return
        self._begin()
        if self._events:
            event, data = (b"error", reply.body) if reply is not None else (b"end", b"null")
            self._stream.write(b"event: %b\ndata: %b\n\n" % (event, data))
        elif reply is not None:
            self._stream.write(b'{"error":%b}\n' % reply.body)
        if self._timer is not None:
            self._timer.cancel()
        self._stream.end()

    def _timed_out(self, seconds: float) -> None:
        # A stream that has begun goes on.
        detail = f"nothing came within {seconds:g} s; the call itself goes on"
        self.refuse(problem("timeout", detail))

    def refuse(self, reply: Reply) -> None:
        """Answer with a problem, if nothing was answered yet."""
        respond = self._taken()
        if respond is not None:
            self._gateway.answer(respond, self._route, reply)

    def _begin(self) -> None:
        respond = self._taken()
        if respond is None:
            return
        headers: Headers = (
            (b"content-type", EVENTS if self._events else LINES),
            (b"cache-control", b"no-store"),
            # nginx gathers answers otherwise.
            (b"x-accel-buffering", b"no"),
        )
        if self._call_id:
            path = f"{self._prefix}/_perdure/calls/{self._call_id}"
            headers = (*headers, (b"content-location", path.encode()))
        self._gateway.count(self._route, 200)
        self._stream.on_left = self._left
        respond(200, headers, self._stream)
        if self._events:
            self._keep_alive()

    def _taken(self) -> Respond | None:
        if self._patience is not None:
            self._patience.cancel()
        respond, self._respond = self._respond, None
        return respond

    def _keep_alive(self) -> None:
        clock = self._gateway.clock
        self._timer = clock.call_at(clock.now_ns() + _KEEP_ALIVE_NS, self._comment)

    def _comment(self) -> None:
        if self._stream.open:
            self._stream.write(_COMMENT)
            self._keep_alive()

    def _left(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
