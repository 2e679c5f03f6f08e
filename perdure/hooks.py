"""What a class does with connections: `on_connect`, `on_message` and their like, looked at once.

The annotation of a message decides what a frame has to be: `str` is text, `bytes` is binary,
`str | bytes` (or no annotation) either, and any other type is JSON that is checked against it.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any, Union, get_args, get_origin

from perdure.errors import BadArguments, InvalidClass
from perdure.serde import Signature, from_json

Read = Callable[[bytes, bool], Any]
"""(body, whether it is text) -> what the hook gets. Raises BadArguments or BadJson."""

_TAKES = {
    "on_connect": "(self, conn)",
    "on_message": "(self, conn, message)",
    "on_disconnect": "(self, conn)",
    "on_invalid": "(self, conn, error)",
    "on_ephemeral": "(self, conn, message)",
}
# A class with one of these takes connections.
_OPENING = ("on_connect", "on_message", "on_ephemeral")


class Hook:
    """One hook of a class."""

    __slots__ = ("_read", "awaits", "function", "name", "signature")

    def __init__(self, name: str, function: types.FunctionType, owner: type) -> None:
        self.name = name
        self.function = function
        self.awaits = inspect.iscoroutinefunction(function)
        self.signature = Signature(function, owner=owner)
        self._read: Read | None = None
        wanted = _TAKES[name].count(",")
        given = list(self.signature.parameters.values())
        positional = [one for one in given if one.kind <= one.POSITIONAL_OR_KEYWORD]
        required = [one for one in given if one.default is one.empty]
        if len(positional) < wanted or len(required) > wanted:
            raise InvalidClass(f"{self.signature.where} takes {_TAKES[name]}")

    def prepare(self) -> None:
        """Resolve the annotations now, so that a mistake in them shows at the start."""
        self.signature.resolved()
        if "message" in _TAKES[self.name]:
            self._read = _reader(self.signature.resolved()[1].annotation)

    def read(self, body: bytes, text: bool) -> Any:
        """The message as the hook gets it."""
        if self._read is None:
            self.prepare()
        assert self._read is not None
        return self._read(body, text)


class Hooks:
    """All of them; None for those that the class does not have."""

    __slots__ = ("connect", "disconnect", "ephemeral", "invalid", "message")

    def __init__(self, found: dict[str, Hook]) -> None:
        self.connect = found.get("on_connect")
        self.message = found.get("on_message")
        self.disconnect = found.get("on_disconnect")
        self.invalid = found.get("on_invalid")
        self.ephemeral = found.get("on_ephemeral")

    def prepare(self) -> None:
        """Resolve the annotations of all. Raises InvalidClass."""
        for name in self.__slots__:
            hook = getattr(self, name)
            if hook is not None:
                hook.prepare()


def hooks_of(cls: type) -> Hooks | None:
    """The hooks of a class; None if it takes no connections. Raises InvalidClass."""
    found: dict[str, Hook] = {}
    for name in _TAKES:
        function = inspect.getattr_static(cls, name, None)
        if function is None:
            continue
        if (
            not isinstance(function, types.FunctionType)
            or inspect.isasyncgenfunction(function)
            or inspect.isgeneratorfunction(function)
        ):
            raise InvalidClass(f"{cls.__name__}.{name} must be a method {_TAKES[name]}")
        _check_marks(cls, name, function)
        found[name] = Hook(name, function, cls)
    return Hooks(found) if any(name in found for name in _OPENING) else None


def _check_marks(cls: type, name: str, function: types.FunctionType) -> None:
    marked = getattr(function, "__perdure_ephemeral__", False)
    if marked is not (name == "on_ephemeral"):
        which = "must be" if name == "on_ephemeral" else "cannot be"
        raise InvalidClass(
            f"{cls.__name__}.{name} {which} marked @ephemeral",
            hint="Messages that skip the journal go to on_ephemeral, all others to on_message.",
        )
    for mark in ("atomic", "query"):
        if getattr(function, f"__perdure_{mark}__", False):
            raise InvalidClass(
                f"{cls.__name__}.{name} cannot be marked @{mark}",
                hint="Marks are for handlers; move what they are for into one, and call it here.",
            )


def _reader(annotation: Any) -> Read:
    if annotation is str:
        return _text
    if annotation is bytes:
        return _bytes
    if annotation is Any or _is_either(annotation):
        return _either

    def typed(body: bytes, text: bool) -> Any:
        return from_json(body, annotation)

    return typed


def _is_either(annotation: Any) -> bool:
    if get_origin(annotation) not in (Union, types.UnionType):
        return False
    return set(get_args(annotation)) == {str, bytes}


def _text(body: bytes, text: bool) -> str:
    if not text:
        raise BadArguments("a text message is expected, and this is a binary one")
    return str(body, "utf-8")


def _bytes(body: bytes, text: bool) -> bytes:
    if text:
        raise BadArguments("a binary message is expected, and this is a text")
    return body


def _either(body: bytes, text: bool) -> str | bytes:
    return str(body, "utf-8") if text else body
