"""The table of activations: wakes objects, carries messages between them, lets them go.

Outside comes in by `call`; inside events (messages, timers, ends of steps) go through one queue, so
that a chain of objects calling each other is a loop here and not a recursion. What an object is
owed survives this process in the log's outbox and in its entries' `wake_at`; `start` takes both
up again, and so wakes exactly the objects with something to do.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence, Set
from typing import NamedTuple, Protocol

from perdure.clock import Clock, RealClock
from perdure.errors import (
    CallError,
    OperatorError,
    OutcomeUnknown,
    PerdureError,
    Unavailable,
    UnknownCall,
    UnknownKind,
)
from perdure.host.activation import Activation, State
from perdure.host.alarms import Alarms
from perdure.host.apart import Apart
from perdure.host.asking import Surroundings
from perdure.host.blobs import Blobs
from perdure.host.checkpoint import Checkpointer
from perdure.host.delivery import Delivery
from perdure.host.effects import Effects
from perdure.host.incoming import Answer, IncomingCall, Watched, answer_of
from perdure.host.indexing import Index
from perdure.host.lines import Lines
from perdure.host.machine import Machine
from perdure.host.nursery import Nursery
from perdure.host.open_promises import OpenPromises
from perdure.host.quarantine import Deaths, Quarantine
from perdure.host.register import Register
from perdure.host.residency import Residency
from perdure.host.sleepers import Sleepers
from perdure.host.timetables import Timetables
from perdure.host.upgrades import Versions
from perdure.host.uploads import Uploads
from perdure.journal.entry import Answered, Ended
from perdure.journal.identity import oid_of, oid_of_call, oid_of_target
from perdure.journal.log import Output, PartitionLog, source_of
from perdure.kind import Kind, Kinds
from perdure.logs import logger
from perdure.ref import parse_address
from perdure.settings import Settings
from perdure.store.base import Layout, Store, Stored
from perdure.suspend.editions import Live


class Slot(Protocol):
    """Where the turn that runs is written down for the supervisor (supervisor/slot.py)."""

    def begin(self, address: str, event: bytes) -> None: ...

    def end(self) -> None: ...


class HostStats(NamedTuple):
    """Figures for metrics; counters since the start of the process."""

    live: int
    turns: int
    queries: int
    replayed: int
    waiting: int
    """Calls from outside without an answer yet."""
    outbox: int
    tail_bytes: int
    commits: int
    entries: int
    hibernated: int
    evicted: int
    checkpoints: int
    steps_running: int
    alarms: int
    quarantined: int
    stuck: int = 0
    """What cannot go on by itself; counted by who asks (sight/stuck.py)."""


class Host:
    """Runs the objects of this process. One for a node; used from its event loop's thread alone."""

    def __init__(
        self,
        kinds: Mapping[str, Kind],
        settings: Settings,
        store: Store,
        layout: Layout,
        version: str,
        *,
        live: Live | None = None,
        clock: Clock | None = None,
        slot: Slot | None = None,
        deaths: Deaths | None = None,
        on_lost: Callable[[OperatorError], None] = lambda error: None,
        keeps_house: bool = True,
        objects: Sequence[tuple[str, str]] = (),
        nursery: Nursery | None = None,
    ) -> None:
        """`objects` are the (kind, key) of those that run by themselves (timetables.py). Without a
        `nursery`, objects that want a process of their own run in this one like all others.

        Without `keeps_house` objects stay in memory and the log is not shortened until they are
        told to, and nothing wakes up to look around: the host acts on events alone."""
        # What it is given.
        self.kinds = Kinds(kinds)
        self.settings = settings
        self.store = store
        self.layout = layout
        self.version = version
        self.clock: Clock = clock if clock is not None else RealClock()
        self.now_ns = self.clock.now_ns
        self.slot = slot
        self.nursery = nursery
        self.keeps_house = keeps_house
        self._on_lost = on_lost
        self.before_turn: Callable[[Activation], None] | None = None
        """Called before each turn of an object that has had one: tests rebuild it there."""

        # What it is made of. The log comes with `start`.
        self.log: PartitionLog
        self.surroundings = Surroundings(
            layout.secret, asyncio.get_running_loop(), debug=settings.debug
        )
        self.versions = Versions(store, live if live is not None else Live(version, self.kinds))
        self.surroundings.versions = self.versions
        self.blobs = Blobs(self)
        self.surroundings.blob = self.blobs.read
        self.sleepers = Sleepers(self)
        self.alarms = Alarms(self.clock, self.sleepers.ring)
        self.delivery = Delivery(self)
        self.effects = Effects(self)
        self.lines = Lines(self)
        self.uploads = Uploads(self)
        self.quarantine = Quarantine(self, deaths)
        self.open_promises = OpenPromises()
        self.timetables = Timetables(self, objects)
        self.index = Index(self)
        self.register = Register(self)
        self.residency = Residency(self)
        self.checkpointer = Checkpointer(self)

        # What is in memory.
        self._table: dict[str, dict[str, Activation]] = {name: {} for name in kinds}
        self._by_oid: dict[int, Activation] = {}
        self.stash: dict[int, Stored] = {}
        """Snapshots of hibernated objects that the next checkpoint writes."""
        self.waiting: dict[str, IncomingCall] = {}
        """Calls from outside that are on their way, by id."""
        self.watchers: dict[str, list[Callable[[Answer], None]]] = {}
        """Who else wants the answer of a call."""
        self.listeners: dict[str, list[Callable[[int, bytes], None]]] = {}
        """Who else wants the items of a call that streams."""
        self._kept: set[asyncio.Task[None]] = set()
        """Work with the store that a drain waits for."""

        # Where it stands.
        self.draining = False
        self.boot = ""
        """Begins the second half of each call id made by this process: not to be guessed."""
        self.calls = 0
        """Calls that were given an id."""
        self.turns = 0
        self.queries = 0
        self.replayed = 0

    # --- start and stop

    async def start(self) -> None:
        """Become the owner and take up what the last one left."""
        claim = (await self.store.claim([0]))[0]
        self.boot = f"{claim.epoch:x}." + self.clock.random_bytes(9).hex()
        self.log = PartitionLog(self.store, claim, self.clock, self._broken, self.lost)
        wake: dict[int, int] = {}
        connected: dict[int, int] = {}
        for oid, entry in self.log.recover(await self.store.tail(0, claim.checkpoint)):
            wake[oid] = entry.wake_at
            self.open_promises.recover(oid, entry)
            connected[oid] = entry.connections
            self.index.recover(oid, entry)
            self.register.recover(oid, entry)
        await self.blobs.start()
        await self.quarantine.start()
        await self.sleepers.recover(wake)
        if self.keeps_house:
            self.residency.start()
            self.checkpointer.start()
            self.sleepers.start()
        self.delivery.all_messages()
        self.timetables.start()
        self.lines.start(connected)
        await self.register.recovered()
        await self.index.start()

    async def drain(self) -> None:
        """Take nothing new, let what runs come to disk, and snapshot everything."""
        self.draining = True
        self.alarms.close()
        self.sleepers.close()
        self.residency.close()
        self.lines.close()
        await self.effects.close()
        await asyncio.gather(*self._kept, return_exceptions=True)
        try:
            await self.log.durable(self.log.appended_lsn)
        except OperatorError as error:
            logger.warning("the last entries are lost, and whoever waited knows", error=str(error))
        await self.checkpointer.close()
        if self.nursery is not None:
            await self.nursery.close()

    # --- objects

    def serve(self, kind: Kind) -> None:
        """Serve one more class."""
        self.kinds[kind.name] = kind
        self._table[kind.name] = {}

    def call(self, call: IncomingCall) -> None:
        """Bring a call from outside to its object; its `on_answer` is called exactly once."""
        activation = self._table[call.kind.name].get(call.key)
        if activation is None:
            oid = oid_of(call.kind.name, call.key)
            stopped = self.quarantine.refusal(oid)
            if stopped is not None:
                call.refuse(stopped)
                return
            activation = self.activate(call.kind.name, call.key, oid)
        activation.call(call)
        # What the call asked of other objects is taken at once: it need not wait for a pass.
        self.delivery.run()

    def activate(
        self, kind: str, key: str, oid: int, read: asyncio.Future[Stored | None] | None = None
    ) -> Activation:
        """The activation of an object of a class that is served; made if there is none.

        `read` is what the store gave for it just now, if it was asked.
        """
        activation = self._by_oid.get(oid)
        if activation is None:
            served = self.kinds[kind]
            apart = served.isolation is not None and self.nursery is not None
            activation = (Apart if apart else Activation)(self, served, key, oid)
            self._table[served.name][key] = activation
            self._by_oid[oid] = activation
            activation.load(read)
        return activation

    def activated(self, activation: Activation) -> None:
        """A load has come to its end."""
        self.replayed += activation.replayed
        self.sleepers.remove(activation.machine.oid)
        self.residency.add(activation)
        if activation.connected:
            self.lines.loaded(activation)
            self.uploads.loaded(activation)

    def remove(self, activation: Activation) -> None:
        """Take an activation out of the table, since its memory is not to be believed."""
        self._take_out(activation)
        self.register.fell(activation.machine.oid)

    def _take_out(self, activation: Activation) -> None:
        machine = activation.machine
        table = self._table[activation.kind.name]
        if table.get(machine.key) is activation:
            del table[machine.key]
        if self._by_oid.get(machine.oid) is activation:
            del self._by_oid[machine.oid]
            self.blobs.let_go_of(machine.oid)
        if isinstance(activation, Apart):
            activation.end_process()

    def left(self, activation: Activation) -> None:
        """An activation has hibernated or was evicted: remember when to wake it."""
        self._take_out(activation)
        self.register.left(activation)
        self.sleepers.add(activation.machine.oid, activation.wake_at)

    def keep(self, work: Coroutine[None, None, None]) -> None:
        """Run something with the store that nobody waits for; a drain does."""
        task = asyncio.get_running_loop().create_task(work)
        self._kept.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._kept.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("work with the store failed", exc_info=task.exception())

    def find(self, oid: int) -> Activation | None:
        """The activation of an object, if it is in memory."""
        return self._by_oid.get(oid)

    def at(self, kind: str, key: str) -> Activation | None:
        """The activation of an object of a class that is served, if it is in memory."""
        return self._table[self.kinds[kind].name].get(key)

    def machine_at(self, address: str) -> Machine | None:
        """The machine of an object, if it is in memory and loaded."""
        if address[0] == "#":
            activation = self._by_oid.get(oid_of_target(address))
        else:
            kind, key = parse_address(address)
            activation = self.at(kind, key) if kind in self.kinds else None
        if activation is None or activation.state is not State.ACTIVE:
            return None
        return activation.machine

    def live(self) -> list[Activation]:
        """All activations."""
        return list(self._by_oid.values())

    def live_oids(self) -> Set[int]:
        """The numbers of the objects that are in memory."""
        return self._by_oid.keys()

    @property
    def live_count(self) -> int:
        return len(self._by_oid)

    async def wake(self, oid: int) -> Activation | None:
        """The activation of an object that exists, loaded; None if there is no such object."""
        activation = self._by_oid.get(oid)
        if activation is None:
            identity = await self.identity(oid)
            if identity is None or identity[0] not in self.kinds:
                return None
            stopped = self.quarantine.refusal(oid)
            if stopped is not None:
                raise stopped
            activation = self.activate(*identity, oid)
        return activation if await activation.settled() is State.ACTIVE else None

    async def identity(self, oid: int) -> tuple[str, str] | None:
        """(kind, key) of an object that exists: from its row, or from its first entry."""
        stash = self.stash.get(oid)
        stored = stash if stash is not None else await self.store.load(self.log.part, oid)
        if stored is not None:
            return stored.row.kind, stored.row.key
        address = self.log.first_address(oid)
        return parse_address(address) if address is not None else None

    # --- answers

    def watch(self, call_id: str, on_answer: Callable[[Answer], None]) -> None:
        """Be called with the answer of a call that runs."""
        self.watchers.setdefault(call_id, []).append(on_answer)

    def answered(self, answered: Answered, outputs: list[Output]) -> None:
        """Put those who watch a call behind the gate of its answer."""
        self.listeners.pop(answered.id, None)
        for on_answer in self.watchers.pop(answered.id, ()):
            outputs.append(Watched(on_answer, answer_of(answered)))

    def take_waiting(self, oid: int) -> list[IncomingCall]:
        """Calls in flight of an object that will not answer them any more."""
        prefix = f"{oid:016x}-"
        return [self.waiting.pop(id_) for id_ in list(self.waiting) if id_.startswith(prefix)]

    async def find_call(self, call_id: str, wait_s: float = 0.0) -> Answer | None:
        """The answer of a call; None while it runs. Raises UnknownCall.

        Waits up to `wait_s` seconds for it.
        """
        activation = await self.wake(oid_of_call(call_id))
        if activation is None:
            raise UnknownCall(f"no call {call_id!r} is known")
        machine = activation.machine
        kept = (machine.kept or {}).get(call_id)
        if kept is not None and kept.answer is not None and kept.expires >= self.clock.now_ns():
            await self.log.durable(activation.last_lsn)
            return answer_of(kept.answer)
        queued = any(call.id == call_id for call in machine.queue or ())
        over = kept is None or kept.answer is not None
        if over and not queued and call_id not in (machine.running or {}):
            raise UnknownCall(
                f"no call {call_id!r} is known",
                hint="A result is kept for calls with Prefer: respond-async.",
            )
        if wait_s <= 0:
            return None
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.watch(call_id, lambda answer: None if future.done() else future.set_result(answer))
        try:
            async with asyncio.timeout(wait_s):
                return await future
        except TimeoutError:
            return None

    async def delete(self, address: str) -> None:
        """End an object; returns when that is on disk.

        Raises UnknownKind, Unavailable, ObjectQuarantined for one that cannot be loaded, and what
        the store raises.
        """
        kind, key = parse_address(address)
        if kind not in self.kinds:
            raise UnknownKind(f"no class {kind!r} is served here")
        oid = oid_of(kind, key)
        if await self.identity(oid) is None and oid not in self._by_oid:
            return
        if self.draining or self.log.refusing:
            raise self.unavailable()
        self.quarantine.release(oid)
        activation = self.activate(kind, key, oid)
        if await activation.settled() is not State.ACTIVE:
            # It is not known to be gone, so nobody may be told that it is.
            raise activation.refusal or Unavailable(f"{address} went while it was loaded")
        activation.event(Ended())
        await activation.rest()
        await self.log.durable(activation.last_lsn)

    def unavailable(self) -> CallError:
        """Why nothing can be written at the moment."""
        if self.draining:
            return Unavailable("the node is shutting down", hint="Try again in a moment.")
        return Unavailable("the disk is full", hint="It is accepted again when there is room.")

    # --- faults

    def _broken(self, error: PerdureError) -> None:
        """A commit failed: forget every memory that is ahead of the disk."""
        lost = [
            activation
            for activation in self._by_oid.values()
            if activation.last_lsn > self.log.tail
        ]
        logger.error("a commit failed", error=str(error), objects=len(lost))
        # Messages that senders no longer know of must not arrive: start again from the outbox.
        self.delivery.forget_messages()
        for activation in self.live():
            if activation.mailbox:
                activation.mailbox = deque(
                    item
                    for item in activation.mailbox
                    if isinstance(item, IncomingCall) or source_of(item) is None
                )
        for activation in lost:
            oid = activation.machine.oid
            for call in [call for call in self.waiting.values() if call.lsn > self.log.tail]:
                self.waiting.pop(call.id, None)
                call.refuse(error)
            activation.drop()
            self.take_back(oid)
        self.delivery.all_messages()

    def take_back(self, oid: int) -> None:
        """What was noted of turns of an object that are not in the log was not so; and what it is
        owed by its last turn wakes it."""
        last = self.log.last_entry(oid)
        last_seq = last.seq if last is not None else 0
        self.open_promises.take_back(oid, last_seq)
        self.index.take_back(oid, last_seq)
        self.register.take_back(oid, last_seq)
        self.sleepers.add(oid, last.wake_at if last is not None else 1)

    def lost(self, error: OperatorError) -> None:
        """The outcome of a commit is unknown, or the partition is somebody else's."""
        self.draining = True
        # Nothing can be answered any more that rests on a later commit.
        waiting, self.waiting = self.waiting, {}
        for call in waiting.values():
            call.refuse(OutcomeUnknown(f"the store failed: {error.message}"))
        self._on_lost(error)

    # --- figures

    def stats(self) -> HostStats:
        log = self.log
        return HostStats(
            live=len(self._by_oid),
            turns=self.turns,
            queries=self.queries,
            replayed=self.replayed,
            waiting=len(self.waiting),
            outbox=len(log.outbox),
            tail_bytes=log.tail_bytes,
            commits=log.commits,
            entries=log.entries,
            hibernated=self.residency.hibernated,
            evicted=self.residency.evicted,
            checkpoints=self.checkpointer.done,
            steps_running=self.effects.running,
            alarms=len(self.alarms),
            quarantined=len(self.quarantine.objects),
        )
