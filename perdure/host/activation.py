"""One object in memory: its mailbox, and its life from the load to the end.

    LOADING ──▶ ACTIVE ──▶ GONE          GONE: hibernated, evicted, or dropped because it was
       │           │                      ahead of the disk; the next event makes a new activation
       └───────────┴──▶ QUARANTINED      set aside: replay diverged, or an event kills its process

One event is taken at a time: it runs as a turn of the machine, the turn becomes an entry in the
log, and what the turn asked for leaves behind that entry (journal/log.py). The next turn does not
wait for the disk; what it asks for waits for its own entry.
"""

from __future__ import annotations

import asyncio
import enum
import gc
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from perdure.clock import perf_ns
from perdure.errors import CallError, StoreFull, StoreUnavailable, Unavailable
from perdure.failure import failure_of, kept_text
from perdure.host.asking import NOTHING
from perdure.host.deadlock import find_deadlock
from perdure.host.failures import encode_failure
from perdure.host.incoming import Acceptance, IncomingCall
from perdure.host.indexing import Seen, changed
from perdure.host.intake import admit, overloaded
from perdure.host.load import load
from perdure.host.machine import Machine
from perdure.host.outputs import gather_outputs
from perdure.host.quarantine import told_event
from perdure.host.raw_requests import clients_of
from perdure.host.schedules import FIRED_MAX
from perdure.host.snapshots import newest_seq
from perdure.host.stepping import EVENTS as STEP_EVENTS
from perdure.journal.codec import encode_entry
from perdure.journal.entry import (
    RULES,
    Call,
    Command,
    Entry,
    Event,
    Fired,
    Refused,
)
from perdure.journal.log import Output, source_of
from perdure.kind import Kind
from perdure.logs import logger
from perdure.suspend import heap
from perdure.suspend.moving import Stayed

if TYPE_CHECKING:
    from perdure.host import upgrades
    from perdure.host.host import Host
    from perdure.store.base import Stored


RELOAD_S = 2.0
"""Until the next try, when the store could not give an object."""


class State(enum.Enum):
    """Only moves on, never back."""

    LOADING = 1
    ACTIVE = 2
    QUARANTINED = 3
    GONE = 4


class Activation:
    """An object in memory under this node's epoch."""

    __slots__ = (
        "alarm_ns",
        "base_seq",
        "connected",
        "held",
        "host",
        "indexed",
        "kind",
        "last_lsn",
        "listed",
        "loading",
        "machine",
        "mailbox",
        "refusal",
        "replayed",
        "snapshot_seq",
        "state",
        "stayed",
        "taken",
        "unkept",
        "used_ns",
        "wake_at",
    )

    apart = False
    """Its memory is in another process (apart.py)."""

    def __init__(self, host: Host, kind: Kind, key: str, oid: int) -> None:
        self.host = host
        self.kind = kind
        """Its class in the newest code, which is not the machine's while that is held."""
        self.machine = Machine(kind, key, oid, host.surroundings)
        self.held = ""
        """Why it stays whole on an older version of the code."""
        self.stayed: tuple[Stayed, ...] = ()
        """Suspended code that goes on in an older version, as of the last load."""
        self.state = State.LOADING
        self.mailbox: deque[IncomingCall | Event] | None = None
        """What waits for the load; None while there is nothing."""
        self.connected = 0
        """How many clients it has: as Entry.connections says."""
        self.last_lsn = 0
        """The chunk its last entry is in; what is seen of it rests on that."""
        self.base_seq = 0
        """The turn of the snapshot that the journal is replayed from."""
        self.snapshot_seq = 0
        """The turn of the newest snapshot outside of memory, which may hold suspended code."""
        self.taken: Stored | None = None
        """A snapshot that is on its way to the store, and whose bytes this memory goes on from."""
        self.unkept = ""
        """Why its suspended code cannot be kept in a snapshot, where it was tried."""
        self.replayed = 0
        self.used_ns = host.clock.now_ns()
        self.listed = False
        """The store may have open calls of it (register.py)."""
        self.indexed: Seen | None = None
        """The values of its Indexed attributes, where it has some."""
        self.wake_at = 0
        """As in its last entry."""
        self.alarm_ns = 0
        """For when the host's alarm is set."""
        self.loading: asyncio.Future[None] | None = None
        """Done when the load is, one way or the other; made for whoever waits for it."""
        self.refusal: BaseException | None = None
        """Why it serves no more, for whoever still comes."""

    @property
    def address(self) -> str:
        return self.machine.address

    # --- load

    def load(self, read: asyncio.Future[Stored | None] | None = None) -> None:
        """Bring it from the store; what arrives meanwhile waits in the mailbox."""
        load(self, read)

    def begin(
        self, replayed: int, base_seq: int, snapshot_seq: int, upgrade: upgrades.Turn | None = None
    ) -> None:
        """The machine is what the journal says, or what an upgrade has made of it: serve."""
        self.replayed = replayed
        self.base_seq = base_seq
        self.snapshot_seq = snapshot_seq
        self.last_lsn = self.host.log.newest_lsn(self.machine.oid)
        self.listed = self.host.register.arrived(self)
        self.indexed = Seen(self.machine) if self.machine.kind.indexed else None
        self._end_loading(State.ACTIVE)
        self.connected = clients_of(self.machine)
        self.host.activated(self)
        if upgrade is not None:
            self._record(upgrade.event, upgrade.commands, None, upgrade.duration_us)
        self.host.timetables.compare(self)
        self.wake_at = self.machine.wake_at()
        if self.wake_at:
            self._resume()
        self._empty_mailbox()

    def _resume(self) -> None:
        """Take up what the object was about to do when it left memory."""
        machine = self.machine
        for waited in (machine.steps or {}).values() if machine.held is None else ():
            # Behind the gate: after a reload the asking may still be on its way to the disk.
            self.host.log.after(self.last_lsn, self.host.effects.output(self, waited.asked))
        self.set_alarm()
        started = machine.next_call()
        if started is not None:
            self.host.delivery.event(machine.oid, started)

    async def rest(self) -> None:
        """Returns when what has come so far has had its turn: here that is at once."""

    def is_loading(self) -> bool:
        """Whether nobody has decided yet what becomes of it."""
        return self.state is State.LOADING

    async def settled(self) -> State:
        """Wait until it is no longer loading."""
        while self.state is State.LOADING:
            if self.loading is None:
                self.loading = asyncio.get_running_loop().create_future()
            await self.loading
        return self.state

    def _end_loading(self, state: State) -> None:
        self.state = state
        loading, self.loading = self.loading, None
        if loading is not None and not loading.done():
            loading.set_result(None)

    def set_alarm(self) -> None:
        """Have the host ring at the object's next timer."""
        if self.machine.held is not None:
            return
        when = self.machine.next_timer_ns()
        if when and when != self.alarm_ns:
            self.alarm_ns = when
            self.host.alarms.set(self.machine.oid, when)

    def ring(self, when: int) -> None:
        """An alarm has come due; it counts if it is still the one that was set last."""
        if when != self.alarm_ns or self.state is not State.ACTIVE:
            return
        self.alarm_ns = 0
        due, now_ns = self.machine.next_timer_ns(), self.host.clock.now_ns()
        if due and due <= now_ns:
            # A clock that was set back is behind the object's time; then it says what is due.
            behind = now_ns if now_ns < self.machine.now_ns else 0
            self.event(Fired(FIRED_MAX, behind))
        else:
            self.set_alarm()

    def unusable(self, error: BaseException) -> None:
        """It cannot be rebuilt: nobody is served a guess."""
        host = self.host
        host.remove(self)
        refusal: BaseException = error
        accepted: list[IncomingCall] = []
        if isinstance(error, StoreUnavailable | StoreFull):
            # The disk's fault, perhaps of a moment; what it is owed is tried again. Calls that
            # were accepted go on then, so that their callers still wait.
            refusal = Unavailable(f"{self.address} cannot be read: {error.message}")
            self._end_loading(State.GONE)
            host.delivery.hold(self.machine.oid)
            asyncio.get_running_loop().call_later(RELOAD_S, host.delivery.take_up, self.machine.oid)
        elif isinstance(error, CallError):
            self._end_loading(State.GONE)
        else:
            self._end_loading(State.QUARANTINED)
            host.quarantine.unusable(self, error)
            refusal = host.quarantine.refusal(self.machine.oid) or error
            accepted = host.take_waiting(self.machine.oid)
        self.refusal = refusal
        host.lines.cut(self.machine.oid)
        waiting, self.mailbox = self.mailbox or (), None
        for item in (*waiting, *accepted):
            if isinstance(item, IncomingCall):
                item.refuse(refusal)

    def _empty_mailbox(self) -> None:
        while self.mailbox and self.state is State.ACTIVE:
            item = self.mailbox.popleft()
            if isinstance(item, IncomingCall):
                self._take(item)
            else:
                self._run(item, None)
        if self.state is State.ACTIVE:
            self.mailbox = None

    # --- what arrives

    def takes_now(self) -> bool:
        """Whether what arrives now has its turn at once."""
        return self.state is State.ACTIVE and self.mailbox is None

    def call(self, call: IncomingCall) -> None:
        """A call from outside."""
        if self.state is State.ACTIVE and self.mailbox is None:
            self._take(call)
        elif self.refusal is not None:
            call.refuse(self.refusal)
        elif self.mailbox is not None and len(self.mailbox) >= self.host.settings.mailbox_limit:
            call.refuse(overloaded(self))
        else:
            if self.mailbox is None:
                self.mailbox = deque()
            self.mailbox.append(call)

    def event(self, event: Event) -> None:
        """A message, a timer, a step's end: never refused, since it was accepted already."""
        if self.state is State.ACTIVE and self.mailbox is None:
            self._run(event, None)
        elif self.refusal is None:
            # Of an object that is set aside, messages stay in the outbox and the rest in its own
            # entries, until it is back.
            if self.mailbox is None:
                self.mailbox = deque()
            self.mailbox.append(event)

    def put_first(self, event: Event) -> None:
        """An event that comes before all that waits for the load."""
        if self.mailbox is None:
            self.mailbox = deque()
        self.mailbox.appendleft(event)

    def _take(self, call: IncomingCall) -> None:
        event = admit(self, call) if type(call) is IncomingCall else call.enter(self)
        if event is not None:
            self._run(event, call)

    # --- a turn

    def _awaited(self, event: Event) -> bool:
        """Whether an event from inside still has to be taken. It may be offered twice: after a
        commit that failed, and when an object comes back."""
        if type(event) in STEP_EVENTS:
            return self.host.effects.wanted(self.machine, event)  # type: ignore[arg-type]
        source = source_of(event)
        return source is None or self.host.log.undelivered(source)

    def _run(self, event: Event, call: IncomingCall | None) -> None:
        """Take one event: turn, entry, and what follows from it."""
        host = self.host
        machine = self.machine
        if call is None and not self._awaited(event):
            return
        if host.quarantine.watched and host.quarantine.stops(self, event, told_event(event), call):
            return
        if host.before_turn is not None and machine.seq:
            host.before_turn(self)
            machine = self.machine
        slot = host.slot
        began = perf_ns()
        # No collection inside a turn: it would run finalizers at another place at each replay.
        gc.disable()
        if slot is not None:
            slot.begin(machine.address, told_event(event))
        try:
            if call is None:
                self.used_ns = host.now_ns()
                commands = machine.turn(event, self.used_ns)
            else:
                commands = machine.turn(event, self.used_ns, call.args)
        except BaseException as error:
            self.failed(event, call, error)
            if not isinstance(error, Exception):
                raise
            return
        finally:
            if slot is not None:
                slot.end()
            gc.enable()
        host.turns += 1
        recorded = self._record(event, commands, call, (perf_ns() - began) // 1000)
        if machine.problems is not None:
            self._report(machine)
        if recorded and host.quarantine.doubted:
            host.quarantine.lived(self, told_event(event))

    def failed(
        self,
        event: Event | None,
        call: IncomingCall | None,
        error: BaseException,
        outputs: Sequence[Output] = (),
    ) -> None:
        """A turn failed, not by the handler's error, which is an answer, but by ours. Nothing of it
        is written, and the memory that it ran in, which may be ahead of the journal, is dropped.

        A call from outside is refused. What is owed comes again in a moment, and what fails again
        and again has the object set aside: nobody waits for ever without being told.
        """
        host, oid = self.host, self.machine.oid
        logger.error("a turn failed inside perdure", object=self.address, exc_info=error)
        what = kept_text(repr(error))
        refusal = Unavailable(f"internal error: {what}; nothing of the call was kept")
        # First of all: whose wait goes on is to hear it if the object is set aside.
        for output in outputs:
            if output is not call:
                output.release(refusal)
        # Messages are in the outbox. Those behind this event must not overtake it.
        self.mailbox = self.mailbox and deque(
            item
            for item in self.mailbox
            if isinstance(item, IncomingCall) or source_of(item) is None
        )
        told = told_event(event) if event is not None and call is None else None
        if told is None or not host.quarantine.died(self, told, f"has failed, {what},"):
            self.drop()
            host.delivery.hold(oid)
            asyncio.get_running_loop().call_later(RELOAD_S, host.delivery.take_up, oid)
        host.take_back(oid)
        if call is not None:
            call.refuse(refusal)

    def _record(
        self, event: Event, commands: list[Command], call: IncomingCall | None, duration_us: int
    ) -> bool:
        """Write the turn's entry, and put what it asked for behind it. False: it cannot be
        written, and the turn never was."""
        host = self.host
        log = host.log
        machine = self.machine
        oid = machine.oid
        seq = machine.seq
        undone = machine.undone
        outputs: list[Output] = []
        try:
            messages = gather_outputs(self, event, commands, call, outputs)
            if machine.failed is not None:
                host.register.failed(self)
            wake_at = self.wake_at if undone else machine.wake_at()
            connected = self.connected if undone else len(machine.connections or ())
            if machine.uploads is not None and not undone:
                connected = clients_of(machine)
            indexed = changed(self, seq) if machine.kind.indexed and not undone else None
            entry = encode_entry(
                Entry(
                    seq,
                    machine.now_ns,
                    machine.kind.version,
                    event,
                    commands,
                    wake_at,
                    duration_us,
                    machine.address if seq == 1 else "",
                    undone,
                    machine.reloaded,
                    RULES,
                    connected,
                    indexed,
                )
            )
        except Exception as error:
            self.failed(event, call, error, outputs)
            return False
        self.wake_at = wake_at
        self.connected = connected
        machine.reloaded = False
        # The list went into the entry; an idle object keeps nothing of its last turn.
        machine.commands = NOTHING
        machine.traces = None
        if call is not None:
            if call.on_accepted is not None:
                # Before the answer, if that is there already: whoever asked not to wait is told
                # where the answer will be, however quick it is.
                outputs.insert(0, Acceptance(call))
            if call.answer is None:
                call.lsn = log.gathering_lsn
                host.waiting[call.id] = call
        if messages is not None:
            for message in messages:
                log.send(message)
        delivered = source_of(event) if call is None else None
        self.last_lsn = log.append(oid, entry, outputs, delivered)
        if machine.timers is not None:
            self.set_alarm()
        if host.effects.blocked:
            host.effects.turned(oid)
        if undone or machine.tainted or (self.held and machine.quiescent()):
            self.reload()
        if messages is not None:
            for message in messages:
                host.delivery.message(message)
        if machine.queue is not None and not undone:
            self._queued(event)
        return True

    def _queued(self, event: Event) -> None:
        machine = self.machine
        started = machine.next_call()
        if started is not None:
            self.host.delivery.event(machine.oid, started)
        elif type(event) is Call and machine.holder is not None:
            error = find_deadlock(machine, event.id, self.host.machine_at)
            if error is not None:
                refused = Refused(event.id, encode_failure(failure_of(error)))
                self.host.delivery.event(machine.oid, refused)

    def _report(self, machine: Machine) -> None:
        for problem in machine.problems or ():
            error = problem.get("exception")
            logger.warning(
                problem.get("message", "a task failed"),
                object=machine.address,
                seq=machine.seq,
                exc_info=error,
            )
        machine.problems = None

    # --- the ways out

    def reload(self) -> None:
        """Forget this memory and build it again from snapshot and entries."""
        if self.taken is not None and newest_seq(self.taken) == self.machine.seq:
            # On its way to the store, which may have it before the next turn.
            self.host.stash[self.machine.oid] = self.taken
        self.pause()
        self.load()

    def pause(self) -> None:
        """Forget this memory and take no more turns until the next load."""
        self.renew_machine()
        self.state = State.LOADING
        self.alarm_ns = 0
        if self.mailbox is None:
            self.mailbox = deque()

    def renew_machine(self) -> None:
        """A fresh machine in the place of the one that is there."""
        machine = self.machine
        machine.discard()
        self.machine = Machine(self.kind, machine.key, machine.oid, self.host.surroundings)

    def adopt(self, snapshot: bytes) -> None:
        """Go on from the copy that the bytes give, as a later load would."""
        old = self.machine
        machine = Machine(old.kind, old.key, old.oid, self.host.surroundings)
        heap.load_heap(machine, snapshot)
        old.discard()
        self.machine = machine

    def retire(self) -> None:
        """Leave memory in peace: the snapshot is taken, nothing is waiting."""
        self.state = State.GONE
        self.machine.discard()

    def set_aside(self, call: IncomingCall | None) -> None:
        """Leave memory since an event must not run: what waits is refused or kept for later."""
        host = self.host
        host.remove(self)
        self._end_loading(State.QUARANTINED)
        waiting, self.mailbox = self.mailbox or (), None
        self.machine.discard()
        refusal = self.refusal = host.quarantine.refusal(self.machine.oid)
        assert refusal is not None
        host.lines.cut(self.machine.oid)
        for item in (call, *waiting, *host.take_waiting(self.machine.oid)):
            if isinstance(item, IncomingCall):
                item.refuse(refusal)

    def drop(self) -> None:
        """Forget this memory; the next event makes a new activation."""
        self.host.remove(self)
        self._end_loading(State.GONE)
        waiting, self.mailbox = self.mailbox or (), None
        self.machine.discard()
        for item in waiting:
            if isinstance(item, IncomingCall):
                self.host.call(item)
            else:
                self.host.delivery.event(self.machine.oid, item)

    def evictable(self) -> bool:
        """Whether it may leave memory now without anything being lost or cut off."""
        return (
            self.state is State.ACTIVE
            and self.mailbox is None
            and self.last_lsn <= self.host.log.tail
            and not self.machine.steps
        )
