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
    message = error.message if isinstance(error, PerdureError) else _text(error)
    found = error.errors if isinstance(error, BadArguments) else []
    trace = "".join(traceback.format_exception(error)) if debug else ""
    found = [(_utf8(path), _utf8(why)) for path, why in found]
    return Failure(code, name, _utf8(message), found, _utf8(trace))


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


def _utf8(text: str) -> str:
    # A lone surrogate (in the name of a file, say) is no UTF-8, which journal and wire are made of.
    # Its own escape is: it may not take the whole turn down with it.
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace").decode()
    return text


def _text(error: BaseException) -> str:
    # A KeyError's text is the repr of its key, as everywhere in Python. An exception whose own
    # __str__ raises must not take the answer down with it.
    try:
        return str(error)
    except Exception:
        return f"<{type(error).__name__} without a text>"
