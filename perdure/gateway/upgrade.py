"""A request for a WebSocket: who may have one, of which object, and on what terms.

All questions are asked before the upgrade, so that whoever is refused learns why from an ordinary
HTTP answer: the path, the Origin, the App's `authorize`, the object's own, and `on_connect`. A
browser opens WebSockets for any page, with the cookies of whoever looks at it; the Origin that it
sends along is all that tells pages apart.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, unquote_to_bytes

from perdure.errors import Forbidden, UnknownHandler, UnknownKind
from perdure.gateway.frames import agree_on_deflate
from perdure.gateway.problem import Refusal, problem_of_failure
from perdure.gateway.request import Fields, HttpRequest, query_text, split_target
from perdure.gateway.session import RESUME_PROTOCOL, Session
from perdure.host.incoming import Answer
from perdure.host.lines import GONE
from perdure.host.resuming import Position, Resuming
from perdure.ref import check_key

if TYPE_CHECKING:
    from perdure.gateway.http import Gateway, Respond
    from perdure.kind import Kind

_VERSION = b"13"
_PARAMETERS_MAX = 100
# What is of the handshake, or of nobody's business later: credentials do not go into a journal.
_LEFT_OUT = frozenset(
    (
        b"authorization",
        b"connection",
        b"cookie",
        b"proxy-authorization",
        b"sec-websocket-extensions",
        b"sec-websocket-key",
        b"sec-websocket-protocol",
        b"sec-websocket-version",
        b"upgrade",
    )
)


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What was found in the head of an upgrade."""

    key: bytes
    """Its Sec-WebSocket-Key; empty where the face has answered for it."""
    protocols: list[str]
    deflate: tuple[int, str] | None


def upgrade(gateway: Gateway, request: HttpRequest, respond: Respond, fields: Fields) -> None:
    """Let a client in, or answer why not. Raises what is wrong with the request."""
    found = _read_head(request, fields)
    path, raw_query = split_target(request.target)
    kind, key = _locate(gateway, path)
    _check_origin(gateway, fields)
    query = _read_query(raw_query)
    resumable = RESUME_PROTOCOL in found.protocols
    token = query.pop("resume", "") if resumable else ""
    at = _read_position(query.pop("at", "")) if token else (0, 0)
    offered = [name for name in found.protocols if name != RESUME_PROTOCOL]

    def authorized(principal: Any) -> None:
        session = request.session(gateway, kind, key, found, resumable=resumable)

        def answered(answer: Answer) -> None:
            if answer.failure is not None:
                gateway.answer(respond, None, problem_of_failure(answer.failure))
                return
            if session.is_busy():
                # The parser is still at work on the head; the switch comes behind it.
                asyncio.get_running_loop().call_soon(answered, answer)
                return
            request.switched()
            session.answered(answer)

        if token:
            _resume(gateway, session, token, at, principal, answered)
        else:
            shown = unquote_to_bytes(path).decode(errors="replace")
            headers = _kept_headers(request)
            gateway.host.lines.connect(session, shown, query, headers, offered, principal, answered)

    gateway._with_principal(request, respond, None, authorized)


def _resume(
    gateway: Gateway,
    session: Session,
    token: str,
    at: Position,
    principal: Any,
    answered: Any,
) -> None:
    named = gateway.host.lines.named_by(token)
    if named is None or named[0] != session.oid:
        # It is no connection of this object, and no wish for a new one either.
        answered(Answer("", b"", None))
        session.close(GONE, "the connection is gone")
        return
    session.id = named[1]
    call = Resuming(
        *(session.kind, session.key, cast(Any, None), ((), {}), b"", answered),
        principal=principal,
        line=session,
        at=at,
    )
    gateway.host.call(call)


def _read_head(request: HttpRequest, fields: Fields) -> Upgrade:
    protocols = [
        name.strip() for name in fields.listed(b"sec-websocket-protocol").split(",") if name.strip()
    ]
    if request.upgrades:
        return Upgrade(b"", protocols, None)
    if request.method != b"GET":
        raise Refusal("method-not-allowed", "a WebSocket begins with GET", ((b"allow", b"GET"),))
    version = fields.raw(b"sec-websocket-version")
    if version != _VERSION:
        raise Refusal(
            "upgrade-required",
            f"WebSocket is spoken in version 13, not {version[:20].decode(errors='replace')!r}",
            ((b"sec-websocket-version", _VERSION),),
        )
    if b"upgrade" not in fields.raw(b"connection").lower():
        raise Refusal("bad-request", "an upgrade needs `Connection: Upgrade`")
    key = fields.raw(b"sec-websocket-key")
    try:
        whole = len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        whole = False
    if not whole:
        raise Refusal("bad-request", "Sec-WebSocket-Key is 16 bytes in base64")
    return Upgrade(key, protocols, agree_on_deflate(fields.listed(b"sec-websocket-extensions")))


def _locate(gateway: Gateway, path: bytes) -> tuple[Kind, str]:
    """The object that a path names; what stands behind class and key is the object's."""
    parts = [unquote_to_bytes(part) for part in path.split(b"/")[1:3]]
    if not parts[0] or parts[0] == b"_perdure":
        raise Refusal("not-found", "a WebSocket is at /{Class}/{key}")
    name = parts[0].decode(errors="replace")
    kind = gateway.host.kinds.get(name)
    if kind is None:
        raise UnknownKind(f"no class {name[:100]!r} is served here")
    if kind.hooks is None:
        raise UnknownHandler(
            f"{kind.name} takes no connections",
            hint="A class with on_connect or on_message does.",
        )
    if len(parts) < 2:
        raise Refusal("not-found", "the key is missing; a WebSocket is at /{Class}/{key}")
    try:
        key = parts[1].decode()
    except UnicodeDecodeError:
        raise Refusal("invalid-key", "the key is not valid UTF-8") from None
    return kind, check_key(key)


def _check_origin(gateway: Gateway, fields: Fields) -> None:
    origin = fields.one(b"origin")
    if origin is None:
        return
    setting = gateway.settings.allowed_origins.lower()
    allowed = [one.strip().rstrip("/") for one in setting.split(",")]
    given = origin.strip().rstrip("/").lower()
    host = (fields.one(b"host") or "").lower()
    if "*" in allowed or given in allowed or (host and given.partition("://")[2] == host):
        return
    raise Forbidden(
        f"pages of {origin[:200]!r} may not open WebSockets here",
        hint="The setting allowed_origins names those that may.",
    )


def _read_query(raw: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            query_text(raw),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_PARAMETERS_MAX,
        )
    except ValueError as error:
        raise Refusal("bad-request", f"the query of the URL cannot be read: {error}") from None
    return dict(pairs)


def _read_position(text: str) -> Position:
    seq, _, index = (text or "0.0").partition(".")
    if not (seq.isascii() and seq.isdigit() and index.isascii() and index.isdigit()):
        raise Refusal("bad-request", f"`at` is a position such as 17.0, not {text[:50]!r}")
    if len(text) > 40:
        raise Refusal("bad-request", "`at` is too long for a position")
    return int(seq), int(index)


def _kept_headers(request: HttpRequest) -> dict[str, str]:
    kept: dict[str, str] = {}
    for name, value in request.headers:
        lower = name.lower()
        if lower not in _LEFT_OUT:
            text = value.decode("latin-1")
            known = kept.get(lower.decode("latin-1"))
            kept[lower.decode("latin-1")] = text if known is None else f"{known}, {text}"
    return kept
