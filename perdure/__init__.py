"""Durable objects for Python: an ordinary class, each object of which never forgets."""

from typing import TYPE_CHECKING

from perdure.access import Action
from perdure.attempt import heartbeat, step_id, step_items
from perdure.calling import calls, cancel, deadline
from perdure.connection import Connection, Connections
from perdure.errors import (
    AuthorError,
    BadApp,
    BadArguments,
    BadJson,
    BadSettings,
    CallCancelled,
    CallError,
    CallTimeout,
    Conflict,
    DeadlineExceeded,
    DeadlockError,
    DivergenceError,
    Fatal,
    Forbidden,
    HandlerError,
    IdempotencyMismatch,
    InvalidClass,
    InvalidKey,
    JournalCorrupt,
    MethodNotAllowed,
    NotSerializable,
    ObjectQuarantined,
    OperatorError,
    OutcomeUnknown,
    Overloaded,
    PayloadTooLarge,
    PerdureError,
    ProcessLost,
    PromiseRejected,
    ReadOnlyError,
    Reject,
    ResultTypeError,
    SchemaTooNew,
    SideEffectError,
    StoreBusy,
    StoreFull,
    StoreUnavailable,
    Unauthorized,
    Unavailable,
    UnknownCall,
    UnknownHandler,
    UnknownKind,
    UnknownObject,
    UnknownPromise,
    UnknownTurn,
    UnknownVersion,
    UpgradeFailed,
    VersionUnusable,
)
from perdure.indexed import Indexed
from perdure.inside import Current
from perdure.limits import Limit
from perdure.object import Object, atomic, ephemeral, query
from perdure.promise import Promise
from perdure.ref import current, delete, send
from perdure.schedule import Schedule, cron, every
from perdure.settings import Settings
from perdure.steps import Retry, step
from perdure.transient import Transient, transient
from perdure.waiting import sleep, sleep_until, wait_until

if TYPE_CHECKING:
    from perdure import http
    from perdure.app import App
    from perdure.client import connect, connect_sync
    from perdure.past.api import Past

__version__ = "0.1.0"

__all__ = [
    "Action",
    "App",
    "AuthorError",
    "BadApp",
    "BadArguments",
    "BadJson",
    "BadSettings",
    "CallCancelled",
    "CallError",
    "CallTimeout",
    "Conflict",
    "Connection",
    "Connections",
    "Current",
    "DeadlineExceeded",
    "DeadlockError",
    "DivergenceError",
    "Fatal",
    "Forbidden",
    "HandlerError",
    "IdempotencyMismatch",
    "Indexed",
    "InvalidClass",
    "InvalidKey",
    "JournalCorrupt",
    "Limit",
    "MethodNotAllowed",
    "NotSerializable",
    "Object",
    "ObjectQuarantined",
    "OperatorError",
    "OutcomeUnknown",
    "Overloaded",
    "Past",
    "PayloadTooLarge",
    "PerdureError",
    "ProcessLost",
    "Promise",
    "PromiseRejected",
    "ReadOnlyError",
    "Reject",
    "ResultTypeError",
    "Retry",
    "Schedule",
    "SchemaTooNew",
    "Settings",
    "SideEffectError",
    "StoreBusy",
    "StoreFull",
    "StoreUnavailable",
    "Transient",
    "Unauthorized",
    "Unavailable",
    "UnknownCall",
    "UnknownHandler",
    "UnknownKind",
    "UnknownObject",
    "UnknownPromise",
    "UnknownTurn",
    "UnknownVersion",
    "UpgradeFailed",
    "VersionUnusable",
    "atomic",
    "calls",
    "cancel",
    "connect",
    "connect_sync",
    "cron",
    "current",
    "deadline",
    "delete",
    "ephemeral",
    "every",
    "heartbeat",
    "http",
    "query",
    "send",
    "sleep",
    "sleep_until",
    "step",
    "step_id",
    "step_items",
    "transient",
    "wait_until",
]


def __getattr__(name: str) -> object:
    # The App brings the whole server along, which a program that only defines classes, and each
    # `perdure` command that talks to a server, can do without.
    if name == "App":
        from perdure.app import App

        return App
    if name == "http":
        import perdure.http

        return perdure.http
    if name == "Past":
        from perdure.past.api import Past

        return Past
    if name in ("connect", "connect_sync"):
        # So does the client, which a server can do without.
        import perdure.client

        return getattr(perdure.client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
