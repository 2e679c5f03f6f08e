"""An object's life run again, turn by turn, forwards and back, and heard this time.

`Rerun` stands after some turn of a record. A step forward runs the real code on the real event;
what it asks of the outside is compared with the journal and goes nowhere. A step back is a walk
to the turn before, from the nearest snapshot.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from perdure.errors import DivergenceError
from perdure.host.machine import Machine
from perdure.host.replay import replay_aloud
from perdure.host.upgrades import having
from perdure.journal.entry import Entry
from perdure.past.failures import Catcher
from perdure.past.record import Record
from perdure.past.walk import walk
from perdure.sight.look import told

Run = Callable[[Callable[[], None]], None]
"""Runs a turn in some way: as it is, or under a debugger."""


class Rerun:
    """Where one stands in an object's past."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.machine: Machine
        self.errors: list[dict[str, Any]] = []
        """What the turn that ran last has raised."""
        self._surroundings = record.machine().surroundings.copy()

    @property
    def seq(self) -> int:
        """The turn after which it stands."""
        return self.machine.seq

    async def begin(self, seq: int) -> None:
        """Stand after turn `seq`. Raises UnknownTurn, DivergenceError."""
        machine = await walk(self.record, seq, self._surroundings)
        if hasattr(self, "machine"):
            self.machine.discard()
        self.machine = machine
        self.errors = []

    async def next(self) -> Entry | None:
        """The turn that comes; None at the end."""
        return None if self.seq >= self.record.last else await self.record.probe(self.seq + 1)

    async def forward(self, run: Run, out: TextIO) -> dict[str, Any] | None:
        """Run the next turn; tells it, or None at the end. Raises DivergenceError.

        What it prints and logs goes to `out`, each line marked as one of the past.
        """
        entry = await self.next()
        if entry is None:
            return None
        catcher = Catcher(entry)
        surroundings = self.machine.surroundings
        surroundings.on_error = catcher.call_failed
        marked = Marked(out)

        def turn() -> None:
            with _heard(marked):
                run(lambda: replay_aloud(self.machine, entry))

        seq = self.seq
        try:
            await having(self.machine, turn)
        except DivergenceError:
            # Its memory is of a turn that never was.
            await self.begin(seq)
            raise
        finally:
            surroundings.on_error = None
            marked.close_line()
            self.errors = catcher.found
        return told(entry)

    async def back(self) -> bool:
        """Stand one turn earlier; False at the beginning."""
        if self.seq == 0:
            return False
        await self.begin(self.seq - 1)
        return True

    def close(self) -> None:
        """Let go of the copy."""
        self.machine.discard()


class Marked(io.TextIOBase):
    """Lines on their way to `out`, each behind a mark: they were printed before, and are again."""

    MARK = "  | "

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._begins = True

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for line in text.splitlines(keepends=True):
            if self._begins:
                self._out.write(self.MARK)
            self._out.write(line)
            self._begins = line.endswith("\n")
        return len(text)

    def flush(self) -> None:
        self._out.flush()

    def close_line(self) -> None:
        """End a line that was begun."""
        if not self._begins:
            self._out.write("\n")
            self._begins = True
        self._out.flush()


@contextlib.contextmanager
def _heard(marked: Marked) -> Iterator[None]:
    """Prints and logs go to the marked lines."""
    handler = logging.StreamHandler(marked)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(min(level, logging.INFO) if level else logging.INFO)
    try:
        with contextlib.redirect_stdout(marked), contextlib.redirect_stderr(marked):
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def plain_run(turn: Callable[[], None]) -> None:
    """Run a turn as it is."""
    turn()
