"""Bodies that come while their calls run, at the faces: which they are, and how they are read.

A long body for an `on_request` is not waited for: its call begins when the head is there, and the
client is read from as fast as the call takes what comes (host/uploads.py). An answer that is there
before the body ends the reading, and with it the connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.gateway.exchange import Exchange
from perdure.gateway.request import Fields
from perdure.gateway.wire import CONTINUE
from perdure.host.uploads import Upload

if TYPE_CHECKING:
    from perdure.gateway.http import Gateway
    from perdure.gateway.http1 import Connection

WHOLE_BYTES_MAX = 64 * 1024
"""A body that says to be no longer is waited for: it is one entry then, and one turn."""


def comes_in_pieces(gateway: Gateway, target: bytes, fields: Fields) -> bool:
    """Whether a request whose body is not there yet begins its call without it."""
    length = fields.raw(b"content-length")
    if length.isdigit() and int(length) <= WHOLE_BYTES_MAX and b"expect" not in fields:
        return False
    # What makes it the same request, where it comes again under one key, is the body as well.
    return b"idempotency-key" not in fields and gateway.takes_pieces(target)


def too_large_body(most: int) -> tuple[str, str]:
    """The refusal of a body over its bound: code and text."""
    return "payload-too-large", f"a body has at most {most} bytes"


# --- the own front


def examine(conn: Connection, fields: Fields) -> None:
    """Look at the head of a message whose body is still to come."""
    front = conn.front
    version = conn.parser.get_http_version()
    in_pieces = version in ("1.0", "1.1") and comes_in_pieces(front.gateway, conn.target, fields)
    most = front.upload_bytes_max if in_pieces else front.body_bytes_max
    length = fields.raw(b"content-length")
    if length.isdigit() and int(length) > most:
        conn.refuse(*too_large_body(most))
        return
    expected = fields.raw(b"expect").lower() if version != "1.0" else b""
    if expected not in (b"", b"100-continue"):
        conn.refuse("expectation-failed", "only 100-continue can be met")
    elif in_pieces:
        _begin(conn, waits=bool(expected))
    elif expected and conn.pending:
        conn.continue_due = conn.attend = True
    elif expected:
        conn.transport.write(CONTINUE)


def _begin(conn: Connection, *, waits: bool) -> None:
    """The head is enough for the call to begin."""
    head, body, method = conn.head or [], bytes(conn.body), conn.parser.get_method()
    conn.body = b""
    exchange = Exchange(method, conn.target, head, body, False, conn)
    conn.inflow = Inflow(conn, exchange, waits=waits)
    conn.pending.append(exchange)
    conn.admit(exchange)


class Inflow:
    """The body of the request that a connection of the own front is reading."""

    __slots__ = ("_asked", "_conn", "exchange", "paused_since", "upload")

    def __init__(self, conn: Connection, exchange: Exchange, *, waits: bool) -> None:
        """`waits`: the client sends when it is told to go on (`Expect: 100-continue`)."""
        front = conn.front
        self._conn = conn
        self._asked = waits
        self.exchange = exchange
        self.paused_since = front.now if waits else 0.0
        """Since when nothing is expected of the client; 0: it is to send."""
        host, most = front.gateway.host, front.upload_bytes_max
        self.upload = Upload(host, most, self, exchange.body, paused=waits)
        exchange.upload = self.upload

    # --- what the connection tells

    def ended(self) -> None:
        """The body is complete; the call may still run."""
        conn = self._conn
        conn.inflow = None
        conn.target = b""
        conn.head = None
        conn.headers = []
        conn.plain = conn.active = True
        self.upload.end()
        if self.exchange.connection == b"close":
            conn.end()
        elif conn.taking:
            conn.transport.resume_reading()

    def cut(self) -> None:
        """The rest does not come, or is not read."""
        self._conn.inflow = None
        self._conn.continue_due = False
        self.upload.gone()

    def answered(self, exchange: Exchange) -> None:
        """A request has its answer: of its body nothing more is read, if it is this one."""
        if exchange is self.exchange:
            exchange.connection = b"close"
            self.cut()
            self._conn.end()
            self._conn.linger = True

    # --- what the upload asks

    def pause(self) -> None:
        """As in Flow."""
        conn = self._conn
        if conn.inflow is self:
            self.paused_since = conn.front.now
            conn.transport.pause_reading()

    def go_on(self) -> None:
        """As in Flow."""
        conn = self._conn
        if conn.inflow is not self:
            return
        # The time in which nothing was to come is not the client's.
        now = conn.front.now
        conn.begun += now - self.paused_since
        conn.heard = now
        self.paused_since = 0.0
        if self._asked:
            self._asked = False
            if conn.pending[0] is self.exchange:
                conn.out.append(CONTINUE)
                conn.send_soon()
            else:
                # Behind the answers before it.
                conn.continue_due = conn.attend = True
        if conn.taking:
            conn.transport.resume_reading()
