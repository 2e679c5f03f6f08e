"""A node, its disk, its clients and its accidents in virtual time, all from one seed.

Clients make calls and keep book of what they were told. Accidents happen to the store and to the
process. At the end everything is healed, what was begun must come to its end, and the books are
compared with what the objects hold and with what the disk holds.
"""

from __future__ import annotations

import asyncio
import random
from asyncio import FIRST_COMPLETED, FIRST_EXCEPTION
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from perdure import ref
from perdure.clock import NS
from perdure.errors import OperatorError, StoreUnavailable, Unavailable
from perdure.failure import Failure
from perdure.host.activation import State
from perdure.host.asking import Surroundings
from perdure.host.incoming import Answer, IncomingCall
from perdure.journal.entry import PICKLE
from perdure.journal.identity import oid_of
from perdure.kind import kind_of
from perdure.node import Node
from perdure.ref import parse_address
from perdure.store.base import Layout
from perdure.suspend import heap
from perdure.testing.faults import FaultyStore
from tests.host.stage import Stage
from tests.sim import shelves
from tests.sim.deeds import Deed, Inventor, LeafModel, check_tokens
from tests.sim.options import Options
from tests.sim.repeat import SimulatedClock
from tests.sim.shelves import CLASSES, Outside
from tests.sim.truth import TruthStore, check_histories, rebuilt, same_state

KINDS = {kind_of(cls).name: kind_of(cls) for cls in CLASSES}

NOTHING_RAN = {"unavailable", "overloaded", "object-quarantined"}
"""Codes by which a caller knows that nothing of its call was kept."""

NOT_RECORDED = NOTHING_RAN | {"outcome-unknown"}


class Simulation(Stage):
    """One run; `run` raises AssertionError where a promise was broken."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.rng = random.Random(options.seed)
        layout = Layout(1, 1, self.rng.randbytes(32))
        self.truth = TruthStore(layout, self.rng, options.slowest_s)
        self.disk = FaultyStore(self.truth, on_crash=self._fell)
        super().__init__(
            *CLASSES,
            store=self.disk,
            debug=False,
            hibernate_after=options.hibernate_after,
            checkpoint_seconds=options.checkpoint_seconds,
            checkpoint_bytes=options.checkpoint_bytes,
            mailbox_limit=30,
            history=options.history,
            max_live_objects=options.max_live,
        )
        self.clock = SimulatedClock(asyncio.get_running_loop(), options.seed)
        self.outside = Outside(self._step_begins)
        self.deeds: list[Deed] = []
        self.seen: dict[str, Counter[int]] = {}
        """Tokens that a query has shown: they may not vanish."""
        self.leaves: dict[str, LeafModel] = {}
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Fails with the first promise that was broken."""
        self.up = asyncio.Event()
        self.fallen = asyncio.Event()
        self.inventor = Inventor(options)
        self._pending: dict[asyncio.Future[Answer | None], None] = {}
        self.healed = False
        self.log: list[str] = []

    # --- the process

    def note(self, text: str) -> None:
        self.log.append(f"{self.clock.monotonic():9.3f} {text}")

    def complain(self, text: str) -> None:
        self.note(text)
        if not self.broken.done():
            self.broken.set_exception(AssertionError(text))

    def _fell(self) -> None:
        """The store has noticed that the process is gone."""
        self.up.clear()
        self.fallen.set()

    async def start(self) -> None:
        self.node = Node(
            self.classes, self.settings, clock=self.clock, store=self.store, on_lost=self._lost
        )
        await self.node.start()
        host = self.host
        refused = host.quarantine.unusable

        def noticed(activation: Any, error: BaseException) -> None:
            self.complain(f"{activation.address} is quarantined: {error!r}")
            refused(activation, error)

        host.quarantine.unusable = noticed
        self.up.set()

    def _lost(self, error: OperatorError) -> None:
        self.note(f"lost: {error}")
        node = self.node
        # The worker takes its leave within a second, and nothing of its memory is kept.
        asyncio.get_running_loop().call_later(
            self.rng.random(), lambda: self._fell() if node is self.node else None
        )

    def end_process(self) -> None:
        """All clients lose their connections."""
        self.up.clear()
        for future in list(self._pending):
            if not future.done():
                future.set_result(None)
        self._pending.clear()

    async def crash(self) -> None:
        """As kill -9, also of a node that has not started or has stopped."""
        if not hasattr(self.node, "host"):
            return
        if self.node not in ref._outside:
            ref.open_outside(self.node)
        await super().crash()

    async def keep_alive(self) -> None:
        """What the supervisor does."""
        await self._start_again()
        while True:
            await self.fallen.wait()
            self.note("crash")
            self.disk.crash_now(landed=self.rng.choice([0, 0, 1, 5]))
            self.end_process()
            await self.crash()
            self.fallen.clear()
            await self._start_again()

    async def _start_again(self) -> None:
        while not self.up.is_set():
            await asyncio.sleep(self.rng.choice([0.0, 0.1, 3.0]))
            start = asyncio.create_task(self.start())
            fallen = asyncio.create_task(self.fallen.wait())
            await asyncio.wait({start, fallen}, return_when=asyncio.FIRST_COMPLETED)
            fallen.cancel()
            if start.done() and start.exception() is None:
                self.note("started")
                return
            # It could not start: the store failed, or the process died on the way.
            if start.done() and not isinstance(start.exception(), OperatorError):
                start.result()
            start.cancel()
            await asyncio.gather(start, return_exceptions=True)
            self.disk.crash_now()
            await self.crash()
            self.fallen.clear()

    # --- clients

    async def call(
        self, address: str, handler: str, *args: Any, idempotency_key: str | None = None
    ) -> Answer | None:
        """The answer to one request; None if the connection was lost."""
        await self.up.wait()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer | None] = loop.create_future()
        kind_name, key = parse_address(address)
        kind = KINDS[kind_name]
        known = kind.handlers[handler]
        host = self.host

        def answered(answer: Answer) -> None:
            if host is self.host and not future.done():
                self._check_gate(known.query, answer)
                future.set_result(answer)

        self._pending[future] = None
        bound = known.signature.bind(args, {})
        host.call(
            IncomingCall(
                kind,
                key,
                known,
                bound,
                heap.dumps((args, {})),
                answered,
                format=PICKLE,
                idempotency_key=idempotency_key,
            )
        )
        if host.draining and not future.done():
            pass
        answer = await future
        self._pending.pop(future, None)
        return answer

    def _check_gate(self, query: bool, answer: Answer) -> None:
        """What leaves is on disk: a result, and a failure of the handler just so."""
        refused = answer.failure is not None and answer.failure.code in NOT_RECORDED
        if not query and not refused and answer.call_id not in self.truth.answers:
            self.complain(f"{answer.call_id} was answered before it was durable")

    def _step_begins(self, step_id: str) -> None:
        if step_id not in self.truth.asked:
            self.complain(f"step {step_id} began before its asking was durable")

    async def client(self, number: int, rng: random.Random) -> None:
        for n in range(self.options.calls):
            await asyncio.sleep(rng.random() * 2 * self.options.seconds / self.options.calls)
            await self.up.wait()
            if self.options.deletes and rng.random() < 0.2:
                await self._use_leaf(f"Leaf/{number}", rng)
                continue
            deed = self.inventor.invent(rng)
            self.deeds.append(deed)
            if rng.random() < 0.4:
                await self.insist(deed, f"{number}.{n}", rng)
            elif rng.random() < 0.5:
                await self._ask(deed)
            else:
                # Nobody waits for it: the next call comes at once.
                asyncio.get_running_loop().create_task(self._ask(deed))
                await asyncio.sleep(0)
            if rng.random() < 0.3:
                await self._look(deed.address)

    async def _ask(self, deed: Deed) -> None:
        answer = await self.call(deed.address, deed.handler, *deed.args)
        self._tell(deed, answer)

    async def insist(self, deed: Deed, key: str, rng: random.Random) -> None:
        """Again until there is an answer, as one call."""
        while True:
            answer = await self.call(deed.address, deed.handler, *deed.args, idempotency_key=key)
            self._tell(deed, answer)
            if deed.told in ("done", "failed"):
                return
            await asyncio.sleep(rng.random())

    def _tell(self, deed: Deed, answer: Answer | None) -> None:
        if answer is None:
            deed.told = "unknown"
        elif answer.failure is None:
            deed.told = "done"
        elif answer.failure.code in NOTHING_RAN:
            deed.told = "unknown" if deed.told == "unknown" else "refused"
        elif answer.failure.code == "outcome-unknown":
            deed.told = "unknown"
        else:
            deed.told = "failed"
            self._check_failure(deed, answer.failure)
        self.note(f"{deed.address}.{deed.handler}{deed.args}: {deed.told}")

    def _check_failure(self, deed: Deed, failure: Failure) -> None:
        expected = {"put_and_fail": "ValueError", "undo": "ValueError"}.get(deed.handler)
        if failure.code == "deadlock" or failure.error == "DeadlockError":
            if self.options.circles:
                return
        elif failure.error == expected:
            return
        self.complain(f"{deed} failed: {failure}")

    async def _look(self, address: str) -> None:
        """What a query shows was acknowledged, or will never be taken back."""
        known = {
            token
            for deed in self.deeds
            if deed.told == "done" and deed.handler not in ("later", "background", "burst")
            for at, token in deed.tokens[:1]
            if at == address
        }
        answer = await self.call(address, "read")
        if answer is None or answer.failure is not None:
            return
        shown = Counter(heap.loads(answer.body))
        missing = known - shown.keys()
        if missing:
            self.complain(f"{address} does not show what it acknowledged: {missing}")
        seen = self.seen.setdefault(address, Counter())
        seen |= shown

    async def _use_leaf(self, name: str, rng: random.Random) -> None:
        """One client for a leaf, so that what it may hold is known."""
        leaf = self.leaves.setdefault(name, LeafModel())
        token = self.inventor.token()
        if rng.random() < 0.4:
            await self._delete_leaf(name, token, rng)
            return
        late = rng.random() < 0.3
        args = (token, rng.random()) if late else (token,)
        answer = await self.call(name, "put_late" if late else "put", *args)
        self.note(f"{name} put {token}: {answer and (answer.failure or 'done')}")
        if answer is None or (answer.failure and answer.failure.code == "outcome-unknown"):
            leaf.strays.add(token)
        elif answer.failure is None:
            shown = heap.loads(answer.body)
            if not leaf.put(token, shown):
                self.complain(f"{name} holds {shown} after {token}, and should be {leaf}")
        elif answer.failure.code not in NOTHING_RAN:
            self.complain(f"{name}.put failed: {answer.failure}")

    async def _delete_leaf(self, name: str, token: int, rng: random.Random) -> None:
        leaf = self.leaves[name]
        if rng.random() < 0.5:
            at = f"Shelf/{rng.randrange(self.options.objects)}"
            deed = Deed(at, "delete_other", (token, name), [(at, token)])
            self.deeds.append(deed)
            await self.insist(deed, f"{token}", rng)
            leaf.deleted()
            return
        await self.up.wait()
        host = self.host
        deletion = asyncio.ensure_future(host.delete(name))
        fallen: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._pending[fallen] = None
        await asyncio.wait({deletion, fallen}, return_when=asyncio.FIRST_COMPLETED)
        if deletion.done() and not deletion.cancelled() and deletion.exception() is None:
            leaf.deleted()
        else:
            expected = (OperatorError, Unavailable)
            if deletion.done() and not isinstance(deletion.exception(), expected):
                self.complain(f"deletion of {name} failed: {deletion.exception()!r}")
            deletion.cancel()
            leaf.pasts.append([])
        self.note(f"{name} deleted: {deletion.done()}")
        self._pending.pop(fallen, None)

    # --- accidents

    async def accidents(self, rng: random.Random) -> None:
        options = self.options
        kinds: list[tuple[float, Callable[[], Any]]] = [
            (options.crashes, self._fell),
            (options.crashes, lambda: self._order(rng, None)),
            (options.crashes, lambda: self._order(rng, None)),
            (options.unavailable, lambda: self._order(rng, StoreUnavailable("the line was cut"))),
            (options.reads_fail, lambda: self._fail_next_load()),
            (options.stops, lambda: asyncio.ensure_future(self._stop())),
            (options.full, lambda: self._fill(rng)),
            (options.holds, lambda: self._hold(rng)),
            (options.hibernations, self.let_all_go),
            (options.hibernations, lambda: self._let_go(rng)),
            (options.jumps, lambda: self._jump(rng)),
            (1.0, self.check_live),
        ]
        while True:
            await asyncio.sleep(rng.random() * 3)
            await self.up.wait()
            await asyncio.sleep(rng.random() * 0.1)
            if self.up.is_set():
                act = rng.choices([one for _, one in kinds], [weight for weight, _ in kinds])[0]
                act()

    def _order(self, rng: random.Random, error: Exception | None) -> None:
        """An accident at one of the next operations of the store."""
        number = len(self.disk.operations) + rng.randrange(1, 6)
        after = rng.random() < 0.5
        self.note(f"ordered: {error!r} at operation {number}, after={after}")
        if error is None:
            self.disk.crash(number, after=after)
        else:
            self.disk.fail(number, error, after=after)

    def _fail_next_load(self) -> None:
        self.note("the next load fails")
        self.truth.next_load_fails = True

    def _fill(self, rng: random.Random) -> None:
        self.note("full")
        self.disk.full = True
        asyncio.get_running_loop().call_later(rng.random() * 3, self._make_room)

    def _make_room(self) -> None:
        self.note("room")
        self.disk.full = False

    def _hold(self, rng: random.Random) -> None:
        self.note("held")
        self.disk.hold()
        asyncio.get_running_loop().call_later(rng.random() * 0.5, self._let_writes)

    def _let_writes(self) -> None:
        if not self.disk.crashed:
            self.disk.release()

    def _jump(self, rng: random.Random) -> None:
        """Somebody sets the clock."""
        self.clock.jump_ns += int(rng.choice([-3600, -1, 1, 30]) * NS)
        self.note(f"clock jumped by {self.clock.jump_ns / NS}")

    def let_all_go(self) -> None:
        self.note("hibernate")
        for activation in self.host.live():
            self.host.residency.let_go(activation)

    def _let_go(self, rng: random.Random) -> None:
        live = self.host.live()
        if live:
            self.host.residency.let_go(rng.choice(live))

    async def _stop(self) -> None:
        """SIGTERM, and a new process."""
        self.note("stop")
        if not self.up.is_set():
            return
        self.up.clear()
        node = self.node
        node.host.draining = True
        drain = asyncio.create_task(node.drain())
        fallen = asyncio.create_task(self.fallen.wait())
        await asyncio.wait({drain, fallen}, return_when=asyncio.FIRST_COMPLETED)
        fallen.cancel()
        if not drain.done():
            drain.cancel()
            await asyncio.gather(drain, return_exceptions=True)
            return
        if not isinstance(drain.exception(), OperatorError):
            drain.result()
        self._fell()

    # --- checks

    def check_live(self) -> None:
        """What is in memory is what snapshot and entries make of it."""
        host = self.host
        for activation in host.live():
            machine = activation.machine
            if activation.state is not State.ACTIVE:
                continue
            oid = machine.oid
            stored = host.stash.get(oid) or self.truth.load_now(oid)
            copy = rebuilt(machine, stored, host.log.entries_of(oid), self.surroundings())
            same_state(machine, copy)
            copy.discard()

    async def run(self, *coroutines: Coroutine[Any, Any, None]) -> None:
        """The whole run; with `coroutines` in place of the random clients."""
        shelves.outside_is(self.outside)
        rng = self.rng
        supervisor = asyncio.create_task(self.keep_alive())
        accidents = asyncio.create_task(self.accidents(random.Random(rng.random())))
        gates = asyncio.create_task(self._open_gates())
        clients = [
            asyncio.create_task(client)
            for client in coroutines
            or [
                self.client(number, random.Random(rng.random()))
                for number in range(self.options.clients)
            ]
        ]
        all_clients = asyncio.ensure_future(asyncio.wait(clients))
        tasks: list[asyncio.Future[Any]] = [all_clients, supervisor, accidents, gates, *clients]
        try:
            seconds = self.options.seconds
            await self._wait([*clients, accidents, supervisor], seconds, FIRST_EXCEPTION)
            accidents.cancel()
            await asyncio.gather(accidents, return_exceptions=True)
            await self._heal()
            await self._wait([all_clients, supervisor, gates], 1000, FIRST_COMPLETED)
            assert all_clients.done(), f"clients still wait: {self._open()} {self._busy()}"
            for client in clients:
                client.result()
            await self._come_to_an_end()
            gates.cancel()
            await self._check_all()
        finally:
            self.broken.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.crash()

    async def _wait(
        self, futures: Sequence[asyncio.Future[Any]], seconds: float, when: str
    ) -> None:
        """Raises what broke a promise meanwhile."""
        done, _ = await asyncio.wait([*futures, self.broken], timeout=seconds, return_when=when)
        for future in done:
            future.result()

    async def _heal(self) -> None:
        self.note("healed")
        self.healed = True
        self.disk._faults.clear()
        self.clock.jump_ns = max(0, self.clock.jump_ns)
        self.truth.next_load_fails = False
        self.disk.full = False
        if not self.disk.crashed:
            self.disk.release()

    async def _open_gates(self) -> None:
        """Whoever waits for another client need not wait for ever."""
        while True:
            await asyncio.sleep(20)
            if not self.healed:
                continue
            for number in range(self.options.objects):
                for kind in ("Shelf", "Brief"):
                    await self.call(f"{kind}/{number}", "open_gate", 0)

    async def _come_to_an_end(self) -> None:
        """All that was begun must end."""
        for _ in range(60):
            await self.up.wait()
            await asyncio.sleep(21)
            if not self._open() and not self._busy() and not self._sleeping():
                return
        raise AssertionError(f"not everything has come to an end: {self._open()} {self._busy()}")

    def _sleeping(self) -> bool:
        """Whether an object that is not in memory has something to do."""
        host = self.host
        rows = self.truth.rows()
        stored = any(
            row.wake_at and host.find(row.oid) is None and row.oid not in host.log.dirty()
            for row in rows
        )
        return stored or any(host.sleepers.times.values())

    def _open(self) -> list[Deed]:
        return [deed for deed in self.deeds if deed.told == "open"]

    def _busy(self) -> list[Any]:
        host = self.host
        machines = [one.machine for one in host.live() if one.state is State.ACTIVE]
        return [
            (one.address, one.running, one.queue, one.asked, one.steps, one.timers)
            for one in machines
            if not one.quiescent() or one.timers
        ] + list(host.log.outbox.values())

    async def _check_all(self) -> None:
        if self.broken.done():
            self.broken.result()
        assert not self.host.quarantine.objects
        held: dict[str, Counter[int]] = {}
        for oid, entries in self.truth.entries.items():
            address = entries[0].address
            answer = await self.call(address, "read")
            assert answer is not None and answer.failure is None
            held[address] = Counter(heap.loads(answer.body))
            assert oid == oid_of(*parse_address(address))
        check_tokens(self.deeds, held, self.seen, self.options.circles)
        await self._check_timers()
        for name, leaf in self.leaves.items():
            shown = list(held.get(name, Counter()).elements())
            assert leaf.may_hold(shown), f"{name} holds {shown}, and should be {leaf}"
        check_histories(self.truth, ended=True)
        self.check_live()
        self._check_from_the_beginning()

    async def _check_timers(self) -> None:
        for entries in list(self.truth.entries.values()):
            address = entries[0].address
            if address.startswith("Leaf"):
                continue
            answer = await self.call(address, "read_fired")
            assert answer is not None and answer.failure is None
            for token, due, now in heap.loads(answer.body):
                assert now >= due, f"timer {token} of {address} was {(due - now) / NS} s early"

    def surroundings(self) -> Surroundings:
        """Those of a machine that only looks back: no accident happens to it."""
        return Surroundings(
            self.truth.layout.secret,
            asyncio.get_running_loop(),
            blob=self.truth.blob,
        )

    def _check_from_the_beginning(self) -> None:
        """Replay of the whole past gives the state of now."""
        for activation in self.host.live():
            machine = activation.machine
            bodies = self.truth.bodies.get(machine.oid, [])
            copy = rebuilt(machine, None, bodies, self.surroundings())
            same_state(machine, copy)
