"""Attributes that are not kept: caches and clients, made anew after each load."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

if TYPE_CHECKING:
    from perdure.object import Object

T = TypeVar("T")

Transient = Annotated[T, "Transient"]
"""An attribute that is not kept: `cache: Transient[dict] = transient(dict)`. After a load the
factory makes it anew, at its first use. What an object asks for must not depend on it."""


class transient:
    """The value of a `Transient[T]` attribute: `cache: Transient[dict] = transient(dict)`.

    `factory` is called without arguments, at the first use after each load.
    """

    # To a type checker this is a function that returns what the factory makes.
    def __new__(cls, factory: Callable[[], T]) -> T:  # type: ignore[misc]
        made = object.__new__(cls)
        made.factory = factory
        return cast(T, made)

    factory: Callable[[], Any]
    name: str

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Object | None, owner: type) -> Any:
        if instance is None:
            return self
        kept = _transients(instance)
        if self.name not in kept:
            kept[self.name] = self.factory()
        return kept[self.name]

    def __set__(self, instance: Object, value: Any) -> None:
        _transients(instance)[self.name] = value

    def __delete__(self, instance: Object) -> None:
        _transients(instance).pop(self.name, None)


def _transients(instance: Object) -> dict[str, Any]:
    try:
        return instance._perdure_transients
    except AttributeError:
        instance._perdure_transients = {}
        return instance._perdure_transients
