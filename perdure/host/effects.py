"""Runs steps: attempts that turns asked for, once the asking is on disk.

An attempt ends as an event for its object. One that is cut off by a crash leaves no event; then
the object's memory, rebuilt, still waits for it, and it is started again with the same step id.
A step that must not be repeated has an entry of its own written before it begins: without that
entry it has certainly not happened, and with it and no result nobody knows, which is what the
handler is told. What an attempt gave is held here until the entry with it is on disk, so that a
commit that fails costs no second run.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from typing import TYPE_CHECKING, Any

from perdure import attempt as within
from perdure.errors import AuthorError, OutcomeUnknown, PerdureError
from perdure.failure import failure_of
from perdure.host.attempts import Threads, perform, stream
from perdure.host.blobs import BLOB_FROM, Fenced
from perdure.host.failures import pickled_failure
from perdure.host.records import Waited
from perdure.host.stepping import Blob, Stream, awaited
from perdure.host.throttles import Throttle, Throttles
from perdure.interrupt import is_interrupt
from perdure.journal.entry import StepAsked, StepBegun, StepDone, StepDropped, StepItem
from perdure.journal.log import Output
from perdure.steps import close_at_drain, find_step
from perdure.suspend import heap

if TYPE_CHECKING:
    from perdure.host.activation import Activation
    from perdure.host.host import Host
    from perdure.host.machine import Machine


ITEMS_AHEAD = 64
"""So many items of a streaming step may be on their way to the disk, or wait in the object."""
BYTES_AHEAD = 1024 * 1024
"""The same in bytes, for those on their way."""

ONCE_PATIENCE_S = 5.0
"""How long a drain waits for steps that must not be repeated."""


class Phase(enum.Enum):
    """What an attempt is doing. Only moves on."""

    WAITING = "waiting for a place"
    BEGINNING = "about to begin"
    RUNNING = "running"
    ENDED = "ended"


class RunningAttempt(within.Attempt):
    """An attempt from the moment it may start until its end is on disk."""

    __slots__ = (
        "asked",
        "begin",
        "credit",
        "done",
        "effects",
        "index",
        "oid",
        "phase",
        "recorded",
        "since_ns",
        "task",
        "throttles",
        "unwritten",
        "unwritten_bytes",
    )

    def __init__(self, effects: Effects, oid: int, asked: StepAsked, stream: Stream | None) -> None:
        super().__init__(asked.id, asked.attempt, effects.clock.monotonic)
        self.effects = effects
        self.oid = oid
        self.asked = asked
        self.phase = Phase.WAITING
        self.since_ns = effects.clock.now_ns()
        """When the phase began."""
        self.throttles: list[Throttle] = []
        """Where it has a place."""
        self.begin: asyncio.Future[None] | None = None
        """Done when it is on disk that a step that must not be repeated may have begun."""
        self.done: StepDone | None = None
        self.recorded = False
        """Its end is in an entry, which may still be on its way to the disk."""
        self.index = len(stream.items) if stream is not None else 0
        """Of the next item."""
        self.unwritten: deque[tuple[StepItem, int]] | None = None
        """Items that are not known to be on disk, each with its size."""
        self.unwritten_bytes = 0
        self.credit: asyncio.Future[None] | None = None
        """What the generator waits for before it goes on."""
        self.task: asyncio.Task[None]

    def enters(self, phase: Phase) -> None:
        self.phase = phase
        self.since_ns = self.effects.clock.now_ns()

    def release(self, error: PerdureError | None) -> None:
        """The entry with its end is on disk (this is an Output); else it is offered again."""
        self.recorded = False
        if error is None:
            self.effects.forget(self)

    # --- items

    async def give(self, body: bytes) -> None:
        """Deliver an item, and wait while there are too many ahead."""
        if self.is_over():
            raise asyncio.CancelledError
        number, index = self.asked.number, self.index
        self.index += 1
        self.beat()
        if len(body) > BLOB_FROM:
            name = f"{number}.{index}"
            await self.effects.blobs.put(self.oid, name, body)
            item = StepItem(number, index, b"", name)
        else:
            item = StepItem(number, index, body)
        if self.unwritten is None:
            self.unwritten = deque()
        self.unwritten.append((item, len(body)))
        self.unwritten_bytes += len(body)
        self.effects.deliver(self.oid, item)
        while self.is_ahead():
            self.credit = asyncio.get_running_loop().create_future()
            self.effects.blocked.setdefault(self.oid, []).append(self)
            await self.credit
            self.beat()
        if self.is_over():
            raise asyncio.CancelledError

    def is_over(self) -> bool:
        """Whether it has ended, so that nothing it gives counts any more."""
        return self.phase is Phase.ENDED

    def is_ahead(self) -> bool:
        """Whether the generator has to wait for the disk or for the object."""
        if self.phase is Phase.ENDED:
            return False
        if len(self.unwritten or ()) >= ITEMS_AHEAD or self.unwritten_bytes >= BYTES_AHEAD:
            return True
        stream = self.effects.stream_of(self.oid, self.asked.number)
        return stream is not None and len(stream.items) - stream.taken >= ITEMS_AHEAD

    def written(self, item: StepItem) -> None:
        """An item is on disk, and so are those before it."""
        while self.unwritten and self.unwritten[0][0].index <= item.index:
            gone, size = self.unwritten.popleft()
            self.unwritten_bytes -= size
            if gone.blob:
                self.effects.blobs.let_go(self.oid, gone.blob)
        self.go_on()

    def go_on(self) -> None:
        """Let the generator go on, if it need not wait any more."""
        credit = self.credit
        if credit is not None and not self.is_ahead():
            self.credit = None
            if not credit.done():
                credit.set_result(None)


class Effects:
    """The attempts of this node, by (object, number)."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.clock = host.clock
        self.blobs = host.blobs
        self._attempts: dict[tuple[int, int], RunningAttempt] = {}
        self.blocked: dict[int, list[RunningAttempt]] = {}
        """Attempts that wait until their object has taken items, by object."""
        self.throttles = Throttles(asyncio.get_running_loop(), host.settings.step_threads)
        self.threads = Threads(host.settings.step_threads)
        self._closed = False

    @property
    def running(self) -> int:
        return len(self._attempts)

    def find(self, oid: int, number: int) -> RunningAttempt | None:
        """The attempt, if it is on its way here."""
        return self._attempts.get((oid, number))

    def stream_of(self, oid: int, number: int) -> Stream | None:
        """What the object has of a streaming step's items, if it is in memory."""
        activation = self._host.find(oid)
        steps = activation.machine.steps if activation is not None else None
        waited = steps.get(number) if steps else None
        return waited.stream if waited is not None else None

    def deliver(self, oid: int, event: StepDone | StepBegun | StepItem) -> None:
        self._host.delivery.event(oid, event)

    # --- what turns ask for, behind their gate

    def output(self, activation: Activation, asked: StepAsked) -> Output:
        """The attempt as an output: it starts when the asking is durable."""
        return _Start(self, activation, asked.number)

    def dropping(self, oid: int, dropped: StepDropped) -> Output:
        """Nobody waits for it any more: it ends when that is durable."""
        return _Drop(self, oid, dropped.number)

    def taken(self, oid: int, seq: int, event: StepDone | StepBegun | StepItem) -> Output | None:
        """What follows when the entry of such an event is on disk."""
        if not isinstance(event, StepBegun) and event.blob:
            self._host.log.blobs.setdefault(oid, {})[event.blob] = seq
        attempt = self._attempts.get((oid, event.number))
        if attempt is None:
            return None
        if type(event) is StepDone:
            attempt.recorded = True
            return attempt
        if type(event) is StepBegun:
            return _Begin(attempt)
        assert type(event) is StepItem
        return _Written(attempt, event)

    def wanted(self, machine: Machine, event: StepDone | StepBegun | StepItem) -> bool:
        """Whether the object still has to take an event of a step: it may be offered twice, and
        after a commit that failed the end comes by before the items that were lost with it."""
        attempt = self._attempts.get((machine.oid, event.number))
        if not awaited(machine, event):
            if attempt is not None and attempt.done is event and not attempt.recorded:
                # The object has lost interest without a word, as one does that could not be made.
                self.forget(attempt)
            return False
        if type(event) is not StepDone:
            return True
        stream_ = machine.steps[event.number].stream  # type: ignore[index]
        return stream_ is None or attempt is None or attempt.index == len(stream_.items)

    def turned(self, oid: int) -> None:
        """The object has had a turn, and may have taken items."""
        for attempt in self.blocked.pop(oid, ()):
            attempt.go_on()
            if attempt.credit is not None:
                self.blocked.setdefault(oid, []).append(attempt)

    def start(self, activation: Activation, waited: Waited) -> None:
        """Start an attempt; or, if it is on its way, offer the object again what it lost."""
        oid, number = activation.machine.oid, waited.asked.number
        known = self._attempts.get((oid, number))
        if known is not None:
            self._offer_again(known, waited)
            return
        if self._closed:
            return
        if waited.asked.once and waited.begun:
            # It had begun in an earlier life of this process.
            self.deliver(oid, _unknown(waited.asked))
            return
        attempt = RunningAttempt(self, oid, waited.asked, waited.stream)
        self._attempts[oid, number] = attempt
        attempt.task = asyncio.get_running_loop().create_task(self._run(attempt, waited.stream))

    def _offer_again(self, attempt: RunningAttempt, waited: Waited) -> None:
        if attempt.phase is Phase.BEGINNING:
            self.deliver(attempt.oid, StepBegun(attempt.asked.number))
        known = len(waited.stream.items) if waited.stream is not None else 0
        for item, _ in attempt.unwritten or ():
            if item.index >= known:
                self.deliver(attempt.oid, item)
        if attempt.done is not None:
            self.deliver(attempt.oid, attempt.done)

    def drop(self, oid: int, number: int) -> None:
        """Nobody waits for it any more. A plain function in a thread runs to its end unheard."""
        attempt = self._attempts.pop((oid, number), None)
        if attempt is not None:
            self._end(attempt)
            attempt.task.cancel()

    def forget(self, attempt: RunningAttempt) -> None:
        """Its end is on disk."""
        self._attempts.pop((attempt.oid, attempt.asked.number), None)
        if attempt.done is not None and attempt.done.blob:
            self.blobs.let_go(attempt.oid, attempt.done.blob)

    # --- an attempt

    async def _run(self, attempt: RunningAttempt, stream_: Stream | None) -> None:
        asked = attempt.asked
        try:
            result = await self._perform(attempt, stream_)
            done = await self._succeeded(attempt, heap.dumps(result))
        except asyncio.CancelledError:
            if self._closed or asyncio.current_task().cancelling():  # type: ignore[union-attr]
                self._end(attempt)
                return
            done = _failed(asked, asyncio.CancelledError("the step was cancelled from inside"))
        except Fenced:
            # No event: the step has not failed. The next owner starts it again, by its step id.
            self._end(attempt)
            return
        except BaseException as error:
            if is_interrupt(error):
                raise
            # SystemExit too: a step that calls sys.exit() fails, and the node goes on.
            done = _failed(asked, error)
        self._end(attempt)
        attempt.done = done
        self.deliver(attempt.oid, done)

    async def _perform(self, attempt: RunningAttempt, stream_: Stream | None) -> Any:
        asked = attempt.asked
        activation = self._host.find(attempt.oid)
        past = activation.machine.kind.past if activation is not None else None
        step = find_step(asked.name, past.mark if past is not None else "")
        if step is None:
            raise AuthorError(
                f"the step {asked.name} is not there any more",
                hint="Bring it back, under that name and module.",
            )
        args, kwargs = heap.loads(asked.body)
        if step.limit is not None or not step.awaits:
            for throttle in self.throttles.of(step, args, kwargs):
                if not throttle.try_enter():
                    await throttle.enter()
                attempt.throttles.append(throttle)
        if asked.once:
            attempt.enters(Phase.BEGINNING)
            attempt.begin = asyncio.get_running_loop().create_future()
            self.deliver(attempt.oid, StepBegun(asked.number))
            await attempt.begin
        if stream_ is not None:
            attempt.items = await self._items(attempt.oid, stream_)
        attempt.phase = Phase.RUNNING
        within.enter(attempt)
        run = stream if step.streams else perform
        return await run(attempt, step, args, kwargs)

    async def _succeeded(self, attempt: RunningAttempt, body: bytes) -> StepDone:
        number = attempt.asked.number
        if len(body) <= BLOB_FROM:
            return StepDone(number, True, body)
        await self.blobs.put(attempt.oid, str(number), body)
        return StepDone(number, True, b"", str(number))

    async def _items(self, oid: int, stream_: Stream) -> list[Any]:
        """What earlier attempts gave."""
        names = [item for item in stream_.items if isinstance(item, Blob)]
        await self.blobs.fetch(oid, names)
        items = [
            heap.loads(self.blobs.read(oid, item) if isinstance(item, Blob) else item)
            for item in stream_.items
        ]
        for name in names:
            self.blobs.let_go(oid, name)
        return items

    def _end(self, attempt: RunningAttempt) -> None:
        """Give its places back, and let its generator end."""
        attempt.enters(Phase.ENDED)
        throttles, attempt.throttles = attempt.throttles, []
        for throttle in throttles:
            throttle.leave()
        if attempt.credit is not None and not attempt.credit.done():
            attempt.credit.cancel()

    def abandon(self) -> list[asyncio.Task[None]]:
        """The process is gone, as far as a simulation can say so: nothing of it is heard again.

        Gives the tasks that run, for whoever ends them.
        """
        self._closed = True
        for attempt in self._attempts.values():
            attempt.enters(Phase.ENDED)
        self.throttles.close()
        self.threads.shutdown(wait=False, cancel_futures=True)
        return [attempt.task for attempt in self._attempts.values()]

    async def close(self) -> None:
        """End what runs; after the restart it is started again with the same step ids.

        Those that must not be repeated get a little time to come to their end: nobody would know
        it afterwards.
        """
        self._closed = True
        once = [
            attempt.task
            for attempt in self._attempts.values()
            if attempt.asked.once and attempt.phase is Phase.RUNNING
        ]
        if once:
            await asyncio.wait(once, timeout=ONCE_PATIENCE_S)
            # Their ends are events; each becomes an entry in the passes that follow.
            self._host.delivery.run()
        tasks = [attempt.task for attempt in self._attempts.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await close_at_drain()
        self.throttles.close()
        self.threads.shutdown(wait=False, cancel_futures=True)


class _Start:
    __slots__ = ("activation", "effects", "number")

    def __init__(self, effects: Effects, activation: Activation, number: int) -> None:
        self.effects = effects
        self.activation = activation
        self.number = number

    def release(self, error: PerdureError | None) -> None:
        if error is not None:
            return
        # It may have been dropped in a later turn of the same commit; then nobody waits for it.
        steps = self.activation.machine.steps
        waited = steps.get(self.number) if steps else None
        if waited is not None:
            self.effects.start(self.activation, waited)


class _Drop:
    __slots__ = ("effects", "number", "oid")

    def __init__(self, effects: Effects, oid: int, number: int) -> None:
        self.effects = effects
        self.oid = oid
        self.number = number

    def release(self, error: PerdureError | None) -> None:
        if error is None:
            self.effects.drop(self.oid, self.number)


class _Begin:
    __slots__ = ("attempt",)

    def __init__(self, attempt: RunningAttempt) -> None:
        self.attempt = attempt

    def release(self, error: PerdureError | None) -> None:
        # After a failed commit the object, rebuilt, is offered the event again.
        begin = self.attempt.begin
        if error is None and begin is not None and not begin.done():
            begin.set_result(None)


class _Written:
    __slots__ = ("attempt", "item")

    def __init__(self, attempt: RunningAttempt, item: StepItem) -> None:
        self.attempt = attempt
        self.item = item

    def release(self, error: PerdureError | None) -> None:
        if error is None:
            self.attempt.written(self.item)


def _unknown(asked: StepAsked) -> StepDone:
    error = OutcomeUnknown(
        f"the step {asked.name.rpartition(':')[2]} was under way when the process ended; "
        f"it may have happened or not, and with repeat=False it is not begun again",
        hint=f"Look outside what became of it; its step id is {asked.id}.",
    )
    return _failed(asked, error)


def _failed(asked: StepAsked, error: BaseException) -> StepDone:
    return StepDone(asked.number, False, pickled_failure(failure_of(error), error))
