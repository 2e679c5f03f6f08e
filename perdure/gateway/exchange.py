"""One request on a connection of the own front, and the place of its answer.

Answers leave in the order of the requests, so an answer that is there too soon waits here. A plain
answer that is next, which nearly every answer is, goes to the socket at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from perdure.gateway.problem import Headers, Refusal
from perdure.gateway.reply import RESULT
from perdure.gateway.request import HttpRequest, split_target
from perdure.gateway.stream import Stream
from perdure.gateway.websocket import WebSocket
from perdure.gateway.wire import BODILESS, LAST_CHUNK, answer, chunk, result, stream_head
from perdure.host.sessions import LOST
from perdure.journal.identity import oid_of

if TYPE_CHECKING:
    from perdure.gateway.http import Gateway
    from perdure.gateway.http1 import Connection
    from perdure.gateway.upgrade import Upgrade
    from perdure.host.uploads import Upload
    from perdure.kind import Kind


class Exchange(HttpRequest):
    """One request on a connection, and the place of its answer."""

    conn: Connection | None = None
    """None once it is answered, or its client has gone."""
    connection: bytes = b""
    """The Connection field of the answer: `close`, `keep-alive` for HTTP/1.0, or empty."""
    data: bytes | None = None
    """The answer, while earlier requests of the connection have none yet."""

    joining: WebSocket | None = None
    """The line that its client waits for, while the upgrade is not answered."""

    stream: Stream | None = None
    """The body, if it comes piece by piece. Once its head has left, `data` is None again until
    the body is complete."""
    chunked: bool = True
    gathered: int = 0
    """Bytes of the body that wait for the end of this pass of the loop."""
    upload: Upload | None = None  # type: ignore[misc]

    def respond(self, status: int, headers: Headers, body: bytes | Stream) -> None:
        conn = self.conn
        if conn is None:
            if isinstance(body, Stream):
                body.left()
            return
        # Breaks the circle through the queue as well; collections are rare here.
        self.conn = None
        if headers is RESULT and not conn.attend:
            assert isinstance(body, bytes)
            data = result(conn.front.result_head, body)
        elif isinstance(body, Stream):
            self._respond_stream(conn, status, headers, body)
            return
        else:
            front = conn.front
            if conn.inflow is not None:
                conn.inflow.answered(self)
            if front.draining and front.pass_on is None and conn.pending[-1] is self:
                conn.end()
                self.connection = b"close"
            head_only = self.method == b"HEAD"
            data = answer(
                status, headers, body, conn.front.date, self.connection, head_only=head_only
            )
        if conn.feeding or conn.attend or conn.out or len(conn.pending) > 1:
            self.data = data
            conn.answered()
        else:
            conn.pending.clear()
            conn.transport.write(data)

    def _respond_stream(
        self, conn: Connection, status: int, headers: Headers, stream: Stream
    ) -> None:
        self.conn = conn
        bodiless = status in BODILESS
        self.chunked = conn.parser.get_http_version() == "1.1" and not bodiless
        if not (self.chunked or bodiless):
            # Nothing but the end of the connection tells the client that the body is complete.
            self.connection = b"close"
            if conn.inflow is None:
                conn.end()
        if conn.inflow is not None and (bodiless or self.method == b"HEAD"):
            conn.inflow.answered(self)
        date = conn.front.date
        self.data = stream_head(status, headers, date, self.connection, chunked=self.chunked)
        if bodiless or self.method == b"HEAD":
            self.conn = None
            stream.left()
        else:
            self.stream = stream
        conn.answered()

    # --- as the sink of a stream

    def open(self) -> None:
        """The head is on its way; the body follows."""
        assert self.stream is not None
        self.data = None
        self.stream.attach(self)

    def chunk(self, data: bytes) -> None:
        if self.conn is not None and data:
            if not self.conn.flushing:
                self.gathered = 0
            self.gathered += len(data)
            self.conn.out.append(chunk(data) if self.chunked else data)
            self.conn.send_soon()

    def finish(self) -> None:
        conn = self.conn
        if conn is not None:
            if conn.inflow is not None:
                conn.inflow.answered(self)
            self.conn = self.stream = None
            self.data = LAST_CHUNK if self.chunked else b""
            conn.answered()

    def cut(self) -> None:
        conn = self.conn
        if conn is None:
            return
        if self.chunked and not conn.stuck_since:
            # What was given out so far arrives, and the answers before it; that the last chunk is
            # missing tells the rest.
            # Not at once: the parser may be at work, and answers before it on their way.
            conn.end()
            conn.front.loop.call_soon(conn.end_here)
        else:
            conn.transport.abort()

    def queued(self) -> int:
        conn = self.conn
        if conn is None:
            return 0
        return (self.gathered if conn.flushing else 0) + conn.transport.get_write_buffer_size()

    def left(self) -> None:
        """The connection is lost."""
        stream, self.conn, self.stream = self.stream, None, None
        if stream is not None:
            stream.left()
        joining, self.joining = self.joining, None
        if joining is not None:
            joining.gone(LOST, "")

    # --- what the gateway asks

    def session(
        self, gateway: Gateway, kind: Kind, key: str, upgrade: Upgrade, *, resumable: bool
    ) -> WebSocket:
        conn = self.conn
        if conn is None:
            raise Refusal("bad-request", "the client has gone")
        if len(conn.pending) > 1:
            raise Refusal("bad-request", "an upgrade comes when all before it is answered")
        self.joining = WebSocket(
            conn.front,
            conn,
            *(gateway.host.lines, kind, key, oid_of(kind.name, key)),
            resumable=resumable,
            websocket_key=upgrade.key,
            deflate=upgrade.deflate,
        )
        return self.joining

    def switched(self) -> None:
        self.conn = self.joining = None

    def client(self) -> str | None:
        peer = self.conn and self.conn.transport.get_extra_info("peername")
        return str(peer[0]) if peer else None

    def scope(self) -> dict[str, Any]:
        assert self.conn is not None
        transport = self.conn.transport
        path, query = split_target(self.target)
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self.method.decode("latin-1"),
            "scheme": "http",
            "path": unquote_to_bytes(path).decode(errors="replace"),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in self.headers],
            "client": _pair(transport.get_extra_info("peername")),
            "server": _pair(transport.get_extra_info("sockname")),
        }


def _pair(address: Any) -> tuple[str, int] | None:
    return tuple(address[:2]) if isinstance(address, tuple) else None
