"""Failures on their way between objects: as bytes, and as the exceptions they stand for."""

from __future__ import annotations

import asyncio

import msgspec

from perdure.errors import CallError, HandlerError, NotSerializable
from perdure.failure import Failure, exception_of
from perdure.suspend import heap

encode_failure = msgspec.json.Encoder().encode
decode_failure = msgspec.json.Decoder(Failure).decode


def pickled_failure(failure: Failure | None, error: BaseException | None) -> bytes:
    """A failure for a caller of the same app, with the exception itself where it can travel."""
    assert failure is not None
    try:
        exception = heap.dumps(error)
    except NotSerializable:
        exception = b""
    return encode_failure(msgspec.structs.replace(failure, exception=exception))


def skipped_error(address: str) -> CallError:
    """What becomes of an event that an operator has skipped."""
    return HandlerError(
        f"an operator skipped it, since it had ended the process of {address}", error="Skipped"
    )


def raised_by(failure: Failure) -> BaseException:
    """The exception that a failure stands for: itself where it travelled, else by its name."""
    if failure.exception:
        try:
            error = heap.loads(failure.exception)
        except Exception:
            return exception_of(failure)
        if isinstance(error, (Exception, asyncio.CancelledError)) and not isinstance(
            error, StopIteration
        ):
            return error
    return exception_of(failure)
