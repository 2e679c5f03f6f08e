"""The answers that are no problems: their head and their bytes."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import msgspec

from perdure.gateway.problem import Headers, Reply
from perdure.sight.carried import for_json

JSON: Headers = ((b"content-type", b"application/json"),)
# Unpacked, so that it is an object of its own: two equal literals would be one.
RESULT: Headers = (*JSON,)
"""What a plain request is answered 200 with, and nothing else: a face may know it by identity."""


def json_reply(value: Any, headers: Headers = ()) -> Reply:
    """200, and a value as JSON."""
    try:
        body = msgspec.json.encode(value)
    except Exception:
        # An app names tasks, schedules and the like as it wishes. One name without bytes must not
        # hide all that is asked for.
        body = msgspec.json.encode(for_json(msgspec.to_builtins(value, enc_hook=repr), repr))
    return Reply(200, JSON + headers, body)


def page(rows: Any, prefix: str, path: str, given: dict[str, Any], after: str | None) -> Reply:
    """A page of a list, with a `Link` to the next one where the list goes on behind `after`.

    `given` is the query that this page was asked for with.
    """
    if after is None:
        return json_reply(rows)
    query = urlencode({**given, "after": after}, doseq=True)
    return json_reply(rows, ((b"link", f'<{prefix}{path}?{query}>; rel="next"'.encode()),))


def nothing() -> Reply:
    """204: done, and there is nothing to say."""
    return Reply(204, (), b"")


def options(allow: bytes) -> Reply:
    """204, and the methods that a path takes."""
    return Reply(204, ((b"allow", allow),), b"")


def cancelled(call_id: str) -> Reply:
    """202: the call has been told that it is over, and may still have something to undo."""
    body = msgspec.json.encode({"id": call_id, "status": "cancelled"})
    return Reply(202, JSON, body)


def accepted(call_id: str, prefix: str) -> Reply:
    """202: the call is on disk and runs, and its result will be at the Location."""
    location = f"{prefix}/_perdure/calls/{call_id}".encode()
    body = msgspec.json.encode({"id": call_id, "status": "running"})
    return Reply(202, (*JSON, (b"location", location)), body)
