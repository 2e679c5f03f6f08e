"""What a test hands to its world, checked: an App or classes, refs, durations, operations."""

from __future__ import annotations

import dataclasses
import random
from datetime import timedelta
from typing import Any

from perdure.app import App
from perdure.clock import NS
from perdure.object import Object
from perdure.ref import Ref, format_address
from perdure.settings import Settings, load_settings
from perdure.store.base import Layout
from perdure.store.memory import MemoryStore
from perdure.testing.faults import FaultyStore

OPERATIONS = tuple(
    name
    for name in vars(FaultyStore)
    if not name.startswith("_")
    and callable(getattr(MemoryStore, name, None))
    and name not in ("stats", "close")
)
"""The operations of the store by name."""


def check_operation(name: str) -> None:
    """Raises ValueError if the store has no such operation."""
    if name not in OPERATIONS:
        raise ValueError(f"the store has no operation {name!r}; it has {', '.join(OPERATIONS)}")


def app_of(
    given: tuple[Any, ...], settings: dict[str, Any], before: Settings | None = None
) -> tuple[tuple[type[Object], ...], Settings]:
    """The classes and the settings of an App, or of classes."""
    apps = [one for one in given if isinstance(one, App)]
    if apps and len(given) > 1:
        raise TypeError("a World takes one App, or classes; not both")
    for one in given:
        if not isinstance(one, App) and not is_class(one):
            raise TypeError(f"a World takes an App or classes of perdure.Object, not {one!r}")
    if apps:
        chosen = dataclasses.replace(apps[0].settings, debug=True, **settings)
        return apps[0].classes, chosen
    if before is not None:
        return given, dataclasses.replace(before, **settings)
    return given, load_settings({"debug": True} | settings, {})


def objects_of(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """The objects that an App names; of classes alone, none."""
    return tuple(ref for one in given if isinstance(one, App) for ref in one.objects)


def is_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Object)


def layout_of(seed: int) -> Layout:
    return Layout(1, 1, random.Random(f"perdure {seed}").randbytes(32))


def address_of(ref: object) -> str:
    if not isinstance(ref, Ref):
        raise TypeError(f"a ref is needed, such as world.at(Order, '42'), not {ref!r}")
    return format_address(ref._kind, ref._key)


def ns_of(duration: timedelta) -> int:
    if not isinstance(duration, timedelta):
        raise TypeError(f"a timedelta is needed, not {duration!r}: timedelta(minutes=5)")
    return (duration.days * 86_400 + duration.seconds) * NS + duration.microseconds * 1000
