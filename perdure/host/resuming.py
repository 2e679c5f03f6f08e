"""A client comes back: the same connection on another line, and all that it missed.

The journal is the buffer. A message's position is (turn, place among the turn's commands), so what
a client missed is read from the entries behind the position it names: those of the log's tail from
memory, older ones from the history. What the object sends meanwhile is held back on the line until
that is written, so that everything arrives once and in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from perdure.connection import Connection
from perdure.errors import PerdureError
from perdure.host.incoming import Answer, IncomingCall, pickled_principal
from perdure.host.joining import may_connect
from perdure.host.line_outputs import LATER
from perdure.host.lines import GONE, REPLACED, Frame, Line
from perdure.journal import codec
from perdure.journal.entry import Broadcast, Entry, Framed
from perdure.logs import logger
from perdure.suspend import heap

if TYPE_CHECKING:
    from perdure.host.activation import Activation
    from perdure.host.host import Host


Position = tuple[int, int]

_PAGE = 16
# Frames that are written before the loop has its turn again.
_AT_ONCE = 500


class ResumableLine(Line, Protocol):
    """A line that can be given what its client missed."""

    def hold(self) -> None:
        """Keep back what is sent, until `go_on`."""

    def welcome(self, token: str, received: int) -> None:
        """Tell the client that it is back, and which of its messages are here."""

    def missed(self, frame: Frame) -> None:
        """Send a message that the client missed, past those that are held."""

    async def drained(self) -> bool:
        """Wait until the client has read most of what was sent; False if it does not, or left."""

    def go_on(self) -> None:
        """Send what was held, and from now on at once."""


class Resuming(IncomingCall, kw_only=True):
    """A client that comes back, on its way to its object.

    `on_answer` is called once: with a failure that refuses the upgrade, or before anything is sent.
    """

    line: ResumableLine
    at: Position

    def enter(self, activation: Activation) -> None:
        """Put the line in the place of the one before, behind all that has left already."""
        if not may_connect(activation, self):
            return
        host, machine, line = activation.host, activation.machine, self.line
        conn = machine.connections.get(line.id) if machine.connections is not None else None
        if conn is None or self.at[0] > machine.seq or not self._is_same(conn):
            self._gone()
            return
        line.from_seq = machine.seq
        line.hold()
        before = host.lines.resumed(line)
        if before is not None:
            before.close(REPLACED, "resumed on another line")
        host.log.after(activation.last_lsn, _Attached(self, host, machine.seq, conn._received))

    def _is_same(self, conn: Connection) -> bool:
        """Whether whoever comes back is who was connected."""
        principal = pickled_principal(self.principal)
        return principal == conn._principal or (
            bool(principal and conn._principal) and heap.same(principal, conn._principal)
        )

    def _gone(self) -> None:
        self.on_answer(Answer("", b"", None))
        self.line.close(GONE, "the connection is gone")

    def gone(self, host: Host) -> None:
        """What the client missed is not there any more: the connection ends."""
        host.lines.lost(self.line, reason="what it missed is not kept", final=True)
        self._gone()


class _Attached:
    """The output behind which a line is the connection's: everything up to `seq` has left, and
    what comes later is held on the line."""

    __slots__ = ("host", "received", "resuming", "seq")

    def __init__(self, resuming: Resuming, host: Host, seq: int, received: int) -> None:
        self.resuming = resuming
        self.host = host
        self.seq = seq
        self.received = received

    def release(self, error: PerdureError | None) -> None:
        if error is not None:
            self.host.lines.lost(self.resuming.line)
            self.resuming.refuse(error)
            return
        self.host.keep(self._catch_up())

    async def _catch_up(self) -> None:
        host, resuming = self.host, self.resuming
        line = resuming.line
        try:
            frames = await _missed(host, line.oid, line.id, resuming.at, self.seq)
        except PerdureError as error:
            logger.warning("what a client missed cannot be read", error=str(error))
            host.lines.lost(line)
            resuming.refuse(error)
            return
        if frames is None:
            resuming.gone(host)
            return
        resuming.on_answer(Answer("", b"", None))
        line.welcome(host.lines.token(line.oid, line.id), self.received)
        for at in range(0, len(frames), _AT_ONCE):
            for frame in frames[at : at + _AT_ONCE]:
                line.missed(frame)
            if not await line.drained():
                host.lines.drop(line, LATER, "the client reads too slowly")
                return
        line.go_on()


async def _missed(host: Host, oid: int, id_: str, at: Position, upto: int) -> list[Frame] | None:
    """The messages to a connection behind a position; None if they are not kept any more."""
    first = int(id_[1:])
    at = max(at, (first, -1))
    # The tail first: what a checkpoint moves out of it meanwhile is in the history by then.
    tail = list(_entries(host.log.entries_of(oid), at, upto))
    frames: list[Frame] = []
    begin = tail[0].seq if tail else upto + 1
    seen = at[0] - 1
    while seen + 1 < begin:
        before = seen
        segments = await host.store.history(host.log.part, oid, seen, _PAGE)
        for segment in segments:
            for _, entry in codec.read_entries(segment.body, f"history of object {oid:016x}"):
                if seen < entry.seq < begin:
                    if entry.seq > seen + 1:
                        return None
                    frames += _frames(entry, id_, at)
                    seen = entry.seq
        if seen == before:
            return None
        # Others have their turn between two pages.
        await asyncio.sleep(0)
    for entry in tail:
        frames += _frames(entry, id_, at)
    return frames


def _entries(bodies: list[bytes], at: Position, upto: int) -> Iterator[Entry]:
    """Those from the turn of a position on, ascending; read from the end, as few are wanted."""
    found = []
    for body in reversed(bodies):
        entry = codec.decode_entry(body)
        if entry.seq < at[0]:
            break
        if entry.seq <= upto:
            found.append(entry)
    return reversed(found)


def _frames(entry: Entry, id_: str, at: Position) -> list[Frame]:
    """What a turn sent to a connection, behind a position."""
    frames = []
    for index, command in enumerate(entry.commands):
        if (entry.seq, index) <= at:
            continue
        if type(command) is Framed:
            sent = command.conn == id_
        elif type(command) is Broadcast:
            sent = id_ not in command.but if command.to is None else id_ in command.to
        else:
            continue
        if sent:
            frames.append(Frame(command.body, command.text, entry.seq, index))
    return frames
