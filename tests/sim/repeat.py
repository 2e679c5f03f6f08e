"""What makes a run repeat: a clock of its own, and nothing of the machine it runs on."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from perdure.clock import NS, Timer
from perdure.testing.virtual import VirtualClock
from tests.sim.options import Options


class SimulatedClock(VirtualClock):
    """Looks at the wall clock again after 30 s, as the real one does: it may have been set."""

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> Timer:
        delay = min(30.0, max(0.0, (when_ns - self.now_ns()) / NS) + 1e-6)
        return self._loop.call_later(delay, self._look, when_ns, callback)

    def _look(self, when_ns: int, callback: Callable[[], None]) -> None:
        if self.now_ns() >= when_ns:
            callback()
        else:
            self.call_at(when_ns, callback)


@contextmanager
def repeatable(options: Options) -> Iterator[None]:
    """What would let two runs of a seed differ, or cost more than the run itself, is taken out."""
    with pytest.MonkeyPatch.context() as patch:
        # The time that a turn took is in its entry, and its digits in the length of the log.
        patch.setattr("perdure.host.activation.perf_ns", lambda: 0)
        patch.setattr("perdure.host.snapshots.TURNS_WORTH_A_CACHE", options.cache_turns)
        patch.setattr("perdure.host.snapshots.TURNS_BEHIND_BASE", options.base_turns)
        # Each start would read the source of this module.
        patch.setattr("perdure.node.bundle_of", lambda classes: ("simulated", b""))
        # And each node would resolve all annotations anew.
        patch.setattr("perdure.serde.signature.Signature.prepare", lambda signature: None)
        # And each would set apart the hosts of earlier lives for ever.
        patch.setattr(gc, "freeze", lambda: None)
        patch.setattr(gc, "collect", lambda *_: 0)
        yield
