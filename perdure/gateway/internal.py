"""What lies under `/_perdure/`: which path is what, and who may ask for it.

    open     health, ready, openapi.json, client.js
    open     promises/{token}[/reject]       whoever has the token
    app      calls/{id}                      whoever `authorize` lets in
    admin    metrics, and all of admin.py    loopback, or the admin token

Loopback means a program on this machine that speaks for itself (`came_straight`); a proxy's word
about its client is not taken.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple
from urllib.parse import unquote_to_bytes

from perdure.gateway.admin import Admin
from perdure.gateway.problem import Refusal, Reply, problem_of_failure
from perdure.gateway.promises import reject, resolve
from perdure.gateway.reply import JSON, accepted, cancelled, json_reply
from perdure.gateway.request import (
    Fields,
    HttpRequest,
    came_straight,
    is_loopback,
    quoted_prefix,
    read_query,
    read_seconds,
)
from perdure.host.cancelling import cancel_call
from perdure.settings import Settings
from perdure.sight import look, stuck
from perdure.suspend import heap

if TYPE_CHECKING:
    from perdure.gateway.http import GatewayStats
    from perdure.host.host import Host

Access = Literal["open", "app", "admin"]
Act = Callable[[], Awaitable[Reply]]

# A wait that is longer is answered 202 after this time, and the client asks again; so nothing is
# held for long for a client that has gone.
WAIT_MAX_S = 60.0

PICKLED = b"\x80"
"""How a pickled result begins; no JSON does."""


class Endpoint(NamedTuple):
    """A path under `/_perdure/`: who may ask, and what each method does."""

    access: Access
    methods: dict[bytes, Act]
    call_id: str = ""
    """Of the path of one call: whoever asks for a stream there gets its items."""

    @property
    def allow(self) -> bytes:
        names = list(self.methods)
        if b"GET" in names:
            names.insert(1, b"HEAD")
        return b", ".join([*names, b"OPTIONS"])


class Internal:
    """The endpoints of one gateway."""

    def __init__(
        self,
        host: Host,
        settings: Settings,
        ready: Callable[[], bool],
        stats: Callable[[], GatewayStats],
    ) -> None:
        self._host = host
        self._settings = settings
        self._ready = ready
        self._stats = stats
        self._admin = Admin(host)

    def find(self, request: HttpRequest, path: bytes, query: bytes) -> Endpoint:
        """The endpoint at a path. Raises Refusal where there is none."""
        prefix = quoted_prefix(request)
        match [_segment(part) for part in path.split(b"/")[2:]]:
            case ["health"]:
                return Endpoint("open", {b"GET": self._health})
            case ["ready"]:
                return Endpoint("open", {b"GET": self._readiness})
            case ["openapi.json"]:
                return Endpoint("open", {b"GET": lambda: self._openapi(prefix)})
            case ["client.js"]:
                return Endpoint("open", {b"GET": self._client})
            case ["metrics"]:
                return Endpoint("admin", {b"GET": self._metrics})
            case ["calls", call_id] if call_id:
                find: dict[bytes, Act] = {
                    b"GET": lambda: self._find_call(call_id, query, prefix),
                    b"DELETE": lambda: self._cancel_call(call_id, query),
                }
                return Endpoint("app", find, call_id)
            case ["promises", token]:
                return Endpoint("open", {b"POST": lambda: resolve(self._host, token, request.body)})
            case ["promises", token, "reject"]:
                return Endpoint("open", {b"POST": lambda: reject(self._host, token, request.body)})
            case segments:
                methods = self._admin.find(segments, query, prefix, request.body)
        if not methods:
            raise Refusal("not-found", f"there is no {path.decode(errors='replace')}")
        return Endpoint("admin", methods)

    def check_admin(self, request: HttpRequest, fields: Fields) -> None:
        """Raises Refusal if the caller may not administrate."""
        token = self._settings.admin_token
        scheme, _, given = (fields.one(b"authorization") or "").partition(" ")
        if token and scheme.lower() == "bearer" and _same(given.strip(), token):
            return
        if is_loopback(request.client()) and came_straight(fields):
            return
        if not token:
            raise Refusal(
                "forbidden",
                "administration is open to loopback alone; from elsewhere it needs the token in "
                "PERDURE_ADMIN_TOKEN, and the server has none",
            )
        raise Refusal(
            "unauthorized",
            "administration needs the server's PERDURE_ADMIN_TOKEN as 'Authorization: Bearer …'",
        )

    async def _health(self) -> Reply:
        return json_reply({"status": "ok"})

    async def _readiness(self) -> Reply:
        if not self._ready():
            raise Refusal("unavailable", "the node is starting or stopping")
        return json_reply({"status": "ready"})

    async def _openapi(self, prefix: str) -> Reply:
        from perdure import __version__
        from perdure.gateway.openapi import document

        kinds = self._host.kinds.values()
        return json_reply(document(kinds, title="perdure", version=__version__, prefix=prefix))

    async def _client(self) -> Reply:
        return Reply(200, _MODULE, client_module())

    async def _metrics(self) -> Reply:
        # Loaded by the first who asks: its import costs as much as all the rest of the gateway.
        from perdure.gateway.metrics import CONTENT_TYPE, expose

        stats = self._host.stats()._replace(stuck=await stuck.count(self._host))
        page = expose(self._stats(), stats)
        return Reply(200, ((b"content-type", CONTENT_TYPE),), page)

    async def _find_call(self, call_id: str, query: bytes, prefix: str) -> Reply:
        wait = read_seconds(read_query(query).get("wait", "0"), "wait")
        answer = await self._host.find_call(call_id, min(wait, WAIT_MAX_S))
        if answer is None:
            return accepted(call_id, prefix)
        if answer.failure is not None:
            return problem_of_failure(answer.failure)
        if answer.body[:1] == PICKLED:
            # It was called by a program of the app; whoever asks over HTTP gets JSON all the same.
            return json_reply(look.plain(heap.loads(answer.body)))
        return Reply(200, JSON, answer.body)

    async def _cancel_call(self, call_id: str, query: bytes) -> Reply:
        again = read_query(query).get("again", "") in ("1", "true")
        await cancel_call(self._host, call_id, again=again)
        return cancelled(call_id)


# Modules are loaded across sites by these rules alone, and there is no secret in this one.
_MODULE = (
    (b"content-type", b"text/javascript; charset=utf-8"),
    (b"cache-control", b"public, max-age=300"),
    (b"access-control-allow-origin", b"*"),
)


@cache
def client_module() -> bytes:
    """The client for browsers: `js/client.js`, which an installed package has inside itself."""
    package = Path(__file__).parent.parent
    inside = package / "js" / "client.js"
    return (inside if inside.exists() else package.parent / "js" / "client.js").read_bytes()


def _same(given: str, token: str) -> bool:
    # As bytes: compare_digest takes no text beyond ASCII.
    return hmac.compare_digest(given.encode(), token.encode())


def _segment(raw: bytes) -> str:
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise Refusal("bad-request", "the path is not valid UTF-8") from None
