"""What a machine remembers of the calls and steps it has to do with."""

from __future__ import annotations

from typing import Any

from perdure.host.streams import Items
from perdure.host.task import Future, Task
from perdure.journal.entry import Answered, Call, Sent, StepAsked


class Running:
    """A call whose handler has begun, and waits for something."""

    __slots__ = ("event", "since", "task")

    def __init__(self, event: Call, since: int, task: Task) -> None:
        self.event = event
        self.since = since
        self.task = task


class Asked:
    """A call this object made, whose answer has not come."""

    __slots__ = ("by", "call_id", "future", "handler", "since", "to")

    def __init__(
        self, future: Future, to: str, handler: str, since: int, call_id: str, by: str
    ) -> None:
        self.future = future
        self.to = to
        self.handler = handler
        self.since = since
        self.call_id = call_id
        """The id it has there."""
        self.by = by
        """The id of the call here that made it; empty for a task that outlived its call."""


class AskedStream(Asked):
    """A call to a handler that streams."""

    __slots__ = ("items",)

    def __init__(self, asked: Asked, items: Items) -> None:
        super().__init__(
            asked.future, asked.to, asked.handler, asked.since, asked.call_id, asked.by
        )
        self.items = items


class Waited:
    """A step that was asked for and has not ended."""

    __slots__ = ("asked", "begun", "future", "since", "stream")

    def __init__(self, future: Future, asked: StepAsked, since: int, stream: Any = None) -> None:
        self.future = future
        self.asked = asked
        self.since = since
        self.begun = False
        """Of a step with repeat=False: it may have happened."""
        self.stream = stream
        """The Stream (stepping.py) of a step that gives items."""

    def __setstate__(self, state: Any) -> None:
        # A snapshot of schema 1 has neither of these.
        self.begun = False
        self.stream = None
        for name, value in state[1].items():
            setattr(self, name, value)


class Failed:
    """An attempt of a step that failed: it waits for the next one, or was the last."""

    __slots__ = ("again_at", "at", "attempt", "error", "id", "name")

    def __init__(
        self, name: str, id_: str, attempt: int, error: str, at: int, again_at: int
    ) -> None:
        self.name = name
        self.id = id_
        self.attempt = attempt
        self.error = error
        """Class and text of the exception."""
        self.at = at
        self.again_at = again_at
        """When the next attempt comes; 0: there is none."""


class StepNotes:
    """What is told of steps and decides nothing."""

    __slots__ = ("failed", "retrying")

    def __init__(self) -> None:
        self.retrying: dict[str, Failed] = {}
        """What failed last of steps that are tried again, by id."""
        self.failed: list[Failed] = []
        """The last ones that failed for good, the newest last."""


class Kept:
    """What is remembered of a call so that its id can be asked for, or come a second time."""

    __slots__ = ("answer", "digest", "expires")

    def __init__(self, digest: int, expires: int, answer: Answered | None) -> None:
        self.digest = digest
        self.expires = expires
        self.answer = answer
        """None while it runs."""


class Held:
    """What a copy of an object keeps back until it is released (forking.py)."""

    __slots__ = ("asked", "sent")

    def __init__(self, asked: list[Sent]) -> None:
        self.asked = asked
        """Calls of its origin that had no answer: to be made again, in its own name."""
        self.sent: list[Sent] = []
        """What it has sent to others itself."""
