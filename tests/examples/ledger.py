"""The outside world of an example under test: it counts requests, and effects by their key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from perdure import step_id


class Ledger:
    """Each effect happens once for its idempotency key, as with a service that honours keys."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        """How often each key has come."""
        self.effects: dict[str, tuple[Any, ...]] = {}
        """What was done, by key, in the order in which it was done."""

    def note(self, what: str, *details: Any) -> int:
        """A request with the running step's id as its key; gives the number of its effect."""
        key = step_id()
        self.requests[key] += 1
        self.effects.setdefault(key, (what, *details))
        return list(self.effects).index(key) + 1

    def noting(self, what: str) -> Callable[..., str]:
        """A step to be put in the place of a real one."""
        return lambda *args, **kwargs: f"{what}-{self.note(what, *args, *kwargs.values())}"

    def done(self) -> list[tuple[Any, ...]]:
        """The effects, in their order."""
        return list(self.effects.values())

    def count(self, what: str) -> int:
        return sum(effect[0] == what for effect in self.effects.values())
