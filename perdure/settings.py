"""All settings, one frozen value; units stand in the names or in the comment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from perdure.ages import age_s
from perdure.clock import NS
from perdure.errors import BadSettings


@dataclass(frozen=True, slots=True)
class Settings:
    """What can be set; arguments of `App`, flags of `serve` (with dashes), `PERDURE_*` variables.

    An argument wins over a flag's variable, and that over the default.
    """

    data: str = ".perdure"
    """The data directory of the embedded store."""
    store: str | None = None
    """A store's URL in place of `data`: `sqlite:DIR` or `memory:`."""
    host: str = "127.0.0.1"
    port: int = 7373
    max_body_bytes: int = 8 * 1024 * 1024
    """A request body over it is answered 413 `payload-too-large`."""
    max_upload_bytes: int | None = None
    """The same for a body that an `on_request` reads while it comes; None: as `max_body_bytes`."""
    socket_queue_bytes: int = 1024 * 1024
    """Bytes that may wait for a client that reads slowly; over it its stream is cut off, its
    WebSocket closed with 1013."""
    mailbox_limit: int = 10_000
    """Calls and messages waiting for or inside one object; over it: 503 `overloaded`, or a close
    with 1013."""
    max_message_bytes: int = 1024 * 1024
    """A WebSocket message over it closes with 1009."""
    max_messages_per_second: int = 0
    """Messages of one connection over it close with 1008; 0: no bound."""
    resume_grace: float = 30.0
    """Seconds for which a connection whose line was lost waits for its client to resume."""
    ping_interval: float = 20.0
    """Seconds of silence after which a WebSocket is pinged; after as long again it is lost."""
    allowed_origins: str = ""
    """Origins of pages that may open WebSockets, with commas between them, besides the server's
    own; `*` allows all."""
    turn_timeout: float = 10.0
    """Seconds a single turn may take before the supervisor ends the process."""
    hibernate_after: float = 60.0
    """Seconds without an event after which an object leaves memory."""
    idempotency_ttl: float = 24 * 3600.0
    """Seconds for which an `Idempotency-Key` is remembered."""
    call_retention: float = 24 * 3600.0
    """Seconds for which the result of a `respond-async` call is kept."""
    checkpoint_bytes: int = 8 * 1024 * 1024
    """A checkpoint begins when the journal's tail is longer than this."""
    checkpoint_seconds: float = 60.0
    """A checkpoint begins when the oldest entry of the tail is older than this."""
    commit_inline_ms: float = 0.5
    """Commits move to a thread when they take longer than this on average."""
    max_memory_bytes: int = 0
    """Objects are evicted when the process is larger than this; 0: no bound."""
    max_live_objects: int = 0
    """Objects are evicted, the longest idle first, when more are in memory; 0: no bound."""
    step_threads: int = 32
    """Threads for steps that are plain functions."""
    drain_timeout: float = 30.0
    """Seconds SIGTERM waits for turns and requests in flight."""
    history: str = "all"
    """How much of the past is kept: `all`, an age such as `30d`, or `none`; in any case what a
    rebuild needs."""
    debug: bool = False
    """Tracebacks in problems, and queries checked for deep changes (`perdure dev`)."""
    admin_token: str = ""
    """Opens `/_perdure/` beyond loopback; variable `PERDURE_ADMIN_TOKEN`."""
    insecure: bool = False
    """Serve a non-loopback address without an `authorize`."""

    @property
    def upload_bytes_max(self) -> int:
        """What `max_upload_bytes` comes to."""
        return self.max_body_bytes if self.max_upload_bytes is None else self.max_upload_bytes

    def __post_init__(self) -> None:
        for name in (
            "max_body_bytes",
            *(("max_upload_bytes",) if self.max_upload_bytes is not None else ()),
            "mailbox_limit",
            "max_message_bytes",
            "socket_queue_bytes",
            "checkpoint_bytes",
            "step_threads",
        ):
            if getattr(self, name) < 1:
                raise BadSettings(f"{name} must be at least 1, not {getattr(self, name)!r}")
        for name in (
            "turn_timeout",
            "hibernate_after",
            "idempotency_ttl",
            "call_retention",
            "checkpoint_seconds",
            "drain_timeout",
            "resume_grace",
            "ping_interval",
        ):
            if not getattr(self, name) > 0:
                raise BadSettings(
                    f"{name} must be more than 0 seconds, not {getattr(self, name)!r}"
                )
        try:
            kept_ns(self.history)
        except ValueError:
            raise BadSettings(
                f"history must be 'all', 'none' or an age such as 30d, not {self.history!r}"
            ) from None


_TYPES: dict[str, Any] = {
    "str": str,
    "str | None": str,
    "int": int,
    "int | None": int,
    "float": float,
    "bool": lambda text: {"1": True, "true": True, "0": False, "false": False}[text.lower()],
}


def kept_ns(history: str) -> int | None:
    """How long the setting `history` keeps a turn, in nanoseconds; None for ever.

    Raises ValueError for what is neither `all`, `none` nor an age.
    """
    if history in ("all", "none"):
        return None if history == "all" else 0
    age = age_s(history)
    if age is None:
        raise ValueError(history)
    return int(age * NS)


def load_settings(given: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from what was given and, below that, from `PERDURE_*` variables.

    A given None counts as not given. Raises BadSettings for an unknown name or a bad value.
    """
    known = {field.name: field for field in fields(Settings)}
    unknown = set(given) - set(known)
    if unknown:
        raise BadSettings(
            f"unknown setting {sorted(unknown)[0]!r}", hint=f"known are: {', '.join(known)}"
        )
    values = {name: value for name, value in given.items() if value is not None}
    for name, field in known.items():
        variable = f"PERDURE_{name.upper()}"
        if name in values or variable not in environ:
            continue
        try:
            values[name] = _TYPES[str(field.type)](environ[variable])
        except (ValueError, KeyError):
            raise BadSettings(f"{variable}={environ[variable]!r} is not a {field.type}") from None
    return Settings(**values)
