"""What leaves for sockets, as outputs behind the gate (journal/log.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from perdure.errors import PerdureError
from perdure.journal.entry import Command

if TYPE_CHECKING:
    from perdure.host.lines import Line, Lines

LATER = 1013
"""The close code that asks a client to come back in a moment."""


class Frames:
    """What a turn sends, as an output behind the gate."""

    __slots__ = ("commands", "lines", "number", "oid", "sender", "seq")

    def __init__(
        self,
        lines: Lines,
        oid: int,
        seq: int,
        commands: Sequence[tuple[int, Command]],
        sender: str,
        number: int,
    ) -> None:
        self.lines = lines
        self.oid = oid
        self.seq = seq
        self.commands = commands
        self.sender = sender
        """The connection whose message the turn was about."""
        self.number = number

    def release(self, error: PerdureError | None) -> None:
        lines = self.lines
        if error is not None:
            # Its message is lost: a client that can resume sends it again, any other is told.
            line = lines.open.get(self.oid, {}).get(self.sender)
            if line is not None:
                lines.drop(line, LATER, error.message[:120])
            return
        for index, command in self.commands:
            lines.put(self.oid, self.seq, index, command)
        if self.sender:
            line = lines.open.get(self.oid, {}).get(self.sender)
            if line is not None:
                line.settled()
                if self.number:
                    line.acknowledge(self.number)


class Acknowledgement:
    """The output that tells a client again what is on disk."""

    __slots__ = ("line", "number")

    def __init__(self, line: Line, number: int) -> None:
        self.line = line
        self.number = number

    def release(self, error: PerdureError | None) -> None:
        if error is None:
            self.line.acknowledge(self.number)


class Later:
    """The output behind which something is done, whatever became of what was before it."""

    __slots__ = ("act",)

    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act

    def release(self, error: PerdureError | None) -> None:
        self.act()
