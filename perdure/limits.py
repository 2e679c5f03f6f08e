"""Limits of steps: how many run at once, and how many begin in a second, on one node.

This is the declaration; host/throttles.py keeps it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Limit:
    """How many attempts of a step may run at once on a node, and how fast they may begin.

    `@step(limit=Limit(concurrency=5, per_second=10, key=lambda url: host_of(url)))`

    Who finds no place waits for one, first come, first served; `perdure show` says so, and a
    handler that gives up leaves the queue. The same Limit given to several steps is shared by
    them. The time-out of an attempt begins with its run, not with its wait.
    """

    concurrency: int | None = None
    """At most so many at once. An attempt whose thread goes on after its time-out still counts."""
    per_second: float | None = None
    """At most so many begin in a second, evenly spaced: with 0.5, one every two seconds."""
    burst: int = 1
    """So many may begin at once after a pause; `per_second` holds on average."""
    key: Callable[..., Hashable] | None = None
    """Makes of the step's arguments what the limit is for; each key has places of its own.

    It takes, by name, those arguments of the step that it names.
    """

    def __post_init__(self) -> None:
        if self.concurrency is None and self.per_second is None:
            raise ValueError("a Limit needs concurrency, per_second, or both")
        if self.concurrency is not None and whole(self.concurrency, "concurrency") < 1:
            raise ValueError(f"concurrency must be at least 1, not {self.concurrency}")
        if self.per_second is not None:
            if isinstance(self.per_second, bool) or not isinstance(self.per_second, int | float):
                raise TypeError(f"per_second must be a number, not {self.per_second!r}")
            if not (self.per_second > 0 and math.isfinite(self.per_second)):
                raise ValueError(f"per_second must be more than 0, not {self.per_second}")
        if whole(self.burst, "burst") < 1:
            raise ValueError(f"burst must be at least 1, not {self.burst}")
        if self.burst > 1 and self.per_second is None:
            raise ValueError("burst has a meaning only together with per_second")
        if self.key is not None and not callable(self.key):
            raise TypeError(f"key must be a function of the step's arguments, not {self.key!r}")


def whole(value: Any, name: str) -> int:
    """The value, if it is an int. Raises TypeError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    return value
