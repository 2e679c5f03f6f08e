"""The host's side of sockets: which line each connection has, and what travels on it.

A line is what a face of the gateway holds for a client; it outlives the activation of its object,
which may hibernate and wake as it likes. Whatever is sent leaves here, behind the output gate, in
the order of the journal, once.

A line that ends is told to its object by an event, as often as it takes until that is on disk: an
object that is loaded names the connections it has, and those without a line are lost. Those that
can be resumed are given the grace time first; meanwhile the journal keeps what they miss
(resuming.py).
"""

from __future__ import annotations

import asyncio
import base64
import hmac
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from perdure.clock import NS, Timer
from perdure.connection import Connection
from perdure.errors import BadArguments, BadJson, OperatorError
from perdure.host import ephemeral
from perdure.host.incoming import Answer
from perdure.host.intake import overloaded
from perdure.host.joining import Joining, Passing
from perdure.host.line_outputs import LATER, Acknowledgement, Frames, Later
from perdure.host.sessions import FAILED, LOST
from perdure.journal.entry import (
    BODY_KEPT_MAX,
    Broadcast,
    Closed,
    Command,
    Disconnected,
    Framed,
    Received,
    shortened_message,
)
from perdure.logs import logger

if TYPE_CHECKING:
    from perdure.host.activation import Activation
    from perdure.host.host import Host
    from perdure.host.machine import Machine
    from perdure.kind import Kind


RESTART = 1012
PROTOCOL = 1002
GONE = 4404
REPLACED = 4409

HAND_OVER_S = 5.0
"""For so long a line may be missing after a worker has taken over from another."""

_WOKEN_AT_ONCE = 64
_PAGE = 1000
_MAC_BYTES = 15


FOR_LINES = frozenset((Framed, Broadcast, Closed))
"""The commands that are about connections."""


def kept_of(machine: Machine, command: Command) -> Command:
    """A command as the journal keeps it. A long message is kept whole only where a client that
    missed it can ask for it again."""
    if type(command) is Closed or len(command.body) <= BODY_KEPT_MAX:  # type: ignore[union-attr]
        return command
    conns = machine.connections or {}
    if type(command) is Framed:
        conn = conns.get(command.conn)
        resumable = conn is not None and conn._resumable
        return command if resumable else shortened_message(command)
    assert type(command) is Broadcast
    resumable = any(conn._resumable for conn in conns.values())
    return command if resumable else shortened_message(command)


class Frame:
    """A message on its way to one line or to many; what a face makes of it is made once."""

    __slots__ = ("body", "index", "packed", "seq", "text")

    def __init__(self, body: bytes, text: bool, seq: int, index: int) -> None:
        self.body = body
        self.text = text
        self.seq = seq
        self.index = index
        """Its place in its turn; -1 for one that is in no journal."""
        self.packed: dict[int, Any] = {}
        """The message as it stands on the wire, for each variant of wire."""


class Line(Protocol):
    """One client, as a face holds it. Its methods never raise, and take nothing back."""

    kind: Kind
    key: str
    oid: int
    id: str
    """The connection's; empty before there is one."""
    resumable: bool
    from_seq: int
    """Frames of later turns are for it; those up to here it has, or gets from the journal."""

    def frame(self, frame: Frame) -> None:
        """Send a message; until the line is ready it is held back."""
        ...

    def acknowledge(self, number: int) -> None:
        """The client's message of that number is on disk."""
        ...

    def taken(self) -> None:
        """A message of the client is on its way to the disk."""
        ...

    def settled(self) -> None:
        """A message of the client has been handled and is on disk."""
        ...

    def close(self, code: int, reason: str) -> None:
        """End it, behind what was sent. Whoever calls this has told the object already."""
        ...


class Lines:
    """The lines of all objects of this host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.open: dict[int, dict[str, Line]] = {}
        """By object and connection."""
        self.awaited: dict[tuple[int, str], Timer] = {}
        """Connections without a line that may be resumed, with the end of their grace time."""
        self.expects_until_ns = 0
        """Until then lines of the process before may still be handed over."""
        self._adopted: set[tuple[int, str]] = set()
        """Lines that were handed over before their object was loaded."""
        self._starting: asyncio.Task[None] | None = None

    # --- the ways in

    def connect(
        self,
        line: Line,
        path: str,
        query: dict[str, str],
        headers: dict[str, str],
        subprotocols: Sequence[str],
        principal: Any,
        on_answer: Callable[[Answer], None],
    ) -> None:
        """A client wants in. `on_answer` is called once: with the chosen subprotocol as the body,
        or with the failure that refuses it."""

        def answered(answer: Answer) -> None:
            if answer.failure is not None:
                self.remove(line)
            on_answer(answer)

        self._host.call(
            Joining(
                line.kind,
                line.key,
                cast(Any, None),
                ((), {}),
                b"",
                answered,
                principal=principal,
                line=line,
                path=path,
                query=query,
                headers=headers,
                subprotocols=list(subprotocols),
            )
        )

    def receive(self, line: Line, body: bytes, text: bool, number: int = 0) -> None:
        """A message of a client."""
        activation = self._activation(line)
        if activation is None:
            return
        if activation.takes_now():
            machine = activation.machine
            conn = machine.connections.get(line.id) if machine.connections is not None else None
            if conn is not None and not self._admits(line, activation, conn, number):
                return
        elif len(activation.mailbox or ()) >= self._host.settings.mailbox_limit:
            self._overloaded(line, activation)
            return
        line.taken()
        activation.event(Received(line.id, body, text, number))
        self._host.delivery.run()

    def pass_on(self, line: Line, body: bytes, text: bool, number: int, *, only: bool) -> None:
        """A message of a client for `on_ephemeral`; unless `only` that, it is for `on_message` if
        it does not fit there."""
        activation = self._activation(line)
        if activation is None:
            return
        if activation.takes_now():
            self.pass_now(activation, line, body, text, number, only)
            return

        def refused(answer: Answer) -> None:
            if answer.failure is not None:
                self.drop(line, LATER, answer.failure.message)

        activation.call(
            Passing(
                *(line.kind, line.key, cast(Any, None), ((), {}), body, refused),
                line=line,
                text=text,
                number=number,
                only=only,
            )
        )

    def _activation(self, line: Line) -> Activation | None:
        host = self._host
        if host.draining:
            self.drop(line, RESTART, "the server restarts")
            return None
        if host.log.refusing:
            self.drop(line, LATER, "the disk is full")
            return None
        activation = host.find(line.oid)
        if activation is None:
            if host.quarantine.refusal(line.oid) is not None:
                self.drop(line, LATER, "the object is quarantined")
                return None
            activation = host.activate(line.kind.name, line.key, line.oid)
        return activation

    def _admits(self, line: Line, activation: Activation, conn: Connection, number: int) -> bool:
        """Whether a message has its turn now; it may have come before, or be one too many."""
        if number and number != conn._received + 1:
            if number <= conn._received:
                self._host.log.after(activation.last_lsn, Acknowledgement(line, conn._received))
            else:
                text = f"message {number} came where {conn._received + 1} was expected"
                self.drop(line, PROTOCOL, text, final=True)
            return False
        machine = activation.machine
        if machine.running is not None or machine.queue is not None or conn._waiting:
            limit = self._host.settings.mailbox_limit
            busy = len(machine.running or ()) + len(machine.queue or ()) + len(conn._waiting or ())
            if busy >= limit:
                self._overloaded(line, activation)
                return False
        return True

    def _overloaded(self, line: Line, activation: Activation) -> None:
        self.drop(line, LATER, overloaded(activation).message)

    def pass_now(
        self, activation: Activation, line: Line, body: bytes, text: bool, number: int, only: bool
    ) -> None:
        """`pass_on`, with the object in memory."""
        machine = activation.machine
        hook = line.kind.hooks.ephemeral if line.kind.hooks is not None else None
        conn = machine.connections.get(line.id) if machine.connections is not None else None
        if conn is None:
            return
        taken = False
        if hook is not None:
            try:
                message = hook.read(body, text)
            except (BadArguments, BadJson):
                pass
            else:
                try:
                    taken = ephemeral.run(activation, hook.function, conn, message)
                except Exception as error:
                    logger.warning("on_ephemeral failed", object=activation.address, exc_info=error)
                    self.drop(line, FAILED, type(error).__name__[:120], final=True)
                    return
        if not (taken or only):
            self.receive(line, body, text, number)

    # --- the ways out

    def output(
        self, machine: Machine, event: object, frames: list[tuple[int, Command]] | None
    ) -> Frames:
        """What a turn's commands and the end of its event are for the lines of its object."""
        sender, number = "", 0
        if type(event) is Received:
            sender = event.conn
            conn = machine.connections.get(sender) if machine.connections is not None else None
            if event.number and conn is not None:
                # What the object has, which is not always what has come.
                number = conn._received
        return Frames(self, machine.oid, machine.seq, frames or (), sender, number)

    def put(self, oid: int, seq: int, index: int, command: Command) -> None:
        """Do what a turn asked for; its entry is on disk."""
        table = self.open.get(oid)
        if type(command) is Framed:
            line = table.get(command.conn) if table is not None else None
            if line is not None and seq > line.from_seq:
                line.frame(Frame(command.body, command.text, seq, index))
        elif type(command) is Broadcast:
            if table is not None:
                self._broadcast(table, Frame(command.body, command.text, seq, index), command)
        elif type(command) is Closed:
            timer = self.awaited.pop((oid, command.conn), None)
            if timer is not None:
                timer.cancel()
            line = table.get(command.conn) if table is not None else None
            if line is not None and seq > line.from_seq:
                self.remove(line)
                line.close(command.code, command.reason)

    def _broadcast(self, table: dict[str, Line], frame: Frame, command: Broadcast) -> None:
        seq = frame.seq
        if command.to is not None:
            for id_ in command.to:
                line = table.get(id_)
                if line is not None and seq > line.from_seq:
                    line.frame(frame)
            return
        but = command.but
        for id_, line in table.items():
            if seq > line.from_seq and not (but and id_ in but):
                line.frame(frame)

    def put_ephemeral(self, oid: int, commands: Sequence[Command]) -> None:
        """Send what an ephemeral handler asked for."""
        table = self.open.get(oid)
        if table is None:
            return
        for command in commands:
            if type(command) is Framed:
                line = table.get(command.conn)
                if line is not None:
                    line.frame(Frame(command.body, command.text, 0, -1))
            elif type(command) is Broadcast:
                frame = Frame(command.body, command.text, 0, -1)
                ids = list(table) if command.to is None else command.to
                for id_ in ids:
                    line = table.get(id_)
                    if line is not None and id_ not in command.but:
                        line.frame(frame)

    # --- lines come and go

    def add(self, line: Line) -> None:
        """A connection has a line."""
        self.open.setdefault(line.oid, {})[line.id] = line

    def remove(self, line: Line) -> bool:
        """A line is no longer its connection's; whether it was."""
        table = self.open.get(line.oid)
        if table is None or table.get(line.id) is not line:
            return False
        del table[line.id]
        if not table:
            del self.open[line.oid]
        return True

    def lost(self, line: Line, code: int = LOST, reason: str = "", *, final: bool = False) -> None:
        """A line has ended. If its client may come back the connection waits for that; if it is
        `final`, or nobody can, the object is told."""
        if not self.remove(line):
            return
        if line.resumable and not final:
            self._await(line.oid, line.id)
        else:
            self._tell(line.oid, Disconnected(line.id, code, reason))

    def drop(self, line: Line, code: int, reason: str, *, final: bool = False) -> None:
        """End a line from here."""
        self.lost(line, code, reason, final=final)
        line.close(code, reason)

    def behind(self, line: Line, act: Callable[[], None]) -> None:
        """Do something when all that the object has sent so far has left."""
        activation = self._host.find(line.oid)
        if activation is not None and activation.last_lsn > self._host.log.tail:
            self._host.log.after(activation.last_lsn, Later(act))
        else:
            act()

    def cut(self, oid: int) -> None:
        """An object cannot be served at the moment: its clients may try again later."""
        for line in list(self.open.get(oid, {}).values()):
            self.drop(line, LATER, "the object cannot be served at the moment")

    def _await(self, oid: int, id_: str, grace_s: float | None = None) -> None:
        host = self._host
        grace_s = host.settings.resume_grace if grace_s is None else grace_s

        def over() -> None:
            self.awaited.pop((oid, id_), None)
            self._tell(oid, Disconnected(id_, LOST, "the client did not come back"))

        when_ns = host.clock.now_ns() + int(grace_s * NS)
        self.awaited[oid, id_] = host.clock.call_at(when_ns, over)

    def resumed(self, line: Line) -> Line | None:
        """A connection goes on, on this line; gives the one that it had."""
        timer = self.awaited.pop((line.oid, line.id), None)
        if timer is not None:
            timer.cancel()
        before = self.open.get(line.oid, {}).get(line.id)
        self.add(line)
        return before

    def expect(self) -> None:
        """Another worker served until now, and hands its lines over in a moment."""
        self.expects_until_ns = self._host.clock.now_ns() + int(HAND_OVER_S * NS)

    def adopt(self, line: Line) -> None:
        """A line that a process before had is here, and its connection goes on."""
        self.resumed(line)
        activation = self._host.find(line.oid)
        if activation is not None and activation.takes_now():
            self._check_adopted(activation.machine, line)
        else:
            self._adopted.add((line.oid, line.id))

    def _check_adopted(self, machine: Machine, line: Line) -> None:
        if line.id not in (machine.connections or {}):
            # It came too late: the object has been told that it was lost.
            self.remove(line)
            line.close(RESTART, "the server restarts")

    def _tell(self, oid: int, event: Disconnected) -> None:
        # While the node stops nothing is told: the next one finds the connection without a line.
        if not self._host.draining:
            self._host.delivery.event(oid, event)

    # --- after a load, and at the start

    def loaded(self, activation: Activation) -> None:
        """Connections of an object that came into memory, and have no line, are lost."""
        machine = activation.machine
        if machine.held is not None:
            # A fork that is only looked at stays as it was taken.
            return
        table = self.open.get(machine.oid, {})
        for id_, line in list(table.items()):
            if (machine.oid, id_) in self._adopted:
                self._adopted.discard((machine.oid, id_))
                self._check_adopted(machine, line)
        for id_, conn in (machine.connections or {}).items():
            if id_ in table or (machine.oid, id_) in self.awaited:
                continue
            if conn._resumable:
                self._await(machine.oid, id_)
            elif self._host.clock.now_ns() < self.expects_until_ns:
                self._await(machine.oid, id_, HAND_OVER_S)
            else:
                self._tell(machine.oid, Disconnected(id_, LOST, "the line was lost"))

    def start(self, in_tail: dict[int, int]) -> None:
        """Find the objects whose lines ended with the process before: `in_tail` says how many
        connections objects have whose last turn is no checkpoint's yet."""
        self._starting = asyncio.get_running_loop().create_task(self._find_lost(in_tail))

    async def _find_lost(self, in_tail: dict[int, int]) -> None:
        host = self._host
        found = [oid for oid, count in in_tail.items() if count]
        after = 0
        try:
            while True:
                rows = await host.store.connected(host.log.part, after, _PAGE)
                found += [row.oid for row in rows if row.oid not in in_tail]
                if len(rows) < _PAGE:
                    break
                after = rows[-1].oid
        except OperatorError as error:
            logger.warning("looking for lost connections failed", error=str(error))
        # Each is loaded, and then `loaded` says what is lost. Some at a time: requests come in.
        for at in range(0, len(found), _WOKEN_AT_ONCE):
            for oid in found[at : at + _WOKEN_AT_ONCE]:
                if not host.draining and host.find(oid) is None:
                    host.delivery.wake(oid)
            await asyncio.sleep(0)

    def close(self) -> None:
        """The node stops: nothing is awaited any more."""
        if self._starting is not None:
            self._starting.cancel()
        for timer in self.awaited.values():
            timer.cancel()
        self.awaited.clear()

    # --- tokens

    def token(self, oid: int, id_: str) -> str:
        """What a client resumes a connection with: nobody else can make one."""
        name = oid.to_bytes(8) + id_.encode()
        return base64.urlsafe_b64encode(self._mac(name) + name).decode().rstrip("=")

    def named_by(self, token: str) -> tuple[int, str] | None:
        """The object and connection that a token names; None for one that was not made here."""
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), b"-_", validate=True)
            mac, name = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
            if len(name) > 8 and hmac.compare_digest(mac, self._mac(name)):
                return int.from_bytes(name[:8]), name[8:].decode()
        except ValueError:
            pass
        return None

    def _mac(self, name: bytes) -> bytes:
        return hmac.digest(self._host.layout.secret, b"resume\0" + name, "sha256")[:_MAC_BYTES]
