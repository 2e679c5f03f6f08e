"""What an object remembers of its calls: by the id, whether it came before, and what it came to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.host.records import Kept
from perdure.journal.entry import Answered, Call

if TYPE_CHECKING:
    from perdure.host.machine import Machine


def keep(machine: Machine, event: Call, answer: Answered | None) -> None:
    """Remember a call that may be asked for; without an answer while it runs."""
    kept = machine.kept
    if kept is None:
        kept = machine.kept = {}
    # In the order of their making, which is that of their expiry but for mixed retentions; what
    # is behind a longer-lived one goes a little later.
    while kept and (oldest := next(iter(kept))) and kept[oldest].expires < machine.now_ns:
        del kept[oldest]
    known = kept.get(event.id)
    if not event.keep_ns:
        # Kept since it was cancelled (cancelling.py), for as long as that said.
        if known is not None:
            known.answer = answer
        return
    if known is None:
        kept[event.id] = Kept(event.digest, machine.now_ns + event.keep_ns, answer)
    else:
        known.answer = answer
        known.expires = machine.now_ns + event.keep_ns
