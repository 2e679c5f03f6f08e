"""What is known for sure in a simulation: every entry that ever became durable, read off the disk.

The store under the node is wrapped, so that the truth does not depend on what the node believes.
From it follow the checks of single answers (was it durable when it left?) and those of whole
histories (each call, message, step and answer once; replay gives the live state).
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from perdure.errors import StoreUnavailable
from perdure.host.asking import Surroundings
from perdure.host.blobs import named_in
from perdure.host.machine import Machine
from perdure.host.replay import replay_segments, replay_tail
from perdure.journal import codec
from perdure.journal.entry import (
    Answered,
    Call,
    Entry,
    MessageId,
    Sent,
    StepAsked,
    StepBegun,
    StepDone,
    StepItem,
)
from perdure.journal.log import source_of
from perdure.store.base import Batch, Checkpoint, Layout, ObjectRow, Segment, Stored
from perdure.store.memory import MemoryStore
from perdure.suspend import heap


class TruthStore(MemoryStore):
    """A memory store that keeps all entries for ever, and takes its time if it is asked to."""

    def __init__(self, layout: Layout, rng: random.Random, slowest_s: float = 0.0) -> None:
        super().__init__(layout)
        self.entries: dict[int, list[Entry]] = {}
        """Every durable entry, by object."""
        self.bodies: dict[int, list[bytes]] = {}
        self.answers: dict[str, Answered] = {}
        """Durable answers to calls from outside."""
        self.asked: dict[str, int] = {}
        """Step id: the last attempt that was durably asked for."""
        self.blobs: dict[tuple[int, str], bytes] = {}
        """Every blob that a durable entry names, also when it is forgotten."""
        self.next_load_fails = False
        self.slowest_s = slowest_s
        self._rng = rng
        self._busy_until = 0.0

    def commit(self, batches: Sequence[Batch]) -> asyncio.Future[frozenset[int]]:
        future = super().commit(batches)
        for batch in batches:
            if batch.part in future.result():
                for oid, body in codec.read_chunk(batch.chunk, "the truth"):
                    self._learn(oid, bytes(body))
        return self._in_time(future)

    def checkpoint(self, slice_: Checkpoint) -> asyncio.Future[bool]:
        for segment in slice_.segments:
            self._check_segment(segment)
        return self._in_time(super().checkpoint(slice_))

    def blob(self, oid: int, name: str) -> bytes:
        """What an entry names that is durable, or on its way to be."""
        found = self.blobs.get((oid, name))
        return found if found is not None else codec.read_blob(self._blobs[oid, name][2], name)

    def put_blob(
        self, part: int, epoch: int, oid: int, name: str, body: bytes
    ) -> asyncio.Future[bool]:
        return self._in_time(super().put_blob(part, epoch, oid, name, body))

    def load(self, part: int, oid: int) -> asyncio.Future[Stored | None]:
        if self.next_load_fails:
            self.next_load_fails = False
            future: asyncio.Future[Stored | None] = asyncio.get_running_loop().create_future()
            future.set_exception(StoreUnavailable("the page could not be read"))
            return future
        return self._in_time(super().load(part, oid))

    def load_now(self, oid: int) -> Stored | None:
        return super().load(0, oid).result()

    def rows(self) -> list[ObjectRow]:
        return [row for _, row in self._rows.values()]

    def _learn(self, oid: int, body: bytes) -> None:
        entry = codec.decode_entry(body)
        entries = self.entries.setdefault(oid, [])
        assert entry.seq == len(entries) + 1, f"turn {entry.seq} behind {len(entries)} of {oid:x}"
        assert not entries or entry.time >= entries[-1].time
        entries.append(entry)
        self.bodies.setdefault(oid, []).append(body)
        name = named_in(entry)
        if name:
            # On disk before the entry that names it.
            self.blobs[oid, name] = codec.read_blob(self._blobs[oid, name][2], name)
        for command in entry.commands:
            if type(command) is Answered:
                self.answers[command.id] = command
            elif type(command) is StepAsked:
                self.asked[command.id] = command.attempt

    def _check_segment(self, segment: Segment) -> None:
        """What goes to history is what was in the log."""
        found = [bytes(body) for _, body in codec.read_chunk(segment.body, "a segment")]
        assert found == self.bodies[segment.oid][segment.first - 1 : segment.last]

    def _in_time(self, future: asyncio.Future[Any]) -> asyncio.Future[Any]:
        """The answer as a thread would give it: later, and in the order of the asking."""
        if not self.slowest_s or self._rng.random() < 0.3:
            return future
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        when = max(self._busy_until, loop.time() + self._rng.random() * self.slowest_s)
        self._busy_until = when
        loop.call_at(when, self._answer, answer, future)
        return answer

    def _answer(self, answer: asyncio.Future[Any], future: asyncio.Future[Any]) -> None:
        if not answer.done():
            answer.set_result(future.result())


def check_histories(truth: TruthStore, ended: bool) -> None:
    """Once is once. With `ended`, nothing may be under way any more."""
    calls: Counter[str] = Counter()
    delivered: Counter[MessageId] = Counter()
    sent: dict[MessageId, Sent] = {}
    for oid, entries in truth.entries.items():
        asked: set[int] = set()
        done: Counter[int] = Counter()
        begun: Counter[int] = Counter()
        for entry in entries:
            event = entry.event
            if type(event) is Call:
                calls[event.id] += 1
            if (source := source_of(event)) is not None:
                delivered[source] += 1
            if type(event) is StepDone:
                done[event.number] += 1
            if type(event) is StepBegun:
                begun[event.number] += 1
            if type(event) is StepItem:
                assert event.number not in done
            for index, command in enumerate(entry.commands):
                if type(command) is Sent:
                    sent[MessageId(oid, entry.seq, index)] = command
                elif type(command) is StepAsked:
                    asked.add(command.number)
        assert done.keys() <= asked
        twice = [number for number, count in (done | begun).items() if count > 1]
        assert not twice, f"steps ended twice: {twice}"
    assert not [call for call, count in calls.items() if count > 1]
    assert not [source for source, count in delivered.items() if count > 1]
    assert delivered.keys() <= sent.keys()
    if ended:
        lost = [sent[source] for source in sent.keys() - delivered.keys()]
        assert not lost, f"never arrived: {lost}"


def state_of(machine: Machine) -> dict[str, Any]:
    """What makes an object what it is, in values that can be compared."""
    return {
        "seq": machine.seq,
        "now": machine.now_ns,
        "number": machine.number,
        "wake_at": machine.wake_at(),
        "tasks": sorted(task.number for task in (machine.tasks or {}).values()),
        "running": sorted(machine.running or {}),
        "queue": [call.id for call in machine.queue or ()],
        "asked": sorted(machine.asked or {}),
        "steps": sorted(machine.steps or {}),
        "kept": [
            (id_, kept.digest, kept.expires, kept.answer)
            for id_, kept in (machine.kept or {}).items()
        ],
        "attributes": None if machine.instance is None else _attributes(machine),
    }


def _attributes(machine: Machine) -> dict[str, Any]:
    assert machine.instance is not None
    return {
        name: value if name != "gate" else value is None
        for name, value in machine.instance.__dict__.items()
    }


def rebuilt(
    like: Machine, stored: Stored | None, bodies: Sequence[bytes], surroundings: Surroundings
) -> Machine:
    """The object as a snapshot and entries make it."""
    machine = Machine(like.kind, like.key, like.oid, surroundings)
    if stored is not None:
        newest = stored.suspended.body if stored.suspended is not None else stored.row.snapshot
        if newest is not None:
            heap.load_heap(machine, newest)
        replay_segments(machine, stored.segments)
    replay_tail(machine, bodies)
    return machine


def same_state(one: Machine, other: Machine) -> None:
    first, second = state_of(one), state_of(other)
    for name in first:
        same = first[name] == second[name] and heap.equal(first[name], second[name])
        assert same, f"{one.address}: {name} is {first[name]!r}, rebuilt {second[name]!r}"
