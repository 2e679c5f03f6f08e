"""Messages and handlers that skip the journal: they run as queries do, and may send.

What they send goes to the sockets as soon as everything that they could have seen is on disk, and
is then forgotten: it has no place in the journal, so nobody can ask for it again.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from perdure.connection import Connection
from perdure.errors import PerdureError
from perdure.host.querying import run_query
from perdure.journal.entry import Command
from perdure.serde import Arguments

if TYPE_CHECKING:
    from perdure.host.activation import Activation
    from perdure.host.host import Host


def run(
    activation: Activation, function: Callable[..., Any], conn: Connection, message: object
) -> bool:
    """Give a message to `on_ephemeral`; whether it took it. Raises what it raises."""
    machine, host = activation.machine, activation.host
    activation.used_ns = now = host.now_ns()
    sent: list[Command] = []
    slot = host.slot
    if slot is not None:
        slot.begin(machine.address, b"ephemeral message")
    machine.passing = sent
    gc.disable()
    try:
        arguments: Arguments = ((conn, message), {})
        result = run_query(machine, function, arguments, now, deep=host.settings.debug)
    finally:
        gc.enable()
        machine.passing = None
        if slot is not None:
            slot.end()
        if machine.tainted:
            activation.reload()
    if result is NotImplemented:
        return False
    if sent:
        send(activation, sent)
    return True


def send(activation: Activation, sent: Sequence[Command]) -> None:
    """Let what was sent leave, behind all that the handler could have seen."""
    host, oid = activation.host, activation.machine.oid
    if activation.last_lsn > host.log.tail:
        host.log.after(activation.last_lsn, _Passed(host, oid, sent))
    else:
        host.lines.put_ephemeral(oid, sent)


class _Passed:
    """What an ephemeral handler sends, as an output behind the gate."""

    __slots__ = ("host", "oid", "sent")

    def __init__(self, host: Host, oid: int, sent: Sequence[Command]) -> None:
        self.host = host
        self.oid = oid
        self.sent = sent

    def release(self, error: PerdureError | None) -> None:
        if error is None:
            self.host.lines.put_ephemeral(self.oid, self.sent)
