"""The machine of one object: events in, commands out, and no I/O in between.

Given the same snapshot and the same entries it comes to the same state and asks for the same
things. Everything that is remembered rests on that; so nothing here reads a clock, a disk or
chance, and what host, gateway and journal do stands outside. Live turns and replayed turns run
the same code: `turn` for an event, `skip` for a turn that was undone.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections import deque
from typing import TYPE_CHECKING, Any

from perdure.errors import CallCancelled, NotSerializable, UnknownHandler
from perdure.failure import Failure, exception_of, failure_of
from perdure.host import (
    cancelling,
    forking,
    promises,
    raw_requests,
    repairs,
    schedules,
    sessions,
    stepping,
    streams,
    watching,
)
from perdure.host.asking import Surroundings
from perdure.host.connecting import Connecting
from perdure.host.ending import ended, forget_everything
from perdure.host.failures import decode_failure, encode_failure, pickled_failure
from perdure.host.keeping import keep
from perdure.host.records import AskedStream, Kept, Running
from perdure.host.stepping import resolve
from perdure.host.task import Task
from perdure.interrupt import is_interrupt
from perdure.journal.entry import (
    HTTP,
    PICKLE,
    TEXT,
    UPLOAD,
    Answered,
    Call,
    Cancel,
    Command,
    Ended,
    Event,
    Fired,
    Forked,
    Item,
    Piece,
    Refused,
    Released,
    Repaired,
    Reply,
    Resolved,
    Sent,
    Skipped,
    Started,
    Timetable,
)
from perdure.kind import Kind
from perdure.object import Object
from perdure.serde import Arguments, Signature
from perdure.suspend import editions, heap
from perdure.suspend.sets import rebuild_sets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_set_running_loop = asyncio._set_running_loop


class Machine(Connecting):
    """The durable memory of one object, and the rules by which an event changes it."""

    __slots__ = (
        "began_ns",
        "creating",
        "failed",
        "holder",
        "instance",
        "kept",
        "pending",
        "queue",
        "reloaded",
        "running",
        "source",
        "streamed",
        "tainted",
        "traces",
        "undone",
    )

    def __init__(self, kind: Kind, key: str, oid: int, surroundings: Surroundings) -> None:
        super().__init__(kind, key, oid, surroundings)
        self.instance: Object | None = None
        """None before the first call, and after the object was deleted."""
        self.creating = False
        """`on_create` is suspended; calls wait for it."""
        self.running: dict[str, Running] | None = None
        self.holder: Call | None = None
        """The call that holds a `reentrant=False` object."""
        self.queue: deque[Call] | None = None
        """Calls that were taken in and have not begun."""
        self.kept: dict[str, Kept] | None = None
        self.streamed: dict[str, streams.Streamed] | None = None
        self.undone = False
        """The turn that just ran was an atomic call that raised; only its answer counts."""
        self.failed: list[tuple[Call, int, str, str]] | None = None
        """Calls that failed in the last turn: since when, code, what; no part of what is kept."""
        self.began_ns = 0
        """When the call began that is coming to its end, if that was in an earlier turn."""
        self.traces: dict[str, str] | None = None
        """Tracebacks of calls that failed in the last turn, by id; in debug mode alone, and no
        part of what is remembered."""
        self.tainted = False
        """A query changed something: this memory must not be used any further."""
        self.reloaded = False
        """It came from bytes, has sets, and no turn has run in it since."""
        self.source: tuple[bytes, str] | None = None
        """In a rebuild, with no turn run yet: a snapshot, and the version that made it."""
        self.pending = False
        """The source is not loaded yet (upgrades.py)."""

    def go_through_bytes(self) -> None:
        """Become what a load of this memory's bytes would be."""
        try:
            data = heap.dump_heap(self)
        except NotSerializable:
            # Bytes it was once, under another interpreter or other code. Of all that a trip
            # through bytes changes, only the order of sets can be seen.
            rebuild_sets(self)
            return
        self.discard()
        home = self.home
        Machine.__init__(self, self.kind, self.key, self.oid, self.surroundings)
        self.home = home
        heap.load_heap(self, data)

    # --- a turn

    def turn(self, event: Event, time_ns: int, arguments: Arguments | None = None) -> list[Command]:
        """Run one event until all code waits, and give what was asked for.

        `arguments` are those of a call where they are decoded already.
        """
        _set_running_loop(self)  # type: ignore[arg-type]
        editions.active = self.kind.past
        try:
            return self.turn_inside(event, time_ns, arguments)
        finally:
            editions.active = None
            _set_running_loop(self.surroundings.outer)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Be the running event loop for many turns: on CPython 3.11 each change costs a system
        call, and a replay is nothing but turns."""
        _set_running_loop(self)  # type: ignore[arg-type]
        editions.active = self.kind.past
        try:
            yield
        finally:
            editions.active = None
            _set_running_loop(self.surroundings.outer)

    def turn_inside(
        self, event: Event, time_ns: int, arguments: Arguments | None = None
    ) -> list[Command]:
        """`turn`, where this is the running event loop already."""
        self.seq += 1
        if time_ns > self.now_ns:
            self.now_ns = time_ns
        self._chance = None
        self.undone = False
        self.failed = None
        self.began_ns = 0
        # A timer's callback works for nobody: not for the call that happened to run last.
        self.call = None
        commands = self.commands = []
        try:
            if type(event) is Call:
                self._call(event, arguments)
            else:
                EVENTS[type(event)](self, event)
            if self.ready and not self.undone:
                self.drain()
            if self.watches is not None and not self.undone:
                watching.look(self)
            if self.held is not None:
                forking.hold(self)
        finally:
            if self.ready:
                self.ready.clear()
            self.call = None
        if self.trouble is not None:
            raise self.trouble
        if self.undone:
            commands[:] = commands[-1:]
        return commands

    def skip(self, event: Event, time_ns: int, commands: list[Command]) -> None:
        """Count a turn that was undone: of the call nothing is left but its answer."""
        self.seq += 1
        if time_ns > self.now_ns:
            self.now_ns = time_ns
        call = event
        if type(event) is Started:
            assert self.queue is not None
            call = self.queue.popleft()
            self.queue = self.queue or None
        if type(call) is not Call:
            return
        for command in commands:
            if type(command) is Answered and call.schedule:
                schedules.skip(self, call, command)
            elif type(command) is Answered:
                keep(self, call, command)

    def wake_at(self) -> int:
        """When there is something to do without being asked: 0 never, 1 at once, else a time."""
        if self.held is not None:
            return 1 if self.next_call() is not None else 0
        if self.steps is not None or (self.queue is not None and self.next_call() is not None):
            return 1
        return self.next_timer_ns() if self.timers is not None else 0

    def next_call(self) -> Started | None:
        """The event that begins the first call of the queue, if it may begin."""
        if self.queue is None or self.holder is not None or self.creating:
            return None
        return Started(self.queue[0].id)

    def quiescent(self) -> bool:
        """Whether no code is suspended: then the object is plain data."""
        return not (
            self.tasks or self.running or self.asked or self.steps or self.queue or self.creating
        )

    # --- events

    def _call(self, event: Call, arguments: Arguments | None) -> None:
        if event.keep_ns:
            keep(self, event, None)
        if event.deadline and not cancelling.in_time(self, event):
            return
        if self.instance is None and not self.create(event):
            return
        if (
            self.creating
            or self.holder is not None
            or (self.queue is not None and not self.kind.reentrant)
        ):
            self.enqueue(event)
            return
        self.begin(event, arguments)

    def enqueue(self, call: Call) -> None:
        """Let a call wait until the object is free."""
        if self.queue is None:
            self.queue = deque()
        self.queue.append(call)
        if call.format == UPLOAD:
            raw_requests.open_body(self, call)

    def must_queue(self) -> bool:
        """Whether what comes now has to wait: for `on_create`, or for the call that holds it."""
        waits = self.queue is not None and not self.kind.reentrant
        return self.creating or self.holder is not None or waits

    def _started(self, event: Started) -> None:
        # It may come late: the host asked for it before something else changed the queue.
        if self.next_call() != event:
            return
        assert self.queue is not None
        call = self.queue.popleft()
        self.queue = self.queue or None
        if call.format >= TEXT:
            sessions.begin(self, call)
        else:
            self.begin(call, None)

    def create(self, event: Call) -> bool:
        try:
            self.instance = self.kind.fresh(self.key)
            if not self.kind.creates:
                return True
            task = Task(self.instance.on_create(), self, contextvars.Context(), "on_create")
            task.context.run(task.step)
            if task.done():
                task.result()
                return True
        except Exception as error:
            # What __init__ or on_create asked for before it raised must not stand without an
            # object: the whole turn is undone, and the caller learns why.
            self._undo(event, error)
            return False
        self.creating = True
        self.remember(task)
        task.add_done_callback(self._created, context=task.context)
        return True

    def _created(self, task: asyncio.Future[Any]) -> None:
        self.creating = False
        error = (
            asyncio.CancelledError("on_create was cancelled")
            if task.cancelled()
            else task.exception()
        )
        if error is None:
            return
        failure = failure_of(error)
        for event in self.queue or ():
            self.answer(event, None, failure, error)
        forget_everything(self)

    def begin(self, event: Call, arguments: Arguments | None) -> None:
        """Run a handler to its end or to its first wait."""
        raw = event.format >= HTTP
        handler = self.kind.on_request if raw else self.kind.handlers.get(event.handler)
        if event.schedule:
            handler = self.kind.scheduled(event.handler)
        if handler is None:
            error = UnknownHandler(f"{self.kind.name} has no handler {event.handler!r}")
            self.answer(event, None, failure_of(error), error)
            return
        self.call = event
        context = contextvars.Context()
        try:
            if raw:
                arguments = (), {}
            elif arguments is None:
                arguments = decode_arguments(handler.signature, event)
            args, kwargs = arguments
            if not (handler.awaits or handler.streams or raw):
                result = context.run(handler.function, self.instance, *args, **kwargs)
                self.answer(event, result, None, None)
                return
            if raw:
                code: Any = raw_requests.answer_request(self, event)
            else:
                code = handler.function(self.instance, *args, **kwargs)
            if handler.streams:
                streams.begin(self, event)
                code = streams.drive(self, event, code)
            task = Task(code, self, context)
        except BaseException as raised:
            if is_interrupt(raised):
                raise
            self._failed(event, raised, undo=handler.atomic)
            return
        # Most handlers never wait; they end in here.
        if task.begin():
            self._end_call(event, task, undo=handler.atomic)
            return
        self.goes_on(event, task)

    def goes_on(self, event: Call, task: Task) -> None:
        """A call has begun, and its code waits: it ends in a later turn."""
        if self.running is None:
            self.running = {}
        self.running[event.id] = Running(event, self.now_ns, task)
        if not self.kind.reentrant:
            self.holder = event
        self.remember(task)
        task.add_done_callback(self._ended, context=task.context)

    def _end_call(self, event: Call, task: Task, *, undo: bool) -> None:
        try:
            result = task.result()
        except BaseException as error:
            if is_interrupt(error):
                raise
            self._failed(event, error, undo=undo)
        else:
            self.answer(event, result, None, None)

    def _ended(self, task: asyncio.Future[Any]) -> None:
        """The handler of a call has come to its end in a later turn than it began."""
        assert isinstance(task, Task)
        event: Call = task.call
        running = self.running.get(event.id) if self.running else None
        if running is None or running.task is not task:
            return
        del self.running[event.id]  # type: ignore[union-attr]
        self.running = self.running or None
        if self.holder is not None and self.holder.id == event.id:
            self.holder = None
        self.began_ns = running.since
        self._end_call(event, task, undo=False)

    def _failed(self, event: Call, error: BaseException, *, undo: bool) -> None:
        if isinstance(error, asyncio.CancelledError) and self.rules:
            error = CallCancelled(f"{event.handler} was cancelled")
        if undo:
            self._undo(event, error)
        else:
            self.answer(event, None, failure_of(error), error)

    def _undo(self, event: Call, error: BaseException) -> None:
        self.undone = True
        self.answer(event, None, failure_of(error), error)

    def _reply(self, event: Reply) -> None:
        asked = self.asked.pop(event.number, None) if self.asked else None
        if not self.asked:
            self.asked = None
        if asked is not None:
            resolve(asked.future, event.ok, event.body)

    def _item(self, event: Item) -> None:
        asked = self.asked.get(event.number) if self.asked else None
        if type(asked) is AskedStream:
            asked.items.put(heap.loads(event.body))

    def _fired(self, event: Fired) -> None:
        self.fire_timers(event.limit, event.now_ns)

    def expire(self, call_id: str) -> None:
        """A call's deadline has passed (a timer calls this; it is kept by this name)."""
        cancelling.expire(self, call_id)

    def _refused(self, event: Refused) -> None:
        for call in self.queue or ():
            if call.id == event.id:
                assert self.queue is not None
                self.queue.remove(call)
                self.queue = self.queue or None
                failure = decode_failure(event.failure)
                self.answer(call, None, failure, exception_of(failure))
                return

    # --- answers

    def answer(
        self, event: Call, result: Any, failure: Failure | None, error: BaseException | None
    ) -> None:
        """Ask for the answer of a call to be given: the last thing a call does."""
        if self.cancelled is not None or self.deadlines is not None:
            failure, error = cancelling.ended(self, event, failure, error)
        if self.uploads is not None:
            raw_requests.close_body(self, event)
        if failure is not None:
            self._note_failed(event, failure)
        if error is not None and self.surroundings.on_error is not None:
            self.surroundings.on_error(event, error)
        if event.format >= TEXT:
            sessions.answered(self, event, failure, error)
            return
        if event.schedule:
            schedules.report(self, event, failure, error)
            why = b"" if failure is None else encode_failure(failure)
            self.commands.append(Answered(event.id, failure is None, why))
            return
        pickled = event.format == PICKLE
        body = b""
        if failure is None:
            try:
                # All check the annotation; what the caller gets is what the class promises.
                if event.format >= HTTP:
                    body = result
                elif (handler := self.kind.handlers[event.handler]).streams:
                    # The items were the result.
                    body = heap.dumps(None) if pickled else b"null"
                elif pickled:
                    body = heap.dumps(handler.signature.check_result(result))
                else:
                    body = handler.signature.encode_result(result)
            except Exception as unfit:
                failure, error = failure_of(unfit), unfit
                self._note_failed(event, failure)
        if event.answer_to:
            ok = failure is None
            reply = Reply(event.answer_to, ok, body if ok else pickled_failure(failure, error))
            self.commands.append(Sent(event.caller, reply))
            if self.kept is not None and event.id in self.kept:
                keep(self, event, Answered(event.id, ok, reply.body))
            return
        if event.caller:
            if failure is not None:
                self.call_exception_handler(
                    {
                        "message": f"{event.handler}, sent by {event.caller}, failed",
                        "exception": error,
                    }
                )
            told = failure is not None and self.rules
            answer = Answered(event.id, failure is None, encode_failure(failure) if told else b"")
        elif failure is None:
            answer = Answered(event.id, True, body)
        else:
            body = pickled_failure(failure, error) if pickled else encode_failure(failure)
            answer = Answered(event.id, False, body)
            if self.surroundings.debug and error is not None:
                self.traces = (self.traces or {}) | {
                    event.id: failure_of(error, debug=True).traceback
                }
        self.commands.append(answer)
        if self.streamed is not None:
            streams.ended(self, event)
        if event.keep_ns or (self.kept is not None and event.id in self.kept):
            keep(self, event, answer)

    def _note_failed(self, event: Call, failure: Failure) -> None:
        text = f"{failure.error}: {failure.message}" if failure.message else failure.error
        note = event, self.began_ns or self.now_ns, failure.code, text
        self.failed = [*(self.failed or ()), note]

    # --- the end of an activation

    def discard(self) -> None:
        """Let go of suspended code without running its `finally` blocks: it is not ending, it is
        only no longer in this memory."""
        # Asked for, and not taken to be the outer one: a replay discards in its middle.
        running = asyncio._get_running_loop()
        _set_running_loop(self)  # type: ignore[arg-type]
        try:
            self.drop_tasks()
        finally:
            _set_running_loop(running)

    def drop_tasks(self) -> None:
        """Let go of suspended code, inside a turn as well."""
        heap.drop_all(self)
        self.ready.clear()


EVENTS: dict[type, Callable[[Machine, Any], None]] = {
    Started: Machine._started,
    Reply: Machine._reply,
    Item: Machine._item,
    Fired: Machine._fired,
    **stepping.EVENTS,
    Refused: Machine._refused,
    Ended: ended,
    Skipped: repairs.skipped,
    Resolved: promises.resolved,
    Cancel: cancelling.cancel,
    Repaired: repairs.repaired,
    Timetable: schedules.timetable,
    **sessions.EVENTS,
    Piece: raw_requests.piece_came,
    Forked: forking.forked,
    Released: forking.released,
}
"""What each kind of event but a call does. upgrades.py, which needs machines, adds Upgraded."""


def decode_arguments(signature: Signature, event: Call) -> Arguments:
    """The arguments of a call from the bytes that came in, checked."""
    if event.format == PICKLE:
        args, kwargs = heap.loads(event.body)
        return signature.bind(args, kwargs)
    return signature.decode_json(event.body)
