"""A chat room: history, who is there, and nobody too loud. One page, no build.

    perdure dev examples/chat.py       and open http://127.0.0.1:7373/Room/lobby in two browsers

Kill the server while you write, and start it again: nothing is lost, nothing comes twice, and the
page need not be loaded again.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from perdure import Connection, Object, Reject, query

PAGE = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")

SHOWN = 200
SAID_MAX, SECONDS = 5, 5.0


@dataclass
class Line:
    number: int
    by: str
    text: str
    at: float


class Room(Object):
    """Whoever connects is in the room; what they send is a line for all."""

    lines: list[Line] = []

    async def on_connect(self, conn: Connection) -> None:
        name = conn.query.get("name", "").strip()
        if not 0 < len(name) <= 30:
            raise Reject("say who you are: ?name=ada")
        if name in self.present():
            raise Reject(f"{name} is here already")
        conn.state["name"] = name
        conn.send_json({"lines": self.lines[-SHOWN:], "present": self.present()})
        self.broadcast_json({"present": self.present()}, exclude=conn)

    async def on_message(self, conn: Connection, text: str) -> None:
        now = time.time()
        said = [at for at in conn.state.get("said", []) if at > now - SECONDS]
        if len(said) >= SAID_MAX:
            conn.send_json({"slow": round(said[0] + SECONDS - now, 1)})
            return
        conn.state["said"] = [*said, now]
        line = Line(len(self.lines) + 1, conn.state["name"], text[:2000], now)
        self.lines.append(line)
        self.broadcast_json({"lines": [line]})

    async def on_disconnect(self, conn: Connection) -> None:
        self.broadcast_json({"present": self.present()})

    async def on_request(self, request: Request) -> Response:
        return HTMLResponse(PAGE)

    @query
    def present(self) -> list[str]:
        """The names of those who are in the room."""
        return sorted(conn.state["name"] for conn in self.connections if "name" in conn.state)

    @query
    def history(self, after: int = 0) -> list[Line]:
        """The lines behind number `after`."""
        return self.lines[after:]
