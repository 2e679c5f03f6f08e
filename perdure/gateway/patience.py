"""Somebody who waits for the answer of a call: for how long, and what they hear at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.clock import NS, Timer
from perdure.errors import DeadlineExceeded
from perdure.failure import failure_of
from perdure.gateway.problem import Reply, problem, problem_of_failure
from perdure.gateway.reply import JSON, accepted
from perdure.host.incoming import Answer

if TYPE_CHECKING:
    from perdure.gateway.http import Gateway, Respond, Route

# A timeout beyond a week is as good as none, and clocks take no number however large.
TIMEOUT_MAX = 7 * 86_400.0
_FAR_NS = int(TIMEOUT_MAX * NS)
# When its deadline passes a call mostly ends, and has the word itself.
_LAST_WORD_NS = NS // 10


class Wait:
    """Somebody who waits for a call on the long way: answered once, by whichever comes first."""

    __slots__ = ("_gateway", "_late", "_prefix", "_respond", "_route", "_seconds", "_timer")

    def __init__(self, gateway: Gateway, respond: Respond, route: Route, prefix: str) -> None:
        self._gateway = gateway
        self._respond: Respond | None = respond
        self._route = route
        self._prefix = prefix
        self._timer: Timer | None = None
        self._seconds = 0.0
        self._late: Timer | None = None

    def end_late(self, deadline_ns: int) -> None:
        """Do not wait for a call that still has something to undo when its deadline has passed."""
        clock = self._gateway.clock
        if deadline_ns < clock.now_ns() + _FAR_NS:
            self._late = clock.call_at(deadline_ns + _LAST_WORD_NS, self._too_late)

    def _too_late(self) -> None:
        error = DeadlineExceeded("the deadline has passed; the call is cancelled")
        self._end(problem_of_failure(failure_of(error)))

    def end_at(self, when_ns: int, seconds: float) -> None:
        self._seconds = seconds
        self._timer = self._gateway.clock.call_at(when_ns, self._timed_out)

    def answered(self, answer: Answer) -> None:
        if answer.failure is None:
            reply = Reply(200, JSON, answer.body)
        else:
            reply = problem_of_failure(answer.failure)
        if answer.call_id and not self._route.query:
            reply = _with(reply, b"perdure-call-id", answer.call_id.encode())
        if answer.replayed:
            reply = _with(reply, b"idempotent-replayed", b"true")
        self._end(reply)

    def accepted(self, call_id: str) -> None:
        self._end(_with(accepted(call_id, self._prefix), b"preference-applied", b"respond-async"))

    def _timed_out(self) -> None:
        detail = f"no answer within {self._seconds:g} s; the call itself goes on"
        self._end(problem("timeout", detail))

    def _end(self, reply: Reply) -> None:
        respond, self._respond = self._respond, None
        if respond is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        if self._late is not None:
            self._late.cancel()
        self._gateway.answer(respond, self._route, reply)


def _with(reply: Reply, name: bytes, value: bytes) -> Reply:
    return reply._replace(headers=(*reply.headers, (name, value)))
