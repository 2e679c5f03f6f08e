"""Every public error, told apart by who has to act.

    PerdureError                  code (stable, on the wire), retry, hint
    ├── CallError                 the caller acts
    │   ├── HandlerError              the handler raised something the caller has no class for
    │   ├── ResultTypeError           the handler returned what its annotation does not allow
    │   ├── BadJson, BadArguments, InvalidKey
    │   ├── UnknownKind, UnknownHandler, UnknownObject, UnknownTurn, UnknownCall,
    │   │   UnknownVersion,
    │   │   UnknownPromise, MethodNotAllowed, PayloadTooLarge
    │   ├── PromiseRejected           whoever was to resolve the promise rejected it
    │   ├── Unauthorized, Forbidden
    │   │   └── Reject                on_connect refuses a client
    │   ├── IdempotencyMismatch, Conflict, CallCancelled
    │   ├── Overloaded, ObjectQuarantined, Unavailable      nothing ran; try again later
    │   ├── OutcomeUnknown            it may have run; ask again only with the same call id
    │   ├── CallTimeout               the wait ended, the call goes on
    │   │   └── DeadlineExceeded          the call's deadline passed, and it was cancelled
    │   └── DeadlockError             calls that wait for each other in a circle
    ├── AuthorError               whoever wrote the class acts
    │   ├── SideEffectError           direct I/O inside a turn
    │   ├── ReadOnlyError             a query that tried to change something
    │   ├── NotSerializable           a value that cannot be kept
    │   ├── DivergenceError           replay asked for something else than the journal holds
    │   ├── InvalidClass              a class that cannot be served
    │   └── Fatal                     raised in a step: do not try again
    └── OperatorError             whoever runs the node acts
        └── StoreBusy, StoreFull, StoreUnavailable, JournalCorrupt, SchemaTooNew,
            BadSettings, BadApp

The facts are attributes; the text is for people and may improve. A hint says what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence


class PerdureError(Exception):
    """The root of everything perdure raises on purpose.

    `code` is stable and travels on the wire, `retry` says whether trying again may help without
    any change, `hint` says what to do next and may be None.
    """

    code: str = "error"
    retry: bool = False

    def __init__(self, message: str = "", *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    @property
    def message(self) -> str:
        """The text without the hint."""
        return str(self.args[0]) if self.args else ""

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class CallError(PerdureError):
    """A call that did not bring a result; the caller acts."""

    code = "call-error"


class HandlerError(CallError):
    """The handler raised an exception whose class the caller does not have.

    `error` is the bare name of that class, the message is the exception's own.
    """

    code = "handler-error"

    def __init__(
        self, message: str = "", *, error: str = "Exception", hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.error = error

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args, {"error": self.error, "hint": self.hint})


class ResultTypeError(CallError):
    """The handler returned a value that does not fit its return annotation."""

    code = "handler-error"


class BadJson(CallError):
    """The body is not JSON."""

    code = "bad-json"


class BadArguments(CallError):
    """The arguments do not fit the handler's annotations.

    `errors` holds one `(path, message)` for each finding; a path looks like `$.by`.
    """

    code = "invalid-arguments"

    def __init__(
        self,
        message: str = "",
        *,
        errors: Sequence[tuple[str, str]] = (),
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.errors = list(errors) or [("$", message)]

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args, {"errors": self.errors, "hint": self.hint})


class InvalidKey(CallError):
    """An object's key is empty, longer than 512 bytes, or not UTF-8."""

    code = "invalid-key"


class UnknownKind(CallError):
    """No class of that name is served here."""

    code = "unknown-class"


class UnknownHandler(CallError):
    """The class has no handler of that name that may be called from outside."""

    code = "unknown-handler"


class UnknownObject(CallError):
    """There is no object of that address; it was never called, or it was deleted."""

    code = "unknown-object"


class UnknownTurn(CallError):
    """The object has no such turn, or its history does not reach back to it any more."""

    code = "unknown-turn"


class UnknownVersion(CallError):
    """The store has no such version of the code."""

    code = "unknown-version"


class UnknownCall(CallError):
    """No call with that id is known, or its result is past its retention."""

    code = "unknown-call"


class UnknownPromise(CallError):
    """No promise of that token is known: it was never given out, or its object was deleted."""

    code = "unknown-promise"


class PromiseRejected(CallError):
    """What awaiting a promise raises when it was rejected with a text alone."""

    code = "handler-error"


class MethodNotAllowed(CallError):
    """The HTTP method does not fit: GET is for queries alone."""

    code = "method-not-allowed"


class PayloadTooLarge(CallError):
    """The body is larger than `max_body_bytes`, or `max_upload_bytes`."""

    code = "payload-too-large"


class Unauthorized(CallError):
    """Raise it from `authorize`: the caller has not said who it is."""

    code = "unauthorized"


class Forbidden(CallError):
    """Raise it from `authorize`: the caller may not do this."""

    code = "forbidden"


class Reject(Forbidden):
    """Raised in `on_connect`: the client is refused before the upgrade, with 403 and this text."""


class IdempotencyMismatch(CallError):
    """The same idempotency key came with other arguments."""

    code = "idempotency-mismatch"


class Conflict(CallError):
    """It was decided already, and otherwise."""

    code = "conflict"


class CallCancelled(CallError):
    """The call was cancelled before it had a result."""

    code = "cancelled"


class Overloaded(CallError):
    """A bound was reached; nothing ran. Try again after a while."""

    code = "overloaded"
    retry = True


class Unavailable(CallError):
    """The node cannot write at the moment (a full disk, a drain); nothing was done for good."""

    code = "unavailable"
    retry = True


class ObjectQuarantined(CallError):
    """The object was set aside; `perdure quarantine list` says why."""

    code = "object-quarantined"


class ProcessLost(CallError):
    """The object has a process of its own (`isolation="process"`), and that ended in this call: it
    crashed, reached a limit, or the turn did not end. Nothing of the turn was kept."""

    code = "process-lost"


class OutcomeUnknown(CallError):
    """It may have happened or not; ask again only with the same call id or idempotency key."""

    code = "outcome-unknown"


class CallTimeout(CallError, TimeoutError):
    """The caller's patience ended; the call itself goes on."""

    code = "timeout"


class DeadlineExceeded(CallTimeout):
    """The deadline of the call passed before it ended; it was cancelled."""


class DeadlockError(CallError):
    """Calls of `reentrant=False` objects wait for each other in a circle; the text names each."""

    code = "deadlock"


class AuthorError(PerdureError):
    """Something in the class has to change."""

    code = "author-error"


class SideEffectError(AuthorError):
    """Direct I/O inside a turn; replay would do it again. Put it into a step."""

    code = "side-effect"


class ReadOnlyError(AuthorError):
    """A query (or an ephemeral handler) tried to change something."""

    code = "read-only"


class NotSerializable(AuthorError):
    """A value cannot be kept; the text names the path to it."""

    code = "not-serializable"


class DivergenceError(AuthorError):
    """Replay asked for something else than the journal holds.

    `address` and `seq` name the turn, `expected` is what the journal holds, `found` what the
    code asked for this time.
    """

    code = "divergence"

    def __init__(self, address: str, seq: int, expected: str, found: str) -> None:
        super().__init__(
            f"{address}: replay of turn {seq} asked for something else than the journal holds.\n"
            f"  expected: {expected}\n  found:    {found}",
            hint="Either the code has changed, or it depends on something outside the journal "
            "(a module global, the order of a set of objects, a file).",
        )
        self.address = address
        self.seq = seq
        self.expected = expected
        self.found = found

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.address, self.seq, self.expected, self.found)


class UpgradeFailed(AuthorError):
    """`on_upgrade` of an object raised; the object is as it was, on the version it had."""

    code = "upgrade-failed"


class InvalidClass(AuthorError, TypeError):
    """An Object class cannot be served as it is written."""

    code = "invalid-class"


class Fatal(AuthorError):
    """Raise it in a step to end its retries at once; it is what the handler catches."""

    code = "fatal"


class OperatorError(PerdureError):
    """Whoever runs the node acts."""

    code = "operator-error"


class StoreBusy(OperatorError):
    """Another process has this data directory."""

    code = "store-busy"


class StoreFull(OperatorError):
    """The disk is full: nothing of the commit was written. It heals when there is room again."""

    code = "store-full"
    retry = True


class StoreUnavailable(OperatorError):
    """The store failed in a way that leaves the outcome of a commit unknown."""

    code = "store-unavailable"
    retry = True


class VersionUnusable(OperatorError):
    """The code of an older version is needed, and cannot be imported any more."""

    code = "version-unusable"


class JournalCorrupt(OperatorError):
    """Bytes of the journal or of a snapshot fail their checksum; the text names the place."""

    code = "journal-corrupt"


class SchemaTooNew(OperatorError):
    """The data was written by a newer perdure."""

    code = "schema-too-new"


class BadSettings(OperatorError):
    """A setting is unknown or has an impossible value."""

    code = "bad-settings"


class BadApp(OperatorError):
    """APP cannot be loaded or holds nothing to serve."""

    code = "bad-app"


def _rebuild(
    cls: type[PerdureError], args: tuple[object, ...], facts: dict[str, object]
) -> PerdureError:
    return cls(*args, **facts)  # type: ignore[arg-type]
