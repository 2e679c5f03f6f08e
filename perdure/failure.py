"""A failure as data: what of an exception travels to a caller and into the journal.

The same value becomes a problem+json body, the exception another object catches, and a line of
`perdure history`. The traceback stays out of the journal: line numbers change with every edit,
and a replay must be able to compare what it did with what was recorded.
"""

from __future__ import annotations

import builtins
import traceback

import msgspec

from perdure import errors
from perdure.errors import BadArguments, CallError, HandlerError, PerdureError
from perdure.interrupt import is_interrupt


class Failure(msgspec.Struct, omit_defaults=True):
    """Why a call brought no result."""

    code: str
    error: str
    """The bare class name of the exception."""
    message: str
    errors: list[tuple[str, str]] = []
    """For `invalid-arguments`: (path, message)."""
    traceback: str = ""
    """For people; filled in debug mode alone, never journaled."""
    exception: bytes = b""
    """The exception itself, pickled, where the caller is Python of the same app."""


def failure_of(error: BaseException, *, debug: bool = False) -> Failure:
    """The failure that stands for an exception."""
    code = error.code if isinstance(error, CallError) else HandlerError.code
    name = error.error if isinstance(error, HandlerError) else type(error).__name__
    found = _findings(error) if isinstance(error, BadArguments) else []
    trace = kept_text("".join(traceback.format_exception(error))) if debug else ""
    return Failure(kept_text(code), kept_text(name), _text(error), found, trace)


def kept_text(value: object) -> str:
    """A text as the journal can keep it and an answer can carry it.

    A handler may raise whatever it likes: half of a surrogate pair has no UTF-8, and is written as
    `\\ud800` is in Python.
    """
    return str.encode(str(value), "utf-8", "backslashreplace").decode()


def described(error: BaseException) -> str:
    """`ValueError: its text`, for people, of whatever code of an app has raised."""
    hint = f"\n  {error.hint}" if isinstance(error, PerdureError) and error.hint else ""
    return f"{type(error).__name__}: {_text(error)}{hint}"


def exception_of(failure: Failure) -> BaseException:
    """An exception for a failure whose own exception did not travel.

    One of perdure's own classes or a builtin by its name, else HandlerError.
    """
    own = getattr(errors, failure.error, None)
    if isinstance(own, type) and issubclass(own, PerdureError):
        if own is BadArguments:
            return BadArguments(failure.message, errors=failure.errors)
        try:
            return own(failure.message)
        except TypeError:
            pass
    builtin = getattr(builtins, failure.error, None)
    if isinstance(builtin, type) and issubclass(builtin, Exception):
        try:
            return builtin(failure.message)
        except TypeError:
            pass
    return HandlerError(failure.message, error=failure.error)


def _findings(error: BadArguments) -> list[tuple[str, str]]:
    # Raised by a handler, it may hold anything; what is no pair is told as it stands.
    try:
        given = list(error.errors)
    except Exception:
        return []
    found: list[tuple[str, str]] = []
    for finding in given:
        match finding:
            case [path, message]:
                found.append((kept_text(path), kept_text(message)))
            case _:
                found.append(("$", kept_text(finding)))
    return found


def _text(error: BaseException) -> str:
    # A KeyError's text is the repr of its key, as everywhere in Python. An exception whose own
    # __str__ raises, whatever it raises, must not take the answer down with it.
    try:
        return kept_text(error.message if isinstance(error, PerdureError) else error)
    except BaseException as raised:
        if is_interrupt(raised):
            raise
        return f"<{type(error).__name__} without a text>"
