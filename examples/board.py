"""A drawing board for many hands: strokes are kept, cursors are not.

    perdure dev examples/board.py      and open http://127.0.0.1:7373/Board/wall in two browsers

A stroke is a message: it is on disk before anybody else sees it. A cursor is an ephemeral message:
it skips the journal, and costs a tenth.
"""

from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from perdure import Connection, Object, ephemeral, query

PAGE = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")

COLORS = ["#d33", "#37c", "#293", "#c70", "#84a", "#088"]


@dataclass
class Stroke:
    points: list[tuple[float, float]]
    color: str


@dataclass
class Cursor:
    x: float
    y: float


class Board(Object):
    """A wall. Whoever connects sees all strokes, and everybody's cursor."""

    strokes: list[Stroke] = []
    visits: int = 0

    async def on_connect(self, conn: Connection) -> None:
        conn.state["color"] = COLORS[self.visits % len(COLORS)]
        self.visits += 1
        conn.send_json({"color": conn.state["color"], "strokes": self.strokes})

    async def on_message(self, conn: Connection, stroke: Stroke) -> None:
        self.strokes.append(stroke)
        self.broadcast_json({"strokes": [stroke]})

    @ephemeral
    async def on_ephemeral(self, conn: Connection, cursor: Cursor) -> None:
        seen = {"id": conn.id, "x": cursor.x, "y": cursor.y, "color": conn.state["color"]}
        self.broadcast_json(seen, exclude=conn)

    async def on_disconnect(self, conn: Connection) -> None:
        self.broadcast_json({"left": conn.id})

    async def on_request(self, request: Request) -> Response:
        return HTMLResponse(PAGE)

    async def clear(self) -> None:
        """Wipe the board for all."""
        self.strokes.clear()
        self.broadcast_json({"cleared": True})

    @query
    def count(self) -> int:
        """How many strokes there are."""
        return len(self.strokes)
