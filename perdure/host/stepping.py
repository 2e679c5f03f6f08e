"""Steps as the machine of an object knows them: asked for, begun, giving items, ended.

All of it follows from the journal. What runs outside is effects.py; a body too large for an entry
is a blob beside the journal, and the entry has its name (blobs.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from perdure.failure import Failure, failure_of
from perdure.host.failures import decode_failure, raised_by
from perdure.host.records import Failed, StepNotes
from perdure.host.task import Future
from perdure.journal.entry import StepBegun, StepDone, StepItem
from perdure.suspend import heap

if TYPE_CHECKING:
    from perdure.host.asking import Asking

FAILED_KEPT = 8
"""So many steps that failed for good are remembered, to be shown."""

_TEXT_MAX = 300


class Blob(str):
    """The name of a blob, in the place of what it holds."""

    __slots__ = ()


class Stream:
    """What a streaming step has given so far, over all its attempts."""

    __slots__ = ("items", "loop", "more", "taken")

    def __init__(self, loop: Asking) -> None:
        self.loop = loop
        self.items: list[bytes | Blob] = []
        """All of them, pickled: an attempt after a crash is given them back."""
        self.taken = 0
        self.more: Future | None = None

    def has_item(self) -> bool:
        return self.taken < len(self.items)

    def take(self) -> Any:
        item = self.items[self.taken]
        self.taken += 1
        if isinstance(item, Blob):
            try:
                item = self.loop.blob(item)
            except Exception as error:
                # Author code may catch it; the turn, which the journal knows without it, is void.
                self.loop.trouble = error
                raise
        return heap.loads(item)

    def wait(self) -> Future:
        if self.more is None or self.more.done():
            self.more = Future(loop=self.loop)
        return self.more

    def moved(self) -> None:
        """There is an item more, or the attempt has ended."""
        if self.more is not None and not self.more.done():
            self.more.set_result(None)
        self.more = None


def open_stream(machine: Asking) -> Stream:
    """A place for the items of a streaming step."""
    return Stream(machine)


def begun(machine: Asking, event: StepBegun) -> None:
    """From now on the attempt may have happened."""
    waited = machine.steps.get(event.number) if machine.steps else None
    if waited is not None:
        waited.begun = True


def item(machine: Asking, event: StepItem) -> None:
    """A streaming step has given something."""
    waited = machine.steps.get(event.number) if machine.steps else None
    if waited is not None and waited.stream is not None:
        if event.blob:
            # Not only when it is taken: what can fail had better fail outside of author code.
            machine.blob(event.blob)
        waited.stream.items.append(Blob(event.blob) if event.blob else event.body)
        waited.stream.moved()


def done(machine: Asking, event: StepDone) -> None:
    """An attempt has ended."""
    waited = machine.steps.pop(event.number, None) if machine.steps else None
    if not machine.steps:
        machine.steps = None
    if waited is None:
        return
    body = event.body if not event.blob else machine.blob(event.blob)
    resolve(waited.future, event.ok, body)
    if waited.stream is not None:
        waited.stream.moved()


def untaken_blobs(machine: Asking) -> list[str]:
    """What turns to come will read of streaming steps that are under way."""
    streams = [waited.stream for waited in (machine.steps or {}).values() if waited.stream]
    return [item for one in streams for item in one.items[one.taken :] if isinstance(item, Blob)]


def awaited(machine: Asking, event: StepDone | StepBegun | StepItem) -> bool:
    """Whether an event of a step still has to be taken: it may be offered twice."""
    waited = machine.steps.get(event.number) if machine.steps else None
    if waited is None:
        return False
    if type(event) is StepBegun:
        return not waited.begun
    if type(event) is StepItem:
        return waited.stream is not None and event.index == len(waited.stream.items)
    return True


def note_failed(
    machine: Asking, name: str, id_: str, attempt: int, error: Exception, again_in_s: float | None
) -> None:
    """Remember that an attempt has failed, for whoever looks."""
    notes = machine.step_notes
    if notes is None:
        notes = machine.step_notes = StepNotes()
    now_ns = machine.now_ns
    again_at = now_ns + round(again_in_s * 1e9) if again_in_s is not None else 0
    failed = Failed(name, id_, attempt, told_error(error), now_ns, again_at)
    if again_in_s is not None:
        notes.retrying[id_] = failed
    else:
        notes.failed.append(failed)
        del notes.failed[:-FAILED_KEPT]


def note_over(machine: Asking, id_: str) -> None:
    """There will be no further attempt."""
    notes = machine.step_notes
    if notes is not None:
        notes.retrying.pop(id_, None)
        if not notes.retrying and not notes.failed:
            machine.step_notes = None


def told_error(error: BaseException) -> str:
    """An exception in one line."""
    failure: Failure = failure_of(error)
    text = f"{failure.error}: {failure.message}" if failure.message else failure.error
    return text if len(text) <= _TEXT_MAX else f"{text[: _TEXT_MAX - 1]}…"


def resolve(future: Future, ok: bool, body: bytes) -> None:
    """Give what came back to whoever waits for it."""
    if future.done():
        return
    if ok:
        future.set_result(heap.loads(body))
    else:
        future.set_exception(raised_by(decode_failure(body)))


EVENTS: dict[type, Callable[[Any, Any], None]] = {StepBegun: begun, StepItem: item, StepDone: done}
"""For the table of the machine."""
