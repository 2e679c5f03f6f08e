"""The yardstick for HTTP: a counter in a dict, as an ASGI application without any framework.

    python -m uvicorn benchmarks.raw_asgi:app --http httptools --loop uvloop --no-access-log

It forgets everything at the end of the process, and does the least that the same request needs:
read the body, decode the JSON, add, encode.
"""

from __future__ import annotations

from typing import Any

import msgspec

counters: dict[str, int] = {}
_decode = msgspec.json.Decoder(dict[str, int]).decode
_encode = msgspec.json.Encoder().encode
_HEADERS = [(b"content-type", b"application/json")]


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """POST /{Class}/{key}/increment with {"by": n}; GET reads."""
    if scope["type"] != "http":
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    key = scope["path"].split("/")[2]
    by = _decode(body).get("by", 1) if body else 0
    counters[key] = value = counters.get(key, 0) + by
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _encode(value)})
