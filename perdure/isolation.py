"""`isolation="process"` on a class line: what it may say, and the bounds that come with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from perdure.errors import InvalidClass


class Isolation(NamedTuple):
    """The bounds of an object's own process."""

    memory_limit: int
    """Bytes that it may take; 0: no bound."""
    cpu_limit: float
    """Seconds of processor for each turn; 0: as many as `turn_timeout` has."""


def isolation_of(name: str, options: Mapping[str, Any]) -> Isolation | None:
    """What the options of a class say. Raises InvalidClass."""
    isolation = options.get("isolation")
    if isolation not in (None, "none", "process"):
        raise InvalidClass(
            f"{name}: isolation is 'process' or 'none', not {isolation!r}",
            hint="Objects of a node share one process unless the class says isolation='process'.",
        )
    for option, kinds in (("memory_limit", int), ("cpu_limit", int | float)):
        value = options.get(option)
        if value is None:
            continue
        if isolation is None:
            raise InvalidClass(f"{name}: {option} needs isolation='process'")
        if isinstance(value, bool) or not isinstance(value, kinds) or not value > 0:
            raise InvalidClass(f"{name}: {option} is a number more than 0, not {value!r}")
    if isolation != "process":
        return None
    return Isolation(options.get("memory_limit") or 0, options.get("cpu_limit") or 0.0)


def refuse_ephemeral(name: str, hook: object) -> None:
    """Raises InvalidClass for a class with an `on_ephemeral`."""
    if hook is not None:
        raise InvalidClass(
            f"{name}.on_ephemeral: messages that skip the journal are not for objects in a "
            "process of their own",
            hint="Use on_message or an @ephemeral handler, or leave out the isolation.",
        )
