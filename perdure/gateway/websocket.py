"""A WebSocket on the own front: the protocol that takes over a connection after its upgrade.

A message that goes to many is encoded once, and the same bytes are written to each socket. What a
client has not read is bounded by the transport's own mark: over it the client is told 1013, and
its line ends when it has read that, or after a few seconds. One sweep over all sockets, every few
seconds, pings those that are silent; an idle socket has no timer and no buffer of its own.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from typing import TYPE_CHECKING, cast

import msgspec

from perdure.gateway.frames import (
    CLOSE,
    NO_CODE,
    PING,
    PONG,
    TOO_LARGE,
    Reader,
    encode,
    encode_close,
    encode_compressed,
    read_close,
)
from perdure.gateway.session import (
    HEADER_BYTES_MAX,
    UNSETTLED_MAX,
    Phase,
    Session,
    opcode_of,
    with_header,
)
from perdure.host.lines import Frame, Lines
from perdure.host.sessions import LOST

if TYPE_CHECKING:
    from perdure.gateway.front import Front
    from perdure.gateway.http1 import Connection
    from perdure.kind import Kind

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CLOSE_S = 5.0
_DRAIN_S = 20.0
_PING = encode(PING, b"")
_LOW = 64 * 1024


def accept_key(key: bytes) -> bytes:
    """What a server answers a Sec-WebSocket-Key with."""
    return base64.b64encode(hashlib.sha1(key + _GUID).digest())


class Passed(msgspec.Struct, array_like=True):
    """What one worker tells the next of a socket (handover.py)."""

    kind: str
    key: str
    id: str
    resumable: bool
    stays: bool
    bits: int
    """Of the window that messages are compressed with; 0: they are not."""
    rest: bytes
    """What has come of a frame that is not complete."""


class WebSocket(Session, asyncio.Protocol):
    """One client on the own front."""

    __slots__ = (
        "_bits",
        "_carrier",
        "_closed_since",
        "_drained",
        "_extensions",
        "_front",
        "_heard",
        "_is_over",
        "_key",
        "_pinged",
        "_reader",
        "_transport",
    )

    _transport: asyncio.Transport

    def __init__(
        self,
        front: Front,
        carrier: Connection | None,
        lines: Lines,
        kind: Kind,
        key: str,
        oid: int,
        *,
        resumable: bool,
        websocket_key: bytes,
        deflate: tuple[int, str] | None,
    ) -> None:
        super().__init__(front.gateway, lines, kind, key, oid, resumable=resumable)
        self._front = front
        self._carrier = carrier
        self._key = websocket_key
        self._bits, self._extensions = deflate or (0, "")
        self.variant |= self._bits << 1
        most = front.gateway.settings.max_message_bytes
        if resumable:
            most += HEADER_BYTES_MAX
        self._reader = Reader(most, self._bits > 0)
        self._drained: asyncio.Future[None] | None = None
        self._heard = front.now
        self._pinged = False
        self._is_over = False
        self._closed_since = 0.0

    # --- the beginning

    def accept(self, subprotocol: str) -> bool:
        """Answer 101, and take the transport over."""
        carrier, self._carrier = self._carrier, None
        assert carrier is not None
        transport = carrier.transport
        if transport.is_closing():
            return False
        lines = [
            b"HTTP/1.1 101 Switching Protocols\r\n",
            self._front.date,
            b"upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: ",
            accept_key(self._key),
        ]
        if subprotocol:
            lines.append(b"\r\nsec-websocket-protocol: " + subprotocol.encode())
        if self._extensions:
            lines.append(b"\r\nsec-websocket-extensions: " + self._extensions.encode())
        lines.append(b"\r\n\r\n")
        self._key = b""
        self._transport = transport
        rest, is_over = carrier.hand_over(self), carrier.deaf_since > 0
        most = self.gateway.settings.socket_queue_bytes
        transport.set_write_buffer_limits(high=most, low=min(_LOW, most // 2))
        self._front.socket_joined(self)
        transport.write(b"".join(lines))
        # Not at once: what the object has sent so far comes first. Until then nothing is read, or
        # what comes next would overtake what came before.
        transport.pause_reading()
        self._front.loop.call_soon(self._begin, rest, is_over)
        return True

    def _begin(self, rest: bytes, is_over: bool) -> None:
        if rest:
            self.data_received(rest)
        if self._transport.is_closing():
            return
        if is_over:
            # Its client has left behind what it sent; the transport says so once, and did.
            self._transport.close()
        elif self._unsettled < UNSETTLED_MAX:
            self.pause(False)

    def is_busy(self) -> bool:
        """Whether the connection is in the middle of being parsed, and cannot be taken over."""
        return self._carrier is not None and self._carrier.feeding

    # --- from one worker to the next

    def to_pass(self) -> Passed | None:
        """What the next worker has to know of it; None if it cannot be passed on."""
        ready = (
            self.phase is Phase.OPEN
            and self._held is None
            and self._closing is None
            and not self._unsettled
            and self._reader.broken is None
            and self._reader.between_messages()
            and not self.is_writing()
        )
        if not ready:
            return None
        kind, rest = self.kind.name, self._reader.rest
        return Passed(kind, self.key, self.id, self.resumable, self._stays, self._bits, rest)

    def is_writing(self) -> bool:
        """Whether bytes are still on their way to the client."""
        return self._transport.get_write_buffer_size() > 0

    def fileno(self) -> int:
        return int(self._transport.get_extra_info("socket").fileno())

    def let_go(self) -> None:
        """It is somebody else's: nothing is said to the client or to the object."""
        self.phase = Phase.CLOSED
        self._lines.remove(self)
        # Closing it here closes our end alone.
        self._transport.abort()

    def take_up(self, passed: Passed) -> None:
        """Be the line of a connection that a worker before had."""
        self.id = passed.id
        self._stays = passed.stays
        self.phase = Phase.OPEN
        self._held = None
        if passed.rest:
            self._reader.feed(passed.rest)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Only of one that is taken up: after an upgrade the transport is there already.
        self._transport = cast("asyncio.Transport", transport)
        most = self.gateway.settings.socket_queue_bytes
        self._transport.set_write_buffer_limits(high=most, low=min(_LOW, most // 2))
        self._front.socket_joined(self)
        self._lines.adopt(self)

    # --- the transport's side

    def data_received(self, data: bytes) -> None:
        if self.phase is Phase.CLOSED:
            return
        self._heard = self._front.now
        reader = self._reader
        if reader.broken is not None:
            return
        for opcode, body in reader.feed(data):
            if opcode < CLOSE:
                self.message(opcode, body)
            elif opcode == PING:
                if self.phase is Phase.OPEN:
                    self._transport.write(encode(PONG, body))
            elif opcode == CLOSE:
                self._on_close(body)
                return
        if reader.broken is not None and self.phase is Phase.OPEN:
            code, reason = reader.broken
            if code == TOO_LARGE:
                # The reader counts a header that the client did not think of.
                most = self.gateway.settings.max_message_bytes
                reason = f"a message has at most {most} bytes"
            self.fail(code, reason)

    def connection_lost(self, error: Exception | None) -> None:
        self._front.socket_left(self)
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self.phase is not Phase.CLOSED:
            self.gone(LOST, "")

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        # One message may be larger than the bound; it is the next one that is too many.
        self._is_over = True
        if self._catching:
            self._drained = self._front.loop.create_future()

    def resume_writing(self) -> None:
        self._is_over = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _on_close(self, body: bytes) -> None:
        code, reason = read_close(body)
        # What comes behind it is not read.
        self._reader.broken = code, reason

        def left() -> None:
            if self.phase is Phase.OPEN:
                self._transport.write(encode_close(code, ""))
                self.left(code, reason)
            if self.phase is not Phase.CLOSED:
                self.phase = Phase.CLOSED
                self._transport.close()

        # What the object has sent is on its way; then the client has it before the line ends.
        self._lines.behind(self, left)

    # --- what leaves

    def write(self, opcode: int, body: bytes) -> None:
        self._transport.write(encode(opcode, body))

    def send(self, frame: Frame) -> None:
        if self._is_over and not self._catching and self._is_full():
            self.leave_out()
            return
        data = frame.packed.get(self.variant)
        if data is None:
            body = with_header(frame) if self.resumable else frame.body
            if self._bits:
                data = encode_compressed(opcode_of(frame), body, self._bits)
            else:
                data = encode(opcode_of(frame), body)
            frame.packed[self.variant] = data
        self._transport.write(data)

    def _is_full(self) -> bool:
        most = self.gateway.settings.socket_queue_bytes
        return self._transport.get_write_buffer_size() > most

    def end(self, code: int, reason: str) -> None:
        self._transport.write(encode_close(code if code != LOST else NO_CODE, reason))
        self._closed_since = self._front.now
        if self._reader.broken is not None and self._transport.can_write_eof():
            # The client's own close frame cannot be found any more in what it sends: the end of
            # what we send tells it. Reading goes on: a reset could overtake the close frame.
            self._transport.write_eof()
        self._transport.resume_reading()

    def pause(self, paused: bool) -> None:
        if paused:
            self._transport.pause_reading()
        elif not self._front.draining:
            # In a drain what the client sends is for the next worker to read, also where its
            # messages before that have just come to disk.
            self._transport.resume_reading()

    async def drained(self) -> bool:
        if self._drained is not None:
            await asyncio.wait([self._drained], timeout=_DRAIN_S)
            if not self._drained.done():
                self._catching = False
                return False
            self._drained = None
        return self.phase is Phase.OPEN

    # --- time

    def sweep(self) -> None:
        """See whether the client is still there; called every few seconds."""
        now = self._front.now
        interval = self.gateway.settings.ping_interval
        if self.phase is Phase.CLOSING:
            if now - (self._closed_since or now) > _CLOSE_S:
                self._transport.abort()
        elif now - self._heard > 2 * interval:
            self._transport.abort()
        elif now - self._heard < interval:
            self._pinged = False
        elif not self._pinged and self.phase is Phase.OPEN:
            self._pinged = True
            self._transport.write(_PING)

    def abort(self) -> None:
        """Cut it off."""
        self._transport.abort()
