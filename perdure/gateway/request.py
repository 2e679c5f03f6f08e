"""A request as both faces hand it over, and what its header says.

A face decodes nothing: the target and the header fields are the bytes that came. A request whose
header holds nothing that could change its meaning is `plain`, and the gateway does not look at
the header of such a one at all. All others are read through `Fields`, where two fields that
contradict each other are refused instead of one of them being chosen.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qsl, quote, urlencode

import msgspec

from perdure.gateway.problem import Refusal

if TYPE_CHECKING:
    from starlette.requests import Request

    from perdure.gateway.http import Gateway
    from perdure.gateway.session import Session
    from perdure.gateway.upgrade import Upgrade
    from perdure.host.uploads import Upload
    from perdure.kind import Kind

RawHeaders = list[tuple[bytes, bytes]]

# Fields that change neither what is asked nor how it is answered, in the two spellings that
# clients use. One that is not listed costs its request the long way through the gateway, no more.
PLAIN_FIELDS = frozenset(
    spelling.encode()
    for name in (
        "Host",
        "User-Agent",
        "Accept",
        "Accept-Encoding",
        "Accept-Language",
        "Content-Type",
        "Content-Length",
        "Cache-Control",
        "Cookie",
        "Pragma",
        "Referer",
        "DNT",
        "Sec-Fetch-Dest",
        "Sec-Fetch-Mode",
        "Traceparent",
        "Tracestate",
        "X-Request-Id",
    )
    for spelling in (name, name.lower())
)


class HttpRequest(msgspec.Struct, eq=False):
    """One request. A face subclasses it for what only the face knows."""

    method: bytes
    target: bytes
    """Path and query as they came, percent-encoded, without the mount prefix."""
    headers: RawHeaders
    body: bytes
    plain: bool
    """Nothing in the header changes what is asked or how it is answered."""

    mounted = False
    """Another application stands before the gateway."""

    upload: ClassVar[Upload | None] = None
    """Where the rest of the body goes, if it has not come whole."""

    upgrades = False
    """It asks for a WebSocket, and the face has seen to the handshake."""

    def session(
        self, gateway: Gateway, kind: Kind, key: str, upgrade: Upgrade, *, resumable: bool
    ) -> Session:
        """The line of a client that asks for a WebSocket. Raises Refusal."""
        raise NotImplementedError

    def switched(self) -> None:
        """The upgrade is answered: nobody waits for another answer."""

    def prefix(self) -> str:
        """The path the gateway is mounted at, or empty."""
        return ""

    def client(self) -> str | None:
        """The address of the other end of the connection, never what a proxy says of it."""
        raise NotImplementedError

    def scope(self) -> MutableMapping[str, Any]:
        """The request as an ASGI scope, for the `authorize` hook."""
        raise NotImplementedError

    def starlette(self) -> Request:
        """The request as the `authorize` hook gets it; its body can be read there."""
        # Starlette is loaded by those who have a hook; without one the server starts sooner.
        from starlette.requests import Request

        upload = self.upload
        more = upload is not None
        unread = [{"type": "http.request", "body": self.body, "more_body": more}]

        async def receive() -> dict[str, Any]:
            if unread:
                return unread.pop()
            return await upload.read_ahead() if upload is not None else {"type": "http.disconnect"}

        return Request(self.scope(), receive)


class Fields:
    """The header fields by name, in lower case as it is asked for."""

    __slots__ = ("_values",)

    def __init__(self, headers: RawHeaders) -> None:
        self._values: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            self._values.setdefault(name.lower(), []).append(value.strip())

    def one(self, name: bytes) -> str | None:
        """The value of a field that may stand once. Refused: two that differ."""
        values = self._values.get(name)
        if values is None:
            return None
        if len(values) > 1 and any(value != values[0] for value in values):
            raise Refusal("bad-request", f"{_title(name)} stands twice, with different values")
        return _text(name, values[0])

    def listed(self, name: bytes) -> str:
        """All values of a field that is a list, joined."""
        return _text(name, self.raw(name))

    def raw(self, name: bytes) -> bytes:
        """All values of a field as they came, joined; empty if it is not there."""
        return b", ".join(self._values.get(name, ()))

    def __contains__(self, name: bytes) -> bool:
        return name in self._values


def _text(name: bytes, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise Refusal("bad-request", f"{_title(name)} is not valid UTF-8") from None


def _title(name: bytes) -> str:
    return name.decode().title()


_SECONDS = re.compile(r"(\d{1,9}(\.\d{0,9})?|\.\d{1,9})\Z", re.ASCII)


def read_seconds(text: str, name: str) -> float:
    """A number of seconds, fractions allowed. Refused: anything else."""
    if not _SECONDS.match(text):
        detail = f"{name} is a number of seconds such as 2.5, not {text[:50]!r}"
        raise Refusal("bad-request", detail)
    return float(text)


def read_timeout(fields: Fields) -> float | None:
    """What `Perdure-Timeout` says."""
    return _more_than_nothing(fields, "Perdure-Timeout")


def read_deadline(fields: Fields) -> float | None:
    """What `Perdure-Deadline` says."""
    return _more_than_nothing(fields, "Perdure-Deadline")


def _more_than_nothing(fields: Fields, name: str) -> float | None:
    text = fields.one(name.lower().encode())
    if text is None:
        return None
    seconds = read_seconds(text, name)
    if not seconds:
        raise Refusal("bad-request", f"{name} must be more than 0 seconds")
    return seconds


IDEMPOTENCY_KEY_LENGTH_MAX = 255


def read_idempotency_key(fields: Fields) -> str | None:
    """What `Idempotency-Key` says; any text, taken as it is."""
    key = fields.one(b"idempotency-key")
    if key is None:
        return None
    if not 0 < len(key) <= IDEMPOTENCY_KEY_LENGTH_MAX or not key.isprintable():
        raise Refusal(
            "bad-request",
            f"Idempotency-Key is 1 to {IDEMPOTENCY_KEY_LENGTH_MAX} printable characters",
        )
    return key


PREFER_LENGTH_MAX = 1024
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*("|\Z)')


def wants_async(fields: Fields) -> bool:
    """Whether `Prefer` lists `respond-async`. Other preferences are ignored, as RFC 7240 asks."""
    if b"prefer" not in fields:
        return False
    prefer = fields.listed(b"prefer")
    if len(prefer) > PREFER_LENGTH_MAX:
        raise Refusal("bad-request", f"Prefer is longer than {PREFER_LENGTH_MAX} bytes")
    # What stands in quotes is a preference's value, and none of those means anything here.
    preferences = _QUOTED.sub("", prefer).lower().split(",")
    return any(re.split("[=;]", one)[0].strip() == "respond-async" for one in preferences)


def read_list(query: bytes, name: str) -> tuple[list[str], bytes]:
    """All values of a parameter that may stand several times, and the query without them."""
    pairs = parse_qsl(query_text(query), keep_blank_values=True, errors="surrogateescape")
    values = [value for one, value in pairs if one == name]
    rest = [(one, value) for one, value in pairs if one != name]
    return values, urlencode(rest, errors="surrogateescape").encode()


def read_query(query: bytes) -> dict[str, str]:
    """The parameters of an administrative path. Refused: one that stands twice, or is no UTF-8."""
    found: dict[str, str] = {}
    text = query_text(query)
    for name, value in parse_qsl(text, keep_blank_values=True, errors="surrogateescape"):
        if not (name + value).isprintable():
            raise Refusal("bad-request", f"parameter {name!r} is not printable UTF-8")
        if found.setdefault(name, value) != value:
            raise Refusal("bad-request", f"parameter {name!r} stands twice, with different values")
    return found


def whole_number(
    given: dict[str, str], name: str, default: int, most: int, *, least: int = 1
) -> int:
    """A number in the query of a URL, between two bounds."""
    text = given.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and least <= int(text) <= most):
        detail = f"{name} is a whole number from {least} to {most}, not {text[:50]!r}"
        raise Refusal("bad-request", detail)
    return int(text)


def query_text(query: bytes) -> str:
    """The query part of a target, still percent-encoded."""
    try:
        return query.decode()
    except UnicodeDecodeError:
        raise Refusal("bad-request", "the query of the URL is not valid UTF-8") from None


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """(path, query) of a target; of an absolute one, as sent to a proxy, too."""
    if not target.startswith(b"/"):
        scheme, _, rest = target.partition(b"://")
        if scheme.lower() in (b"http", b"https"):
            slash = rest.find(b"/")
            target = rest[slash:] if slash >= 0 else b"/"
    path, _, query = target.partition(b"?")
    return path, query


def quoted_prefix(request: HttpRequest) -> str:
    """The mount prefix as it stands in a URL."""
    prefix = request.prefix()
    return quote(prefix.rstrip("/")) if prefix else ""


def is_of_another_site(fields: Fields) -> bool:
    """Whether a browser sends it on behalf of a page of another site; no other program says so."""
    return fields.raw(b"sec-fetch-site").lower() == b"cross-site"


def is_loopback(client: str | None) -> bool:
    """Whether the other end is on this machine."""
    if client is None:
        return False
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


# A proxy that adds none of them cannot be told from a program here; it must not forward
# `/_perdure/`.
_PROXY_FIELDS = (b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via")


def came_straight(fields: Fields) -> bool:
    """Whether a request from loopback was made by a program here, on nobody else's behalf.

    Three others reach loopback: a proxy on this machine, which names its client; a page in a
    browser here, whose Origin is not this server; and such a page after its own name has been
    pointed at 127.0.0.1, whose Host is that name. A name without a dot is nobody's domain.
    """
    if any(name in fields for name in _PROXY_FIELDS):
        return False
    host = (fields.one(b"host") or "localhost").lower()
    origin = fields.one(b"origin")
    if origin is not None and origin.lower().partition("://")[2] != host:
        return False
    name = host.rpartition(":")[0] if re.search(r":\d*\Z", host) else host
    if "." not in name or name.rstrip(".").endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
