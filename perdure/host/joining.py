"""Clients on their way to an object that may still have to be loaded: one that wants in, and a
message that skips the journal.

They wait in the mailbox as calls do, and are asked what they are when their turn has come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.host.incoming import IncomingCall, pickled_principal
from perdure.host.intake import is_authorized, overloaded
from perdure.journal.entry import Connected

if TYPE_CHECKING:
    from perdure.host.activation import Activation
    from perdure.host.lines import Line


class Joining(IncomingCall, kw_only=True):
    """A client that wants to be connected, on its way to the object."""

    line: Line
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    subprotocols: list[str]

    def enter(self, activation: Activation) -> Connected | None:
        """The event of its turn; None if it was refused."""
        host, machine, line = activation.host, activation.machine, self.line
        if not may_connect(activation, self):
            return None
        line.id = f"c{machine.seq + 1}"
        line.from_seq = machine.seq
        self.id = f"{machine.oid:016x}-{line.id}"
        host.lines.add(line)
        principal = pickled_principal(self.principal)
        return Connected(
            self.id,
            self.path,
            self.query,
            self.headers,
            principal,
            self.subprotocols,
            line.resumable,
        )


class Passing(IncomingCall, kw_only=True):
    """An ephemeral message that waits for its object to be loaded."""

    line: Line
    text: bool
    number: int
    only: bool

    def enter(self, activation: Activation) -> None:
        """Run it; it leaves no entry."""
        lines = activation.host.lines
        lines.pass_now(activation, self.line, self.body, self.text, self.number, self.only)


def may_connect(activation: Activation, call: IncomingCall) -> bool:
    """Whether a client may come in, or come back; if not, it has been refused."""
    host, machine = activation.host, activation.machine
    activation.used_ns = now = host.now_ns()
    if machine.kind.authorizes and not is_authorized(activation, call, "connect", None, now):
        return False
    if len(machine.running or ()) + len(machine.queue or ()) >= host.settings.mailbox_limit:
        call.refuse(overloaded(activation))
        return False
    if host.draining or host.log.refusing:
        call.refuse(host.unavailable())
        return False
    return True
