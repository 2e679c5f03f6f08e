"""A room whose clients are cut off by kills."""

from perdure import Connection, Object


class Room(Object):
    """Everybody hears everything, in one order."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.joined: list[str] = []
        self.left: list[str] = []

    def on_connect(self, conn: Connection) -> None:
        self.joined.append(conn.id)

    def on_message(self, conn: Connection, text: str) -> None:
        self.lines.append(text)
        self.broadcast(text)

    def on_disconnect(self, conn: Connection) -> None:
        self.left.append(conn.id)

    async def read(self) -> dict[str, list[str]]:
        return {
            "lines": self.lines,
            "joined": self.joined,
            "left": self.left,
            "there": [conn.id for conn in self.connections],
        }
