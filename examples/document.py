"""A text document that many edit at once: a server for Yjs and its own client, y-websocket.

    pip install pycrdt
    (cd examples && npm install yjs y-websocket)
    perdure dev examples/document.py  # then open http://127.0.0.1:7373/Document/notes

The object speaks the protocol of y-websocket, so `new WebsocketProvider(url, "notes", doc)`
works with any Yjs editor, unmodified. An update is on disk before anybody else sees it; when there
are many, they are compacted into one.
"""

import os
from pathlib import Path

from pycrdt import Doc, Text
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from perdure import Connection, Object, Transient, ephemeral, query, transient

PAGE = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
MODULES = Path(os.environ.get("NODE_MODULES") or Path(__file__).parent / "node_modules")
# Files are read when the program starts: inside an object there are none.
SOURCES = {
    str(path.relative_to(MODULES)): path.read_text(encoding="utf-8")
    for package in ("yjs", "lib0", "y-protocols", "y-websocket")
    for path in [*(MODULES / package).rglob("*.js"), *(MODULES / package).rglob("*.mjs")]
}

SYNC, AWARENESS = 0, 1
STATE, MISSING, UPDATE = 0, 1, 2
NOTHING = b"\0\0"

COMPACT_FROM = 200


class Document(Object):
    """A Yjs document: its updates, in the order in which they came."""

    updates: list[bytes] = []

    # Made from the updates when it is needed; only they are kept.
    doc: Transient[Doc[Text]] = transient(Doc[Text])
    applied: Transient[int] = transient(int)

    # The last word of each client on its cursor. Nobody minds if it is lost.
    cursors: Transient[dict[str, bytes]] = transient(dict[str, bytes])

    async def on_connect(self, conn: Connection) -> None:
        conn.send(pack(SYNC, STATE, self._load().get_state()))

    async def on_message(self, conn: Connection, message: bytes) -> None:
        try:
            kind, step, payload = unpack(message)
            if kind != SYNC:
                return
            if step == STATE:
                conn.send(pack(SYNC, MISSING, self._load().get_update(payload)))
            elif payload != NOTHING:
                self._load().apply_update(payload)
                self.updates.append(payload)
                self.applied += 1
                self.broadcast(pack(SYNC, UPDATE, payload), exclude=conn)
        except ValueError as error:
            conn.close(1007, str(error)[:100])
        if len(self.updates) >= COMPACT_FROM:
            self.updates = [self._load().get_update()]
            self.doc, self.applied = Doc[Text](), 0

    @ephemeral
    async def on_ephemeral(self, conn: Connection, message: bytes) -> object:
        if message[:1] != bytes([AWARENESS]):
            return NotImplemented
        if conn.id not in self.cursors:
            for known in self.cursors.values():
                conn.send(known)
        self.cursors[conn.id] = message
        self.broadcast(message, exclude=conn)
        return None

    async def on_disconnect(self, conn: Connection) -> None:
        self.cursors.pop(conn.id, None)

    async def on_request(self, request: Request) -> Response:
        return HTMLResponse(PAGE)

    @query
    def text(self) -> str:
        """The text as it is now."""
        return str(self._load().get("text", type=Text))

    @query
    def size(self) -> int:
        """How many updates it is made of."""
        return len(self.updates)

    def _load(self) -> Doc[Text]:
        for update in self.updates[self.applied :]:
            self.doc.apply_update(update)
        self.applied = len(self.updates)
        return self.doc


class Modules(Object, history="none"):
    """What npm has installed, for the page: browsers ask for files, not for packages."""

    def on_request(self, request: Request) -> Response:
        path = str(request.path_params["path"])
        source = SOURCES.get(path) or SOURCES.get(f"{path}.js")
        if source is None:
            return PlainTextResponse(f"no {path} in {MODULES}", 404)
        return PlainTextResponse(source, media_type="text/javascript")


def pack(kind: int, step: int, payload: bytes) -> bytes:
    """A message of y-websocket: numbers have seven bits a byte, the lowest first."""
    length, head = len(payload), bytearray([kind, step])
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*head, length]) + payload


def unpack(message: bytes) -> tuple[int, int, bytes]:
    """Kind, step and payload. Raises ValueError."""
    if len(message) < 3 or message[0] != SYNC:
        return (message[0] if message else -1), -1, b""
    length, shift, at = 0, 0, 2
    while True:
        if at >= len(message):
            raise ValueError("the message is cut off")
        byte = message[at]
        length |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if byte < 0x80:
            break
    if len(message) != at + length:
        raise ValueError(f"{len(message) - at} bytes are there, and {length} were announced")
    return message[0], message[1], message[at:]
