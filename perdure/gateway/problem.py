"""What goes wrong, as RFC 9457 `application/problem+json` with a stable `code`.

Each code has one status, one `type` and one `title`, all of them in the table below; `detail` is
for people and may improve. Whatever happens in the gateway ends here or in a result: a code that
the table does not know is a 500, never an exception on its way to the socket.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from perdure.errors import BadArguments, DivergenceError, PerdureError
from perdure.failure import Failure

Headers = tuple[tuple[bytes, bytes], ...]

PROBLEM: Headers = ((b"content-type", b"application/problem+json"),)

TYPE_PREFIX = "urn:perdure:problem:"

# code -> status, title. The codes are part of the interface; a new one may be added, none renamed.
CODES: dict[str, tuple[int, str]] = {
    "bad-request": (400, "The request cannot be understood"),
    "bad-json": (400, "The body is not JSON"),
    "invalid-key": (400, "The key cannot name an object"),
    "unauthorized": (401, "Who is calling is not known"),
    "forbidden": (403, "The caller may not do this"),
    "not-found": (404, "There is nothing at this path"),
    "unknown-class": (404, "No class of that name is served"),
    "unknown-handler": (404, "The class has no such handler"),
    "unknown-call": (404, "No such call is known"),
    "unknown-promise": (404, "No such promise is known"),
    "unknown-object": (404, "There is no such object"),
    "unknown-turn": (404, "The object has no such turn"),
    "unknown-version": (404, "There is no such version of the code"),
    "method-not-allowed": (405, "The method does not fit the path"),
    "request-timeout": (408, "The request took too long to arrive"),
    "conflict": (409, "It was decided already, and otherwise"),
    "divergence": (409, "The code does not do what the journal says"),
    "cancelled": (409, "The call was cancelled"),
    "payload-too-large": (413, "The body is too large"),
    "uri-too-long": (414, "The path is too long"),
    "expectation-failed": (417, "The expectation cannot be met"),
    "upgrade-required": (426, "This version of WebSocket is not spoken here"),
    "invalid-arguments": (422, "The arguments do not fit the handler"),
    "idempotency-mismatch": (422, "The idempotency key came with other arguments"),
    "headers-too-large": (431, "The headers are too large"),
    "handler-error": (500, "The handler raised an exception"),
    "outcome-unknown": (500, "It may have happened or not"),
    "not-serializable": (500, "A value cannot be kept"),
    "deadlock": (500, "Calls wait for each other in a circle"),
    "internal-error": (500, "perdure itself has failed"),
    "not-implemented": (501, "This is not served here"),
    "overloaded": (503, "A bound was reached"),
    "unavailable": (503, "The node cannot do this at the moment"),
    "store-full": (503, "The disk is full"),
    "store-unavailable": (503, "The store does not answer"),
    "process-lost": (500, "The object's process ended in this call"),
    "object-quarantined": (503, "The object was set aside"),
    "timeout": (504, "The time is up"),
}

_RETRY_AFTER = (b"retry-after", b"1")
# What each answer with this code carries in its head.
_HEADERS: dict[str, Headers] = {
    "overloaded": (_RETRY_AFTER,),
    "unavailable": (_RETRY_AFTER,),
    "unauthorized": ((b"www-authenticate", b"Bearer"),),
}


class Reply(NamedTuple):
    """A whole answer: what a `Respond` is called with."""

    status: int
    headers: Headers
    body: bytes


class Refusal(Exception):
    """The gateway itself says no, with a code that has no public exception class."""

    def __init__(self, code: str, detail: str, headers: Headers = (), **facts: str) -> None:
        super().__init__(detail)
        self.reply = problem(code, detail, headers=headers, errors=(), **facts)


def problem(
    code: str,
    detail: str,
    *,
    headers: Headers = (),
    errors: Sequence[tuple[str, str]] = (),
    **facts: str | int | None,
) -> Reply:
    """The answer for a code; `facts` that are None are left out."""
    status, title = CODES.get(code, (500, "An error"))
    document: dict[str, Any] = {
        "type": TYPE_PREFIX + code,
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
    }
    if errors:
        document["errors"] = [{"path": path, "message": message} for path, message in errors]
    document.update((name, fact) for name, fact in facts.items() if fact is not None)
    return Reply(status, PROBLEM + _HEADERS.get(code, ()) + headers, _encode(document))


def problem_of_failure(failure: Failure) -> Reply:
    """The answer for a call that brought no result."""
    raised = failure.code == "handler-error"
    detail = failure.message or failure.error
    return problem(
        failure.code,
        f"{failure.error}: {failure.message}" if raised and failure.message else detail,
        errors=failure.errors,
        error=failure.error,
        message=failure.message if raised else None,
        traceback=failure.traceback or None,
    )


def problem_of(error: BaseException) -> Reply:
    """The answer for an exception that the gateway met before or instead of a call."""
    if isinstance(error, Refusal):
        return error.reply
    if isinstance(error, PerdureError):
        if isinstance(error, DivergenceError):
            return problem(
                error.code,
                error.message,
                hint=error.hint,
                seq=error.seq,
                expected=error.expected,
                found=error.found,
            )
        found = error.errors if isinstance(error, BadArguments) else ()
        return problem(error.code, error.message, errors=found, hint=error.hint)
    return problem("internal-error", "perdure has failed; the server's log has the traceback")


def _encode(document: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(document)
    except UnicodeEncodeError:
        # A lone surrogate in an exception's text; the rest of it is still worth having.
        return msgspec.json.encode(_clean(document))


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {name: _clean(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return value
