"""Resolving a promise from outside: HTTP, the command line, code of this process.

What is refused writes nothing. What is accepted is a turn, and whoever asked hears of it when that
is on disk; whoever comes second hears so only when the first is.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from perdure.errors import Conflict, PerdureError
from perdure.host import promises
from perdure.host.activation import State
from perdure.journal.entry import Resolved

if TYPE_CHECKING:
    from perdure.host.activation import Activation
    from perdure.host.host import Host


async def resolve(host: Host, event: Resolved) -> None:
    """Resolve or reject a promise; returns when that is durable.

    Raises UnknownPromise, Conflict, BadJson, BadArguments, ObjectQuarantined, Unavailable, and
    OutcomeUnknown where the disk failed on the way.
    """
    # Before anything is loaded: a token that was never given out costs a checksum.
    oid, _ = promises.place_of(host.surroundings.secret, event.token)
    activation = await _awake(host, oid)
    if host.draining or host.log.refusing:
        raise host.unavailable()
    machine = activation.machine
    if machine.instance is None:
        raise promises.unknown()
    try:
        promise = promises.verdict(machine, event.token)
    except Conflict:
        await host.log.durable(activation.last_lsn)
        raise
    # From here to the turn nothing else runs: what is true now is true there.
    promises.read(promise, event)
    activation.event(event)
    await activation.rest()
    gate = _Gate()
    host.log.after(activation.last_lsn, gate)
    # What the object asks of others now is taken at once: it need not wait for a pass.
    host.delivery.run()
    await gate.opened


async def _awake(host: Host, oid: int) -> Activation:
    while True:
        activation = await host.wake(oid)
        if activation is None:
            # Its class is not served, or its first turn was taken back with the token.
            raise promises.unknown()
        if activation.state is State.ACTIVE and activation.mailbox is None:
            return activation
        await activation.rest()
        await asyncio.sleep(0)


class _Gate:
    """The output behind the resolution's entry."""

    __slots__ = ("opened",)

    def __init__(self) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def release(self, error: PerdureError | None) -> None:
        if self.opened.done():
            return
        if error is None:
            self.opened.set_result(None)
        else:
            self.opened.set_exception(error)
