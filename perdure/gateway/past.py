"""The past of objects over HTTP, under `/_perdure/objects/{Class}/{key}/`.

    GET     history?after=&limit=&kind=&handler=&since=&until=&failed=&wait=
    GET     calls?after=&limit=&handler=         calls that came in, with their ends
    GET     state?at=                            a turn, a time or an age
    GET     diff?a=&b=
    GET     errors?at=&after=&limit=             with traceback and locals
    GET     export                               a file (past/extract.py)
    POST    fork       {"key": …, "at": …, "live": false}
    POST    release
    POST    what-if    {"at": …, "arguments": …, "handler": …}; with neither, without the call

and, since a file may be larger than a request, in two steps:

    POST    uploads/{name}?at=offset             a part of a file; answers how much is there
    POST    import?upload=name&as=&replace=&live=
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import msgspec

from perdure.errors import BadArguments, BadJson, Conflict, PayloadTooLarge
from perdure.gateway.problem import Refusal, Reply
from perdure.gateway.reply import json_reply, nothing
from perdure.gateway.request import read_query, read_seconds, whole_number
from perdure.past import extract, history, looking, planting
from perdure.past.history import read_filter
from perdure.past.moment import Moment, read_moment
from perdure.past.record import Record, record_of
from perdure.past.what_if import what_if

if TYPE_CHECKING:
    from perdure.host.host import Host

PAGE = 100
PAGE_MAX = 1000
# Errors are found by running their turns again, which is more work than reading.
ERRORS_MAX = 100
FOLLOW_MAX_S = 60.0
UPLOAD_MAX = 1 << 30
UPLOAD_S = 300.0

T = TypeVar("T")

Methods = dict[bytes, Callable[[], Awaitable[Reply]]]


class PastOf:
    """What can be asked about the past of one object."""

    def __init__(self, host: Host, address: str, query: bytes, body: bytes = b"") -> None:
        self._host = host
        self._address = address
        self._query = query
        self._body = body

    def find(self, what: str) -> Methods:
        """What each method does at the last part of the path; empty where there is nothing."""
        looks = {
            "history": self._history,
            "calls": self._calls,
            "state": self._state,
            "diff": self._diff,
            "errors": self._errors,
            "export": self._export,
        }
        if what in looks:
            return {b"GET": looks[what]}
        deeds = {"fork": self._fork, "release": self._release, "what-if": self._what_if}
        return {b"POST": deeds[what]} if what in deeds else {}

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

    async def _export(self) -> Reply:
        sections = [section async for section in extract.export(self._host, [self._address])]
        return Reply(200, ((b"content-type", b"application/octet-stream"),), b"".join(sections))

    async def _fork(self) -> Reply:
        asked = _decode(self._body, _Fork)
        at = self._moment(str(asked.at) if asked.at is not None else None)
        made = await planting.fork(self._host, self._address, asked.key, at, live=asked.live)
        return json_reply(made)

    async def _what_if(self) -> Reply:
        asked = _decode(self._body, _WhatIf)
        # As they came: numbers and text go to the handler as to any call.
        body = None if bytes(asked.arguments) == b"null" else bytes(asked.arguments)
        found = await what_if(await self._record(), asked.at, body, asked.handler)
        return json_reply(found)

    async def _release(self) -> Reply:
        await planting.release(self._host, self._address)
        return nothing()

    def _record(self) -> Awaitable[Record]:
        return record_of(self._host, self._address)

    def _moment(self, text: str | None) -> Moment | None:
        return read_moment(text, self._host.clock.now_ns()) if text else None

    def _page(self, given: dict[str, str], most: int) -> tuple[int, int]:
        after = whole_number(given, "after", 0, 2**63 - 1, least=0)
        return after, whole_number(given, "limit", min(PAGE, most), most)


class _Fork(msgspec.Struct, forbid_unknown_fields=True):
    key: str
    at: int | str | None = None
    live: bool = False


class _WhatIf(msgspec.Struct, forbid_unknown_fields=True):
    at: int
    arguments: msgspec.Raw = msgspec.Raw(b"null")
    handler: str | None = None


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except msgspec.ValidationError as error:
        raise BadArguments(f"the body is not as it should be: {error}") from None
    except msgspec.DecodeError as error:
        raise BadJson(f"the body is not JSON: {error}") from None


class Uploads:
    """Files on their way in, part by part. They are forgotten when nobody goes on with them."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._files: dict[str, tuple[float, bytearray]] = {}

    async def add(self, name: str, query: bytes, body: bytes) -> Reply:
        """A part of a file, at its place."""
        now = self._host.clock.monotonic()
        for old in [n for n, (when, _) in self._files.items() if now - when > UPLOAD_S]:
            del self._files[old]
        at = whole_number(read_query(query), "at", 0, UPLOAD_MAX, least=0)
        _, file = self._files.get(name, (now, bytearray()))
        if at > len(file):
            raise Conflict(f"the upload {name[:50]!r} has {len(file)} bytes, and not {at}")
        if at + len(body) > UPLOAD_MAX or (name not in self._files and len(self._files) >= 4):
            raise PayloadTooLarge(
                f"an upload is at most {UPLOAD_MAX >> 20} MiB, and there are four at a time"
            )
        # A part that is sent again replaces what it has sent before.
        file[at:] = body
        self._files[name] = now, file
        return json_reply({"bytes": len(file)})

    async def bring_in(self, query: bytes, body: bytes) -> Reply:
        """Import what was uploaded, or the body."""
        given = read_query(query)
        name = given.get("upload")
        if name is not None:
            if name not in self._files:
                raise Conflict(f"there is no upload {name[:50]!r}", hint="Send the file again.")
            body = bytes(self._files.pop(name)[1])
        flags = {flag: given.get(flag, "0") in ("1", "true", "") for flag in ("replace", "live")}
        # Unpickling takes place in there: whoever may import may run code, as with a data
        # directory. The caller has been checked to be an administrator.
        export = extract.read(body, "the file")
        return json_reply(await planting.bring_in(self._host, export, given.get("as"), **flags))
