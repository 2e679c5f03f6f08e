"""One client's line, whatever face it came through: messages in, messages out, in order.

A session begins with an upgrade that is not answered yet; what its object sends meanwhile is held.
It ends once, and its object is told once by `Lines`. What differs between the faces is how bytes
come and go, and stands below: websocket.py for the own front, asgi_websocket.py for the other.

With the subprotocol `perdure.v1` each message has a header line (docs/sessions.md). A client of
it keeps what it sends until that is acknowledged, so a line may be cut at any point.
"""

from __future__ import annotations

import asyncio
import enum
from typing import TYPE_CHECKING

from perdure.gateway.frames import BINARY, INVALID, NO_CODE, PROTOCOL, TEXT, TOO_LARGE
from perdure.host.incoming import Answer
from perdure.host.line_outputs import LATER
from perdure.host.lines import GONE, RESTART, Frame, Lines
from perdure.host.sessions import LOST

if TYPE_CHECKING:
    from perdure.gateway.http import Gateway
    from perdure.kind import Kind

RESUME_PROTOCOL = "perdure.v1"

_POLICY = 1008
# Codes by which a client says that it is done; any other end of its line may be an accident.
_GOING_AWAY = 1001
_LEAVING = (1000, _GOING_AWAY, NO_CODE)
# Headers may add so much to a message.
HEADER_BYTES_MAX = 64
# Messages of one client on their way to the disk, before it is not read from for a moment.
UNSETTLED_MAX = 1000


class Phase(enum.Enum):
    """Only moves on."""

    JOINING = 1
    OPEN = 2
    CLOSING = 3
    CLOSED = 4


class Session:
    """A line (host/lines.py). Faces subclass it."""

    __slots__ = (
        "_ack_due",
        "_acked",
        "_catching",
        "_closing",
        "_count",
        "_has_ephemeral",
        "_held",
        "_held_bytes",
        "_lines",
        "_missing",
        "_second",
        "_stays",
        "_unsettled",
        "from_seq",
        "gateway",
        "id",
        "key",
        "kind",
        "oid",
        "phase",
        "resumable",
        "variant",
    )

    def __init__(
        self, gateway: Gateway, lines: Lines, kind: Kind, key: str, oid: int, *, resumable: bool
    ) -> None:
        self.gateway = gateway
        self.kind = kind
        self.key = key
        self.oid = oid
        self.id = ""
        self.resumable = resumable
        self.from_seq = 0
        self.phase = Phase.JOINING
        self.variant = 1 if resumable else 0
        """Which form of a frame it takes; faces add theirs."""
        self._lines = lines
        self._held: list[Frame] | None = []
        self._held_bytes = 0
        self._catching = False
        self._closing: tuple[int, str] | None = None
        self._has_ephemeral = kind.hooks is not None and kind.hooks.ephemeral is not None
        self._missing = False
        """A message was too much for the client: none that follow may reach it before that one."""
        self._acked = 0
        self._ack_due = False
        self._unsettled = 0
        self._second = 0
        self._stays = False
        """Its client may come back after it has gone away: a page that is loaded again."""
        self._count = 0

    # --- what a face does

    def write(self, opcode: int, body: bytes) -> None:
        """Send one message that is for this client alone."""
        raise NotImplementedError

    def send(self, frame: Frame) -> None:
        """Send a message that may go to others as well."""
        raise NotImplementedError

    def end(self, code: int, reason: str) -> None:
        """Send a close frame, and see to it that the line ends."""
        raise NotImplementedError

    def accept(self, subprotocol: str) -> bool:
        """Answer the upgrade; False if the client has gone."""
        raise NotImplementedError

    def is_busy(self) -> bool:
        """Whether the upgrade cannot be answered in this very moment."""
        return False

    def pause(self, paused: bool) -> None:
        """Read nothing for a moment, or go on."""
        raise NotImplementedError

    async def drained(self) -> bool:
        """Wait until the client has read most of what was sent; False if it does not."""
        raise NotImplementedError

    # --- the beginning

    def answered(self, answer: Answer) -> None:
        """The object lets the client in."""
        if not self.accept(RESUME_PROTOCOL if self.resumable else answer.body.decode()):
            self.gone(LOST, "")
            return
        self.phase = Phase.OPEN
        if self._catching:
            return
        # One that comes back for a connection that is gone has none: it is closed at once. One that
        # is to be closed already had it, and comes back for what did not fit.
        there = self._lines.open.get(self.oid, {}).get(self.id) is self
        leaves = self._closing is not None and self._closing[0] != GONE
        if self.resumable and (there or leaves):
            self._hello(self._lines.token(self.oid, self.id), resumed=0, received=0)
        self.go_on()

    def _hello(self, token: str, *, resumed: int, received: int) -> None:
        grace = self.gateway.settings.resume_grace
        line = f"hello {token} {grace:g} {self.id} {resumed} {received}\n"
        self.write(TEXT, line.encode())

    # --- what the client sends

    def message(self, opcode: int, body: bytes) -> None:
        """A whole message has come, and its text is UTF-8."""
        if self.phase is not Phase.OPEN or self._closing is not None:
            return
        settings = self.gateway.settings
        if settings.max_messages_per_second and self._is_too_many(settings.max_messages_per_second):
            self.fail(_POLICY, "too many messages a second")
        elif self.resumable:
            self._with_header(opcode == TEXT, body)
        elif len(body) > settings.max_message_bytes:
            self.fail(TOO_LARGE, f"a message has at most {settings.max_message_bytes} bytes")
        else:
            self._take(body, opcode == TEXT, 0)

    def _take(self, body: bytes, text: bool, number: int) -> None:
        if self._has_ephemeral and not number:
            self._lines.pass_on(self, body, text, 0, only=False)
            return
        self._lines.receive(self, body, text, number)

    def _is_too_many(self, most: int) -> bool:
        second = int(self.gateway.clock.monotonic())
        if second != self._second:
            self._second = second
            self._count = 0
        self._count += 1
        return self._count > most

    def _with_header(self, text: bool, body: bytes) -> None:
        head, newline, payload = body.partition(b"\n")
        words = head[:256].split(b" ")
        if not newline:
            self.fail(PROTOCOL, "a message of perdure.v1 begins with a header line")
        elif len(payload) > self.gateway.settings.max_message_bytes:
            most = self.gateway.settings.max_message_bytes
            self.fail(TOO_LARGE, f"a message has at most {most} bytes")
        elif words[0] == b"m" and len(words) > 1 and _is_number(words[1]):
            self._take(payload, text, int(words[1]))
        elif words[0] == b"e":
            self._lines.pass_on(self, payload, text, 0, only=True)
        elif words[0] == b"ping":
            self.write(TEXT, b"pong" + head[4:256] + b"\n")
        elif words[0] == b"stay":
            self._stays = True
        elif words[0] != b"ack":
            self.fail(PROTOCOL, "this header is not known")

    # --- what the object sends

    def frame(self, frame: Frame) -> None:
        """Send a message, or hold it back while the line is not ready."""
        if self._missing:
            return
        if self._held is None:
            self.send(frame)
        elif frame.index < 0 and self._catching:
            return
        elif self._held_bytes > self.gateway.settings.socket_queue_bytes:
            self.leave_out()
        else:
            self._held.append(frame)
            self._held_bytes += len(frame.body)

    def leave_out(self) -> None:
        """There is more for the client than may wait for it: its line ends behind what does."""
        self._missing = True
        # Not from within: somebody may be on the way through all sockets.
        asyncio.get_running_loop().call_soon(self.too_slow)

    def acknowledge(self, number: int) -> None:
        """The client's messages up to that number are on disk. Said once for each loop pass."""
        self._acked = max(self._acked, number)
        if not self._ack_due:
            self._ack_due = True
            asyncio.get_running_loop().call_soon(self._acknowledge)

    def _acknowledge(self) -> None:
        self._ack_due = False
        if self.phase is Phase.OPEN and not self._catching:
            self.write(TEXT, b"ack %d\n" % self._acked)

    def taken(self) -> None:
        """A message is on its way to the disk."""
        self._unsettled += 1
        if self._unsettled == UNSETTLED_MAX:
            self.pause(True)

    def settled(self) -> None:
        """A message is on disk."""
        if not self._unsettled:
            # It came on the line before this one.
            return
        self._unsettled -= 1
        if self._unsettled == UNSETTLED_MAX // 2:
            self.pause(False)

    # --- a client that comes back

    def hold(self) -> None:
        """Keep back what is sent until the client has what it missed."""
        self._catching = True

    def welcome(self, token: str, received: int) -> None:
        """Tell the client that it is back."""
        self._hello(token, resumed=1, received=received)

    def missed(self, frame: Frame) -> None:
        """Send a message out of the journal."""
        if self.phase is Phase.OPEN:
            self.send(frame)

    def go_on(self) -> None:
        """Send what was held."""
        self._catching = False
        held, self._held = self._held or (), None
        self._held_bytes = 0
        for frame in held:
            if self.phase is Phase.OPEN:
                self.send(frame)
        if self._closing is not None:
            self.close(*self._closing)
        elif self._acked:
            self.acknowledge(self._acked)

    # --- the end

    def close(self, code: int, reason: str) -> None:
        """The object is done with the line, or the host is."""
        if self.phase is Phase.JOINING or self._catching:
            self._closing = self._closing or (code, reason)
            if self.phase is Phase.JOINING or code < 4000:
                return
            self._catching = False
        if self.phase is Phase.OPEN:
            self.phase = Phase.CLOSING
            self.end(code, reason)

    def fail(self, code: int, reason: str) -> None:
        """The client did what it may not: that ends the connection for good, behind what is
        still on its way to the client."""
        if self._closing is None:
            self._closing = code, reason
            self._lines.behind(self, lambda: self._lines.drop(self, code, reason, final=True))

    def too_slow(self) -> None:
        """The client does not read what it is sent, or cannot yet."""
        if self.phase in (Phase.JOINING, Phase.OPEN):
            self._lines.drop(self, LATER, "the client reads too slowly")

    def restart(self) -> None:
        """The node stops: the client may come back to the next one."""
        self._lines.drop(self, RESTART, "the server restarts")

    def left(self, code: int, reason: str) -> None:
        """The client has sent a close frame, and is not sent anything more."""
        self.phase = Phase.CLOSING
        leaving = code in _LEAVING and not (code == _GOING_AWAY and self._stays)
        self._lines.lost(self, code, reason, final=leaving or code in (PROTOCOL, INVALID))

    def gone(self, code: int, reason: str) -> None:
        """The line is not there any more."""
        self.phase = Phase.CLOSED
        self._lines.lost(self, code, reason)


def with_header(frame: Frame) -> bytes:
    """A message as a client of perdure.v1 gets it."""
    if frame.index < 0:
        return b"e\n" + frame.body
    return b"m %d.%d\n%b" % (frame.seq, frame.index, frame.body)


def opcode_of(frame: Frame) -> int:
    """Text or binary."""
    return TEXT if frame.text else BINARY


def _is_number(word: bytes) -> bool:
    return word.isdigit() and 0 < len(word) <= 18 and word[:1] != b"0"
