"""An activation whose memory is in a process of its own (`isolation="process"`).

The journal, the outbox, alarms, steps and sockets are here as for any object; author code runs
there. A turn is a question to that process, so it takes its time, and what arrives meanwhile waits
in the mailbox; everything else is as ever: one turn at a time, and what a turn asked for leaves
behind its entry.

    no process ──▶ loading ──▶ idle ◀──▶ in a turn          any ──▶ ended: loading, in another one

A process that ends in a turn takes nothing along but that turn, of which no entry was written.
A caller from outside hears so. What came from inside is owed, and is tried again in a new process;
what has ended three of them is not, and the object is set aside.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from perdure.access import Action, ActionKind
from perdure.errors import ProcessLost, Unavailable
from perdure.host import ephemeral
from perdure.host.activation import Activation, State
from perdure.host.alone import Start
from perdure.host.incoming import Answer, IncomingCall
from perdure.host.intake import admit
from perdure.host.joining import Passing
from perdure.host.load import REBUILD
from perdure.host.mirror import Facts, Mirror
from perdure.host.nursery import Process, ProcessEnded, Refused
from perdure.host.quarantine import told_event
from perdure.host.snapshots import REPLAY_MAX, newest_seq
from perdure.journal.entry import HTTP, Event
from perdure.journal.log import source_of
from perdure.kind import Kind
from perdure.logs import logger
from perdure.ref import Ref
from perdure.store.base import Stored
from perdure.suspend import heap

if TYPE_CHECKING:
    from perdure.host.host import Host


LOAD_LEAST_S = 60.0
"""A load may run thousands of turns again."""


class Apart(Activation):
    """An object in memory, which is that of another process."""

    __slots__ = ("process", "working")

    apart = True

    def __init__(self, host: Host, kind: Kind, key: str, oid: int) -> None:
        super().__init__(host, kind, key, oid)
        self.process: Process | None = None
        self.working: asyncio.Future[None] | None = None
        """Done when nothing is left to do; None while there is nothing."""
        self.machine: Mirror = Mirror(kind, key, oid, host.surroundings)

    # --- load

    def load(self, read: asyncio.Future[Stored | None] | None = None) -> None:
        """As in Activation; the process is started if there is none."""
        self.host.keep(self._load(read))

    async def _load(self, read: asyncio.Future[Stored | None] | None) -> None:
        host, oid = self.host, self.machine.oid
        while self.is_loading():
            if host.quarantine.kills(self, REBUILD):
                return
            process = self.process
            try:
                stored = host.stash.get(oid)
                if stored is None:
                    stored = await (read or host.store.load(host.log.part, oid))
                read = None
                if process is None:
                    process = await self._start()
                told = await process.ask(
                    "load",
                    stored,
                    list(host.log.entries_of(oid)),
                    host.now_ns(),
                    within_s=max(LOAD_LEAST_S, host.settings.turn_timeout),
                )
                if self.process is not process or not self.is_loading():
                    return
                await self._loaded(told)
                return
            except ProcessEnded as error:
                if self.process is not process and process is not None:
                    continue
                self.end_process()
                logger.warning(
                    "the process of an object ended in its load",
                    object=self.address,
                    why=str(error),
                )
                if host.quarantine.died(self, REBUILD):
                    return
            except Exception as error:
                if self.is_loading():
                    self.end_process()
                    self.unusable(error)
                return

    async def _start(self) -> Process:
        host, machine = self.host, self.machine
        assert host.nursery is not None
        process = await host.nursery.start()
        process.needs = self._needed
        self.process = process
        start = Start(
            self.kind.name,
            machine.key,
            machine.oid,
            host.version,
            host.surroundings.secret,
            host.settings.debug,
        )
        await process.ask("start", start)
        return process

    async def _needed(self, what: str, args: tuple[Any, ...]) -> Any:
        """What the process asks for in the middle of its work."""
        host, oid = self.host, self.machine.oid
        if what == "blob":
            await host.blobs.fetch(oid, args)
            return host.blobs.read(oid, args[0])
        if what == "version":
            return await host.store.get_version(args[0])
        if what == "history":
            return await host.store.history(host.log.part, oid, *args)
        return await host.store.load(host.log.part, oid)

    async def _loaded(self, told: Any) -> None:
        replayed, base_seq, snapshot_seq, upgrade, self.held, self.stayed, facts = told
        host, version = self.host, facts["version"]
        if self.held:
            # Its steps are of that version too.
            await host.versions.having(lambda: host.versions.kind(self.kind, version))
        if not self.is_loading():
            return
        self._show(facts)
        if upgrade is not None:
            host.turns += 1
            self.machine.reloaded = False
        self.begin(replayed, base_seq, snapshot_seq, upgrade)

    def _show(self, facts: Facts) -> None:
        kind = self.kind
        if self.held:
            kind = self.host.versions.kind(kind, facts["version"])
        self.machine.of_version(kind, facts["version"])
        self.machine.show(facts)

    # --- one after the other

    def call(self, call: IncomingCall) -> None:
        """As in Activation."""
        if not self.takes_now():
            super().call(call)
            return
        self.mailbox = deque([call])
        self._empty_mailbox()

    def event(self, event: Event) -> None:
        """As in Activation."""
        if not self.takes_now():
            super().event(event)
            return
        self.mailbox = deque([event])
        self._empty_mailbox()

    def _empty_mailbox(self) -> None:
        if self.working is not None:
            return
        if not self.mailbox:
            self.mailbox = None
            return
        self.working = asyncio.get_running_loop().create_future()
        self.host.keep(self._work())

    async def _work(self) -> None:
        try:
            while self.mailbox and self.state is State.ACTIVE:
                item = self.mailbox.popleft()
                if isinstance(item, IncomingCall):
                    await self._take_call(item)
                else:
                    await self._turn(item, None)
                self.host.delivery.run()
        finally:
            working, self.working = self.working, None
            if working is not None:
                working.set_result(None)
            if self.state is State.ACTIVE:
                self._empty_mailbox()

    async def rest(self) -> None:
        """Returns when what has come so far has had its turn, or never will here."""
        while self.working is not None or (self.mailbox and self.is_loading()):
            if self.working is not None:
                await asyncio.shield(self.working)
            else:
                await self.settled()

    async def _take_call(self, call: IncomingCall) -> None:
        if self.kind.authorizes and not await self._authorized(call):
            return
        if self.state is not State.ACTIVE:
            self._give_back(call)
        elif type(call) is not IncomingCall:
            event = call.enter(self)
            if event is not None:
                await self._turn(event, call)
        elif call.handler.query:
            await self._query(call)
        else:
            admitted = admit(self, call)
            if admitted is not None:
                await self._turn(admitted, call)

    def _give_back(self, item: IncomingCall | Event) -> None:
        """It has had no turn, and the memory that it was for is gone: it comes again."""
        if self.is_loading():
            if self.mailbox is None:
                self.mailbox = deque()
            self.mailbox.appendleft(item)
        elif isinstance(item, IncomingCall):
            if self.refusal is not None:
                item.refuse(self.refusal)
            else:
                self.host.call(item)
        elif self.refusal is None and source_of(item) is None:
            self.host.delivery.event(self.machine.oid, item)

    # --- a turn

    async def _ask(self, told: bytes, item: IncomingCall | Event, what: str, *args: Any) -> Any:
        """Ask the process; None if there is no answer, and whoever asked knows or comes again."""
        process, host = self.process, self.host
        assert process is not None and self.kind.isolation is not None
        if process.ended:
            # While it was idle: no turn has anything to do with it.
            logger.warning("the process of an object is gone", object=self.address)
            self.end_process()
            self.pause()
            self._give_back(item)
            self.load()
            return None
        timeout_s = host.settings.turn_timeout
        cpu_s = self.kind.isolation.cpu_limit or timeout_s
        try:
            answer = await process.ask(what, *args, host.now_ns(), cpu_s, within_s=timeout_s)
        except ProcessEnded as error:
            if process is self.process:
                self._died(told, item, str(error))
            else:
                self._give_back(item)
            return None
        except (Refused, Exception) as error:
            if process is not self.process:
                self._give_back(item)
                return None
            if isinstance(item, IncomingCall):
                self.failed(None, item, error)
            else:
                self.failed(item, None, error)
            return None
        if process is not self.process or self.state is not State.ACTIVE:
            self._give_back(item)
            return None
        host.quarantine.lived(self, told)
        return answer

    async def _turn(self, event: Event, call: IncomingCall | None) -> None:
        host = self.host
        if call is None and not self._awaited(event):
            return
        told = told_event(event)
        if host.quarantine.watched and host.quarantine.stops(self, event, told, call):
            return
        self.used_ns = host.now_ns()
        answer = await self._ask(told, call if call is not None else event, "turn", event)
        if answer is None:
            return
        commands, facts, took_us = answer
        self._show(facts)
        host.turns += 1
        self._record(event, commands, call, took_us)

    def _died(self, told: bytes, item: IncomingCall | Event, how: str) -> None:
        """The process has ended in a turn: nothing of it is left, and the object is built again."""
        logger.warning(
            "the process of an object ended in a turn",
            object=self.address,
            why=how,
            what=told[:200].decode("utf-8", "replace"),
        )
        self.end_process()
        call = item if isinstance(item, IncomingCall) else None
        if call is not None:
            call.refuse(
                ProcessLost(
                    f"{self.address}: its process ended in this call ({how}); nothing of the "
                    "call was kept",
                    hint="The object goes on as it was before. A call that ends its process three "
                    "times has the object quarantined.",
                )
            )
        if self.host.quarantine.died(self, told):
            return
        self.pause()
        if call is None:
            assert self.mailbox is not None
            self.mailbox.appendleft(item)
        self.load()

    # --- what leaves no entry

    async def _authorized(self, call: IncomingCall) -> bool:
        if isinstance(call, Passing):
            return True  # Its connection was let in.
        kind: ActionKind = "call"
        handler: str | None = None
        if type(call) is not IncomingCall:
            kind = "connect"
        else:
            handler = call.handler.name
            kind = "query" if call.handler.query else "call"
            if call.format >= HTTP:
                kind = "request"
        action = Action(kind, Ref(self.kind.name, self.machine.key), handler)
        told = b"authorize %b" % kind.encode()
        answer = await self._ask(told, call, "authorize", heap.dumps((call.principal, action)))
        if answer is None:
            return False
        failure, tainted = answer
        if failure is not None:
            call.on_answer(Answer(call.id, b"", failure))
        if tainted:
            self.reload()
        return failure is None

    async def _query(self, call: IncomingCall) -> None:
        host = self.host
        host.queries += 1
        self.used_ns = host.now_ns()
        told = b"query %b %b" % (call.handler.name.encode(), call.body)
        if host.quarantine.watched and host.quarantine.kills(self, told):
            call.refuse(self.refusal or host.unavailable())
            return
        arguments = heap.dumps(call.args)
        answer = await self._ask(told, call, "query", call.handler.name, arguments, call.format)
        if answer is None:
            return
        call.items, body, failure, passing, tainted = answer
        call.answer = Answer("", body, failure)
        if passing and failure is None:
            ephemeral.send(self, passing)
        host.log.after(self.last_lsn, call)
        if tainted:
            self.reload()

    async def look(self, name: str, *args: Any) -> Any:
        """What a function of the package, `module:name`, makes of the object in its process.

        Raises Unavailable if the process ends.
        """
        if self.process is None:
            raise Unavailable(f"{self.address} has no process at the moment")
        try:
            timeout_s = self.host.settings.turn_timeout
            return await self.process.ask("look", name, *args, within_s=timeout_s)
        except (ProcessEnded, Refused) as error:
            if self.state is State.ACTIVE and self.working is None:
                self.reload()
            raise Unavailable(f"{self.address}: its process gave no answer: {error}") from error

    # --- snapshots and the ways out

    async def take(self, *, stays: bool) -> Stored | None:
        """A snapshot, as take_snapshot gives it; None also where the process has ended."""
        if self.process is None or self.state is not State.ACTIVE:
            return None
        try:
            stored, self.unkept, reloaded, seq = await self.process.ask(
                "snapshot", stays, within_s=max(LOAD_LEAST_S, self.host.settings.turn_timeout)
            )
        except (ProcessEnded, Refused) as error:
            logger.warning("an object has no snapshot", object=self.address, why=str(error))
            if self.working is None and self.state is State.ACTIVE:
                self.end_process()
                self.reload()
            return None
        if seq != self.machine.seq:
            return None
        self.machine.reloaded = reloaded
        if stored is not None and reloaded:
            self.taken = stored
        return stored  # type: ignore[no-any-return]

    def leave(self) -> None:
        """Hibernate, as soon as there is a snapshot; what comes first keeps it here."""
        assert self.working is None
        self.working = asyncio.get_running_loop().create_future()
        self.mailbox = deque()
        self.host.keep(self._leave())

    async def _leave(self) -> None:
        host, machine = self.host, self.machine
        stored = None
        try:
            if machine.seq > self.snapshot_seq:
                stored = await self.take(stays=False)
                if stored is not None:
                    host.stash[machine.oid] = stored
        finally:
            working, self.working = self.working, None
            if working is not None:
                working.set_result(None)
            if self.state is State.ACTIVE:
                if self.mailbox:
                    self._empty_mailbox()
                else:
                    self.mailbox = None
                    behind = machine.seq - self.snapshot_seq
                    if self.evictable() and (stored is not None or behind <= REPLAY_MAX):
                        host.left(self)
                        self.retire()
                        host.residency.hibernated += 1

    def reload(self) -> None:
        """As in Activation; in the same process, if it lives."""
        if self.taken is not None and newest_seq(self.taken) == self.machine.seq:
            self.host.stash[self.machine.oid] = self.taken
        self.pause()
        self.load()

    def renew_machine(self) -> None:
        """As in Activation."""
        machine = self.machine
        self.machine = Mirror(self.kind, machine.key, machine.oid, self.host.surroundings)

    def end_process(self) -> None:
        """It has left memory, or is to be built again in another process."""
        process, self.process = self.process, None
        if process is not None:
            process.end()
