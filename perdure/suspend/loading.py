"""The one dump or load that is under way: for which machine, and what it has met.

Pickle hands its functions no context, and the machine itself must not be copied. Dumping and
loading run inside one another only where a snapshot is tried before it is given away.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator
from typing import Any


class Session:
    """What belongs to one dump or load."""

    __slots__ = ("doubtful", "frames", "later", "machine", "places", "sets", "suspended")

    def __init__(self, machine: Any) -> None:
        self.machine = machine
        self.later: list[Callable[[], None]] = []
        """What can be done only when the whole graph is there."""
        self.frames: list[Any] = []
        """The frames that a load has made."""
        self.places: set[Any] = set()
        """Of the code that a dump has met: which it is, and where it goes on."""
        self.suspended = False
        """Whether code is in it, and not data alone."""
        self.sets = False
        """Whether a set of a class of its own is in it."""
        self.doubtful = False
        """Whether a class is in it that pickles itself in a way of its own."""


_session = Session(None)


def session() -> Session:
    """The dump or load that is under way."""
    return _session


def machine() -> Any:
    """The machine that is dumped or loaded."""
    return _session.machine


@contextlib.contextmanager
def of(machine: Any) -> Iterator[Session]:
    """Dump or load this machine."""
    global _session
    before = _session
    current = _session = Session(machine)
    try:
        yield current
    finally:
        _session = before


def reduce_machine(machine: Any) -> Any:
    """The machine itself, wherever it is met, is the one that is being loaded then."""
    if machine is not _session.machine:
        raise pickle.PicklingError("it is the event loop of another object")
    return _now, ()


def _now() -> Any:
    return _session.machine
