"""Each object is built again before each of its turns, so that every test tests determinism.

What is rebuilt: the newest base (the object's first moment, or bytes of it some turns ago) and the
entries since, run again by the code of a replay. It must ask for what the live turns asked for; the
next turn then runs in the copy. Every few turns the object goes through bytes, which become the
next base: so suspended code is captured and rebuilt on the way, and memory that is not kept goes.
"""

from __future__ import annotations

from collections.abc import Callable

from perdure.errors import DivergenceError, JournalCorrupt, NotSerializable, PerdureError
from perdure.host.activation import Activation
from perdure.host.machine import Machine
from perdure.host.replay import replay_tail
from perdure.host.upgrades import begin_from, settle
from perdure.journal.codec import encode_entry
from perdure.kind import Kind
from perdure.suspend import heap

_TURNS_A_BASE = 8
"""Turns after which the object goes through bytes."""

_TURNS_MAX = 500
"""An object that cannot be kept as bytes is rebuilt from its first turn while it is this young."""


class _Base:
    __slots__ = ("entries", "kind", "seq", "snapshot")

    def __init__(self, kind: Kind, seq: int, snapshot: bytes | None) -> None:
        self.kind = kind
        self.seq = seq
        self.snapshot = snapshot
        self.entries: list[bytes] = []


class Rehearsal:
    """The bases of the objects of one process; `diverged` is told what came out differently."""

    def __init__(self, diverged: Callable[[Activation, PerdureError], None]) -> None:
        self.rebuilt = 0
        self._diverged = diverged
        self._bases: dict[int, _Base] = {}

    def begin(self) -> None:
        """Another process: what memory was built from there, nobody knows here."""
        self._bases.clear()

    def before_turn(self, activation: Activation) -> None:
        """Rebuild an object that is about to have a turn (host.before_turn)."""
        machine = activation.machine
        base = self._known(activation)
        if base is None:
            self._new_base(activation)
            return
        if len(base.entries) > _TURNS_MAX:
            return
        copy = Machine(machine.kind, machine.key, machine.oid, activation.host.surroundings)
        try:
            if base.snapshot is not None:
                begin_from(copy, base.snapshot, base.seq)
            replay_tail(copy, base.entries)
            settle(copy)
        except (DivergenceError, JournalCorrupt) as error:
            copy.discard()
            self._diverged(activation, error)
            return
        except PerdureError:
            # It needs something from the disk, such as a large value: a load would wait for it.
            copy.discard()
            self._new_base(activation)
            return
        self.rebuilt += 1
        activation.machine = copy
        machine.discard()
        if len(base.entries) >= _TURNS_A_BASE:
            self._new_base(activation)

    def _known(self, activation: Activation) -> _Base | None:
        """The base of an object with all entries since, or None if one of them is not at hand."""
        machine = activation.machine
        base = self._bases.get(machine.oid)
        if base is None and machine.seq == 1:
            base = self._bases[machine.oid] = _Base(machine.kind, 0, None)
        if base is None or base.seq > machine.seq or base.kind is not machine.kind:
            return None
        missing = machine.seq - base.seq - len(base.entries)
        if missing == 1:
            entry = activation.host.log.last_entry(machine.oid)
            if entry is None or entry.seq != machine.seq:
                return None
            base.entries.append(encode_entry(entry))
            missing = 0
        return base if missing == 0 else None

    def _new_base(self, activation: Activation) -> None:
        machine = activation.machine
        try:
            snapshot = heap.dump_heap(machine)
            activation.adopt(snapshot)
        except NotSerializable:
            return
        self._bases[machine.oid] = _Base(machine.kind, machine.seq, snapshot)
