"""What a turn may ask of connections: send, broadcast, close (perdure/connection.py stands before).

Each puts a command on the turn's list, or, in an ephemeral handler, on a list of its own that no
journal sees. What sessions.py does with events of connections builds on the memory kept here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from perdure.connection import Connection
from perdure.host import sessions
from perdure.host.asking import Asking, Surroundings
from perdure.journal.entry import Broadcast, Closed, Command, Framed
from perdure.kind import Kind

if TYPE_CHECKING:
    from perdure.host.raw_requests import OpenBody


class Connecting(Asking):
    """An object's loop, with the connections that the object has."""

    __slots__ = ("connections", "leaving", "passing", "uploads")

    def __init__(self, kind: Kind, key: str, oid: int, surroundings: Surroundings) -> None:
        super().__init__(kind, key, oid, surroundings)
        self.connections: dict[str, Connection] | None = None
        """Those that are open, by id, in the order in which they came."""
        self.leaving: dict[str, Connection] | None = None
        """Those that have ended while a hook of theirs still runs or waits."""
        self.passing: list[Command] | None = None
        """What an ephemeral handler sends, while one runs."""
        self.uploads: dict[str, OpenBody] | None = None
        """Bodies of requests that did not come whole with the head, by call (raw_requests.py)."""

    def frame(self, conn: Connection, body: bytes, text: bool) -> None:
        """Send to one connection."""
        if self.has(conn):
            self._put(Framed(conn.id, body, text))

    def broadcast(
        self, body: bytes, text: bool, exclude: Iterable[Connection], tag: str | None
    ) -> None:
        """Send to many connections, encoded once."""
        if not self.connections:
            return
        but = [conn.id for conn in exclude if self.has(conn)]
        to = None
        if tag is not None:
            without = set(but)
            to = [
                id_
                for id_, conn in self.connections.items()
                if tag in conn.tags and id_ not in without
            ]
            but = []
        self._put(Broadcast(body, text, to, but))

    def close(self, conn: Connection, code: int, reason: str) -> None:
        """End a connection."""
        self.refuse_in_query("close a connection")
        if self.has(conn):
            self.commands.append(Closed(conn.id, code, reason))
            sessions.end(self, conn, code, reason)  # type: ignore[arg-type]

    def has(self, conn: Connection) -> bool:
        """Whether it is an open connection of this object. A copy that travelled is none."""
        return self.connections is not None and self.connections.get(conn.id) is conn

    def _put(self, command: Framed | Broadcast) -> None:
        if not self.read_only:
            self.commands.append(command)
        elif self.passing is not None:
            self.passing.append(command)
        else:
            self.refuse_in_query("send to a connection")
