"""One HTTP/1.1 connection: a protocol on uvloop that parses with httptools.

What it promises, whatever a client does:

- **In order.** Requests are handed to the gateway as they come, the next before the last is
  answered; the answers leave in the order of the requests.
- **Bounded.** Head, body, requests in flight, and bytes that the client does not read each have
  a limit. Over it the client gets a 4xx, or is not read from until it reads.
- **Quiet.** A client may vanish at any point: its calls go on, their answers are dropped, and
  nothing is logged.

The common case, a small plain request that has come whole, is kept short on purpose: each
callback of the parser does a store or two, and `Exchange.respond` writes at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NoReturn, cast

import httptools

from perdure.gateway.exchange import Exchange
from perdure.gateway.inflow import Inflow, examine, too_large_body
from perdure.gateway.problem import Refusal
from perdure.gateway.request import PLAIN_FIELDS, Fields, RawHeaders
from perdure.gateway.wire import CONTINUE
from perdure.logs import logger

if TYPE_CHECKING:
    from perdure.gateway.front import Front

# Of what comes behind the head of an upgrade, before that is answered.
_REST_BYTES_MAX = 256 * 1024


class _Fault(Exception):
    """Ends the parsing from within one of its callbacks."""


class Connection(asyncio.Protocol):
    """The protocol of one connection; most public names are those asyncio and httptools call."""

    __slots__ = (
        "active",
        "again",
        "attend",
        "backlog",
        "begun",
        "body",
        "careful",
        "continue_due",
        "deaf_since",
        "ending",
        "examined",
        "fault",
        "feeding",
        "flushing",
        "front",
        "got",
        "handle",
        "head",
        "headers",
        "heard",
        "inflow",
        "linger",
        "lingering_since",
        "out",
        "parser",
        "pending",
        "plain",
        "rest",
        "since",
        "stuck_since",
        "taking",
        "target",
        "transport",
        "unread",
    )

    parser: httptools.HttpRequestParser
    transport: asyncio.Transport

    def __init__(self, front: Front) -> None:
        self.front = front
        self.handle = front.gateway.handle
        # The message that is being read. `head` is None until its head is complete; what comes
        # into `headers` after that are trailers, which nobody may mistake for the head.
        self.target = b""
        self.headers: RawHeaders = []
        self.head: RawHeaders | None = None
        self.body: bytes | bytearray = b""
        self.plain = True
        # A message that did not come whole: when it began and was last heard of, how many bytes
        # came since. `careful` is on while something could be over a limit.
        self.careful = False
        self.begun = 0.0
        self.heard = 0.0
        self.got = 0
        self.examined = False
        self.continue_due = False
        self.inflow: Inflow | None = None
        """The message's body is on its way to a call that runs."""
        self.fault: tuple[str, str] | None = None
        self.again = b""
        # Requests without an answer that has left, and those of them the gateway has not yet got.
        self.pending: deque[Exchange] = deque()
        self.backlog: deque[Exchange] = deque()
        self.taking = True
        """A request goes to the gateway as soon as it has come."""
        self.attend = False
        """There is something to see to when an answer leaves."""
        self.ending = False
        """Nothing more is read; the connection ends behind the last pending answer."""
        self.linger = False
        # Answers on their way out are gathered while the parser runs, and for a loop pass.
        self.feeding = False
        self.flushing = False
        self.out: list[bytes] = []
        self.rest: bytes | None = None
        """What has come behind the head of an upgrade that is not answered yet."""
        # For the sweep.
        self.active = True
        self.since = front.now
        self.stuck_since = 0.0
        self.unread = 0
        self.lingering_since = 0.0
        self.deaf_since = 0.0

    # ---- the transport's side ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.parser = httptools.HttpRequestParser(self)
        self.front.joined(self)
        if self.front.draining:
            self._leave()

    def connection_lost(self, error: Exception | None) -> None:
        if self.inflow is not None:
            self.inflow.cut()
        for exchange in self.pending:
            exchange.left()
        self.pending.clear()
        self.backlog.clear()
        self.out.clear()
        self.ending = True
        self.attend = False
        # The parser and its callbacks are a circle, and collections are rare here.
        del self.parser
        self.front.left(self)

    def data_received(self, data: bytes) -> None:
        if self.ending:
            if self.rest is not None:
                self.rest += data
                if len(self.rest) > _REST_BYTES_MAX:
                    self.transport.pause_reading()
            return
        size = len(data)
        if size > self.front.small:
            self.careful = True
        self.feeding = True
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgraded(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._malformed(error)
        self.feeding = False
        if self.out:
            self._flush()
        if self.target:
            self._partial(size)
        elif self.careful:
            self.careful = False

    def eof_received(self) -> bool:
        if not self.pending or self.front.draining:
            return False
        # It may have closed its half alone, and still read.
        if self.inflow is not None:
            self.inflow.cut()
        self.end()
        self.deaf_since = self.front.now
        return True

    def pause_writing(self) -> None:
        self.stuck_since = self.front.now
        self.unread = self.transport.get_write_buffer_size()
        self._stop_taking()

    def resume_writing(self) -> None:
        self.stuck_since = 0.0
        self._attend()

    # ---- the parser's side ----

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))
        if name not in PLAIN_FIELDS:
            self._special(name, value)

    def on_headers_complete(self) -> None:
        self.head = self.headers
        self.headers = []
        if self.careful:
            self._check_head()

    def on_body(self, chunk: bytes) -> None:
        if self.careful:
            self._more_body(chunk)
        else:
            self.body += chunk

    def on_message_complete(self) -> None:
        if self.begun:
            self.begun = 0.0
            self.examined = self.continue_due = False
            if self.inflow is not None:
                self.inflow.ended()
                return
        parser = self.parser
        exchange = Exchange(
            parser.get_method(),
            self.target,
            self.head or [],
            bytes(self.body) if self.careful else cast(bytes, self.body),
            self.plain and parser.should_keep_alive(),
            self,
        )
        self.target = b""
        self.head = None
        self.body = b""
        self.plain = self.active = True
        if self.headers:
            self.headers = []
        pending = self.pending
        pending.append(exchange)
        if exchange.plain and self.taking and len(pending) <= self.front.in_flight_max:
            self.handle(exchange, exchange.respond)
        else:
            self.admit(exchange)

    # ---- requests that are not plain, small and whole ----

    def _special(self, name: bytes, value: bytes) -> None:
        # Many clients say keep-alive, which is what HTTP/1.1 does anyway.
        if (
            name.lower() != b"connection"
            or value.lower() != b"keep-alive"
            or self.parser.get_http_version() != "1.1"
        ):
            self.plain = False

    def admit(self, exchange: Exchange) -> None:
        if self.ending:
            self.pending.pop()
            return
        parser = self.parser
        if not exchange.plain:
            if parser.should_upgrade() and not self._stays(exchange):
                return
            version = parser.get_http_version()
            if version not in ("1.0", "1.1"):
                self.pending.pop()
                self._stop("bad-request", f"HTTP/{version} is not spoken here, but HTTP/1.1")
            if not parser.should_keep_alive() or parser.should_upgrade():
                exchange.connection = b"close"
                if exchange.upload is None:
                    self.end()
            elif version == "1.0":
                exchange.connection = b"keep-alive"
        if self.backlog or self.stuck_since or len(self.pending) > self.front.in_flight_max:
            self.backlog.append(exchange)
            self._stop_taking()
        else:
            self.handle(exchange, exchange.respond)

    def _stays(self, exchange: Exchange) -> bool:
        """Whether a request that asks for another protocol goes to the gateway as it is.

        An offer of anything but a WebSocket is declined by answering in HTTP/1.1 (Java's client
        offers HTTP/2 so). The parser has taken the offer as the end of HTTP, though, body
        included: such a request is parsed again without it.
        """
        fields = Fields(exchange.headers)
        if exchange.method == b"CONNECT" or b"websocket" in fields.raw(b"upgrade").lower():
            return True
        self.pending.pop()
        kept = [
            name + b": " + value + b"\r\n"
            for name, value in exchange.headers
            if name.lower() not in (b"upgrade", b"connection", b"http2-settings")
        ]
        head = exchange.method + b" " + exchange.target + b" HTTP/1.1\r\n"
        self.again = head + b"".join(kept) + b"\r\n"
        return False

    def _upgraded(self, rest: bytes) -> None:
        head, self.again = self.again, b""
        if not head:
            # A WebSocket, perhaps, or a tunnel, which is refused: what follows is not HTTP.
            # It is read on, so that the end of its client is seen: `on_connect` may take days.
            self.end()
            self.rest = rest
            return
        self.parser = httptools.HttpRequestParser(self)
        try:
            self.parser.feed_data(head + rest)
        except httptools.HttpParserUpgrade:
            # Once is a client that would like HTTP/2; to parse again and again what somebody
            # sends in one piece would be a way to keep this process busy.
            self.refuse("bad-request", "the connection has been offered an upgrade already")
        except httptools.HttpParserError as error:
            self._malformed(error)

    def hand_over(self, protocol: asyncio.Protocol) -> bytes:
        """Give the transport to another protocol, and with it what has come behind the head."""
        self.pending.clear()
        self.front.left(self)
        self.transport.set_protocol(protocol)
        del self.parser
        return self.rest or b""

    def _partial(self, size: int) -> None:
        """A message has begun and is not complete."""
        if self.ending:
            return
        front = self.front
        self.careful = True
        self.heard = front.now
        if self.begun:
            self.got += size
        else:
            self.begun = front.now
            # What of this chunk belongs to the message is not known, and less than one read.
            self.got = 0
        if self.head is None:
            if self.got > front.limits.head_bytes_max:
                self.refuse(*_too_large_head(len(self.target) > front.limits.target_bytes_max))
        elif not self.examined:
            self.examined = True
            self.got = 0
            examine(self, Fields(self.head))
        elif self.got > front.limits.head_bytes_max + 8 * self.body_bytes():
            # Not in the body, so in trailers or in the extensions of chunks.
            self.refuse(*_too_large_head(False))

    def _check_head(self) -> None:
        head = self.head or []
        limits = self.front.limits
        if len(self.target) > limits.target_bytes_max:
            self._stop(*_too_large_head(True))
        if (
            len(head) > limits.fields_max
            or sum(len(name) + len(value) for name, value in head) > limits.head_bytes_max
        ):
            self._stop(*_too_large_head(False))

    def _reads(self, exchange: Exchange) -> bool:
        return self.inflow is not None and self.inflow.exchange is exchange

    def body_bytes(self) -> int:
        """Bytes of the body that have come."""
        return len(self.body) if self.inflow is None else self.inflow.upload.size

    def _more_body(self, chunk: bytes) -> None:
        if self.inflow is not None:
            if not self.inflow.upload.feed(chunk):
                self._stop(*too_large_body(self.front.upload_bytes_max))
            return
        if len(self.body) + len(chunk) > self.front.body_bytes_max:
            self._stop(*too_large_body(self.front.body_bytes_max))
        if not self.body:
            self.body = chunk
            return
        if isinstance(self.body, bytes):
            self.body = bytearray(self.body)
        self.body += chunk

    # ---- what goes wrong ----

    def _stop(self, code: str, detail: str) -> NoReturn:
        self.fault = code, detail
        raise _Fault

    def _malformed(self, error: httptools.HttpParserError) -> None:
        if self.fault is not None:
            self.refuse(*self.fault)
        elif isinstance(error, httptools.HttpParserCallbackError):
            logger.error("a request failed inside of perdure", exc_info=error.__context__)
            self.refuse("internal-error", "perdure has failed; the server's log has the traceback")
        else:
            self.refuse("bad-request", f"this is not HTTP/1.1: {error}")

    def refuse(self, code: str, detail: str) -> None:
        """Answer what cannot be read, behind all that is pending, and end the connection."""
        if self.ending:
            return
        self.end()
        # A client that still sends would lose the answer to a reset if the socket were closed on
        # what it has sent: our half is closed, and what comes is read and thrown away.
        self.linger = True
        exchange = Exchange(b"", b"", [], b"", False, self, b"close")
        if self.inflow is not None:
            exchange = self.inflow.exchange
            self.inflow.cut()
            if exchange.stream is not None:
                return
            exchange.connection = b"close"
        else:
            self.pending.append(exchange)
        self.front.gateway.refuse(exchange.respond, Refusal(code, detail))

    # ---- answers ----

    def answered(self) -> None:
        """An answer is there that could not be written at once: send what is next in order."""
        pending = self.pending
        while pending and (data := pending[0].data) is not None:
            self.out.append(data)
            if pending[0].stream is not None:
                # It stays the next one until its body is complete.
                pending[0].open()
            else:
                pending.popleft()
        if self.feeding or not self.out:
            return
        if not pending:
            self._flush()
        else:
            self.send_soon()

    def send_soon(self) -> None:
        """Send what is on its way out, gathered, at the end of this pass of the loop."""
        if not self.flushing:
            self.flushing = True
            self.front.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self.flushing = False
        out = self.out
        if out:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self.transport.write(data)
        if self.attend:
            self._attend()

    def _stop_taking(self) -> None:
        self.taking = False
        self.attend = True
        self.transport.pause_reading()

    def end(self) -> None:
        """Take no further request; the connection ends behind what is pending."""
        self.ending = self.attend = True
        self.taking = False

    def end_here(self) -> None:
        """End the connection behind what is on its way out, whatever is still pending."""
        self._flush()
        self.transport.close()

    def _attend(self) -> None:
        """See to what waited for answers to leave, or for the client to read."""
        if self.feeding:
            return
        backlog, pending = self.backlog, self.pending
        self.feeding = True
        while (
            backlog
            and not self.stuck_since
            and len(pending) - len(backlog) < self.front.in_flight_max
        ):
            exchange = backlog.popleft()
            self.handle(exchange, exchange.respond)
        self.feeding = False
        if self.out:
            self._flush()
            return
        if self.continue_due and (not pending or self._reads(pending[0])):
            self.continue_due = False
            self.transport.write(CONTINUE)
        if not pending and (self.ending or (self.front.draining and not self.target)):
            self._leave()
        elif not (backlog or self.stuck_since or self.ending):
            self.taking = True
            self.attend = self.continue_due or self.front.draining
            if self.inflow is None or not self.inflow.paused_since:
                self.transport.resume_reading()

    # ---- the end ----

    def close(self) -> None:
        """Nothing is pending: the connection ends."""
        self.ending = True
        if self.linger and not self.lingering_since:
            self.lingering_since = self.front.now
            self.transport.resume_reading()
            self.transport.write_eof()
        else:
            self.transport.close()

    def _leave(self) -> None:
        """Nothing is pending in a drain: go on elsewhere, or end."""
        if (
            self.front.pass_on is None
            or self.ending
            or self.begun
            or self.transport.get_write_buffer_size()
        ):
            self.close()
            return
        # The process that takes over sees a connection between two requests, as we do; what the
        # client has sent since then is still with the kernel. Closing here closes our end alone.
        self.front.pass_on(self.transport.get_extra_info("socket").fileno())
        self.ending = True
        self.transport.abort()

    def drain(self) -> None:
        """End as soon as what has begun is answered."""
        self.attend = True
        if self.deaf_since:
            self.transport.abort()
        elif self.pending and self.pending[0].stream is not None and self.inflow is None:
            # It may go on for ever. Its client comes back for the rest.
            self.end_here()
        elif not self.pending and not self.target:
            self._leave()

    def give_up(self) -> None:
        """Answer what waits for its call: the node cannot wait any longer."""
        self.end()
        self.backlog.clear()
        refusal = Refusal("timeout", "the node is stopping; a call that was begun goes on later")
        for exchange in [one for one in self.pending if one.conn is not None]:
            self.front.gateway.refuse(exchange.respond, refusal)
        if not self.pending:
            self.close()

    def sweep(self) -> None:
        """End the connection if its client takes too long; called every few seconds."""
        now, limits = self.front.now, self.front.limits
        if self.lingering_since:
            if now - self.lingering_since > limits.linger_s:
                self.transport.abort()
        elif self.stuck_since or self.deaf_since:
            unread = self.transport.get_write_buffer_size()
            if self.stuck_since and unread < self.unread:
                # It reads, if slowly: a large answer takes its time.
                self.stuck_since = now
            self.unread = unread
            if now - (self.stuck_since or self.deaf_since) > limits.stuck_s:
                self.transport.abort()
        elif self.backlog:
            self.begun = self.begun and now
            self.heard = now
        elif self.begun:
            if self._is_late(now):
                self.refuse("request-timeout", "the request did not arrive in time")
        elif self.active:
            self.active = False
            self.since = now
        elif not self.pending and now - self.since > limits.idle_s:
            self.close()

    def _is_late(self, now: float) -> bool:
        limits = self.front.limits
        if self.head is None:
            return now - self.begun > limits.head_s
        if self.inflow is not None and self.inflow.paused_since:
            return False
        slowest = limits.head_s + self.body_bytes() / limits.body_bytes_per_s
        return now - self.heard > limits.stall_s or now - self.begun > slowest


def _too_large_head(in_target: bool) -> tuple[str, str]:
    if in_target:
        return "uri-too-long", "the path is too long"
    return "headers-too-large", "the header fields are too large or too many"
