"""What a request means: it becomes a call, and the answer a response.

Both faces, the own front and the ASGI application, hand each request to `Gateway.handle`, which
calls `respond` exactly once: at once, or when the answer may leave the host. Nothing is raised to
a face; what goes wrong is answered as a problem (problem.py).

There are two ways through. A plain call or query, which is nearly every request, goes straight to
the host: no task, no future, no look at the header. Everything else (special header fields, the
`authorize` hook, HEAD, OPTIONS, `/_perdure/`) takes the long way, which does the same with more
questions asked.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote_to_bytes

from perdure.clock import NS, Clock, RealClock
from perdure.errors import InvalidKey, PerdureError, UnknownHandler, UnknownKind
from perdure.gateway.internal import Internal
from perdure.gateway.items import ItemsBody, read_last_id, wants_events, wants_items
from perdure.gateway.patience import TIMEOUT_MAX, Wait
from perdure.gateway.problem import Headers, Refusal, Reply, problem, problem_of, problem_of_failure
from perdure.gateway.raw import RawAnswer, raw_request
from perdure.gateway.reply import RESULT, options
from perdure.gateway.request import (
    Fields,
    HttpRequest,
    is_of_another_site,
    query_text,
    quoted_prefix,
    read_deadline,
    read_idempotency_key,
    read_timeout,
    split_target,
    wants_async,
)
from perdure.gateway.stream import Stream
from perdure.gateway.upgrade import upgrade
from perdure.host.following import follow
from perdure.host.incoming import Answer, IncomingCall
from perdure.host.raw_requests import pack
from perdure.journal.entry import HTTP, UPLOAD
from perdure.logs import logger
from perdure.ref import check_key
from perdure.serde import Arguments
from perdure.settings import Settings

if TYPE_CHECKING:
    from starlette.requests import Request

    from perdure.host.host import Host
    from perdure.kind import Handler, Kind


Authorize = Callable[["Request"], Any]

INTERNAL = b"/_perdure/"
_TARGET_BYTES_MAX = 16 * 1024
# Places are remembered by target, for the objects that are asked again and again. Emptying the
# whole table when it is full costs less for each request than keeping it in order of use.
_PLACES_MAX = 16 * 1024


class Respond(Protocol):
    """How a request is answered; a face gives one with each request."""

    def __call__(self, status: int, headers: Headers, body: bytes | Stream) -> None: ...


class Route:
    """A handler that can be called from outside, and how often each status was its answer."""

    __slots__ = (
        *("allow", "counts", "decode_json", "handler", "kind", "long", "ok", "query", "raw"),
        "reads",
    )

    def __init__(self, kind: Kind, handler: Handler) -> None:
        self.kind = kind
        self.handler = handler
        self.query = handler.query
        self.raw = handler is kind.on_request
        """It answers any request, as HTTP."""
        self.long = handler.streams or self.raw
        """It is more than a call and its result."""
        self.decode_json = handler.signature.decode_json
        # A handler that is ephemeral changes nothing, but what it sends is seen: no GET.
        self.reads = handler.query and not handler.ephemeral
        self.allow = b"GET, HEAD, POST, OPTIONS" if self.reads else b"POST, OPTIONS"
        self.ok = 0
        self.counts: dict[int, int] = {}

    def decode(self, query: bytes) -> Arguments:
        """The arguments in the query of a URL."""
        if not query:
            # No arguments are no arguments, and an empty body is read six times as fast.
            return self.decode_json(b"")
        return self.handler.signature.decode_query(query_text(query))


Place = tuple[Route, str]


@dataclass(frozen=True, slots=True)
class GatewayStats:
    """What the gateway has done since it was made."""

    connections: int
    requests: dict[tuple[str, str, int], int]
    """Answers by (class, handler, status); class and handler are empty for other paths."""


class Gateway:
    """One for each process; both faces hand it what comes in."""

    def __init__(
        self,
        host: Host,
        settings: Settings,
        authorize: Authorize | None = None,
        *,
        ready: Callable[[], bool] = lambda: True,
        clock: Clock | None = None,
    ) -> None:
        self.settings = settings
        self.clock: Clock = clock or RealClock()
        self.connections = 0
        """Open connections; the front counts them."""
        self.host = host
        self._call = host.call
        self._authorize = authorize
        self._routes: dict[bytes, dict[bytes, Route]] = {
            kind.name.encode(): {
                handler.name.encode(): Route(kind, handler) for handler in kind.handlers.values()
            }
            for kind in host.kinds.values()
        }
        self._raw_routes = {
            kind.name.encode(): Route(kind, kind.on_request)
            for kind in host.kinds.values()
            if kind.on_request is not None
        }
        self._places: dict[bytes, Place] = {}
        self._counts: dict[int, int] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._internal = Internal(host, settings, ready, self.stats)

    # ---- the short way ----

    def handle(self, request: HttpRequest, respond: Respond) -> None:
        """Answer a request through `respond`, which is called exactly once and perhaps later."""
        counted: Route | None = None
        try:
            if not request.plain or self._authorize is not None:
                self._take_long_way(request, respond)
                return
            target = request.target
            if request.method == b"POST":
                place = self._places.get(target)
                if place is None:
                    if target.startswith(INTERNAL):
                        self._take_long_way(request, respond)
                        return
                    place = self._locate(target)
                counted = route = place[0]
                if route.long:
                    self._take_long_way(request, respond)
                    return
                args = route.decode_json(request.body)
            elif request.method == b"GET" and not target.startswith(INTERNAL):
                path, _, query = target.partition(b"?")
                place = self._places.get(path) or self._locate(path)
                counted = route = place[0]
                if route.long:
                    self._take_long_way(request, respond)
                    return
                if not route.reads:
                    raise _not_allowed(request.method, route.allow)
                args = route.decode(query)
            else:
                self._take_long_way(request, respond)
                return

            def on_answer(answer: Answer) -> None:
                if answer.failure is None:
                    route.ok += 1
                    respond(200, RESULT, answer.body)
                else:
                    self.answer(respond, route, problem_of_failure(answer.failure))

            self._call(
                IncomingCall(route.kind, place[1], route.handler, args, request.body, on_answer)
            )
        except Exception as error:
            self._fail(respond, counted, error)

    def _locate(self, target: bytes) -> Place:
        """The handler and key that a target names. Raises what is wrong with it."""
        path, query = split_target(target)
        if len(target) > _TARGET_BYTES_MAX:
            raise Refusal("uri-too-long", f"a path has at most {_TARGET_BYTES_MAX} bytes")
        parts = path.split(b"/", 3)
        if len(parts) < 3 or not parts[1]:
            raise Refusal("not-found", "a call is POST /{Class}/{key}/{handler}")
        if b"%" in path:
            parts = [unquote_to_bytes(part) for part in parts]
        routes = self._routes.get(parts[1])
        if routes is None:
            raise UnknownKind(f"no class {_shown(parts[1])} is served here{_one_of(self._routes)}")
        key = decode_key(parts[2])
        name = parts[3] if len(parts) > 3 else b""
        route = routes.get(name) or self._raw_routes.get(parts[1])
        if route is None and not name:
            raise Refusal(
                "not-found", "the handler is missing; a call is POST /{Class}/{key}/{handler}"
            )
        if route is None:
            raise UnknownHandler(
                f"{parts[1].decode()} has no handler {_shown(name)}{_one_of(routes)}"
            )
        if not query:
            if len(self._places) >= _PLACES_MAX:
                self._places.clear()
            self._places[target] = route, key
        return route, key

    def takes_pieces(self, target: bytes) -> bool:
        """Whether what a target names reads the body of a request while it comes."""
        path, _ = split_target(target)
        try:
            route, _ = self._places.get(path) or self._locate(path)
        except (PerdureError, Refusal):
            return False
        return route.raw

    # ---- the long way ----

    def _take_long_way(self, request: HttpRequest, respond: Respond) -> None:
        fields = Fields(request.headers)
        if request.upgrades or (
            b"upgrade" in fields and b"websocket" in fields.raw(b"upgrade").lower()
        ):
            upgrade(self, request, respond, fields)
            return
        path, query = split_target(request.target)
        if path == b"*" and request.method == b"OPTIONS":
            self.answer(respond, None, options(b"GET, HEAD, POST, DELETE, OPTIONS"))
        elif path.startswith(INTERNAL) or path == INTERNAL[:-1]:
            self._take_internal(request, respond, fields, path, query)
        else:
            self._take_call(request, respond, fields, path, query)

    def _take_call(
        self, request: HttpRequest, respond: Respond, fields: Fields, path: bytes, query: bytes
    ) -> None:
        route, key = self._places.get(path) or self._locate(path)
        method = request.method
        if route.raw:
            self._take_raw(request, respond, fields, route, key)
            return
        if method == b"OPTIONS":
            self.answer(respond, route, options(route.allow))
            return
        reads = method in (b"GET", b"HEAD")
        if not (method == b"POST" or (reads and route.reads)):
            raise _not_allowed(method, route.allow)
        if not reads:
            _refuse_other_sites(request, fields)

        def authorized(principal: Any) -> None:
            args = route.decode(query) if reads else route.decode_json(request.body)
            timeout = read_timeout(fields)
            if route.handler.streams and not wants_async(fields):
                self._stream(request, respond, fields, route, key, args, principal, timeout)
                return
            # A query changes nothing and is kept nowhere: there is nothing to find again.
            keep = wants_async(fields) and not route.query
            wait = Wait(self, respond, route, quoted_prefix(request))
            deadline_ns = 0 if route.query else self._deadline_ns(fields)
            if timeout is not None:
                wait.end_at(self.clock.now_ns() + int(min(timeout, TIMEOUT_MAX) * NS), timeout)
            if deadline_ns and not keep:
                wait.end_late(deadline_ns)
            call = IncomingCall(
                route.kind,
                key,
                route.handler,
                args,
                request.body,
                wait.answered,
                deadline_ns=deadline_ns,
                principal=principal,
                idempotency_key=None if route.query else read_idempotency_key(fields),
                keep=keep,
                on_accepted=wait.accepted if keep else None,
            )
            self._call(call)

        self._with_principal(request, respond, route, authorized)

    def _take_raw(
        self, request: HttpRequest, respond: Respond, fields: Fields, route: Route, key: str
    ) -> None:
        """Any request for a class that answers HTTP itself."""
        if request.method not in (b"GET", b"HEAD", b"OPTIONS"):
            _refuse_other_sites(request, fields)

        # Now: whoever asks may have gone by the time that `authorize` has answered.
        raw = raw_request(request)

        def authorized(principal: Any) -> None:
            upload = request.upload
            answer = RawAnswer(self, respond, route, upload)
            timeout = read_timeout(fields)
            if timeout is not None:
                when = self.clock.now_ns() + int(min(timeout, TIMEOUT_MAX) * NS)
                answer.end_at(when, timeout)
            self._call(
                IncomingCall(
                    route.kind,
                    key,
                    route.handler,
                    # What makes it the same request, where it comes again under one key.
                    ((raw.method, raw.raw_path, raw.query, raw.body), {}),
                    pack(raw),
                    answer.answered,
                    format=HTTP if upload is None else UPLOAD,
                    principal=principal,
                    idempotency_key=read_idempotency_key(fields),
                    on_accepted=None if upload is None else upload.begin,
                    on_item=answer.item,
                    deadline_ns=self._deadline_ns(fields),
                )
            )

        self._with_principal(request, respond, route, authorized)

    def _stream(
        self,
        request: HttpRequest,
        respond: Respond,
        fields: Fields,
        route: Route,
        key: str,
        args: Arguments,
        principal: Any,
        timeout: float | None,
    ) -> None:
        idempotency_key = None if route.query else read_idempotency_key(fields)
        last = read_last_id(fields)
        if last and not idempotency_key:
            raise Refusal(
                "bad-request",
                "Last-Event-ID goes on with a call that is named: by its Idempotency-Key, or by "
                "asking at its own path, /_perdure/calls/{id}",
            )
        prefix = quoted_prefix(request)
        body = ItemsBody(self, respond, route, prefix, events=wants_events(fields))
        if timeout is not None:
            when = self.clock.now_ns() + int(min(timeout, TIMEOUT_MAX) * NS)
            body.end_at(when, timeout)
        self._call(
            IncomingCall(
                route.kind,
                key,
                route.handler,
                args,
                request.body,
                body.answered,
                principal=principal,
                idempotency_key=idempotency_key,
                on_accepted=None if route.query else body.accepted,
                on_item=body.item,
                after=last,
                deadline_ns=0 if route.query else self._deadline_ns(fields),
            )
        )

    def _follow(self, request: HttpRequest, respond: Respond, fields: Fields, call_id: str) -> None:
        """Bring the items of a call that was begun before."""
        prefix = quoted_prefix(request)
        events = wants_events(fields)
        body = ItemsBody(self, respond, None, prefix, events=events, call_id=call_id)
        work = follow(self.host, call_id, read_last_id(fields), body.item, body.answered)
        self._run(work, respond, None, lambda _: body.accepted(call_id))

    def _take_internal(
        self, request: HttpRequest, respond: Respond, fields: Fields, path: bytes, query: bytes
    ) -> None:
        endpoint = self._internal.find(request, path, query)
        method = b"GET" if request.method == b"HEAD" else request.method
        if method == b"OPTIONS":
            self.answer(respond, None, options(endpoint.allow))
            return
        act = endpoint.methods.get(method)
        if act is None:
            raise _not_allowed(request.method, endpoint.allow)

        def go(principal: Any) -> None:
            if endpoint.call_id and method == b"GET" and wants_items(fields):
                self._follow(request, respond, fields, endpoint.call_id)
                return
            self._run(act(), respond, None, lambda reply: self.answer(respond, None, reply))

        if endpoint.access == "app":
            self._with_principal(request, respond, None, go)
            return
        if endpoint.access == "admin":
            self._internal.check_admin(request, fields)
        go(None)

    def _deadline_ns(self, fields: Fields) -> int:
        seconds = read_deadline(fields)
        return 0 if seconds is None else self.clock.now_ns() + int(seconds * NS)

    def _with_principal(
        self,
        request: HttpRequest,
        respond: Respond,
        route: Route | None,
        go: Callable[[Any], None],
    ) -> None:
        """Ask the `authorize` hook, and go on with what it says; what it raises is the answer."""

        def asked(principal: Any) -> None:
            try:
                go(principal)
            except Exception as error:
                self._fail(respond, route, error)

        if self._authorize is None:
            asked(None)
            return
        try:
            principal = self._authorize(request.starlette())
        except Exception as error:
            raise _hook_failed(error, self.settings.debug) from error
        if inspect.isawaitable(principal):
            self._run(_hook(principal, self.settings.debug), respond, route, asked)
        else:
            asked(principal)

    def _run(
        self,
        work: Awaitable[Any],
        respond: Respond,
        route: Route | None,
        then: Callable[[Any], None],
    ) -> None:
        """Await something in a task of its own and go on with its result, outside of the task.

        Outside, because a turn may begin there, and a turn must not run within a task of the
        real loop (on 3.14 that is an error).
        """

        def done(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            if task.cancelled():
                self.answer(respond, route, problem("unavailable", "the node is stopping"))
            elif (error := task.exception()) is not None:
                self._fail(respond, route, error)
            else:
                then(task.result())

        task = asyncio.get_running_loop().create_task(_await(work))
        self._tasks.add(task)
        task.add_done_callback(done)

    # ---- answers ----

    def answer(self, respond: Respond, route: Route | None, reply: Reply) -> None:
        self.count(route, reply.status)
        respond(reply.status, reply.headers, reply.body)

    def count(self, route: Route | None, status: int) -> None:
        """An answer with this status is on its way."""
        counts = self._counts if route is None else route.counts
        counts[status] = counts.get(status, 0) + 1

    def _fail(self, respond: Respond, route: Route | None, error: BaseException) -> None:
        if not isinstance(error, (PerdureError, Refusal)):
            logger.error("a request failed inside of perdure", exc_info=error)
        self.answer(respond, route, problem_of(error))

    def refuse(self, respond: Respond, refusal: Refusal) -> None:
        """Answer what a face cannot even read as a request."""
        self.answer(respond, None, refusal.reply)

    def stats(self) -> GatewayStats:
        requests = {("", "", status): count for status, count in self._counts.items()}
        for routes in self._routes.values():
            for route in routes.values():
                counts = dict(route.counts)
                if route.ok:
                    counts[200] = counts.get(200, 0) + route.ok
                for status, count in counts.items():
                    requests[route.kind.name, route.handler.name, status] = count
        return GatewayStats(self.connections, requests)


def _refuse_other_sites(request: HttpRequest, fields: Fields) -> None:
    if not request.mounted and is_of_another_site(fields):
        # It could not read the answer, but what it calls would happen: with the cookies of
        # whoever looks at that page, or on the machine where it is looked at. An application
        # around this one that allows it (CORS) has said so to the browser.
        raise Refusal("forbidden", "a page of another site may not call objects")


def decode_key(raw: bytes) -> str:
    """The key a path segment names, already without percent signs. Raises InvalidKey."""
    try:
        return check_key(raw.decode())
    except UnicodeDecodeError:
        raise InvalidKey("the key is not valid UTF-8") from None


def _hook_failed(error: Exception, debug: bool) -> Exception:
    if isinstance(error, PerdureError):
        return error
    logger.error("the authorize hook raised", exc_info=error)
    # What a hook trips over (a database, a token's content) is nobody's business outside.
    return Refusal(
        "handler-error",
        "the authorize hook raised an exception; the server's log has the traceback",
        error=type(error).__name__,
        message=str(error) if debug else "",
    )


async def _hook(principal: Awaitable[Any], debug: bool) -> Any:
    try:
        return await principal
    except Exception as error:
        raise _hook_failed(error, debug) from error


async def _await(work: Awaitable[Any]) -> Any:
    return await work


def _not_allowed(method: bytes, allow: bytes) -> Refusal:
    detail = f"{method.decode('latin-1')} is not for this path; what is: {allow.decode()}"
    return Refusal("method-not-allowed", detail, ((b"allow", allow),))


def _shown(name: bytes) -> str:
    return repr(name[:100].decode(errors="replace"))


def _one_of(names: dict[bytes, Any]) -> str:
    if not 0 < len(names) <= 20:
        return ""
    return f"; there are: {', '.join(name.decode() for name in names)}"
