"""One attempt of a step, as the code inside it sees it: its id, its progress, what it gave before.

Outside of objects a step simply runs; then there is no attempt, a heartbeat goes nowhere, and
nothing was given before. All of it may be used from the thread that a plain function runs in.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

import msgspec

from perdure.inside import inside


class Attempt:
    """What the host keeps of an attempt while it runs, as far as its own code may touch it."""

    __slots__ = ("beat_s", "items", "monotonic", "number", "progress", "requests", "step_id")

    def __init__(self, step_id: str, number: int, monotonic: Callable[[], float]) -> None:
        self.step_id = step_id
        self.number = number
        """Which attempt of the step it is, from 1."""
        self.monotonic = monotonic
        self.beat_s = 0.0
        """When it last gave a sign of life."""
        self.progress: Any = None
        """What it last said of itself, as plain data."""
        self.items: list[Any] = []
        """What earlier attempts gave; for a streaming step alone."""
        self.requests = 0
        """How many requests perdure.http has made in it: each has a key of its own."""

    def beat(self) -> None:
        """A sign of life, from whatever thread."""
        self.beat_s = self.monotonic()


_running: contextvars.ContextVar[Attempt] = contextvars.ContextVar("perdure_attempt")


def enter(attempt: Attempt) -> None:
    """Say in this context that the attempt runs (host/effects.py)."""
    _running.set(attempt)


def running() -> Attempt | None:
    """The attempt that this code is part of, if there is one."""
    return _running.get(None)


def step_id() -> str:
    """Inside a running step: an id that is the same for each attempt, also after a crash.

    Hand it to the outside as idempotency key. Raises RuntimeError elsewhere.
    """
    attempt = _running.get(None)
    if attempt is None:
        raise RuntimeError("step_id() has an answer only while a step runs for an object")
    return attempt.step_id


def step_items() -> list[Any]:
    """Inside a streaming step: the items that earlier attempts gave and the journal holds.

    A step that was cut off by a crash, or is tried again, goes on behind them: whatever it yields
    is a further item for the object. Empty in the first attempt, and outside of objects.
    """
    attempt = _running.get(None)
    if attempt is None:
        _refuse_in_a_turn("step_items()")
        return []
    return list(attempt.items)


def heartbeat(progress: object = None) -> None:
    """Inside a running step: say that it is alive, and how far it is.

    `progress` is anything that can be shown: a number, a text, a dict; `perdure show` has the
    last one. With `heartbeat_timeout` a step that says nothing for so long has failed. May be
    called from any thread that the step's context was handed to; outside of objects it does
    nothing.
    """
    attempt = _running.get(None)
    if attempt is None:
        _refuse_in_a_turn("heartbeat()")
        return
    attempt.beat()
    if progress is not None:
        # As it is now: the step may go on changing what it told.
        attempt.progress = msgspec.to_builtins(progress, enc_hook=repr, str_keys=True)


def _refuse_in_a_turn(what: str) -> None:
    if inside() is not None:
        raise RuntimeError(f"{what} belongs inside a step, not into the code of an object")
