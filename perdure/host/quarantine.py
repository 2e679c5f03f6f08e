"""Objects that are set aside: visible, retryable, skippable, and nobody else's problem.

Two ways lead here. A replay that diverged: the object could only be rebuilt by guessing. An event
that has ended the process three times (the supervisor counts, supervisor/deaths.py), or whose turn
has failed three times inside perdure: it is not run a fourth time. What is addressed to the object
stays in the outbox until it is back.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any, Protocol

from perdure.errors import Conflict, DivergenceError, ObjectQuarantined, PerdureError
from perdure.failure import described, failure_of
from perdure.host.failures import encode_failure, skipped_error
from perdure.host.incoming import IncomingCall
from perdure.host.raw_requests import GONE, SILENT
from perdure.host.sessions import FAILED
from perdure.journal.entry import (
    Call,
    Cancel,
    Connected,
    Disconnected,
    Event,
    Fired,
    Piece,
    Received,
    Refused,
    Reply,
    Skipped,
    Started,
    StepDone,
)
from perdure.journal.identity import oid_of
from perdure.journal.log import source_of
from perdure.logs import logger
from perdure.ref import format_address
from perdure.store.base import Checkpoint, ObjectFilter

if TYPE_CHECKING:
    from perdure.host.activation import Activation
    from perdure.host.host import Host


_SCAN = 1000

ENDED_MAX = 3
"""So many processes of its object an event ends before the object is set aside."""


class Deaths(Protocol):
    """The record of which event has ended the process (supervisor/deaths.py)."""

    def poisoned(self) -> set[tuple[str, str]]:
        """(address, digest) of events that must not run again."""
        ...

    def digest(self, event: bytes) -> str: ...

    def forget(self, address: str) -> object: ...


class Quarantine:
    """What is set aside, and which events must not run again."""

    def __init__(self, host: Host, deaths: Deaths | None) -> None:
        self._host = host
        self._deaths = deaths
        self.objects: dict[int, str] = {}
        """Why, as JSON, by object."""
        self.watched: set[tuple[str, str]] = deaths.poisoned() if deaths is not None else set()
        """(address, digest) of events that must not run: set aside, or skipped."""
        self._skipped: set[tuple[str, str]] = set()
        self.doubted: dict[tuple[str, str], int] = {}
        """How often in a row an event has ended the process of a single object (apart.py), or has
        failed inside perdure."""

    async def start(self) -> None:
        """Read what an earlier process set aside."""
        after: tuple[str, str] | None = None
        while True:
            rows = await self._host.store.scan(ObjectFilter(status="quarantined"), after, _SCAN)
            self.objects.update((row.oid, row.detail) for row in rows)
            if len(rows) < _SCAN:
                return
            after = (rows[-1].kind, rows[-1].key)

    def refusal(self, oid: int) -> ObjectQuarantined | None:
        """The error for whoever calls the object, if it is set aside."""
        detail = self.objects.get(oid) if self.objects else None
        if detail is None:
            return None
        facts = json.loads(detail)
        return ObjectQuarantined(
            f"{facts['object']} is quarantined: {facts['reason']}",
            hint=f"perdure quarantine retry {facts['object']}",
        )

    def unusable(self, activation: Activation, error: BaseException) -> None:
        """Set aside an object that cannot be rebuilt."""
        if isinstance(error, DivergenceError):
            facts: dict[str, Any] = {
                "cause": "divergence",
                "seq": error.seq,
                "expected": error.expected,
                "found": error.found,
                "reason": f"replay of turn {error.seq} diverged: "
                f"expected {error.expected}; found {error.found}",
            }
        elif isinstance(error, PerdureError) and error.code == "upgrade-failed":
            facts = {"cause": "upgrade", "reason": f"{error.message}. {error.hint}"}
        else:
            facts = {
                "cause": "load",
                "reason": f"it cannot be loaded: {described(error)}",
            }
        logger.error(
            "an object is quarantined",
            object=activation.address,
            why=facts["reason"],
            exc_info=error,
        )
        self._set_aside(activation, facts)

    def stops(
        self, activation: Activation, event: Event, told: bytes, call: IncomingCall | None
    ) -> bool:
        """Whether the event must not run; then its object is set aside, or something else runs."""
        mark = self._mark(activation, told)
        if mark is None:
            return False
        if mark in self._skipped:
            self._skipped.discard(mark)
            self.watched.discard(mark)
            logger.warning("an event is skipped", object=activation.address)
            instead = _in_place_of(event, activation.address)
            if activation.apart:
                activation.put_first(instead)  # It is in the middle of its mailbox.
            else:
                activation.event(instead)
            if call is not None:
                # Somebody outside asks the same once more; what runs instead knows no caller.
                call.refuse(skipped_error(activation.address))
            return True
        self._kills(activation, mark, told)
        activation.set_aside(call)
        return True

    def kills(self, activation: Activation, told: bytes) -> bool:
        """Whether what is not an event of the journal (a load, a query) must not run."""
        mark = self._mark(activation, told) if self.watched else None
        if mark is None:
            return False
        self._kills(activation, mark, told)
        activation.set_aside(None)
        return True

    def _mark(self, activation: Activation, told: bytes) -> tuple[str, str] | None:
        mark = self._named(activation, told)
        return mark if mark in self.watched else None

    def _named(self, activation: Activation, told: bytes) -> tuple[str, str]:
        if self._deaths is not None:
            return activation.address, self._deaths.digest(told)
        return activation.address, hashlib.blake2b(told, digest_size=16).hexdigest()

    def died(self, activation: Activation, told: bytes, how: str = "has ended the process") -> bool:
        """An event has ended the process of its object, or has failed and is owed; whether the
        object is now set aside for it."""
        mark = self._named(activation, told)
        self.doubted[mark] = self.doubted.get(mark, 0) + 1
        if self.doubted[mark] < ENDED_MAX:
            return False
        del self.doubted[mark]
        self._kills(activation, mark, told, how)
        activation.set_aside(None)
        return True

    def lived(self, activation: Activation, told: bytes) -> None:
        """An event has gone well."""
        if self.doubted:
            self.doubted.pop(self._named(activation, told), None)

    def _kills(
        self,
        activation: Activation,
        mark: tuple[str, str],
        told: bytes,
        how: str = "has ended the process",
    ) -> None:
        text = told[:200].decode("utf-8", "replace")
        logger.error(
            "an object is quarantined: an event fails again and again",
            object=activation.address,
            what=text,
            how=how,
        )
        self._set_aside(
            activation,
            {
                "cause": "event",
                "event": text,
                "digest": mark[1],
                "reason": f"the event {text!r} {how} three times",
            },
        )

    def _set_aside(self, activation: Activation, facts: dict[str, Any]) -> None:
        facts = {"object": activation.address, "since": self._host.clock.now_ns(), **facts}
        self.objects[activation.machine.oid] = json.dumps(facts)
        self._host.keep(self._write(activation.machine.oid))

    async def _write(self, oid: int) -> None:
        """Put the status into the object's row, if it has one; a checkpoint makes it otherwise."""
        host = self._host
        stored = await host.store.load(host.log.part, oid)
        if stored is None:
            return
        row = stored.row
        detail = self.objects.get(oid, "")
        changed = dataclasses.replace(
            row, status="quarantined" if detail else "", detail=detail, snapshot=None
        )
        await host.store.checkpoint(Checkpoint(host.log.part, host.log.epoch, [changed]))

    def list(self) -> list[dict[str, Any]]:
        """What is set aside, for people."""
        return [json.loads(detail) for detail in self.objects.values()]

    def release(self, oid: int) -> bool:
        """Let an object back in; whether it was set aside."""
        detail = self.objects.pop(oid, None)
        if detail is None:
            return False
        address = json.loads(detail)["object"]
        self.watched = {mark for mark in self.watched if mark[0] != address}
        if self._deaths is not None:
            self._deaths.forget(address)
        self._host.keep(self._write(oid))
        return True

    def retry(self, kind: str, key: str) -> None:
        """Rebuild the object and run its events. Raises Conflict if it is not set aside."""
        self._release_or_raise(kind, key)
        self._host.delivery.take_up(oid_of(kind, key))

    def skip(self, kind: str, key: str) -> None:
        """Set the event itself aside and let the object go on behind it. Raises Conflict if there
        is none: the object is not set aside, or for another reason."""
        oid = oid_of(kind, key)
        detail = self.objects.get(oid)
        if detail is not None and json.loads(detail)["cause"] != "event":
            raise Conflict(
                f"{format_address(kind, key)} cannot be rebuilt, and the past cannot be skipped",
                hint="Bring back code that agrees with the journal and use retry, or delete it.",
            )
        self._release_or_raise(kind, key)
        facts = json.loads(detail or "{}")
        if "digest" in facts:
            mark = (facts["object"], facts["digest"])
            self.watched.add(mark)
            self._skipped.add(mark)
        self._host.delivery.take_up(oid)

    def _release_or_raise(self, kind: str, key: str) -> None:
        if not self.release(oid_of(kind, key)):
            raise Conflict(
                f"{format_address(kind, key)} is not quarantined",
                hint="perdure quarantine list says what is.",
            )


def told_event(event: Event) -> bytes:
    """What an event is, in bytes that are the same if it comes again."""
    if type(event) is Call:
        return event.handler.encode() + b" " + event.body
    if type(event) is Fired:
        return b"timer"
    if type(event) is Received:
        return b"message " + event.body
    if type(event) is Piece:
        return b"piece " + event.body
    return type(event).__name__.lower().encode() + b" " + encode_failure(source_of(event))


def _in_place_of(event: Event, address: str) -> Event:
    """What runs in place of an event that is skipped: whoever waits for it gets a failure."""
    failure = encode_failure(failure_of(skipped_error(address)))
    if isinstance(event, Started):
        return Refused(event.id, failure)
    if isinstance(event, StepDone):
        return StepDone(event.number, False, failure)
    if isinstance(event, Reply):
        return Reply(event.number, False, failure, event.source)
    if isinstance(event, Fired):
        return Skipped("timer")
    if isinstance(event, Call):
        return Skipped("call", event.source, event.answer_to, event.caller)
    if isinstance(event, Cancel):
        return Skipped("cancel", event.source, event.answer_to, event.caller)
    if isinstance(event, Received):
        return Disconnected(event.conn, FAILED, "an operator skipped its message")
    if isinstance(event, Connected):
        return Skipped("connect")
    if isinstance(event, Piece):
        return Piece(event.id, b"", event.number, SILENT if event.end == GONE else GONE)
    if isinstance(event, Disconnected):
        return Disconnected(event.conn, event.code, event.reason, silent=True)
    return event
