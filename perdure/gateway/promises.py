"""Promises over HTTP: resolved by whoever has a token, listed for whoever administrates.

    POST    promises/{token}             the value as JSON; 204 when it is on disk
    POST    promises/{token}/reject      a JSON string, or {"message": …}; an empty body will do
    GET     promises?object=&class=&type=&limit=&after=

The token is the permission: a link in a mail works without an account.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from perdure.clock import iso
from perdure.errors import BadJson, PromiseRejected
from perdure.failure import failure_of
from perdure.gateway.problem import Refusal, Reply
from perdure.gateway.reply import nothing, page
from perdure.gateway.request import read_query, whole_number
from perdure.host import resolving
from perdure.host.failures import encode_failure
from perdure.journal.entry import JSON, Resolved
from perdure.ref import format_address, parse_address
from perdure.store.base import PromiseFilter

if TYPE_CHECKING:
    from perdure.host.host import Host

PAGE = 100
PAGE_MAX = 1000


async def resolve(host: Host, token: str, body: bytes) -> Reply:
    """The value that somebody promised."""
    if not body:
        raise BadJson("the value is missing; for None, the body is null")
    await resolving.resolve(host, Resolved(token, True, JSON, body))
    return nothing()


async def reject(host: Host, token: str, body: bytes) -> Reply:
    """No value will come; whoever waits gets PromiseRejected with the message."""
    failure = failure_of(PromiseRejected(_message(body)))
    await resolving.resolve(host, Resolved(token, False, JSON, encode_failure(failure)))
    return nothing()


def _message(body: bytes) -> str:
    try:
        given = msgspec.json.decode(body) if body else "rejected"
    except ValueError as error:
        raise BadJson(str(error)) from None
    message = given.get("message") if isinstance(given, dict) else given
    if not isinstance(message, str):
        raise BadJson('the reason is a JSON string, or {"message": "…"}')
    return message


async def list_promises(host: Host, query: bytes, prefix: str) -> Reply:
    """A page of the open ones, the oldest first."""
    given = read_query(query)
    limit = whole_number(given, "limit", PAGE, PAGE_MAX)
    kind, key = given.get("class") or None, None
    if given.get("object"):
        kind, key = parse_address(given["object"])
    rows = await host.open_promises.page(
        host,
        PromiseFilter(kind, key, given.get("type") or None),
        _position(given.get("after")),
        limit,
    )
    found = [
        {
            "token": row.token,
            "object": format_address(row.kind, row.key),
            "type": row.type,
            "since": iso(row.since),
            "until": iso(row.until) if row.until else None,
        }
        for row in rows
    ]
    after = f"{rows[-1].since}.{rows[-1].token}" if len(rows) >= limit else None
    return page(found, prefix, "/_perdure/promises", given, after)


def _position(after: str | None) -> tuple[int, str] | None:
    if not after:
        return None
    since, _, token = after.partition(".")
    if not (since.isascii() and since.isdecimal() and len(since) < 20):
        raise Refusal("bad-request", "after is what the `next` link of the page before says")
    return int(since), token
