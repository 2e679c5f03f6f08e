"""The one dump or load that is under way: for which machine, and what it has met.

Pickle hands its functions no context, and the machine itself must not be copied. Dumping and
loading run inside one another only where a snapshot is tried before it is given away.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator
from typing import Any

# With the first import of anything that dumps or loads, the numbers are known.
from perdure.suspend import (
    editions,
    numbered,  # noqa: F401
)
from perdure.suspend.editions import Edition


class Session:
    """What belongs to one dump or load."""

    __slots__ = (
        *("chains", "doubtful", "frames", "later", "machine", "move", "places", "sets", "stayed"),
        "suspended",
    )

    def __init__(self, machine: Any) -> None:
        self.machine = machine
        self.move: Any = None
        """Of a load that brings the object over to other code: what goes over (moving.py)."""
        self.stayed: set[str] = set()
        """Of a load: the older versions whose code goes on in it."""
        self.chains: dict[int, int] | None = None
        """Of a dump: the chain of awaits that a frame stands in, by the frame's id."""
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


def home() -> Edition | None:
    """The code that what is dumped or loaded belongs to; None: the newest."""
    machine = _session.machine
    if machine is None:
        return editions.active or editions.newest
    edition: Edition | None = machine.kind.edition
    return edition


def resolve(module: str, path: str) -> Any:
    """What stands at a dotted path in a module, as `editions.written` has named it.

    In a load that brings an object over to other code, also what is there no longer.
    """
    try:
        return editions.find(module, path, home())
    except (AttributeError, ImportError):
        move = _session.move
        if move is None:
            raise
        return move.older(module, path)


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
