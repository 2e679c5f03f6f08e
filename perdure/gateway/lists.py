"""`GET calls` and `GET stuck` below `/_perdure/`: the parameters, and a page as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.ages import age_s
from perdure.clock import NS
from perdure.gateway.problem import Refusal, Reply
from perdure.gateway.reply import json_reply, page
from perdure.gateway.request import read_query, whole_number
from perdure.past.moment import read_time
from perdure.sight.calls import LIMIT_MAX, list_calls
from perdure.sight.stuck import stuck

if TYPE_CHECKING:
    from perdure.host.host import Host

PAGE = 100
_OLD_S = 600.0


async def calls(host: Host, query: bytes, prefix: str) -> Reply:
    """A page of calls."""
    given = read_query(query)
    limit = whole_number(given, "limit", PAGE, LIMIT_MAX)
    after = given.get("after")
    rows, after_them = await list_calls(
        host,
        status=given.get("status") or None,
        kind=given.get("class") or None,
        address=given.get("object") or None,
        since=read_time(given["since"], host.clock.now_ns()) if given.get("since") else 0,
        limit=limit,
        after=_position(after) if after else None,
    )
    behind = None if after_them is None else "{}~{}".format(*after_them)
    return page(rows, prefix, "/_perdure/calls", given, behind)


async def stuck_things(host: Host, query: bytes) -> Reply:
    """What is stuck."""
    given = read_query(query)
    limit = whole_number(given, "limit", PAGE, LIMIT_MAX)
    older = given.get("older_than")
    older_s = _age_s(older) if older else _OLD_S
    return json_reply(await stuck(host, int(older_s * NS), limit))


def _age_s(text: str) -> float:
    age = age_s(text)
    if age is None:
        raise Refusal("bad-request", f"{text[:60]!r} is no age; one is as in 30s, 10m, 2h, 7d")
    return age


def _position(after: str) -> tuple[int, str]:
    since, _, id_ = after.partition("~")
    if not (since.isascii() and since.isdecimal() and len(since) < 20 and id_):
        raise Refusal("bad-request", "after is what the Link of a page says")
    return int(since), id_
