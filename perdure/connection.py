"""Connection: a client as its object sees it.

A connection is part of the durable state, like any attribute: it can be kept, compared, put into a
dict, and is the same object after a crash. It ends once, and `on_disconnect` says so once. What is
sent to it leaves when the turn is on disk, in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from perdure.inside import inside
from perdure.serde import to_json

# What RFC 6455 and its registry let an endpoint send; 1004 to 1006 and 1015 never travel.
_CODES = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})
_REASON_BYTES_MAX = 123


class Headers(Mapping[str, str]):
    """Header fields by name, in any case: `conn.headers["User-Agent"]`."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = {name.lower(): value for name, value in values.items()}

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def __repr__(self) -> str:
        return f"Headers({self._values!r})"


class Connection:
    """A client that is connected to the object. The object gets it in its hooks."""

    __slots__ = (
        "_busy",
        "_open",
        "_principal",
        "_received",
        "_resumable",
        "_since",
        "_waiting",
        "close_code",
        "close_reason",
        "headers",
        "id",
        "path",
        "principal",
        "query",
        "state",
        "subprotocol",
        "subprotocols",
        "tags",
    )

    def __init__(
        self,
        id: str,
        path: str,
        query: dict[str, str],
        headers: Mapping[str, str],
        *,
        principal: Any = None,
        subprotocols: Iterable[str] = (),
    ) -> None:
        self.id = id
        """Names it within its object for ever; a connection that is resumed keeps it."""
        self.path = path
        """The path of the URL, decoded, such as `/Room/lobby`."""
        self.query = query
        """The parameters of the URL; of one that stands twice the last."""
        self.headers = Headers(headers)
        """The header fields of the upgrade, without those that hold credentials (`Authorization`,
        `Cookie`): they are for `authorize`, and do not belong in a journal."""
        self.principal = principal
        """What the App's `authorize` returned, or None."""
        self.tags: set[str] = set()
        """By which `self.connections.tagged(…)` and `self.broadcast(…, tag=…)` find it."""
        self.state: dict[str, Any] = {}
        """The object's own notes on it."""
        self.subprotocols = tuple(subprotocols)
        """What the client offers."""
        self.subprotocol: str | None = None
        """The one that is agreed on: `on_connect` may set it to one of those offered; with any
        other the client is refused, and the log says so."""
        self.close_code: int | None = None
        """Why it ended; None while it is open, and 1006 for a line that was lost."""
        self.close_reason = ""
        # From here on what the machine keeps of it (host/sessions.py).
        self._open = True
        self._busy = False
        self._waiting: deque[Any] | None = None
        self._received = 0
        self._resumable = False
        self._principal = b""
        self._since = 0

    @property
    def open(self) -> bool:
        """Whether it has not ended. A connection whose line is lost for a moment is open."""
        return self._open

    def send(self, data: str | bytes) -> None:
        """Send a message: text for a str, binary for bytes. Nothing happens once it has ended.

        It leaves when this turn is on disk. A client with the resume protocol gets it even if its
        line is lost at the moment.
        """
        body, text = message_bytes(data)
        inside_object("send").frame(self, body, text)

    def send_json(self, value: Any) -> None:
        """Send a value as JSON text, written as the result of a handler is."""
        inside_object("send_json").frame(self, to_json(value), True)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """End it. `on_disconnect` follows in this turn, behind what the connection still does.

        Raises ValueError for a code that may not be sent, or a reason of more than 123 bytes;
        TypeError for what is no int and no str.
        """
        # Both go into the journal as they are, which is read with their types: 1000.0 would be
        # written, and never be read again.
        if not isinstance(code, int):
            raise TypeError(f"a close code is an int, not {type(code).__name__}")
        if not isinstance(reason, str):
            raise TypeError(f"a close reason is a str, not {type(reason).__name__}")
        if not (code in _CODES or 3000 <= code <= 4999):
            raise ValueError(f"{code} is no close code to send; 1000 says that all is well")
        text = reason.encode()
        if len(text) > _REASON_BYTES_MAX:
            raise ValueError(f"a close reason has at most {_REASON_BYTES_MAX} bytes")
        inside_object("close").close(self, int(code), text.decode())

    def __repr__(self) -> str:
        return f"<connection {self.id}{'' if self._open else ', ended'}>"


class Connections(Collection[Connection]):
    """The connections of an object that are open, in the order in which they came."""

    __slots__ = ("_all", "_tag")

    def __init__(self, all_: Mapping[str, Connection], tag: str | None = None) -> None:
        self._all = all_
        self._tag = tag

    def tagged(self, tag: str) -> Connections:
        """Those of them that have a tag."""
        return Connections({conn.id: conn for conn in self}, tag)

    def get(self, id: str) -> Connection | None:
        """The one with that id, or None."""
        conn = self._all.get(id)
        return conn if conn is not None and conn in self else None

    # A copy is walked, so that the body of the loop may close what it meets.

    def __iter__(self) -> Iterator[Connection]:
        if self._tag is None:
            return iter(list(self._all.values()))
        return iter([conn for conn in self._all.values() if self._tag in conn.tags])

    def __len__(self) -> int:
        return len(self._all) if self._tag is None else sum(1 for _ in self)

    def __contains__(self, conn: object) -> bool:
        return (
            isinstance(conn, Connection)
            and self._all.get(conn.id) is conn
            and (self._tag is None or self._tag in conn.tags)
        )

    def __repr__(self) -> str:
        return f"<{len(self)} connections>"


def message_bytes(data: str | bytes | bytearray | memoryview) -> tuple[bytes, bool]:
    """The bytes of a message, and whether it is text."""
    if type(data) is str or isinstance(data, str):
        return data.encode(), True
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data), False
    raise TypeError(
        f"a message is str or bytes, not {type(data).__name__}; for a value there is send_json"
    )


def inside_object(what: str) -> Any:
    """The turn that runs. Raises RuntimeError where none does."""
    turn = inside()
    if turn is None:
        raise RuntimeError(f"{what} works inside the object whose connection it is")
    return turn
