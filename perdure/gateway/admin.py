"""What the command line reads and does, under `/_perdure/`.

    GET     classes
    GET     objects?class=&prefix=&status=&limit=&after=      a page; `Link: rel="next"` if full
    GET     objects?class=&where=&limit=&after=               those that are so: `where=status=open`
    GET     objects/{Class}/{key}                             DELETE ends the object
    GET     objects/{Class}/{key}/history, state, diff …      past.py
    GET     objects/{Class}/{key}/why
    GET     promises?object=&class=&type=&limit=&after=       a page; `Link: rel="next"` if full
    POST    uploads/{name}, import                            past.py
    GET     doctor?class=&after=&limit=                       a page; `next` is to go on behind
    GET     versions, versions/{version}                      which there are; the source of one
    GET     versions/objects?class=&past=&limit=&after=       who is on an older one, and why
    GET     calls, stuck                                      lists.py
    GET     quarantine
    POST    quarantine/{Class}/{key}/retry                    or skip
    POST    objects/{Class}/{key}/repair, erase; calls/{id}/again; prune    upkeep.py

The caller has been checked before (internal.py); what is here does as it is told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from perdure.clock import iso
from perdure.gateway import lists, upkeep
from perdure.gateway.past import PAGE, PAGE_MAX, PastOf, Uploads
from perdure.gateway.problem import Refusal, Reply
from perdure.gateway.promises import list_promises
from perdure.gateway.reply import json_reply, nothing, page
from perdure.gateway.request import read_list, read_query, whole_number
from perdure.ref import check_key, format_address, parse_address
from perdure.sight import doctor, look, versions, why
from perdure.sight.found import find_objects

if TYPE_CHECKING:
    from perdure.host.host import Host

Methods = dict[bytes, Callable[[], Awaitable[Reply]]]


class Admin:
    """The administration of one host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._uploads = Uploads(host)

    def find(self, segments: list[str], query: bytes, prefix: str, body: bytes = b"") -> Methods:
        """What each method does at a path; empty where there is nothing."""
        host = self._host
        match segments:
            case ["classes"]:
                return {b"GET": self._classes}
            case ["objects"]:
                return {b"GET": lambda: self._objects(query, prefix)}
            case ["objects", kind, key]:
                address = _address(kind, key)
                return {
                    b"GET": lambda: _shown(look.show(host, address)),
                    b"DELETE": lambda: _done(host.delete(address)),
                }
            case ["objects", kind, key, "why"]:
                address = _address(kind, key)
                return {b"GET": lambda: _shown(why.why(host, address))}
            case ["objects", kind, key, "repair"]:
                address = _address(kind, key)
                return {b"POST": lambda: upkeep.repair(host, address, body)}
            case ["objects", kind, key, "erase"]:
                address = _address(kind, key)
                return {b"POST": lambda: upkeep.erase(host, address, body)}
            case ["calls", call_id, "again"]:
                return {b"POST": lambda: upkeep.again(host, call_id, body)}
            case ["prune"]:
                return {b"POST": lambda: upkeep.prune(host, body)}
            case ["objects", kind, key, what]:
                return PastOf(host, _address(kind, key), query, body).find(what)
            case ["promises"]:
                return {b"GET": lambda: list_promises(host, query, prefix)}
            case ["uploads", name]:
                return {b"POST": lambda: self._uploads.add(name, query, body)}
            case ["import"]:
                return {b"POST": lambda: self._uploads.bring_in(query, body)}
            case ["doctor"]:
                return {b"GET": lambda: self._examine(query)}
            case ["versions"]:
                return {b"GET": lambda: _shown(versions.versions(host))}
            case ["versions", "objects"]:
                return {b"GET": lambda: self._holders(query)}
            case ["versions", version]:
                return {b"GET": lambda: _shown(versions.bundle(host, version))}
            case ["calls"]:
                return {b"GET": lambda: lists.calls(host, query, prefix)}
            case ["stuck"]:
                return {b"GET": lambda: lists.stuck_things(host, query)}
            case ["quarantine"]:
                return {b"GET": lambda: _shown(_quarantined(host))}
            case ["quarantine", kind, key, "retry"]:
                key = check_key(key)
                return {b"POST": lambda: _let_back(host.quarantine.retry, kind, key)}
            case ["quarantine", kind, key, "skip"]:
                key = check_key(key)
                return {b"POST": lambda: _let_back(host.quarantine.skip, kind, key)}
            case _:
                return {}

    async def _classes(self) -> Reply:
        return json_reply(
            [
                {
                    "class": kind.name,
                    "doc": kind.doc,
                    "handlers": [
                        {"name": handler.name, "query": handler.query, "doc": handler.doc}
                        for handler in kind.handlers.values()
                    ],
                }
                for kind in self._host.kinds.values()
            ]
        )

    async def _objects(self, query: bytes, prefix: str) -> Reply:
        conditions, rest = read_list(query, "where")
        given = read_query(rest)
        limit = whole_number(given, "limit", PAGE, PAGE_MAX)
        if conditions:
            return await self._found(conditions, given, limit, prefix)
        rows = await look.list_objects(
            self._host,
            given.get("class") or None,
            given.get("prefix", ""),
            given.get("status") or None,
            limit,
            given.get("after") or None,
        )
        after = rows[-1]["address"] if len(rows) >= limit else None
        return page(rows, prefix, "/_perdure/objects", given, after)

    async def _found(
        self, conditions: list[str], given: dict[str, str], limit: int, prefix: str
    ) -> Reply:
        kind = given.get("class", "")
        if not kind or given.keys() - {"class", "limit", "after"}:
            raise Refusal("bad-request", "where goes with class, limit and after alone")
        after = given.get("after")
        key = parse_address(after)[1] if after else None
        rows = await find_objects(self._host, kind, conditions, limit, key)
        asked = {**given, "where": conditions}
        after = rows[-1]["address"] if len(rows) >= limit else None
        return page(rows, prefix, "/_perdure/objects", asked, after)

    async def _examine(self, query: bytes) -> Reply:
        given = read_query(query)
        limit = whole_number(given, "limit", PAGE, PAGE_MAX)
        kind, after = given.get("class") or None, given.get("after") or None
        return json_reply(await doctor.examine(self._host, kind, after, limit))

    async def _holders(self, query: bytes) -> Reply:
        given = read_query(query)
        limit = whole_number(given, "limit", PAGE, PAGE_MAX)
        kind, after = given.get("class") or None, given.get("after") or None
        past = given.get("past", "") in ("1", "true")
        return json_reply(await versions.holders(self._host, kind, after, limit, past=past))


async def _quarantined(host: Host) -> list[dict[str, Any]]:
    found = host.quarantine.list()
    return [facts | {"since": iso(facts["since"])} for facts in found]


async def _let_back(way: Callable[[str, str], None], kind: str, key: str) -> Reply:
    way(kind, key)
    return nothing()


async def _shown(found: Awaitable[Any]) -> Reply:
    return json_reply(await found)


async def _done(work: Awaitable[None]) -> Reply:
    await work
    return nothing()


def _address(kind: str, key: str) -> str:
    return format_address(kind, check_key(key))
