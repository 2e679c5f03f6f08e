"""One request on a connection of the own front, and the place of its answer.

Answers leave in the order of the requests, so an answer that is there too soon waits here. A plain
answer that is next, which nearly every answer is, goes to the socket at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from perdure.gateway.problem import Headers
from perdure.gateway.reply import RESULT
from perdure.gateway.request import HttpRequest
from perdure.gateway.wire import answer, result

if TYPE_CHECKING:
    from perdure.gateway.http1 import Connection


class Exchange(HttpRequest):
    """One request on a connection, and the place of its answer."""

    conn: Connection | None = None
    """None once it is answered, or its client has gone."""
    connection: bytes = b""
    """The Connection field of the answer: `close`, `keep-alive` for HTTP/1.0, or empty."""
    data: bytes | None = None
    """The answer, while earlier requests of the connection have none yet."""

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        conn = self.conn
        if conn is None:
            return
        # Breaks the circle through the queue as well; collections are rare here.
        self.conn = None
        if headers is RESULT and not conn.attend:
            data = result(conn.front.result_head, body)
        else:
            if conn.front.draining and conn.pending[-1] is self:
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

    def client(self) -> str | None:
        peer = self.conn and self.conn.transport.get_extra_info("peername")
        return str(peer[0]) if peer else None

    def scope(self) -> dict[str, Any]:
        assert self.conn is not None
        transport = self.conn.transport
        path, _, query = self.target.partition(b"?")
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
