"""The past of objects over HTTP, under `/_perdure/objects/{Class}/{key}/`.

    GET     history?after=&limit=&kind=&handler=&since=&until=&failed=&wait=
    GET     calls?after=&limit=&handler=         calls that came in, with their ends
    GET     state?at=                            a turn, a time or an age
    GET     diff?a=&b=
    GET     errors?at=&after=&limit=             with traceback and locals
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from perdure.gateway.problem import Refusal, Reply
from perdure.gateway.reply import json_reply
from perdure.gateway.request import read_query, read_seconds, whole_number
from perdure.past import history, looking
from perdure.past.history import read_filter
from perdure.past.moment import Moment, read_moment
from perdure.past.record import Record, record_of

if TYPE_CHECKING:
    from perdure.host.host import Host

PAGE = 100
PAGE_MAX = 1000
# Errors are found by running their turns again, which is more work than reading.
ERRORS_MAX = 100
FOLLOW_MAX_S = 60.0

Methods = dict[bytes, Callable[[], Awaitable[Reply]]]


class PastOf:
    """What can be asked about the past of one object."""

    def __init__(self, host: Host, address: str, query: bytes) -> None:
        self._host = host
        self._address = address
        self._query = query

    def find(self, what: str) -> Methods:
        """What each method does at the last part of the path; empty where there is nothing."""
        looks = {
            "history": self._history,
            "calls": self._calls,
            "state": self._state,
            "diff": self._diff,
            "errors": self._errors,
        }
        return {b"GET": looks[what]} if what in looks else {}

    async def _history(self) -> Reply:
        given = read_query(self._query)
        after, limit = self._page(given, PAGE_MAX)
        wanted = read_filter(given, self._host.clock.now_ns())
        wait = min(read_seconds(given.get("wait", "0"), "wait"), FOLLOW_MAX_S)
        if wait > 0:
            found = await history.follow(self._host, self._address, after, limit, wanted, wait)
        else:
            found = await history.page(await self._record(), after, limit, wanted)
        return json_reply(found)

    async def _calls(self) -> Reply:
        given = read_query(self._query)
        after, limit = self._page(given, PAGE_MAX)
        wanted = read_filter(given, self._host.clock.now_ns())
        return json_reply(await history.calls(await self._record(), after, limit, wanted))

    async def _state(self) -> Reply:
        given = read_query(self._query)
        return json_reply(
            await looking.state_at(await self._record(), self._moment(given.get("at")))
        )

    async def _diff(self) -> Reply:
        given = read_query(self._query)
        a, b = self._moment(given.get("a")), self._moment(given.get("b"))
        if a is None or b is None:
            raise Refusal("bad-request", "a diff needs two moments: ?a=…&b=…")
        return json_reply(await looking.diff(await self._record(), a, b))

    async def _errors(self) -> Reply:
        given = read_query(self._query)
        after, limit = self._page(given, ERRORS_MAX)
        at = whole_number(given, "at", 0, 2**62, least=0) if "at" in given else None
        return json_reply(await looking.errors(await self._record(), at, after, limit))

    def _record(self) -> Awaitable[Record]:
        return record_of(self._host, self._address)

    def _moment(self, text: str | None) -> Moment | None:
        return read_moment(text, self._host.clock.now_ns()) if text else None

    def _page(self, given: dict[str, str], most: int) -> tuple[int, int]:
        after = whole_number(given, "after", 0, 2**63 - 1, least=0)
        return after, whole_number(given, "limit", min(PAGE, most), most)
