"""Which machine is being made bytes of, or made from bytes, right now.

Pickle hands its functions no context, and the machine itself must not be copied. One at a time:
dumping and loading run no code of the app that could begin another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

_machine: Any = None
_later: list[Callable[[], None]] = []


def machine() -> Any:
    """The machine that is dumped or loaded."""
    return _machine


def later(finish: Callable[[], None]) -> None:
    """Have something done when the whole graph is there."""
    _later.append(finish)


@contextlib.contextmanager
def of(machine: Any) -> Iterator[None]:
    """Dump or load this machine; at the end, do what was left for later."""
    global _machine, _later
    before = _machine, _later
    _machine, _later = machine, []
    try:
        yield
        for finish in _later:
            finish()
    finally:
        _machine, _later = before


def reduce_machine(machine: Any) -> Any:
    if machine is not _machine:
        import pickle

        raise pickle.PicklingError("the event loop of another object")
    return _of_now, ()


def _of_now() -> Any:
    return _machine
