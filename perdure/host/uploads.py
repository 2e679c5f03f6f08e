"""Requests whose bodies still come while their calls run: from the client to the object, no faster
than the handler reads.

    face ──feed──▶ Upload: gathered ──▶ one Piece on its way ──▶ the machine: unread ──▶ handler
      ▲              │ up to one piece      until it is on disk     up to UNREAD_BYTES_MAX
      └── pause ─────┘

A piece is handed on when the one before is on disk, and what the machine holds unread leaves room
for it. What cannot be handed on is gathered; over one piece of that, the face is told to read no
more. So a client is held back by a handler that reads slowly and by a disk that writes slowly.

The call is in the journal, and so is each piece. What a commit loses is still here and is handed on
again: pieces are numbered, and the machine takes each once and in order (raw_requests.py). A call
whose client is not here any more, because it left or because the process that it sent to has died,
is told so by a last piece, as an object is told of connections that it has lost.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from perdure.clock import NS, Timer
from perdure.errors import PayloadTooLarge, PerdureError
from perdure.host.raw_requests import GONE, PIECE_BYTES_MAX, WHOLE
from perdure.journal.entry import Piece
from perdure.journal.identity import oid_of_call

if TYPE_CHECKING:
    from perdure.host.activation import Activation
    from perdure.host.host import Host
    from perdure.journal.log import Output

UNREAD_BYTES_MAX = 256 * 1024
"""Bytes of one body that wait in the machine to be read."""

_GATHER_NS = NS // 10
"""For so long less than a whole piece waits for more, so that a body that comes in small bits is
not an entry for each bit."""


class Flow(Protocol):
    """The face's side of an upload."""

    def pause(self) -> None:
        """Read no more from the client."""
        ...

    def go_on(self) -> None:
        """Read on."""
        ...


class Upload:
    """One client that sends a body, and how far it has come."""

    __slots__ = (
        "_ahead",
        "_end",
        "_flow",
        "_gathered",
        "_host",
        "_id",
        "_limit",
        "_number",
        "_on_its_way",
        "_over",
        "_ripe",
        "_timer",
        "_unread",
        "_waiter",
        "paused",
        "size",
    )

    def __init__(self, host: Host, limit: int, flow: Flow, first: bytes, *, paused: bool) -> None:
        """`first` is what came with the head, and goes with the call; a client that waits to be
        told that it may send begins `paused`."""
        self._host = host
        self._limit = limit
        self._flow = flow
        self._id = ""
        """Of the call, once that is on disk."""
        self._gathered = bytearray()
        self._end = ""
        """How the body ended, if it did: as in Piece."""
        self._over = False
        """Nothing more is handed on."""
        self._number = 0
        self._on_its_way: Piece | None = None
        """Handed on, and not on disk."""
        self._unread = 0
        """Bytes in the machine that the handler has not read, as far as is known here."""
        self._ripe = False
        """What is gathered has waited long enough."""
        self._timer: Timer | None = None
        self._ahead = -1
        """How much of what is gathered was read before the call began; -1: nobody reads ahead."""
        self._waiter: asyncio.Future[None] | None = None
        self.paused = paused
        self.size = len(first)
        """Bytes of the body that have come."""

    # --- what the face does

    def feed(self, data: bytes) -> bool:
        """More has come; False if it is more than a body may have."""
        self.size += len(data)
        if self.size > self._limit:
            return False
        if not (self._over or self._end):
            self._gathered += data
            self._look()
        return True

    def end(self) -> None:
        """The body is complete."""
        self._ends(WHOLE)

    def gone(self) -> None:
        """The rest of the body will not come."""
        self._ends(GONE)

    def _ends(self, how: str) -> None:
        if not self._end:
            self._end = how
            self._look()

    async def read_ahead(self) -> dict[str, Any]:
        """What comes behind `first`, as an ASGI message, for whoever looks at the request before
        the call begins. The call gets it as well. Raises PayloadTooLarge over `max_body_bytes`."""
        self._ahead = max(self._ahead, 0)
        while self._ahead == len(self._gathered) and not self._end:
            self._waiter = asyncio.get_running_loop().create_future()
            self._look()
            await self._waiter
        if self._end == GONE:
            return {"type": "http.disconnect"}
        most = self._host.settings.max_body_bytes
        if len(self._gathered) > most:
            raise PayloadTooLarge(f"a body that `authorize` reads has at most {most} bytes")
        data = bytes(self._gathered[self._ahead :])
        self._ahead += len(data)
        return {"type": "http.request", "body": data, "more_body": not self._end}

    # --- what becomes of the call

    def begin(self, call_id: str) -> None:
        """The call is on disk."""
        if self._over:
            return
        self._id = call_id
        self._ahead = -1
        self._unread = self._host.uploads.add(call_id, self)
        # Not here and now: the call may be answered already, and hear of no more.
        asyncio.get_running_loop().call_soon(self._look)

    def stop(self) -> None:
        """The call has ended: nothing more is handed on."""
        self._over = True
        self._on_its_way = None
        self._gathered.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._id:
            self._host.uploads.remove(self._id)

    # --- pieces

    def _look(self) -> None:
        """Hand on what may go, and have the client read from or not."""
        self._hand_on()
        waiter = self._waiter
        if waiter is not None and (self._ahead < len(self._gathered) or self._end):
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)
        if self._over or self._end:
            return
        full = len(self._gathered) >= PIECE_BYTES_MAX and self._ahead < 0
        # One that waits to be told so sends when its call has begun, or somebody reads ahead.
        if self.paused and not full and (self._id or self._ahead >= 0):
            self.paused = False
            self._flow.go_on()
        elif full and not self.paused:
            self.paused = True
            self._flow.pause()

    def _hand_on(self) -> None:
        if not self._id or self._over or self._on_its_way is not None or self._host.draining:
            return
        gathered = self._gathered
        if not (self._end or self._ripe or len(gathered) >= PIECE_BYTES_MAX):
            if gathered and self._timer is None:
                when_ns = self._host.clock.now_ns() + _GATHER_NS
                self._timer = self._host.clock.call_at(when_ns, self._ripened)
            return
        body = bytes(gathered[:PIECE_BYTES_MAX])
        if self._unread and self._unread + len(body) > UNREAD_BYTES_MAX:
            return
        del gathered[:PIECE_BYTES_MAX]
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._ripe = False
        self._over = bool(self._end) and not gathered
        self._number += 1
        self._on_its_way = Piece(self._id, body, self._number, self._end if self._over else "")
        self._send()

    def _ripened(self) -> None:
        self._timer = None
        self._ripe = True
        self._look()

    def _send(self) -> None:
        if self._on_its_way is not None and not self._host.draining:
            self._host.delivery.event(oid_of_call(self._id), self._on_its_way)

    def arrived(self, received: int, unread: int) -> None:
        """What the object has, on disk: the number of the last piece, and bytes unread."""
        self._unread = unread
        if self._on_its_way is not None and self._on_its_way.number <= received:
            self._on_its_way = None
        self._look()

    def found(self, received: int, unread: int) -> None:
        """The same of an object that was just loaded: what it has not got comes again."""
        if self._on_its_way is not None and self._on_its_way.number > received:
            self._host.keep(self._send_again())
        else:
            self.arrived(received, unread)

    async def _send_again(self) -> None:
        # It may be what the object was loaded for, and has its turn in a moment.
        oid = oid_of_call(self._id)
        activation = self._host.find(oid)
        if activation is None:
            return
        await activation.settled()
        await activation.rest()
        known = (activation.machine.uploads or {}).get(self._id)
        piece = self._on_its_way
        if piece is not None and known is not None and known.received < piece.number:
            self._send()

    def taken_back(self) -> None:
        """What the object had has not come to disk: its memory is forgotten, and it is found again
        when it is loaded. That is now, since nobody else may wake it."""
        asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        oid, host = oid_of_call(self._id), self._host
        if self._on_its_way is not None and not host.draining and host.find(oid) is None:
            host.delivery.wake(oid)


class Uploads:
    """Those of all objects of this host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.open: dict[int, dict[str, Upload]] = {}
        """By object and call."""

    def add(self, call_id: str, upload: Upload) -> int:
        """A call is on disk whose client sends on; gives what the machine holds unread of it. Of an
        object that is not in memory that shows when the next piece has brought it there."""
        oid = oid_of_call(call_id)
        self.open.setdefault(oid, {})[call_id] = upload
        activation = self._host.find(oid)
        known = activation.machine.uploads if activation is not None else None
        return known[call_id].unread if known is not None and call_id in known else 0

    def remove(self, call_id: str) -> None:
        oid = oid_of_call(call_id)
        table = self.open.get(oid, {})
        table.pop(call_id, None)
        if not table:
            self.open.pop(oid, None)

    def turned(self, activation: Activation, outputs: list[Output]) -> None:
        """Put what a turn has read, or has taken in, behind the gate of its entry."""
        machine = activation.machine
        for id_, upload in self.open.get(machine.oid, {}).items():
            body = machine.uploads.get(id_) if machine.uploads is not None else None
            # Of a call that has ended its answer says all; but the turn may yet be lost.
            had = (body.received, body.unread) if body is not None else None
            outputs.append(_Arrived(upload, had))

    def loaded(self, activation: Activation) -> None:
        """An object came into memory: bodies that nobody sends any more are cut off."""
        machine, host = activation.machine, self._host
        if machine.held is not None or host.draining:
            # A fork that is only looked at stays as it was taken.
            return
        table = self.open.get(machine.oid, {})
        for id_, body in list((machine.uploads or {}).items()):
            upload = table.get(id_)
            if upload is not None:
                upload.found(body.received, body.unread)
            elif not body.end and id_ not in host.waiting:
                # One whose caller waits is on its way here: it begins when its call is on disk.
                host.delivery.event(machine.oid, Piece(id_, b"", body.received + 1, GONE))


class _Arrived:
    """The output behind which an upload may go on."""

    __slots__ = ("had", "upload")

    def __init__(self, upload: Upload, had: tuple[int, int] | None) -> None:
        self.upload = upload
        self.had = had

    def release(self, error: PerdureError | None) -> None:
        if error is not None:
            self.upload.taken_back()
        elif self.had is not None:
            self.upload.arrived(*self.had)
